"""YAML documents as Entries: kind, the object that each makes, or what is wrong with it."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hotseat.api.model import DOCUMENTS, Model
from hotseat.api.types import API_VERSION, PATTERN_WORDS
from hotseat.api.units import Unreadable
from hotseat.api.workspace import Workspace
from hotseat.manifests import schema as fields
from hotseat.manifests.files import Text
from hotseat.manifests.inheritance import inherit
from hotseat.manifests.nodes import Tree
from hotseat.manifests.problems import Path, Problem, did_you_mean, dotted, near, shown


@dataclass(slots=True)
class Entry:
    """One document. `document` is None if it is invalid. `kind` and `name` are empty if they are unknown."""

    file: str
    folder: FilePath
    label: str
    data: dict[str, Any]
    tree: Tree
    base: Path  # of the document in the tree: () or, in a List, ("items", 2)
    kind: str = ""
    document: Model | Workspace | None = None
    inherits: "Entry | None" = None  # the Workspace, whose modelDefaults it has

    @property
    def name(self) -> str:
        """Return metadata.name, also of an invalid document."""
        name = self.get("metadata", "name")
        return name if isinstance(name, str) else ""

    def where(self, path: Path) -> str:
        """Return the file and line of a field, for problems of other documents."""
        return f"{self.file}:{self.tree.position((*self.base, *path))[0]}"

    def problem(
        self, message: str, path: Path, *, found: str = "", allowed: str = "", hint: str = "", at_key: bool = False
    ) -> Problem:
        """Return a problem of a field, at the position of its value, or of its name with `at_key`.

        That of an inherited field is one of its Workspace.
        """
        inherited: Path = ("spec", "modelDefaults", *path[1:])
        if self.inherits and path[:1] == ("spec",) and not self.states(path) and self.inherits.states(inherited):
            return self.inherits.problem(message, inherited, found=found, allowed=allowed, hint=hint, at_key=at_key)
        position = self.tree.key_position if at_key else self.tree.position
        line, column = position((*self.base, *path))
        return Problem(self.file, message, self.label, line, column, dotted(path), found, allowed, hint)

    def states(self, path: Path) -> bool:
        """Whether the document itself has a field."""
        return (*self.base, *path) in self.tree.values

    def get(self, *path: str) -> Any:
        """Return the value of a field, of any type. None if it is not set."""
        value: Any = self.data
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return value


# Allowed values, by pydantic's type of error.
_TYPES = {
    "string_type": "text",
    "string_sub_type": "text",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def explain(entry: Entry, detail: ErrorDetails) -> Problem:
    """Return the problem for an error of pydantic."""
    path, kind, value = detail["loc"], detail["type"], detail["input"]
    if kind == "missing":
        return entry.problem("is missing", path)
    if kind == "extra_forbidden":
        return _unknown_field(entry, path)
    error = detail.get("ctx", {}).get("error")
    if kind == "value_error" and not isinstance(error, Unreadable):
        return entry.problem(str(error), path)
    found, allowed, hint = _found(entry, path, value), _allowed(detail, error), _suggestion(entry, detail, error)
    return entry.problem("is not allowed", path, found=found, allowed=allowed, hint=hint)


# Fields with another name before the first release, and what to do.
_RENAMED: Mapping[Path, str] = {
    (
        "spec",
        "aliases",
    ): "it is spec.names now, whose first name is the one that is shown; put metadata.name first to have that "
    "shown as before",
    ("spec", "servedName"): "it is spec.engineModelName now",
}


def _unknown_field(entry: Entry, path: Path) -> Problem:
    """Return the problem, with a hint: the path of a field of that name, else a similar name, here or elsewhere."""
    if entry.kind == "Model" and path in _RENAMED:
        return entry.problem("is not a field any longer", path, at_key=True, hint=_RENAMED[path])
    owner, word = DOCUMENTS[entry.kind], str(path[-1])
    part = fields.part_at(owner, path[:-1])
    here = fields.names(part) if part else []
    elsewhere = {field.name: field.path for field in reversed(list(fields.walk(owner)))}
    meant = elsewhere.get(word) or near(word, here) or elsewhere.get(near(word, elsewhere) or "")
    hint = f"did you mean {meant}?" if meant else ""
    return entry.problem("is not a known field", path, at_key=True, allowed=", ".join(here), hint=hint)


def _found(entry: Entry, path: Path, value: Any) -> str:
    """Return the value for a message, with the text of the file if YAML reads it as something else."""
    if fields.is_secret(DOCUMENTS[entry.kind], path):
        return "a value that is not shown"
    written = entry.tree.written((*entry.base, *path))
    text = shown(value)
    if not isinstance(value, int | float) or written is None or written == text:
        return text
    return f"{shown(written)[1:-1]}, which YAML reads as {text}"


def _allowed(detail: ErrorDetails, error: object) -> str:
    context = detail.get("ctx", {})
    if isinstance(error, Unreadable):
        return str(error)
    match detail["type"]:
        case "enum":
            return str(context["expected"]).replace("'", "")
        case "string_pattern_mismatch":
            return PATTERN_WORDS.get(context["pattern"], context["pattern"])
        case kind:
            # Others are readable, such as "greater than or equal to 0".
            return _TYPES.get(kind) or detail["msg"].removeprefix("Input should be ").removeprefix(
                "String should have "
            )


def _suggestion(entry: Entry, detail: ErrorDetails, error: object) -> str:
    value, kind = detail["input"], detail["type"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    hint = ""
    if fields.is_secret(DOCUMENTS[entry.kind], detail["loc"]):
        return "put it in quotes" if number else ""
    if isinstance(error, Unreadable):
        hint = f"did you mean {value}s?" if number and "duration" in str(error) else _unit(str(value))
    elif kind.startswith("string") and (number or isinstance(value, bool)):
        hint = f'put it in quotes: "{entry.tree.written((*entry.base, *detail["loc"]))}"'
    elif kind == "tuple_type":
        hint = _as_list(value)
    elif kind == "enum" and isinstance(value, str):
        hint = did_you_mean(value, re.findall(r"'([^']*)'", detail.get("ctx", {}).get("expected", "")))
    elif kind == "string_pattern_mismatch" and detail["loc"] == ("metadata", "name"):
        hint = _as_name(value)
    elif (
        kind in ("bool_type", "int_type", "float_type")
        and isinstance(value, str)
        and re.fullmatch(r"true|false|[0-9]+", value)
    ):
        hint = f"without quotes: {value}"
    return hint


def _as_name(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-").lstrip("-0123456789")
    return f"did you mean {name}? What clients send may also be in spec.names" if name else ""


def _unit(text: str) -> str:
    """Return a hint with Kubernetes' unit for a similar one, such as G for GB."""
    match = re.fullmatch(r"([0-9.]+) *([kmgtp])(i?)b?", text, re.IGNORECASE)
    return f"did you mean {match[1]}{match[2].upper()}{match[3].lower()}?" if match else ""


