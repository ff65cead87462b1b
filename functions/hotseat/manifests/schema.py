"""Fields and JSON Schema (draft 2020-12) of the documents, for editors, suggestions and the reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from hotseat.api.model import DOCUMENTS
from hotseat.api.secrets import SecretValue
from hotseat.api.types import Document


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a document. `path` is like `spec.env[].name` or `spec.filters.byName.*.set`.

    `part` is its class if it has fields, else None.
    """

    path: str
    name: str
    owner: type[Document]
    info: FieldInfo
    part: type[Document] | None


def walk(owner: type[Document], prefix: str = "") -> Iterator[Field]:
    """Yield all fields of a document in pre-order, in the order of declaration."""
    for info in owner.model_fields.values():
        name = info.alias or ""
        part, inside = _part(info.annotation)
        field = Field(prefix + name, name, owner, info, part)
        yield field
        if part is not None:
            yield from walk(part, f"{field.path}{inside}.")


def part_at(owner: type[Document], path: tuple[str | int, ...]) -> type[Document] | None:
    """Return the class of the value at a path. None if it has no fields."""
    part: type[Document] | None = owner
    in_mapping = False
    for step in path:
        if isinstance(step, int) or in_mapping:
            in_mapping = False
            continue
        infos = part.model_fields.values() if part else ()
        part, inside = next((_part(info.annotation) for info in infos if info.alias == step), (None, ""))
        in_mapping = inside == IN_MAPPING
    return part


def is_secret(owner: type[Document], path: tuple[str | int, ...]) -> bool:
    """Whether the value at a path must not be shown: it is a field without a repr, or stands where a secret value should."""
    whole, part = part_at(owner, path), part_at(owner, path[:-1])
    if any(each is not None and issubclass(each, SecretValue) for each in (whole, part)):
        return True
    return part is not None and any(info.alias == path[-1] and not info.repr for info in part.model_fields.values())


def names(owner: type[Document]) -> list[str]:
    """Return the names of a class's own fields, as in documents."""
    return [info.alias or "" for info in owner.model_fields.values()]


IN_LIST, IN_MAPPING = "[]", ".*"


def _part(annotation: Any) -> tuple[type[Document] | None, str]:
    """Return the class of a field's value, and what stands in the path of a field inside of it."""
    if isinstance(annotation, type) and issubclass(annotation, Document):
        return annotation, ""
    for argument in get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, Document):
            inside: dict[Any, str] = {tuple: IN_LIST, dict: IN_MAPPING}
            return argument, inside.get(get_origin(annotation), "")
    return None, ""


_REQUIRED = ["apiVersion", "kind"]  # in files; documents in Python have defaults


class DocumentSchema(GenerateJsonSchema):
    """Pydantic's schema without titles, without null for unset fields, and without defaults."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Set no titles."""
        del schema
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Leave null out: unset fields are omitted in documents."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Leave defaults out. `_with_defaults` adds them in the form of documents (`5m`)."""
        return self.generate_inner(schema["schema"])


def schema(kind: str | None = None) -> dict[str, Any]:
    """Return the schema of a document of a kind, or of any document if `kind` is None."""
    kinds = [kind] if kind else list(DOCUMENTS)
    inputs: list[Any] = [(name, "validation", TypeAdapter(DOCUMENTS[name])) for name in kinds]
    _, shared = TypeAdapter.json_schemas(inputs, by_alias=True, schema_generator=DocumentSchema)
    definitions = shared["$defs"]
    for name in kinds:
        definitions[name]["required"] = [*_REQUIRED, *definitions[name]["required"]]
        _with_defaults(DOCUMENTS[name], definitions)
    for definition in definitions.values():
        definition.pop("title", None)
    references = [{"$ref": f"#/$defs/{name}"} for name in kinds]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"hotseat {' or '.join(kinds)}",
        **({"oneOf": references} if len(references) > 1 else references[0]),
        "$defs": definitions,
    }


def _with_defaults(document: type[Document], definitions: dict[str, Any]) -> None:
    for field in walk(document):
        default = default_of(field.owner, field.name)
        if field.part is None and default not in (None, [], {}):
            definitions[field.owner.__name__]["properties"][field.name]["default"] = default


def default_of(owner: type[Document], name: str) -> Any:
    """Return the default of a field in the form of documents. None if it is unset or required."""
    return owner.model_construct().model_dump(mode="json", by_alias=True).get(name)
