"""Parameters of requests that a Model removes or sets before its engine gets them. Pure."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from hotseat.api.types import Document, ModelName

PROTECTED = "model"  # the parameter that hotseat itself sets
# A dot separates the names of nested members.
ParameterName = Annotated[str, Field(min_length=1, max_length=200)]


class ParameterFilter(Document):
    """Changes of the parameters of requests: first strip, then default, then set."""

    strip: tuple[ParameterName, ...] = Field(
        default=(),
        max_length=100,
        description="Parameters that are removed. `a.b` is the member `b` of the object `a`.",
    )
    default: dict[ParameterName, Any] = Field(
        default_factory=dict,
        max_length=100,
        description="Parameters that are set if the client has not sent them: any JSON. `a.b` is the member `b` of the object `a`.",
    )
    set: dict[ParameterName, Any] = Field(
        default_factory=dict,
        max_length=100,
        description="Parameters that are always set, whatever the client has sent: any JSON. An object replaces the client's; to set "
        "one member of it, name it: `chat_template_kwargs.enable_thinking`.",
    )

    @field_validator("strip", "default", "set")
    @classmethod
    def _model_is_protected(cls, names: Any) -> Any:
        if any(name.partition(".")[0] == PROTECTED for name in names):
            raise ValueError("the parameter model is set by hotseat itself: use engineModelName")
        return names


class Filters(ParameterFilter):
    """Changes of the parameters of requests for a Model, and for some of its names."""

    by_name: dict[ModelName, ParameterFilter] = Field(
        default_factory=dict,
        max_length=100,
        description="Changes for requests by one name of the Model, after those for all. Each is a name of the Model, as those in "
        "`names`: `qwen:think` and `qwen:nothink` are one loaded model.",
    )