def _as_list(value: Any) -> str:
    if isinstance(value, dict):
        return "begin each entry of a list with a dash"
    if not isinstance(value, str):
        return ""
    try:
        words = shlex.split(value)
    except ValueError:  # an unclosed quote
        words = [value]
    return f"as a list: {json.dumps(words, ensure_ascii=False)}"


_ALLOWED = f"{' or '.join(DOCUMENTS)} of {API_VERSION}, or a List of them"


def entries(tree: Tree, text: Text, index: int) -> Iterator[Entry | Problem]:
    """Yield the documents of one YAML document (a List has several), not validated yet, and the problems of their kinds."""
    for base, data in _unpack(tree):
        label = f"document {index}" + "".join(f", item {step + 1}" for step in base if isinstance(step, int))
        if isinstance(data, dict):
            entry = Entry(text.name, text.folder, label, data, tree, base)
            yield from _name_kind(entry)
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


def _name_kind(entry: Entry) -> Iterator[Problem]:
    entry.kind, problems = _identify(entry)
    if entry.kind and entry.name:
        entry.label = f"{entry.kind}/{entry.name}"
    yield from (replace(problem, document=entry.label) for problem in problems)


def inherit_from(entry: Entry, workspace: Entry | None, *, appended: bool = False) -> Iterator[Problem]:
    """Let a Model inherit from its Workspace, and yield the problems of its placeholders. `appended`: see inheritance.py."""
    spec, its = entry.get("spec"), workspace.get("spec") if workspace else {}
    if not isinstance(spec, dict):
        return
    its = its if isinstance(its, dict) else {}
    if workspace is not None and workspace.folder != entry.folder and isinstance(its.get("modelDefaults"), dict):
        its = {**its, "modelDefaults": _with_folder(its["modelDefaults"], workspace.folder)}
    made, problems = inherit(spec, its, appended=appended)
    entry.data, entry.inherits = {**entry.data, "spec": made}, workspace
    for each in problems:
        path: Path = ("spec", *each.path)
        yield entry.problem(each.message, path, found=each.found, allowed=each.allowed, hint=each.hint)


_PATHS = (
    ("engineKey", "file"),
    ("tls", "caFile"),
)  # of modelDefaults, which are relative to the folder of the Workspace


def _with_folder(defaults: dict[str, Any], folder: FilePath) -> dict[str, Any]:
    """Return modelDefaults for a Model of another folder."""
    made = dict(defaults)
    for part, name in _PATHS:
        if isinstance(its := made.get(part), dict) and isinstance(path := its.get(name), str):
            made[part] = {**its, name: str(folder / FilePath(path).expanduser())}
    return made


def validate(entry: Entry) -> Iterator[Problem]:
    """Set the document of an entry, and yield its problems. `status` is ignored."""
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
