"""CustomResourceDefinitions from the documents' classes: structural schemas, and CEL rules for checks across fields."""

import functools
from collections.abc import Mapping

from pydantic import TypeAdapter

from hotseat.api.model import DOCUMENTS
from hotseat.api.types import API_VERSION, Document, Json
from hotseat.api.units import AUTO_DURATION_PATTERN, DURATION_PATTERN
from hotseat.manifests.fields import walk
from hotseat.manifests.rules import AUTO_DURATION, DURATION, QUANTITY, RULES, as_validations
from hotseat.manifests.schema import DocumentSchema, schema
from hotseat.manifests.statuses import ModelStatusSchema, WorkspaceStatus

_FREE = "x-kubernetes-preserve-unknown-fields"
_LONGEST = 40  # characters of a duration or a quantity; bounds the cost of CEL rules
_TEXT = r"^[^\x00]*$"  # arguments of a program cannot contain NUL
_STATUS: Mapping[str, type[Document]] = {"Model": ModelStatusSchema, "Workspace": WorkspaceStatus}
_SHORT_NAMES = {"Model": "hsm", "Workspace": "hsw"}
_DURATIONS = {DURATION_PATTERN: DURATION, AUTO_DURATION_PATTERN: AUTO_DURATION}
# Extensions of the schema of fields, by class and field.
_EXTRA: Mapping[tuple[str, str], Json] = {
    ("ModelSpec", "names"): {"x-kubernetes-list-type": "set"},
    ("CapacitySpec", "devices"): {"x-kubernetes-list-type": "set"},
    ("ModelSpec", "env"): {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    # No default: a Model without a Workspace belongs to the only Workspace.
    ("ModelSpec", "workspace"): {"default": None},
    ("ModelSpec", "podTemplate"): {
        _FREE: None,
        "properties": {
            part: {"type": "object", _FREE: True, "description": f"Merged over the pod's {part}."}
            for part in ("metadata", "spec")
        },
    },
    ("ModelGroup", "members"): {"x-kubernetes-list-type": "set"},
    ("WorkspaceSpec", "groups"): {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    ("ModelStatusSchema", "conditions"): {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ("WorkspaceStatus", "conditions"): {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
}


def _condition(kind: str, field: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


# Name, type, JSON path and priority (1: only with `-o wide`).
_COLUMNS: Mapping[str, tuple[tuple[str, str, str, int], ...]] = {
    "Model": (
        ("Engine", "string", ".spec.engine", 0),
        ("Source", "string", ".spec.source", 0),
        ("Phase", "string", ".status.phase", 0),
        ("Ready", "string", _condition("Ready"), 0),
        ("Cached", "string", _condition("Cached"), 0),
        ("Workspace", "string", ".status.workspace", 0),
        ("Address", "string", ".status.address", 1),
        ("Replicas", "integer", ".status.replicas", 1),
        ("Reason", "string", _condition("Ready", "reason"), 1),
        ("Message", "string", _condition("Ready", "message"), 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    ),
    "Workspace": (
        ("Resident", "string", ".status.resident", 0),
        ("GPUs", "integer", ".spec.capacity.gpus", 0),
        ("Waiting", "integer", ".status.waiting", 0),
        ("Ready", "string", _condition("Ready"), 0),
        ("Epoch", "integer", ".status.epoch", 1),
        ("Reason", "string", _condition("Ready", "reason"), 1),
        ("Message", "string", _condition("Ready", "message"), 1),
        ("Age", "date", ".metadata.creationTimestamp", 0),
    ),
}


@functools.cache
def definition(kind: str) -> Json:
    """Return the CRD of a kind, the same object each time: copy it before a change."""
    group, version = API_VERSION.split("/")
    names = {"kind": kind, "listKind": f"{kind}List", "plural": f"{kind.lower()}s", "singular": kind.lower()}
    columns = [
        {"name": name, "type": type_, "jsonPath": path, **({"priority": priority} if priority else {})}
        for name, type_, path, priority in _COLUMNS[kind]
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {**names, "shortNames": [_SHORT_NAMES[kind]], "categories": ["hotseat"]},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root(kind)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def _root(kind: str) -> Json:
    document = DOCUMENTS[kind]
    root = _Structural(document, schema(kind)["$defs"]).part(document)
    name = root["properties"]["metadata"]["properties"]["name"]
    bounds = {key: name[key] for key in ("pattern", "maxLength")}
    # An API server defines these fields itself, except for the limits on the name.
    root["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string", **bounds}}}
    for field in ("apiVersion", "kind"):
        root["properties"][field] = {"type": "string", "description": root["properties"][field]["description"]}
    if "spec" in root.pop("required"):
        root["required"] = ["spec"]
    status = _STATUS[kind]
    described = TypeAdapter(status).json_schema(schema_generator=DocumentSchema)
    root["properties"]["status"] = _Structural(status, described["$defs"] | {status.__name__: described}).part(status)
    return root


class _Structural:
    """Makes the structural schema of one document: without references."""

    def __init__(self, document: type[Document], definitions: Json) -> None:
        self._definitions = definitions
        # Parts that are there whether or not they are written, so that an API server can put the defaults into them.
        self._always = {
            (field.owner.__name__, field.name)
            for field in walk(document)
            if field.part and not field.info.is_required() and isinstance(field.info.get_default(), Document)
        }

    def part(self, part: type[Document]) -> Json:
        return self._object(part.__name__)

    def _object(self, name: str) -> Json:
        definition = self._definitions[name]
        properties = {field: self._field(name, field, value) for field, value in definition["properties"].items()}
        result = {"type": "object", "description": definition["description"], "properties": properties}
        if "required" in definition:
            result["required"] = definition["required"]
        return _with_rules(result, (name, ""))

    def _field(self, owner: str, name: str, value: Json) -> Json:
        result = self._value(value)
        if (owner, name) in self._always:
            result["default"] = {}
        result |= _EXTRA.get((owner, name), {})
        return _with_rules({key: it for key, it in result.items() if it is not None}, (owner, name))

    def _value(self, value: Json) -> Json:
        if "$ref" in value:
            name = value["$ref"].rsplit("/", 1)[1]
            inner = dict(self._definitions[name]) if "enum" in self._definitions[name] else self._object(name)
            return _plain(inner) | {key: it for key, it in value.items() if key != "$ref"}
        if "anyOf" in value:  # a quantity is a number or a string
            return _quantity(value)
        result = _plain(value)
        if rule := _DURATIONS.get(value.get("pattern", "")):
            return result | {"maxLength": _LONGEST, "x-kubernetes-validations": as_validations((rule,))}
        if "items" in value:
            result["items"] = self._value(value["items"])
        if value.get("additionalProperties") is True:
            return {key: it for key, it in result.items() if key != "additionalProperties"} | {_FREE: True}
        if value.get("type") == "string" and not value.keys() & {"pattern", "enum", "format"}:
            result["pattern"] = _TEXT
        return result


def _plain(value: Json) -> Json:
    """Return the schema without keys that have no meaning to an API server."""
    return {
        key: it
        for key, it in value.items()
        if key not in ("title", "const") and not (key == "default" and it in ("", None))
    }


def _quantity(value: Json) -> Json:
    text = next(choice for choice in value["anyOf"] if choice["type"] == "string")
    rest = {key: it for key, it in value.items() if key != "anyOf"}
    return {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "minimum": 0,
        "maxLength": _LONGEST,
        "pattern": text["pattern"],
        "x-kubernetes-validations": as_validations((QUANTITY,)),
        **rest,
    }


def _with_rules(result: Json, key: tuple[str, str]) -> Json:
    if key in RULES:
        result["x-kubernetes-validations"] = as_validations(RULES[key])
    return result
