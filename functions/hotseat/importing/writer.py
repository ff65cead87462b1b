"""Write documents as YAML, with notes as comments above each."""

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hotseat.api.types import API_VERSION, Json
from hotseat.api.workspace import DEFAULT_WORKSPACE

WIDTH = 120


@dataclass(frozen=True, slots=True)
class Note:
    """A note on one field of the configuration. `kind` is `changed`, `assumed` or `no equivalent`."""

    kind: str
    field: str
    text: str

    def __str__(self) -> str:
        """Return the text for comments and for the terminal."""
        return f"{self.kind}: {self.field}: {self.text}"


@dataclass(frozen=True, slots=True)
class Draft:
    """One document, its origin, and notes on it."""

    document: Json
    origin: str
    notes: Sequence[Note] = ()


@dataclass(frozen=True, slots=True)
class Imported:
    """The YAML text, and the notes with the names of their documents."""

    text: str
    notes: tuple[tuple[str, Note], ...]
    models: int


def model_draft(name: str, spec: Json, origin: str, notes: Sequence[Note] = ()) -> Draft:
    """Return a Model without the fields that are empty."""
    kept = {key: value for key, value in spec.items() if value not in (None, "", [], {}, False, 0)}
    return Draft({"apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": name}, "spec": kept}, origin, notes)


HEAD = "Changed settings, settings without an equivalent, and what was assumed, are listed above each document. See docs/moving.md."


def documents(
    file: str, models: Sequence[Draft], spec: Json, notes: Sequence[Note] = (), *, name: str = DEFAULT_WORKSPACE
) -> Imported:
    """Return a Workspace with the Models that share it."""
    space: Json = {"apiVersion": API_VERSION, "kind": "Workspace", "metadata": {"name": name}, "spec": spec}
    workspace = Draft(space, "Which models can be resident together, and settings for all models", notes)
    return write((f"Made by `hotseat import` from {file}.", HEAD, ""), [workspace, *models])


def write(head: Sequence[str], drafts: Sequence[Draft]) -> Imported:
    """Return documents as YAML, in their order."""
    parts = ["".join(_comment(line) for line in head)]
    for draft in drafts:
        comments = _comment(draft.origin) + "".join(_comment(f"- {note}") for note in draft.notes)
        parts.append(
            comments + yaml.dump(draft.document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
        )
    notes = tuple((draft.document["metadata"]["name"], note) for draft in drafts for note in draft.notes)
    models = sum(draft.document["kind"] == "Model" for draft in drafts)
    return Imported("---\n".join(parts), notes, models)


def compact(value: Any) -> str:
    """Return a value on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> str:
    """Return comment lines. Characters that could end a comment are replaced."""
    plain = re.sub(r"[^\x20-\x7e\xa1-\ud7ff\ue000-\ufefe\uff00-\uffef]", " ", text)
    lines = textwrap.wrap(plain, WIDTH - 2, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}".rstrip() + "\n" for line in lines or [""])


class _Dumper(yaml.SafeDumper):
    """Writes short lists of plain values on one line, and indents the others."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        """Represent a list."""
        plain = all(not isinstance(item, dict | list) and "\n" not in str(item) for item in sequence)
        short = plain and sum(len(str(item)) + 4 for item in sequence) < WIDTH - 20
        return super().represent_sequence(tag, sequence, flow_style=short or flow_style)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Indent the items of a list."""
        super().increase_indent(flow, indentless=False)
