"""The field `fallback` of a Model. Pure."""

from enum import StrEnum

from pydantic import Field

from hotseat.api.types import Document, ModelName
from hotseat.api.units import Duration


class Reason(StrEnum):
    """Reason why another Model answers."""

    LOADING = "Loading"
    WAITING = "Waiting"
    FAILED = "Failed"
    UNSUPPORTED = "Unsupported"


class Fallback(Document):
    """Another Model that answers requests for this Model. The answer has the header X-Hotseat-Fallback."""

    model: ModelName = Field(
        description="Any name of the other Model, in any Workspace. One that would have to take a seat from others is not "
        "used; its own fallback is looked at then."
    )
    when: tuple[Reason, ...] = Field(
        default=tuple(Reason),
        description="When the fallback is used. Loading: this Model is being fetched or loaded. Waiting: it "
        "waits for its turn or for a free slot. Failed: it cannot be loaded or reached. Unsupported: it "
        "lacks the requested capability, and the fallback states it. Empty: never.",
    )
    after: Duration = Field(
        default=2.0,
        description="Maximum wait before the fallback answers (Loading, Waiting). The fallback answers "
        "immediately if the wait is known to be longer.",
    )
