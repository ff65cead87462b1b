"""What pydantic says about a document, said so that its author knows what to write instead."""

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

# What pydantic's errors about types mean is allowed.
_TYPES = {
    "string_type": "text",
    "string_sub_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def explain(entry: Entry, detail: ErrorDetails) -> Problem:
    """Turn one error of pydantic's into a Problem of a document."""
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


# Fields that had another name before the first release, and what to do about it.
_RENAMED: Mapping[Path, str] = {
    (
        "spec",
        "aliases",
    ): "it is spec.names now, whose first name is the one that is shown; put metadata.name first to have that "
    "shown as before",
    ("spec", "servedName"): "it is spec.engineModelName now",
}


def _unknown_field(entry: Entry, path: Path) -> Problem:
    """Suggest the field of that name elsewhere, else one that is spelt nearly so: here first, then elsewhere."""
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
    """Show the value, and what stands in the file where YAML made something else of that."""
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
            # The rest says it well: "greater than or equal to 0", "String should have at most 63 characters".
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
    """Suggest Kubernetes' unit for one that people write, as GB for G."""
    match = re.fullmatch(r"([0-9.]+) *([kmgtp])(i?)b?", text, re.IGNORECASE)
    return f"did you mean {match[1]}{match[2].upper()}{match[3].lower()}?" if match else ""


def _as_list(value: Any) -> str:
    if isinstance(value, dict):
        return "begin each entry of a list with a dash"
    if not isinstance(value, str):
        return ""
    try:
        words = shlex.split(value)
    except ValueError:  # a quote without its end
        words = [value]
    return f"as a list: {json.dumps(words, ensure_ascii=False)}"
