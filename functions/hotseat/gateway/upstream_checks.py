"""Health checks of the servers of external Models that state `health.path`: a GET in each period. All is done on the event loop."""

import time
from asyncio import get_running_loop
from functools import partial
from typing import TYPE_CHECKING

from hotseat.control.upstream_servers import UpstreamRegistry, UpstreamServer, UpstreamServers
from hotseat.core.errors import HotseatError, UpstreamTimeout
from hotseat.gateway import relay
from hotseat.secret_values import SecretMissing

if TYPE_CHECKING:
    from hotseat.gateway.http.response import ResponseWriter

LOOK = 1.0  # seconds between looks whether a check is due; less if a period is shorter
SHORTEST_LOOK = 0.05


class UpstreamChecks:
    """The checks of all servers, from `begin` until `end`."""

    def __init__(self, upstreams: UpstreamRegistry, connections: relay.Connections) -> None:
        self._upstreams, self._connections = upstreams, connections
        self._due: dict[UpstreamServer, float] = {}
        self._over = False

    def end(self) -> None:
        """Begin no more checks."""
        self._over = True

    def begin(self) -> None:
        """Begin those that are due, now and later."""
        if self._over:
            return
        now, pause = time.monotonic(), LOOK
        due: dict[UpstreamServer, float] = {}
        for servers in self._upstreams.all():
            if servers.health is None:
                continue
            pause = min(pause, servers.health.period)
            for server in servers.servers:
                due[server] = self._due.get(server, now)
                if due[server] <= now:
                    due[server] = now + servers.health.period
                    self._check(servers, server)
        self._due = due
        get_running_loop().call_later(max(pause, SHORTEST_LOOK), self.begin)

    def _check(self, servers: UpstreamServers, server: UpstreamServer) -> None:
        assert servers.health is not None  # noqa: S101
        path, period = servers.health.path or "/", servers.health.period
        call = relay.Call(server.url, "GET", path.encode(), patience=period)
        try:
            if (access := servers.access) is not None:
                call.own_headers, call.own_names = access.headers(), access.names
                call.target, call.address = access.target(server.url, call.target), access.dial(server.url)
            exchange = relay.Exchange(self._connections, call, _NoResponse(), partial(_checked, servers, server, path))
            exchange.start()
        except SecretMissing as problem:
            servers.checked(server, f"{problem}.")
        except ValueError:  # the path cannot stand in a request line
            servers.checked(server, f"GET {path} cannot be sent")
        else:  # an answer that begins may never end
            get_running_loop().call_later(period, exchange.stop, UpstreamTimeout("The answer did not end."))


def _checked(servers: UpstreamServers, server: UpstreamServer, path: str, outcome: relay.Outcome) -> None:
    assert servers.health is not None  # noqa: S101
    status = outcome.status
    if status is not None and 200 <= status < 300:  # noqa: PLR2004
        problem = ""
    elif status is not None:
        problem = f"GET {path} got status {status}"
    elif isinstance(outcome.error, UpstreamTimeout):
        problem = f"GET {path} got no answer within {servers.health.period:g} s (health.period)"
    else:
        problem = f"GET {path} failed: {outcome.error.message if outcome.error else outcome.how}"
    servers.checked(server, problem)


class _NoResponse:
    """Where nothing is written: only the status of the answer counts."""

    begun = ended = gone = paused = False
    sent = 0
    writer: "ResponseWriter | None" = None

    def begin(self, status: str, fields: bytes, data: bytes = b"", *, counted: bool, last: bool = False) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass

    def end(self, data: bytes = b"") -> None:
        pass

    def end_with_error(self, error: HotseatError, *, within_event: bool = False) -> None:
        pass

    def abort(self) -> None:
        pass
