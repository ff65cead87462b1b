"""The base class of documents, the forms of names, and the metadata. Pure."""

from collections.abc import Mapping
from copy import deepcopy
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from hotseat.api.units import Duration

API_VERSION: Final = "hotseat.dev/v1alpha1"

Json = dict[str, Any]  # an object in JSON

# A Model's name becomes a Knative Service's, hence an RFC 1035 label.
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
# Claims and Secrets are often made by others: what Kubernetes allows, a DNS subdomain.
OBJECT_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
PATH_PATTERN = r"^/"
TARGET_PATTERN = r"^/[!-~]*$"
URL_PATTERN = r"^https?://[^/]+"
ORIGIN_PATTERN = r"^https?://[^/@?#]+/?$"
HEADER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9-]*$"
DATA_KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"
# An extended resource: a domain and a name.
RESOURCE_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"


def _cron_field(value: str) -> str:
    """Return the pattern of a cron field: `*`, values or ranges, each with a step, in a list."""
    item = rf"(\*|{value}(-{value})?)(/[1-9][0-9]?)?"
    return f"{item}(,{item})*"


# What five fields of cron look like; ranges that run backwards and days that never come are found by who evaluates it.
_CRON_FIELDS = (
    "[0-5]?[0-9]",
    "([01]?[0-9]|2[0-3])",
    "(0?[1-9]|[12][0-9]|3[01])",
    "(0?[1-9]|1[0-2]|[A-Za-z]{3})",
    "([0-7]|[A-Za-z]{3})",
)
CRON_PATTERN = f"^{' '.join(map(_cron_field, _CRON_FIELDS))}$"
ZONE_PATTERN = r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"
# A GPU as its vendor's software knows it: a number, `GPU-8932f937-d72c-4106-c12f-20bd9faed9f6`, `MIG-…`, `0.1`.
DEVICE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9:./_-]*$"
# What each pattern asks for, in words for people.
PATTERN_WORDS: Mapping[str, str] = {
    NAME_PATTERN: "lower-case letters, digits and dashes, from a letter to a letter or digit",
    OBJECT_PATTERN: "lower-case letters, digits, dashes and dots, from a letter or digit to another",
    VARIABLE_PATTERN: "letters, digits and underscores, not beginning with a digit",
    PATH_PATTERN: "a path that begins with /",
    TARGET_PATTERN: "a path that begins with /, without spaces, percent-encoded where need be",
    HEADER_PATTERN: "the name of a header: letters, digits and dashes",
    DATA_KEY_PATTERN: "letters, digits, dashes, dots and underscores",
    CRON_PATTERN: "five fields of cron, with one space between them: minute (0-59), hour (0-23), day of month (1-31), month (1-12 or "
    "JAN-DEC), day of week (0-7 or SUN-SAT); each *, a value, a range 1-5, a step */2, or a list of those",
    ZONE_PATTERN: "a name of the tz database such as Europe/Berlin",
    DEVICE_PATTERN: "a number or a UUID of a GPU",
    RESOURCE_PATTERN: "an extended resource, DOMAIN/NAME, such as nvidia.com/gpu",
    ORIGIN_PATTERN: "http:// or https:// and a host, maybe with a port",
    URL_PATTERN: "a URL that begins with http:// or https:// and names a host",
}

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]
ObjectName = Annotated[str, Field(pattern=OBJECT_PATTERN, max_length=253)]
# Bounds are what an API server needs to know the cost of the rules on them.
Argument = Annotated[str, Field(max_length=8192)]
DeviceName = Annotated[str, Field(pattern=DEVICE_PATTERN, max_length=100)]
# What clients send as `model`: any JSON string that is not empty.
ModelName = Annotated[str, Field(min_length=1, max_length=1024)]


def without_unknown_fields(document: Mapping[str, Any], error: ValidationError) -> Json:
    """Return a copy of a document without the fields that ERROR calls unknown, as a newer version may have written them."""
    result = deepcopy(dict(document))
    for detail in error.errors():
        *path, field = detail["loc"]
        parent: Any = result
        for key in path:
            inside = isinstance(parent, dict) or (isinstance(parent, list) and isinstance(key, int))
            parent = parent[key] if inside else None
        if detail["type"] == "extra_forbidden" and isinstance(parent, dict):
            parent.pop(field, None)
    return result


def problems_of(error: ValidationError) -> str:
    """Return the problems of a document as one line: each with the path of its field."""
    found = []
    for detail in error.errors():
        path = ".".join(map(str, detail["loc"]))
        unknown = detail["type"] == "extra_forbidden"
        found.append(f"{path} is not a field that this version knows" if unknown else f"{path}: {detail['msg']}")
    return "; ".join(found)


class Document(BaseModel):
    """The base class of all parts of documents: camelCase outside, no unknown fields, immutable."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)
    local_paths: ClassVar[tuple[str, ...]] = ()  # fields that are paths on this machine


# What a cluster writes into the metadata of its objects.
CLUSTER_METADATA = frozenset({
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName", "generation",
    "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid",
})  # fmt: skip


class Metadata(Document):
    """Kubernetes object metadata, as far as a person writes it. What a cluster adds is accepted and ignored."""

    name: Name = Field(
        description="Name of the object, an RFC 1035 label: what is made for it is named after it. Clients may send a Model's as `model`."
    )
    namespace: str | None = Field(default=None, description="Namespace on a cluster; ignored on one machine.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels, as on any Kubernetes object.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations, as on any Kubernetes object.")

    @model_validator(mode="before")
    @classmethod
    def _ignore_what_a_cluster_adds(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key not in CLUSTER_METADATA}


class Method(StrEnum):
    """HTTP method of the request."""

    POST = "POST"
    GET = "GET"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"


class EngineCall(Document):
    """A request to an engine. A 2xx response means success."""

    path: Annotated[str, Field(pattern=TARGET_PATTERN, max_length=2048)] = Field(
        description="Path and query, such as `/sleep?level=1`."
    )
    method: Method = Field(default=Method.POST, description="Method.")
    body: Argument = Field(default="", description="Body, sent as application/json. Empty: no body.")
    timeout: Duration | None = Field(
        default=None,
        description="Time within which the engine must respond. Unset: stopTimeout (sleep) or startTimeout "
        "(wake) bounds all requests together.",
    )


class Window(Document):
    """A recurring window of time in which a Model should be resident."""

    start: Annotated[str, Field(pattern=CRON_PATTERN, max_length=200)] = Field(
        description="Start of the window: a cron expression with five fields (minute, hour, day of month, month, "
        'day of week), as in a CronJob. Example: "0 8 * * 1-5".'
    )
    duration: Duration = Field(description="Duration of the window.")
    time_zone: Annotated[str, Field(pattern=ZONE_PATTERN, max_length=100)] = Field(
        default="UTC", description="Time zone of `start`, as named in the tz database, such as Europe/Berlin."
    )
    pinned: bool = Field(default=False, description="Do not evict the Model during the window, once it is resident.")

    @field_validator("duration")
    @classmethod
    def _duration_is_some(cls, duration: float) -> float:
        if duration <= 0:
            raise ValueError("duration is 0: the window would never be open")
        return duration
