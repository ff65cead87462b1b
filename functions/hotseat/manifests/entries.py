"""From a YAML document to Entries: their kinds, their Models and Workspaces, and their problems."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from hotseat.api.model import DOCUMENTS
from hotseat.api.types import API_VERSION
from hotseat.manifests.entry import Entry
from hotseat.manifests.explain import explain
from hotseat.manifests.files import Text
from hotseat.manifests.nodes import Tree
from hotseat.manifests.problems import Path, Problem, did_you_mean, near, shown

_ALLOWED = f"{' or '.join(DOCUMENTS)} of {API_VERSION}, or a List of them"


def entries(tree: Tree, text: Text, index: int) -> Iterator[Entry | Problem]:
    """Yield the documents of one YAML document (a List has several) and the problems of each."""
    for base, data in _unpack(tree):
        label = f"document {index}" + "".join(f", item {step + 1}" for step in base if isinstance(step, int))
        if isinstance(data, dict):
            entry = Entry(text.name, text.folder, label, data, tree, base)
            yield from _validate(entry)
            yield entry
        elif not tree.problems:
            line, column = tree.position(base)
            hint = "put a line --- between documents" if isinstance(data, list) else ""
            found = shown(data)
            yield Problem(
                text.name, "is not a document", label, line, column, found=found, allowed=_ALLOWED, suggestion=hint
            )


def _unpack(tree: Tree) -> Iterator[tuple[Path, Any]]:
    data = tree.data
    if isinstance(data, dict) and data.get("kind") == "List" and isinstance(data.get("items", []), list):
        for index, item in enumerate(data.get("items", [])):
            yield ("items", index), item
    else:
        yield (), data


def _validate(entry: Entry) -> Iterator[Problem]:
    """Set the kind and the document of an entry, and yield its problems. `status` is ignored."""
    entry.kind, problems = _identify(entry)
    if entry.kind and entry.name:
        entry.label = f"{entry.kind}/{entry.name}"
    yield from (replace(problem, document=entry.label) for problem in problems)
    if not entry.kind:
        return
    data = {key: value for key, value in entry.data.items() if key != "status"}
    data |= {"apiVersion": API_VERSION, "kind": entry.kind}
    try:
        # Through JSON: strict validation (no "1" for 1) of Python data requires tuples and enums.
        document = DOCUMENTS[entry.kind].model_validate_json(
            json.dumps(data), strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            yield explain(entry, detail)
    else:
        entry.document = document


def _identify(entry: Entry) -> tuple[str, list[Problem]]:
    """Return the kind and the problems of apiVersion and kind. Misspelt kinds are corrected, so that the rest is checked too."""
    version, kind = entry.get("apiVersion"), entry.get("kind")
    meant = near(kind, DOCUMENTS) if isinstance(kind, str) else None
    if meant is None or (isinstance(version, str) and version != API_VERSION and not near(version, [API_VERSION])):
        if version is None and kind is None:
            message, found = "is not a hotseat document: it has no apiVersion and no kind", ""
        else:
            message, found = "is of another kind", f"{kind or 'no kind'} of {version or 'no apiVersion'}"
        path: Path = ("kind",) if meant is None else ("apiVersion",)
        return "", [entry.problem(message, path, found=found, allowed=_ALLOWED)]
    problems = []
    for field, value, allowed in (("apiVersion", version, [API_VERSION]), ("kind", kind, list(DOCUMENTS))):
        if value not in allowed:
            found = "" if value is None else shown(value)
            message = "is missing" if value is None else "is not known"
            hint = did_you_mean(str(value), allowed) if value else ""
            problems.append(entry.problem(message, (field,), found=found, allowed=" or ".join(allowed), hint=hint))
    return meant, problems
