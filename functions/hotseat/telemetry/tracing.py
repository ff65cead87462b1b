"""Whether this process traces requests: by OpenTelemetry's own environment variables. The SDK is imported only if it does."""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hotseat.telemetry.answer_figures import AnswerSample

if TYPE_CHECKING:
    from hotseat.telemetry.spans import Tracing

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


class TracingError(Exception):
    """Tracing is asked for, and is not possible. Its text says why, and what to do."""


@dataclass(slots=True)
class RequestEnd:
    """How a request ended. Times are seconds on the monotonic clock. Names of Models are those to show."""

    status: int
    request_id: str = ""
    error: str = ""  # code of the error, if hotseat answered with one
    requested: str | None = None  # name of the model in the request
    model: str = ""  # that answered, or should have
    workspace: str = ""
    engine: str = ""
    address: str = ""  # of the engine
    capability: str | None = None  # of the route
    tenant: str = ""
    priority: int = 0
    held: bool = False  # it was queued
    dispatched: float | None = None
    position: int | None = None  # in the queue, when it arrived
    switches: tuple[str, ...] = ()  # that it waited for
    retries: int = 0
    sample: AnswerSample | None = None


def check_tracing(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether requests are to be traced. Raise TracingError if they are, and cannot be."""
    endpoint = next((name for name in ENDPOINTS if environment.get(name)), None)
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    if endpoint is None or off:
        return False
    named = next((name for name in PROTOCOLS if environment.get(name)), None)
    if named is not None and environment[named] != PROTOCOL:
        raise TracingError(f"{named} is {environment[named]!r}; hotseat exports traces by {PROTOCOL} only")
    if not _is_installed():
        raise TracingError(
            f"{endpoint} is set, but OpenTelemetry is not installed. Install it (pip install 'hotseat[otel]'), or unset the variable "
            "to run without traces"
        )
    return True


def start_tracing(service: str) -> "Tracing | None":
    """Return what makes the spans of this process, or None if requests are not to be traced. `service` is the default of `service.name`.

    Call it in the process that serves, because it starts threads. Raise TracingError as `check_tracing` does.
    """
    if not check_tracing():
        return None
    from hotseat.telemetry.spans import export_to_environment  # noqa: PLC0415 — it imports the SDK, which takes 0.2 s

    return export_to_environment(service)


def _is_installed() -> bool:
    try:
        return all(importlib.util.find_spec(name) is not None for name in NEEDED)
    except ModuleNotFoundError:  # of a parent
        return False
