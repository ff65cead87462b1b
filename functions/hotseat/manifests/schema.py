"""JSON Schema (draft 2020-12) of the documents, for editors and whoever else checks them without us."""

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from hotseat.api.model import DOCUMENTS
from hotseat.api.types import Document
from hotseat.manifests.fields import walk

_REQUIRED = ["apiVersion", "kind"]  # have defaults for those who make documents in Python, but not in files


class DocumentSchema(GenerateJsonSchema):
    """Pydantic's schema without what only repeats: titles made from names, and null for what is unset."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Set no titles."""
        del schema
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Leave null out: unset is written by leaving the field out."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Leave defaults out; they are put in as documents write them (`5m`), by `_with_defaults`."""
        return self.generate_inner(schema["schema"])


def schema(kind: str | None = None) -> dict[str, Any]:
    """Build the schema of one document of a kind; of any document if none is given."""
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
    """Default of a field as documents write it; None where it is unset or required."""
    return owner.model_construct().model_dump(mode="json", by_alias=True).get(name)
