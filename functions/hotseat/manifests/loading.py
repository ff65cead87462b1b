"""`load`: all documents of some files as one consistent Manifest, or every problem of all of them."""

import os.path
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hotseat.api.model import Model
from hotseat.api.types import Metadata
from hotseat.api.workspace import DEFAULT_WORKSPACE, Workspace
from hotseat.manifests.checks import Plugins, check, home_of
from hotseat.manifests.entries import entries
from hotseat.manifests.entry import Entry
from hotseat.manifests.files import Text, read
from hotseat.manifests.nodes import parse
from hotseat.manifests.problems import ManifestErrors, Problem


@dataclass(frozen=True, slots=True)
class Manifest:
    """Documents that are right, each by itself and together.

    Every Model names a Workspace that is here, and a source on this machine is an absolute path (or `file://` and one).
    """

    models: tuple[Model, ...]
    workspaces: tuple[Workspace, ...]
    texts: tuple[Text, ...] = ()  # what it was made of


def load(paths: Sequence[Path], plugins: Plugins | None = None, known: Manifest | None = None) -> Manifest:
    """Read files, folders of files and `-` (the standard input). ManifestErrors holds all that is wrong with them.

    Where they hold just what `known` was made of, that is returned: parsing takes seconds for thousands of Models.
    """
    texts = tuple(read(paths))
    return known if known is not None and texts == known.texts else load_texts(texts, plugins)


def load_texts(texts: Iterable[Text | Problem], plugins: Plugins | None = None) -> Manifest:
    """Do the same for what has been read, or was never a file."""
    found: list[Entry] = []
    problems: list[Problem] = []
    files: list[Text] = []
    order: dict[str, int] = {}  # of the files, for their problems
    complete = True
    for text in texts:
        order.setdefault(text.file if isinstance(text, Problem) else text.name, len(order))
        if isinstance(text, Problem):
            problems.append(text)
            complete = False
            continue
        files.append(text)
        for item in _documents(text):
            if isinstance(item, Entry):
                found.append(item)
            else:
                problems.append(item)
                complete = complete and bool(item.document)
    problems += check(found, plugins or Plugins.installed(), complete=complete)
    if problems:
        raise ManifestErrors(sorted(problems, key=lambda it: (order[it.file], it.line or 0, it.column or 0)))
    return _manifest(found, tuple(files))


def _documents(text: Text) -> Iterator[Entry | Problem]:
    """Yield the documents of a file and their problems. A Problem without a document: the rest could not be read."""
    empty = True
    for index, tree in enumerate(parse(text.content, text.name), start=1):
        empty = False
        if isinstance(tree, Problem):
            yield tree
        else:
            items = list(entries(tree, text, index))
            yield from items
            labels = [item.label for item in items if isinstance(item, Entry)]
            label = labels[0] if len(labels) == 1 else f"document {index}"
            yield from (replace(problem, document=label) for problem in tree.problems)
    if empty:
        yield Problem(text.name, "has no documents", allowed="one or more documents of kind Model or Workspace")


def _manifest(found: list[Entry], texts: tuple[Text, ...]) -> Manifest:
    workspaces = [entry for entry in found if entry.kind == "Workspace"]
    models = []
    for entry in found:
        if isinstance(entry.document, Model):
            spec = entry.document.spec
            own = {"workspace": home_of(entry, workspaces), "source": _absolute(spec.source, entry.folder)}
            models.append(entry.document.model_copy(update={"spec": spec.model_copy(update=own)}))
    stated = tuple(entry.document for entry in workspaces if isinstance(entry.document, Workspace))
    return Manifest(tuple(models), stated or (Workspace(metadata=Metadata(name=DEFAULT_WORKSPACE)),), texts)


def _absolute(source: str | None, folder: Path) -> str | None:
    """Make a path on this machine absolute. Links are kept: caches of weights link to files without an extension."""
    if source is None or ("://" in source and not source.startswith("file://")):
        return source
    path = source.removeprefix("file://")
    absolute = os.path.abspath(folder / os.path.expanduser(path))  # noqa: PTH100, PTH111 - resolve() follows links
    return f"file://{absolute}" if source.startswith("file://") else absolute
