"""From errors of pydantic to problems with allowed values and hints."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from pydantic_core import ErrorDetails

from hotseat.api.model import DOCUMENTS
from hotseat.api.types import PATTERN_WORDS
from hotseat.api.units import Unreadable
from hotseat.manifests import fields
from hotseat.manifests.entry import Entry
from hotseat.manifests.problems import Path, Problem, did_you_mean, near, shown

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
