"""How a Model is loaded and unloaded, and how hotseat looks whether its engine is well: parts of the Model document."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from hotseat.api.engine_access import ResponseStartTimeouts
from hotseat.api.types import PATH_PATTERN, Document, EngineCall, Window
from hotseat.api.units import Duration


class OnIdle(StrEnum):
    """How a Model frees the accelerator."""

    STOP = "Stop"
    PARK = "Park"


class Lifecycle(Document):
    """How a Model is loaded and unloaded."""

    idle_timeout: Duration = Field(
        default=0.0,
        description="Unload after this time without a request. `0s`: stay until another model needs the room.",
    )
    release: OnIdle = Field(
        default=OnIdle.STOP,
        description="How the Model frees the accelerator. Stop ends the engine. Park puts the engine to sleep: "
        "it keeps its process and host memory. An engine that is not asleep within stopTimeout is stopped. "
        "Park works on one machine only.",
    )
    start_timeout: Duration = Field(
        default=300.0, description="Maximum time to load. A load that takes longer has failed."
    )
    drain_timeout: Duration = Field(
        default=120.0, description="Time for requests in flight to finish before the engine is stopped."
    )
    response_start_timeout: Duration | None = Field(
        default=None,
        description="Maximum time from when a request is sent to the engine to the first byte of its answer. After that the "
        "request ends with 504. `0s`: no limit. An answer that is not streamed starts when it is complete. Once it has started there "
        "is no limit. Unset: no limit; engine external: 300s, but embeddings and reranking 60s, speech 120s, transcriptions 600s.",
    )
    response_start_timeouts: ResponseStartTimeouts = Field(
        default=ResponseStartTimeouts(),
        description="The same for kinds of requests, instead of responseStartTimeout. `0s`: no limit.",
    )
    connect_timeout: Duration = Field(
        default=0.0,
        description="Engine external: time for which a request is held while the server accepts no connection, such as a "
        "Service at zero replicas. After that the request ends with 502. `0s`: it ends at once.",
    )
    stop_timeout: Duration = Field(default=10.0, description="Time between SIGTERM and SIGKILL.")
    preload: bool = Field(default=False, description="Load at startup, if there is room.")
    schedule: tuple[Window, ...] = Field(
        default=(),
        max_length=20,
        description="Windows of time in which the Model should be resident. It evicts only idle Models. Outside "
        "of the windows the schedule has no effect.",
    )
    sleep: tuple[EngineCall, ...] = Field(
        default=(),
        max_length=10,
        description="Requests that put the engine to sleep, in this order. Engines vllm, sglang and mock have their own.",
    )
    wake: tuple[EngineCall, ...] = Field(
        default=(),
        max_length=10,
        validate_default=True,
        description="Requests that wake the engine, in this order. Then its health check must succeed.",
    )

    @field_validator("wake")
    @classmethod
    def _wake_goes_with_sleep(cls, wake: tuple[EngineCall, ...], info: ValidationInfo) -> tuple[EngineCall, ...]:
        sleep = info.data.get("sleep")
        if wake and sleep == ():
            raise ValueError("wake needs sleep: the requests that put it to sleep")
        if sleep and not wake:
            raise ValueError("sleep needs wake: the requests that bring it back")
        return wake


class Health(Document):
    """How hotseat checks that an engine is ready, and that it still is."""

    path: Annotated[str, Field(pattern=PATH_PATTERN)] | None = Field(
        default=None,
        description="Path that answers GET with 2xx once the engine is ready. Each engine has a default. Servers of engine external are "
        "checked only if it is set.",
    )
    period: Duration = Field(
        default=10.0,
        description="Interval and timeout of health checks of a ready engine. A check is skipped while the "
        "engine sends bytes of an answer. `0s`: no checks. One machine only: on a cluster, set a "
        "livenessProbe in podTemplate. Servers of engine external are checked there too, by each router.",
    )
    failure_threshold: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=6,
        description="The engine is stopped after this many failed checks in a row, if it has sent no byte in "
        "between. The next request starts it again. Raise it for an engine that does not answer while it "
        "computes. A server of engine external gets no requests then, until a check succeeds.",
    )
