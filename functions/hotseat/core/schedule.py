"""When a Model is wanted resident: windows that open by a cron expression, a part of the Model document.

Only their form is described here. When one is open depends on wall time and time zones: manifests/windows.py.
"""

from typing import Annotated

from pydantic import Field, field_validator

from hotseat.core.base import CRON_PATTERN, ZONE_PATTERN, Document
from hotseat.core.units import Duration


class Window(Document):
    """A time in which a Model is wanted resident, again and again."""

    start: Annotated[str, Field(pattern=CRON_PATTERN, max_length=200)] = Field(
        description="When it opens, as five fields of cron (minute, hour, day of month, month, day of week), as in a CronJob's schedule: "
        '"0 8 * * 1-5".'
    )
    duration: Duration = Field(description="How long it is open.")
    time_zone: Annotated[str, Field(pattern=ZONE_PATTERN, max_length=100)] = Field(
        default="UTC", description="Time zone of `start`, by its name in the tz database: Europe/Berlin."
    )
    pinned: bool = Field(
        default=False, description="While it is open, the Model makes room for no other once it is resident."
    )

    @field_validator("duration")
    @classmethod
    def _duration_is_some(cls, duration: float) -> float:
        if duration <= 0:
            raise ValueError("duration is 0: the window would never be open")
        return duration
