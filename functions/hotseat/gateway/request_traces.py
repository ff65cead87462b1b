"""What the trace of a request has to say of it."""

import time
from typing import TYPE_CHECKING

from hotseat.api.model import Capability
from hotseat.core.errors import HotseatError
from hotseat.gateway import relay
from hotseat.gateway.fallback_routing import RoutedRequest
from hotseat.gateway.request_records import switches_during
from hotseat.telemetry.answer_figures import AnswerSample
from hotseat.telemetry.tracing import RequestEnd

if TYPE_CHECKING:
    from hotseat.telemetry.spans import RequestTrace

_TRACE_CONTEXT = frozenset({b"traceparent", b"tracestate"})


def with_trace(call: relay.Call, trace: "RequestTrace") -> None:
    """Have the engine continue the trace. The head of the call is then of this request alone."""
    kept = (field for field in call.fields if field[0].lower() not in _TRACE_CONTEXT)
    call.fields, call.encoded = (*kept, *trace.send()), None


def waiting_place(routed: RoutedRequest) -> tuple[str, str] | None:
    """Return the Workspace and the Model for which a request waits, None if it does not. Any thread may call it."""
    route = routed.route
    return None if routed.dispatched is not None else (route.handle.workspace.name, route.model.name)


def error_type(error: HotseatError) -> str:
    """Return the code of an error, or the name of its class."""
    return error.code or type(error).__name__


def request_end(
    routed: RoutedRequest, capability: Capability | None, status: int, request_id: str, sample: AnswerSample | None
) -> RequestEnd:
    """Return the end of a request that was routed to a Model, for its trace."""
    route, dispatched = routed.route, routed.dispatched
    switches: tuple[str, ...] = ()
    if dispatched is None or routed.held:
        until = time.monotonic() if dispatched is None else dispatched
        found = switches_during(route.handle.switches(), route.model.name, routed.began, until)
        switches = tuple(switch.id for switch, _ in found)
    return RequestEnd(
        status,
        request_id,
        requested=routed.requested_name,
        model=route.shown_name,
        workspace=route.handle.workspace.name,
        engine=route.model.spec.engine,
        address="" if dispatched is None else routed.address,
        capability=capability,
        tenant=routed.options.tenant,
        priority=routed.options.priority,
        held=routed.held,
        dispatched=dispatched,
        position=routed.position,
        switches=switches,
        retries=routed.retries,
        sample=sample,
    )
