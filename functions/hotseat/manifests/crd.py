"""CustomResourceDefinitions from the documents' classes, with rules between fields as CEL."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from hotseat.api.engine_access import OWN_HEADERS, UPSTREAM_URL
from hotseat.api.filters import PROTECTED
from hotseat.api.model import DOCUMENTS, SOURCE_SCHEMES
from hotseat.api.types import API_VERSION, Document, Json
from hotseat.api.units import AUTO_DURATION_PATTERN, DURATION_PATTERN
from hotseat.api.workspace import SECRET_HEADERS
from hotseat.manifests.schema import DocumentSchema, schema, walk
from hotseat.manifests.statuses import ModelStatusSchema, WorkspaceStatus

_SCHEMES = "|".join(SOURCE_SCHEMES)
_SCHEME_LIST = ", ".join(f"{scheme}://" for scheme in SOURCE_SCHEMES)
_COUNTED = "!has(self.capacity) || !has(self.capacity.counted) || self.capacity.counted"
_GROUPS_OF_NAME = "self.filter(each, has(each.members) && name in each.members)"
_FIELD = r"\{(port|host|model|name|source|env:[A-Za-z_][A-Za-z0-9_]*)\}"

_HEADERS_OF_NAME = "self.headers.filter(it, it.name.lowerAscii() == one.name.lowerAscii())"
_HEADER_IS_NOT_THE_KEYS = (
    "(!has(self.engineKey) || !self.headers.exists(it, it.name.lowerAscii() == self.engineKey.header.lowerAscii()))"
)

Rule = tuple[str, str]  # CEL expression, message

# Of all parts that are secret values.
_ONE_SOURCE: Rule = (
    "[has(self.value), has(self.env), has(self.file), has(self.secret)].filter(it, it).size() == 1",
    "exactly one of value, env, file and secret must be set",
)
_OWN_HEADER: Rule = (f"!self.matches(r'^(?i:{'|'.join(OWN_HEADERS)})$')", "is set by hotseat itself")


def for_engine(name: str, rule: str) -> str:
    """Return a rule that applies to one engine only."""
    return f"self.engine != '{name}' || ({rule})"


def each(field: str, pattern: str, *, matches: bool) -> str:
    """Return a rule that all items of a list match a pattern, or that none does."""
    return f"!has(self.{field}) || self.{field}.all(text, {'' if matches else '!'}text.matches(r'{pattern}'))"


def _used(name: str, *, macros: bool = False) -> str:
    """Return a pattern of a field in braces, or with `macros` of any macro: what is in that is known to the Workspace only."""
    return r"(\{" + name + r"\}|\$\{[^{}]+\})" if macros else r"\{" + name + r"\}"


def any_uses(name: str) -> str:
    """Return a test whether command or args contain a field in braces, of which `name` is the pattern. Doubled braces are literal."""
    pattern = r"^([^{}]|\{\{|\}\}|\{[^{}]*\})*" + name
    return " || ".join(
        f"(has(self.{field}) && self.{field}.exists(text, text.matches(r'{pattern}')))" for field in ("command", "args")
    )


def _some(field: str) -> str:
    return f"has(self.{field}) && size(self.{field}) > 0"


def _engines() -> Iterator[Rule]:
    """Yield the rules of the engines of this package."""
    yield for_engine("llamacpp", "has(self.source)"), "engine llamacpp needs source"
    taken = "^(-m|--model|--host|--port)(=|$)"
    yield for_engine("llamacpp", each("args", taken, matches=False)), f"args has what hotseat sets itself: {taken}"
    others = "^(-mu|--model-url|-hfr?|--hf-repo|-hff|--hf-file|-dr|--docker-repo)(=|$)"
    yield (
        for_engine("llamacpp", each("args", others, matches=False)),
        f"args names a model, for which source is: {others}",
    )
    router = "^--(models-(dir|preset|max|autoload)|no-models-autoload)(=|$)"
    yield (
        for_engine("llamacpp", each("args", router, matches=False)),
        f"args has flags of llama-server's router: {router}",
    )
    own = {
        "vllm": "host|port|model|served[-_]model[-_]name",
        "sglang": "host|port|model|model[-_]path|served[-_]model[-_]name",
        "tgi": "hostname|port|model[-_]id|revision|shard[-_]uds[-_]path",
        "tei": "hostname|port|model[-_]id|revision|uds[-_]path",
    }
    for name, flags in own.items():  # engines of repositories
        yield for_engine(name, "has(self.source)"), f"engine {name} needs source"
        taken = f"^(--({flags})|-p)(=|$)" if name in ("tgi", "tei") else f"^--({flags})(=|$)"
        yield for_engine(name, each("args", taken, matches=False)), f"args has what hotseat sets itself: {taken}"
        readable = "!has(self.source) || !self.source.startsWith('ollama://')"
        yield for_engine(name, readable), f"engine {name} cannot read ollama://; use hf://org/repo"
        here = "!has(self.source) || !self.source.contains('://') || self.source.matches(r'^(file|pvc)://')"
        whole = r"self.source.matches(r'^hf://[^/@]+/[^/@]+/?(@[^/]+)?$')"
        itself = f"self.cache.fetchBy != 'Engine' || {here} || {whole}"
        yield for_engine(name, itself), f"cache.fetchBy is Engine, but {name} fetches whole repositories only"
    stored = "has(self.source) && self.source.startsWith('ollama://')"
    yield for_engine("ollama", stored), "engine ollama needs source: ollama://NAME[:TAG]"
    for field in ("args", "engineModelName"):
        nothing = f"!has(self.{field}) || size(self.{field}) == 0"
        yield for_engine("ollama", nothing), f"{field} has no meaning for engine ollama"
    yield for_engine("ollama", "self.scheduling.replicas == 1"), "engine ollama cannot have scheduling.replicas"
    yield for_engine("whispercpp", "has(self.source)"), "engine whispercpp needs source"
    taken = "^(-m|--model|--host|--port|--inference[-_]path|--request[-_]path)(=|$)"
    yield for_engine("whispercpp", each("args", taken, matches=False)), f"args has what hotseat sets itself: {taken}"
    split = "!has(self.vllm) || !has(self.vllm.tensorParallelSize) || self.resources.gpus == 0"
    fits = f"{split} || self.vllm.tensorParallelSize <= self.resources.gpus"
    yield for_engine("vllm", fits), "vllm.tensorParallelSize is more than resources.gpus"
    level = (
        "self.lifecycle.release != 'Park' || !has(self.vllm) || !has(self.vllm.sleepLevel) || self.vllm.sleepLevel != 2"
    )
    wakes = f"!has(self.loras) || size(self.loras) == 0 || {level}"
    yield for_engine("vllm", wakes), "vllm.sleepLevel is 2, from which vLLM does not wake with LoRA adapters"
    for name in ("llamacpp", "tgi", "tei", "ollama", "whispercpp", "custom", "external"):
        sleeps = "self.lifecycle.release != 'Park' || (has(self.lifecycle.sleep) && size(self.lifecycle.sleep) > 0)"
        yield (
            for_engine(name, sleeps),
            f"lifecycle.release is Park, but engine {name} cannot sleep; state lifecycle.sleep and wake",
        )
    plain = rf"!has(self.url) || self.url.matches(r'^{UPSTREAM_URL}$')"
    yield for_engine("external", plain), "url has a form that is not allowed"
    secure = "!has(self.tls) || !has(self.url) || self.url.startsWith('https://')"
    yield for_engine("external", secure), "tls is set, but url does not begin with https://"
    others = each("failoverUrls", f"^{UPSTREAM_URL}$", matches=True)
    yield for_engine("external", others), "failoverUrls has a URL of a form that is not allowed"
    for field in ("command", "args", "env"):
        nothing = f"!has(self.{field}) || size(self.{field}) == 0"
        yield for_engine("external", nothing), f"engine external starts nothing, so {field} has no meaning"
    for field in ("port", "source"):
        yield (
            for_engine("external", f"!has(self.{field})"),
            f"engine external starts nothing, so {field} has no meaning",
        )
    for field in ("command", "args"):
        pattern = r"^([^{}]|\{\{|\}\}|\$\{[^{}]*\}|" + _FIELD + ")*$"
        message = f"{field}: fields are {{port}}, {{host}}, {{model}}, {{name}}, {{source}}, {{env:NAME}}; double other braces"
        yield for_engine("custom", each(field, pattern, matches=True)), message
    yield (
        for_engine("custom", f"has(self.source) || !({any_uses(_used('model'))})"),
        "{model} is used, but source is not set",
    )
    listens = f"has(self.port) || {any_uses(_used('port', macros=True))}"
    yield for_engine("custom", listens), "neither command nor args contain {port}, and port is not set"


_SOURCE: tuple[Rule, ...] = (
    (r"self.matches(r'\S')", "source is empty"),
    (
        rf"!self.matches(r'^([A-Za-z0-9+.-]+://|({_SCHEMES}):)') || self.matches(r'^({_SCHEMES})://')",
        f"source begins with something unknown; allowed: {_SCHEME_LIST} or a path",
    ),
    (r"!self.matches(r'^[A-Za-z0-9+.-]+:///*$')", "source has no name after its scheme"),
)


def _unprotected() -> tuple[Rule, ...]:
    """Return the rule for names of parameters. An API server cannot see the keys of free objects: the switcher checks those."""
    rule = f"self.all(name, name != '{PROTECTED}' && !name.startsWith('{PROTECTED}.'))"
    return ((rule, "the parameter model is set by hotseat itself: use engineModelName"),)


# By class and field, or "" for the class itself. `self` is the value with the rule. Each rule corresponds to a check in
# api/model.py, api/vllm.py, checks.py or an engine; tests run one table of invalid documents through both. Engines of other
# packages are checked by the switcher only.
RULES: Mapping[tuple[str, str], tuple[Rule, ...]] = {
    ("ModelSpec", ""): (
        ("self.engine != 'external' || has(self.url) || has(self.mockResponse)", "engine external needs url"),
        ("self.engine == 'external' || !has(self.mockResponse)", "mockResponse is for engine external only"),
        (
            "self.engine == 'external' || !has(self.allowMockResponse) || !self.allowMockResponse",
            "allowMockResponse is for engine external only",
        ),
        ("self.engine == 'external' || !has(self.tls)", "tls is for engine external only"),
        (
            f"!has(self.headers) || (self.headers.all(one, {_HEADERS_OF_NAME}.size() == 1) && {_HEADER_IS_NOT_THE_KEYS})",
            "is set twice, by headers or engineKey",
        ),
        ("self.engine == 'external' || !has(self.url)", "url is for engine external only"),
        (
            "self.engine == 'external' || !has(self.failoverUrls) || size(self.failoverUrls) == 0",
            "failoverUrls is for engine external only",
        ),
        ("self.engine == 'external' || !has(self.retries)", "retries is for engine external only"),
        ("self.engine == 'external' || !has(self.circuitBreaker)", "circuitBreaker is for engine external only"),
        (for_engine("custom", "has(self.command) && size(self.command) > 0"), "engine custom needs command"),
        ("self.engine == 'vllm' || !has(self.vllm)", "vllm is for engine vllm only"),
        ("self.engine == 'vllm' || !has(self.loras) || size(self.loras) == 0", "loras is for engine vllm only"),
        (
            "!has(self.loras) || !has(self.names) || !self.loras.exists(each, each.name in self.names)",
            "loras has a name that names has too",
        ),
        ("self.scheduling.replicas == 1 || !has(self.port)", "replicas cannot share a fixed port: leave port out"),
        ("self.scheduling.replicas == 1 || self.concurrency > 0", "scheduling.replicas needs concurrency"),
        *_engines(),
    ),
    ("ParameterFilter", "strip"): _unprotected(),
    ("Filters", "strip"): _unprotected(),
    ("EngineKey", ""): (_ONE_SOURCE,),
    ("EngineKey", "header"): (_OWN_HEADER,),
    ("EngineHeader", ""): (_ONE_SOURCE,),
    ("EngineHeader", "name"): (_OWN_HEADER,),
    ("Lifecycle", ""): (
        (
            "(has(self.sleep) && size(self.sleep) > 0) == (has(self.wake) && size(self.wake) > 0)",
            "sleep and wake go together",
        ),
    ),
    ("ModelSpec", "source"): _SOURCE,
    ("LoraAdapter", "source"): _SOURCE,
    ("Cache", ""): (
        (
            "!has(self.existingClaim) || (!has(self.size) && !has(self.storageClass))",
            "existingClaim excludes size and storageClass",
        ),
    ),
    ("Tenants", "header"): (
        (
            f"!self.matches(r'^(?i:{'|'.join(SECRET_HEADERS)})$')",
            "header carries secrets, and the names of tenants are shown",
        ),
    ),
    ("Window", ""): (("duration(self.duration) > duration('0s')", "duration is 0: the window would never be open"),),
    ("WorkspaceSpec", ""): (
        (
            "!has(self.returnToDefault) || duration(self.returnToDefault) == duration('0s') || has(self.defaultModel)",
            "returnToDefault needs defaultModel",
        ),
        (
            "!has(self.activeProfile) || (has(self.profiles) && self.activeProfile in self.profiles)",
            "activeProfile is not in profiles",
        ),
        (f"!({_some('sets')}) || !({_some('groups')})", "sets excludes groups"),
        (
            f"{_COUNTED} || ({_some('groups')}) || ({_some('sets')})",
            "capacity.counted is false, so groups or sets are required",
        ),
    ),
    ("VirtualModel", ""): (
        (
            "self.strategy == 'Weight' || self.members.all(each, !has(each.weight))",
            "weight is for strategy Weight only",
        ),
        (
            "self.strategy == 'Spillover' || self.members.all(each, !has(each.maxRequests))",
            "maxRequests is for strategy Spillover only",
        ),
    ),
    ("WorkspaceSpec", "groups"): (
        (
            f"self.all(one, !has(one.members) || one.members.all(name, {_GROUPS_OF_NAME}.size() == 1))",
            "a Model is in two groups",
        ),
    ),
    ("CapacitySpec", ""): (
        (
            "!has(self.devices) || size(self.devices) == 0 || size(self.devices) == self.gpus",
            "devices names more or fewer GPUs than gpus says",
        ),
    ),
    ("VllmSettings", ""): (
        (
            "!has(self.enableAutoToolChoice) || !self.enableAutoToolChoice || (has(self.toolCallParser) && self.toolCallParser != '')",
            "enableAutoToolChoice needs toolCallParser",
        ),
    ),
}

# Quantities and durations that match their pattern but exceed what Kubernetes can represent.
QUANTITY: Rule = (
    "type(self) == int || quantity(string(self)).isLessThan(quantity('9223372036854775807'))",
    "too large for a quantity",
)
AUTO_DURATION: Rule = ("self == 'Auto' || duration(self) >= duration('0s')", "too long for a duration")
DURATION: Rule = ("duration(self) >= duration('0s')", "too long for a duration")


def as_validations(rules: tuple[Rule, ...]) -> list[dict[str, Any]]:
    """Return rules for an OpenAPI schema."""
    return [{"rule": rule, "message": message} for rule, message in rules]


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
    ("ModelSpec", "loras"): {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
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
    ("WorkspaceSpec", "virtualModels"): {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
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
        ("Switching to", "string", ".status.switching", 0),
        ("Waiting", "string", ".status.waitingFor", 0),
        ("Since", "date", ".status.since", 0),
        ("Ready", "string", _condition("Ready"), 0),
        ("GPUs", "integer", ".spec.capacity.gpus", 1),
        ("Queued", "integer", ".status.waiting", 1),
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
        named = value.get("additionalProperties")
        if isinstance(named, dict) and named.keys() & {"$ref", "additionalProperties"}:
            result["additionalProperties"] = self._value(named)
        if value.get("type") == "string" and not value.keys() & {"pattern", "enum", "format"}:
            result["pattern"] = _TEXT
        return result


def _plain(value: Json) -> Json:
    """Return the schema without keys that have no meaning to an API server."""
    return {
        key: it
        for key, it in value.items()
        if key not in ("title", "const", "propertyNames") and not (key == "default" and it in ("", None))
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
