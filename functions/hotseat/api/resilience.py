"""Fields of a Model for servers that can fail (engine external). Pure."""

from typing import Annotated

from pydantic import Field

from hotseat.api.types import Document
from hotseat.api.units import Duration

RETRIED_STATUSES = (429, 502, 503, 504)
Status = Annotated[int, Field(ge=400, le=599)]


class Retries(Document):
    """When a request is sent again. It never is once the first byte of its answer has been received."""

    attempts: Annotated[int, Field(ge=0, le=10)] = Field(
        default=2,
        description="Maximum number of times that a request is sent again: after a connection that ends before the answer, or after a "
        "status of `statuses`. A connection that cannot be opened also moves the request to the next of failoverUrls, which is not "
        "counted.",
    )
    backoff: Duration = Field(
        default=0.25,
        description="Time before a request is sent to the same server again. It doubles with each attempt, and a random part of up to "
        "one half is taken away. A request goes to another server at once.",
    )
    max_backoff: Duration = Field(
        default=5.0,
        description="Longest such time. An answer whose Retry-After is longer is passed on to the client.",
    )
    statuses: tuple[Status, ...] = Field(
        default=RETRIED_STATUSES,
        max_length=20,
        description="Statuses of the server after which a request is sent again.",
    )


class CircuitBreaking(Document):
    """When a server that fails gets no requests for a time. A server that answers, with whatever error of the client, does not fail."""

    failure_threshold: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=5,
        description="Failures in a row that open the circuit: connections that cannot be opened or end before the answer, answers that "
        "do not begin within responseStartTimeout, and statuses 500 and above that are in retries.statuses.",
    )
    open_duration: Duration = Field(
        default=30.0,
        description="Time for which the server gets no requests. After that one request is sent to it, whose outcome decides.",
    )
