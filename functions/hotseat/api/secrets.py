"""A secret value in a document: stated, or where it is. Pure: `hotseat.secret_values` reads it."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from hotseat.api.types import DATA_KEY_PATTERN, VARIABLE_PATTERN, Document, ObjectName


class SecretKey(Document):
    """A key of a Secret."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: Annotated[str, Field(pattern=DATA_KEY_PATTERN, max_length=253)] = Field(description="Key within the Secret.")


class SecretValue(Document):
    """A secret value. Exactly one of the fields is set."""

    local_paths: ClassVar[tuple[str, ...]] = ("file",)

    value: Annotated[str, Field(min_length=1, max_length=8192)] | None = Field(
        default=None, repr=False, description="The value itself, readable for everyone who can read the document."
    )
    env: Annotated[str, Field(pattern=VARIABLE_PATTERN, max_length=253)] | None = Field(
        default=None,
        description="Environment variable of hotseat (on a cluster: of the router and the switcher) that has the value. The engines of "
        "other Models do not get it.",
    )
    file: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="File that has the value, without the newline at its end. It is read again when it changes. On one machine a relative "
        "path is relative to the folder of the document.",
    )
    secret: SecretKey | None = Field(
        default=None,
        description="Key of a Secret (cluster). The Secret must be mounted: the value `upstreamSecrets` of the chart lists it.",
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> "SecretValue":
        sources = (self.value, self.env, self.file, self.secret)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("exactly one of value, env, file and secret must be set")
        return self


def secrets_of(part: Any) -> Iterator[SecretValue]:
    """Yield all secret values in a document, or in a part of one."""
    if isinstance(part, SecretValue):
        yield part
    elif isinstance(part, Document):
        for name in type(part).model_fields:
            yield from secrets_of(getattr(part, name))
    elif isinstance(part, tuple):
        for item in part:
            yield from secrets_of(item)
