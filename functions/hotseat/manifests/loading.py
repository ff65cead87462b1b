"""`load`: from files to a consistent Manifest, or to all problems."""

import operator
import os.path
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hotseat.api.model import Model
from hotseat.api.types import Document, Metadata
from hotseat.api.workspace import DEFAULT_WORKSPACE, Workspace
from hotseat.manifests.checks import Plugins, check, workspace_of
from hotseat.manifests.entries import Entry, entries, inherit_from, validate
from hotseat.manifests.files import Text, read
from hotseat.manifests.nodes import parse
from hotseat.manifests.problems import ManifestErrors, Problem


@dataclass(frozen=True, slots=True)
class Manifest:
    """Valid and consistent documents.

    The Workspace of each Model exists. Sources on this machine are absolute paths, with or without `file://`.
    """

    models: tuple[Model, ...]
    workspaces: tuple[Workspace, ...]
    texts: tuple[Text, ...] = ()
    notes: tuple[str, ...] = ()  # on what was converted


def load(paths: Sequence[Path], plugins: Plugins | None = None, known: Manifest | None = None) -> Manifest:
    """Read files, folders of files, and `-` (standard input). Raise ManifestErrors with all problems.

    Return `known` if the files have not changed since it was read: parsing thousands of Models takes seconds.
    """
    texts = tuple(read(paths))
    return known if known is not None and texts == known.texts else load_texts(texts, plugins)


def load_texts(
    texts: Iterable[Text | Problem], plugins: Plugins | None = None, *, found: Iterable[Text | Problem] = ()
) -> Manifest:
    """Return the Manifest of texts. Raise ManifestErrors with all problems.

    `found` are texts of Models that were found in folders: one whose name or file a document has is left out.
    """
    read = _read(texts)
    documents, problems = read.entries, read.problems
    problems += _validated(documents, documents)
    more = _read(found)
    read.order |= {name: len(read.order) + place for name, place in more.order.items() if name not in read.order}
    added = _not_documented(more.entries, documents)
    problems += [*more.problems, *_validated(added, documents, appended=True)]
    entries_ = [*documents, *added]
    problems += check(entries_, plugins or Plugins.installed(), complete=read.complete and more.complete)
    if problems:
        problems = list(dict.fromkeys(problems))  # several Models may inherit one
        raise ManifestErrors(sorted(problems, key=lambda it: (read.order[it.file], it.line or 0, it.column or 0)))
    return _manifest(entries_, (*read.files, *more.files))


@dataclass(slots=True)
class _Read:
    """The documents of texts. `order` is that of files, to sort problems. `complete`: none was unreadable."""

    entries: list[Entry]
    problems: list[Problem]
    files: list[Text]
    order: dict[str, int]
    complete: bool


def _read(texts: Iterable[Text | Problem]) -> _Read:
    found: list[Entry] = []
    problems: list[Problem] = []
    files: list[Text] = []
    order: dict[str, int] = {}  # of files, to sort problems
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
    return _Read(found, problems, files, order, complete)


def _not_documented(found: list[Entry], documents: list[Entry]) -> list[Entry]:
    """Return the Models that were found and that no document describes, without names that a document has.

    A virtual model has its name too: requests for it must not get to a file that happens to be called so.
    """
    models = [entry for entry in documents if entry.kind == "Model"]
    taken = {entry.name for entry in models}
    taken |= {name for entry in models for name in entry.get("spec", "names") or () if isinstance(name, str)}
    taken |= set(_virtual_names(documents))
    sources = (entry.get("spec", "source") for entry in models)
    used = {
        _absolute(source, entry.folder)
        for source, entry in zip(sources, models, strict=True)
        if isinstance(source, str)
    }
    left = []
    for entry in found:
        spec, names = entry.data["spec"], entry.get("spec", "names") or [entry.name]
        if entry.name in taken or names[0] in taken or {spec["source"], f"file://{spec['source']}"} & used:
            continue
        if "names" in spec:
            entry.data = {**entry.data, "spec": {**spec, "names": [name for name in names if name not in taken]}}
        left.append(entry)
    return left


def _virtual_names(documents: list[Entry]) -> Iterator[str]:
    """Yield the names of virtual models, also of invalid documents."""
    for entry in documents:
        stated = entry.get("spec", "virtualModels") if entry.kind == "Workspace" else None
        for each in stated if isinstance(stated, list) else ():
            if isinstance(each, dict) and isinstance(name := each.get("name"), str):
                yield name


def _validated(found: list[Entry], documents: list[Entry], *, appended: bool = False) -> Iterator[Problem]:
    """Let Models inherit from their Workspaces, and make the documents of all entries. Yield the problems."""
    workspaces = [entry for entry in documents if entry.kind == "Workspace"]
    named = {entry.name: entry for entry in reversed(workspaces)}
    for entry in found:
        if entry.kind == "Model":
            yield from inherit_from(entry, named.get(workspace_of(entry, workspaces)), appended=appended)
        yield from validate(entry)


def _documents(text: Text) -> Iterator[Entry | Problem]:
    """Yield the documents of a file and their problems. After a Problem without a document, the rest is unreadable."""
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
            own = {
                "workspace": workspace_of(entry, workspaces),
                "source": _absolute(spec.source, entry.folder),
                "loras": tuple(
                    each.model_copy(update={"source": _absolute(each.source, entry.folder)}) for each in spec.loras
                ),
            }
            spec = with_absolute_paths(spec.model_copy(update=own), entry.folder)
            models.append(entry.document.model_copy(update={"spec": spec}))
    stated = tuple(
        with_absolute_paths(entry.document, entry.folder)
        for entry in workspaces
        if isinstance(entry.document, Workspace)
    )
    return Manifest(tuple(models), stated or (Workspace(metadata=Metadata(name=DEFAULT_WORKSPACE)),), texts)


def _absolute(source: str | None, folder: Path) -> str | None:
    """Return a source with an absolute path. Links are kept: caches of weights link to files without an extension."""
    if source is None or ("://" in source and not source.startswith("file://")):
        return source
    path = source.removeprefix("file://")
    absolute = os.path.abspath(folder / os.path.expanduser(path))  # noqa: PTH100, PTH111 - resolve() follows links
    return f"file://{absolute}" if source.startswith("file://") else absolute


D = TypeVar("D", bound=Document)


def with_absolute_paths(part: D, folder: Path) -> D:
    """Return a part of a document with its `local_paths` absolute: relative ones are relative to the document's folder."""
    own: dict[str, Any] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Document):
            changed: Any = with_absolute_paths(value, folder)
        elif isinstance(value, tuple) and value and isinstance(value[0], Document):
            each = tuple(with_absolute_paths(item, folder) for item in value)
            changed = value if all(map(operator.is_, each, value)) else each
        elif isinstance(value, str) and name in part.local_paths:
            changed = os.path.abspath(folder / os.path.expanduser(value))  # noqa: PTH100, PTH111 - links are kept
        else:
            continue
        if changed is not value:
            own[name] = changed
    return part.model_copy(update=own) if own else part
