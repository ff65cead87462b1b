"""The fields of the documents' classes, for hints, the JSON Schema and the reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from hotseat.api.types import Document


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a document. `path` is like `spec.env[].name`. `part` is its class if it has fields, else None."""

    path: str
    name: str
    owner: type[Document]
    info: FieldInfo
    part: type[Document] | None


def walk(owner: type[Document], prefix: str = "") -> Iterator[Field]:
    """Yield all fields of a document in pre-order, in the order of declaration."""
    for info in owner.model_fields.values():
        name = info.alias or ""
        part, many = _part(info.annotation)
        field = Field(prefix + name, name, owner, info, part)
        yield field
        if part is not None:
            yield from walk(part, f"{field.path}{'[]' if many else ''}.")


def part_at(owner: type[Document], path: tuple[str | int, ...]) -> type[Document] | None:
    """Return the class of the value at a path. None if it has no fields."""
    part: type[Document] | None = owner
    for step in path:
        if isinstance(step, int):
            continue
        infos = part.model_fields.values() if part else ()
        part = next((_part(info.annotation)[0] for info in infos if info.alias == step), None)
    return part


def names(owner: type[Document]) -> list[str]:
    """Return the names of a class's own fields, as in documents."""
    return [info.alias or "" for info in owner.model_fields.values()]


def _part(annotation: Any) -> tuple[type[Document] | None, bool]:
    if isinstance(annotation, type) and issubclass(annotation, Document):
        return annotation, False
    for argument in get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, Document):
            return argument, get_origin(annotation) is tuple
    return None, False
