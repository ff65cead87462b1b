"""CEL rules for the checks across fields that pydantic and the engines make.

Each rule corresponds to a check in api/model.py, api/vllm.py, checks.py or an engine. Tests run one table of invalid
documents through both. Engines of other packages are checked by the switcher only.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hotseat.api.model import SOURCE_SCHEMES
from hotseat.api.workspace import SECRET_HEADERS

_SCHEMES = "|".join(SOURCE_SCHEMES)
_SCHEME_LIST = ", ".join(f"{scheme}://" for scheme in SOURCE_SCHEMES)
_COUNTED = "!has(self.capacity) || !has(self.capacity.counted) || self.capacity.counted"
_HOMES = "self.filter(each, has(each.members) && name in each.members)"
_FIELD = r"\{(port|host|model|name|source|env:[A-Za-z_][A-Za-z0-9_]*)\}"

Rule = tuple[str, str]  # CEL expression, message


def for_engine(name: str, rule: str) -> str:
    """Return a rule that applies to one engine only."""
    return f"self.engine != '{name}' || ({rule})"


def each(field: str, pattern: str, *, matches: bool) -> str:
    """Return a rule that all items of a list match a pattern, or that none does."""
    return f"!has(self.{field}) || self.{field}.all(text, {'' if matches else '!'}text.matches(r'{pattern}'))"


def any_uses(name: str) -> str:
    """Return a test whether command or args contain a field in braces. Doubled braces are literal."""
    pattern = r"^([^{}]|\{\{|\}\}|\{[^{}]*\})*\{" + name + r"\}"
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
    yield for_engine("vllm", "has(self.source)"), "engine vllm needs source"
    taken = "^--(host|port|model|served[-_]model[-_]name)(=|$)"
    yield for_engine("vllm", each("args", taken, matches=False)), f"args has what hotseat sets itself: {taken}"
    readable = "!has(self.source) || !self.source.startsWith('ollama://')"
    yield for_engine("vllm", readable), "engine vllm cannot read ollama://; use hf://org/repo"
    here = "!has(self.source) || !self.source.contains('://') || self.source.matches(r'^(file|pvc)://')"
    whole = r"self.source.matches(r'^hf://[^/@]+/[^/@]+/?(@[^/]+)?$')"
    itself = f"self.cache.fetchBy != 'Engine' || {here} || {whole}"
    yield for_engine("vllm", itself), "cache.fetchBy is Engine, but vllm fetches whole repositories only"
    split = "!has(self.vllm) || !has(self.vllm.tensorParallelSize) || self.resources.gpus == 0"
    fits = f"{split} || self.vllm.tensorParallelSize <= self.resources.gpus"
    yield for_engine("vllm", fits), "vllm.tensorParallelSize is more than resources.gpus"
    for name in ("llamacpp", "custom", "external"):
        sleeps = "self.lifecycle.release != 'Park' || (has(self.lifecycle.sleep) && size(self.lifecycle.sleep) > 0)"
        yield (
            for_engine(name, sleeps),
            f"lifecycle.release is Park, but engine {name} cannot sleep; state lifecycle.sleep and wake",
        )
    plain = r"!has(self.url) || self.url.matches(r'^http://[^/]+/?$')"
    yield for_engine("external", plain), "url of engine external must be http://HOST:PORT"
    for field in ("command", "args", "env"):
        nothing = f"!has(self.{field}) || size(self.{field}) == 0"
        yield for_engine("external", nothing), f"engine external starts nothing, so {field} has no meaning"
    for field in ("port", "source"):
        yield (
            for_engine("external", f"!has(self.{field})"),
            f"engine external starts nothing, so {field} has no meaning",
        )
    for field in ("command", "args"):
        pattern = r"^([^{}]|\{\{|\}\}|" + _FIELD + ")*$"
        message = f"{field}: fields are {{port}}, {{host}}, {{model}}, {{name}}, {{source}}, {{env:NAME}}; double other braces"
        yield for_engine("custom", each(field, pattern, matches=True)), message
    yield for_engine("custom", f"has(self.source) || !({any_uses('model')})"), "{model} is used, but source is not set"
    listens = f"has(self.port) || {any_uses('port')}"
    yield for_engine("custom", listens), "neither command nor args contain {port}, and port is not set"


# By class and field, or "" for the class itself. `self` is the value with the rule.
RULES: Mapping[tuple[str, str], tuple[Rule, ...]] = {
    ("ModelSpec", ""): (
        ("self.engine != 'external' || has(self.url)", "engine external needs url"),
        ("self.engine == 'external' || !has(self.url)", "url is for engine external only"),
        (for_engine("custom", "has(self.command) && size(self.command) > 0"), "engine custom needs command"),
        ("self.engine == 'vllm' || !has(self.vllm)", "vllm is for engine vllm only"),
        ("self.scheduling.replicas == 1 || !has(self.port)", "replicas cannot share a fixed port: leave port out"),
        ("self.scheduling.replicas == 1 || self.concurrency > 0", "scheduling.replicas needs concurrency"),
        *_engines(),
    ),
    ("Lifecycle", ""): (
        (
            "(has(self.sleep) && size(self.sleep) > 0) == (has(self.wake) && size(self.wake) > 0)",
            "sleep and wake go together",
        ),
    ),
    ("ModelSpec", "source"): (
        (r"self.matches(r'\S')", "source is empty"),
        (
            rf"!self.matches(r'^([A-Za-z0-9+.-]+://|({_SCHEMES}):)') || self.matches(r'^({_SCHEMES})://')",
            f"source begins with something unknown; allowed: {_SCHEME_LIST} or a path",
        ),
        (r"!self.matches(r'^[A-Za-z0-9+.-]+:///*$')", "source has no name after its scheme"),
    ),
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
        (f"!({_some('sets')}) || !({_some('groups')})", "sets excludes groups"),
        (
            f"{_COUNTED} || ({_some('groups')}) || ({_some('sets')})",
            "capacity.counted is false, so groups or sets are required",
        ),
    ),
    ("WorkspaceSpec", "groups"): (
        (
            f"self.all(one, !has(one.members) || one.members.all(name, {_HOMES}.size() == 1))",
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
