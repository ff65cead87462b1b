"""The exchange of a request for a Model whose engine needs more than the request as it is: a key, TLS, a path, a limit of its kind."""

from collections.abc import Callable

from hotseat.api.model import Capability
from hotseat.control.registry import ModelRoute
from hotseat.core.errors import Unreachable
from hotseat.engines.access import EngineAccess
from hotseat.gateway import relay
from hotseat.gateway.http.response import ResponseSink
from hotseat.gateway.mock_answers import FailedExchange, MockExchange, requested_text
from hotseat.secret_values import SecretMissing


def reach(  # noqa: PLR0917 — the last ones are those of an Exchange
    access: EngineAccess,
    kind: type[relay.Exchange],
    capability: Capability | None,
    connections: relay.Connections,
    call: relay.Call,
    response: ResponseSink,
    done: Callable[[relay.Outcome], None],
    extra: tuple[tuple[str, str], ...] = (),
) -> relay.Exchange:
    """Return the exchange, of class KIND if an engine takes part in it. CAPABILITY is that of the route: the kind of the request.

    A key that cannot be read counts as an engine that cannot be reached: nothing was sent, and a fallback can answer.
    """
    text = access.mock_response
    if access.allows_mock_response and (asked := requested_text(call)) is not None:
        text = asked
    if text is not None:
        return MockExchange(connections, call, response, done, extra).with_text(text)
    try:
        call.own_headers, call.own_names = access.headers(), access.names
    except SecretMissing as problem:
        error = Unreachable(f"{problem}.", code="upstream_failed")  # with a code, it is not held against the servers
        return FailedExchange(connections, call, response, done, extra).because(error)
    call.patience, call.limited_by = access.limit(capability)
    call.target = access.target(call.address, call.target)
    call.address = access.dial(call.address)
    call.encoded = None  # other Models with the same host have other headers
    return kind(connections, call, response, done, extra)


def dial_address(route: ModelRoute, address: str) -> str:
    """Return what to connect to, for an address of the engine of a Model."""
    return address if route.access is None else route.access.dial(address)
