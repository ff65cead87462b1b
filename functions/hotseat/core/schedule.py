"""When a Model is wanted resident: windows that open by a cron expression, a part of the Model document.

Only their form is described here. When one is open depends on wall time and time zones: manifests/windows.py.
"""

from typing import Annotated

from pydantic import Field, field_validator

from hotseat.core.base import CRON_PATTERN, ZONE_PATTERN, Document
from hotseat.core.units import Duration


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
