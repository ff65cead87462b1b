"""The servers of external Models: which of them can be sent requests, by what requests and checks have found out.

The state is per process: each router of a cluster finds out for itself. It is changed on the thread of the event loop, and read on any.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf, isfinite
from typing import Any

from hotseat.api.model import Model, ModelSpec
from hotseat.api.resilience import CircuitBreaking, Retries
from hotseat.core.circuit_breaker import CircuitBreaker, CircuitState
from hotseat.core.events import Emit
from hotseat.core.messages import EXTERNAL_EPOCH
from hotseat.engines.access import access_of

Clock = Callable[[], float]
EmitEvent = Callable[[str, int, Emit], None]  # Workspace, epoch, event
_CONFIG: Any = {
    "url", "failover_urls", "retries", "circuit_breaker", "health", "workspace", "lifecycle", "engine_key", "headers", "tls",
}  # fmt: skip


class UpstreamServer:
    """One server. `healthy` is what health checks say; None: nothing yet. `problem` is the last failure."""

    __slots__ = ("breaker", "failed_checks", "healthy", "known_as_failed", "problem", "url")

    def __init__(self, url: str, breaker: CircuitBreaker) -> None:
        self.url, self.breaker = url, breaker
        self.failed_checks = 0  # in a row
        self.healthy: bool | None = None
        self.problem = ""
        self.known_as_failed = False  # the event was emitted

    def allows_at(self, now: float) -> float:
        """Return when a request can be sent at the soonest. inf: that depends on a check or on a request that is under way."""
        return inf if self.healthy is False else self.breaker.allows_at(now)


class UpstreamServers:
    """The servers of one Model, in order of preference."""

    def __init__(
        self, model: Model, emit: Callable[[Emit], None], on_retry: Callable[[str], None], clock: Clock
    ) -> None:
        """`on_retry` is called with the reason of each retry."""
        spec = model.spec
        assert spec.url is not None  # noqa: S101 - it is external
        self.access = access_of(model)
        self.model, self.health = model.name, spec.health if spec.health.path and spec.health.period else None
        self.retries = spec.retries or Retries(attempts=len(spec.failover_urls))
        self.holds = spec.lifecycle.connect_timeout > 0  # a server that refuses connections may be about to start
        breaking = spec.circuit_breaker or CircuitBreaking()
        breaks = spec.circuit_breaker is not None or spec.failover_urls or self.health is not None
        threshold = breaking.failure_threshold if breaks else inf
        self.servers = [
            UpstreamServer(url, CircuitBreaker(threshold, breaking.open_duration))
            for url in dict.fromkeys((spec.url, *spec.failover_urls))
        ]
        self._emit, self._clock, self.on_retry = emit, clock, on_retry

    def find(self, now: float, tried: Collection[UpstreamServer] = ()) -> UpstreamServer | None:
        """Return the first server that can be sent a request now and was not tried, or None."""
        for each in self.servers:
            if each not in tried and each.allows_at(now) <= now:
                return each
        return None

    def allows_at(self, now: float) -> float:
        """Return when a server can be sent a request at the soonest."""
        return min(each.allows_at(now) for each in self.servers)

    def problem(self) -> str:
        """Return why no server can be sent a request. Clients see it, so it names none."""
        return " ".join(dict.fromkeys(each.problem for each in self.servers if each.problem))

    # Outcomes ---------------------------------------------------------------------------------------------------------

    def succeeded(self, server: UpstreamServer) -> None:
        """Note that a server has answered a request."""
        if server.breaker.failures or server.breaker.open_until is not None:
            server.breaker.succeeded()
            self._tell(server)

    def failed(self, server: UpstreamServer, problem: str, *, trial: bool) -> None:
        """Note that a server has failed a request."""
        server.breaker.failed(self._clock(), trial=trial)
        server.problem = problem
        self._tell(server)

    def checked(self, server: UpstreamServer, problem: str) -> None:
        """Note the result of a health check. An empty PROBLEM: it has succeeded."""
        assert self.health is not None  # noqa: S101
        if not problem:
            server.failed_checks, server.healthy = 0, True
        else:
            server.failed_checks += 1
            server.problem = problem
            if server.failed_checks >= self.health.failure_threshold:
                server.healthy = False
        self._tell(server)

    def _tell(self, server: UpstreamServer) -> None:
        """Emit an event if the server has begun to fail, or has recovered."""
        failed = server.healthy is False or server.breaker.open_until is not None
        if failed == server.known_as_failed:
            return
        server.known_as_failed = failed
        if failed:
            rest = server.allows_at(now := self._clock()) - now
            data = {
                "url": server.url,
                "message": server.problem,
                "retry_after": round(rest, 3) if isfinite(rest) else None,
            }
            self._emit(Emit("model.upstream_failed", self.model, data))
        else:
            self._emit(Emit("model.upstream_recovered", self.model, {"url": server.url}))

    # Reading ----------------------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """Return the state of each server, in order of preference."""
        now = self._clock()
        return [
            {
                "url": each.url,
                "circuit": each.breaker.state(now).value,
                "failures": each.breaker.failures,
                "healthy": each.healthy,
                "available": each.allows_at(now) <= now,
                "problem": each.problem if each.known_as_failed else "",
                "retry_in": _seconds(each, now),
            }
            for each in self.servers
        ]


def _seconds(server: UpstreamServer, now: float) -> float | None:
    """Return the seconds until an open circuit lets a request through. None: it is not open, or that depends on something else."""
    at = server.allows_at(now)
    return round(at - now, 1) if now < at < inf and server.breaker.state(now) is CircuitState.OPEN else None


def needs_servers(spec: ModelSpec) -> bool:
    """Whether it matters which servers of a Model fail: it has several, or asks for retries, a circuit breaker or health checks."""
    if spec.engine != "external" or not spec.url or spec.mock_response is not None:
        return False
    checked = spec.health.path and spec.health.period
    return bool(spec.failover_urls or spec.retries or spec.circuit_breaker or checked)


class UpstreamRegistry:
    """The servers of all Models. What is known of them stays while their fields stay the same."""

    def __init__(self, emit: EmitEvent, clock: Clock = time.monotonic) -> None:
        self._emit, self._clock = emit, clock
        self.on_retry: Callable[[str, str], None] = lambda _model, _reason: None  # of a Model, by metadata.name
        self._known: Mapping[str, tuple[Model, object, UpstreamServers]] = {}

    def update(self, models: Iterable[Model]) -> Mapping[str, UpstreamServers]:
        """Return by Model the servers of those that need them. Others are forgotten."""
        known: dict[str, tuple[Model, object, UpstreamServers]] = {}
        for model in models:
            if not needs_servers(model.spec):
                continue
            last = self._known.get(model.name)
            if last is not None and last[0] is model:
                known[model.name] = last
                continue
            config = model.spec.model_dump(include=_CONFIG)
            same = last is not None and last[1] == config
            known[model.name] = (model, config, last[2] if last is not None and same else self._new(model))
        self._known = known
        return {name: servers for name, (_, _, servers) in known.items()}

    def _new(self, model: Model) -> UpstreamServers:
        workspace, name = model.spec.workspace, model.name
        return UpstreamServers(
            model,
            lambda emit: self._emit(workspace, EXTERNAL_EPOCH, emit),
            lambda reason: self.on_retry(name, reason),
            self._clock,
        )

    def urls(self) -> set[str]:
        """Return the URLs of all servers."""
        return {server.url for servers in self.all() for server in servers.servers}

    def all(self) -> list[UpstreamServers]:
        """Return the servers by Model."""
        return [servers for _, _, servers in self._known.values()]
