"""Routing of one request, from the Model that it names to the Model that answers it, which can be a fallback."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import ClassVar
from urllib.parse import quote

from hotseat.api.model import Capability, Model, Reason
from hotseat.control.registry import ModelRegistry, ModelRoute, WorkspaceHandle
from hotseat.control.request_gate import PendingRequest
from hotseat.core.admission.fallback import NOT_LOADING, fallback_reason, next_check, reason_after_refusal, supports
from hotseat.core.errors import (
    BadRequest,
    Conflict,
    HotseatError,
    NotResident,
    Unavailable,
    UnknownModel,
    Unreachable,
    UpstreamFailed,
    UpstreamRejected,
)
from hotseat.core.messages import InstanceState
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.relay.heads import ResponseHead
from hotseat.gateway.upstream_attempts import UpstreamAttempts
from hotseat.gateway.wait_headers import NO_LIMITS, WaitOptions

HEADER = "X-Hotseat-Fallback"
RETRY_AFTER = 30.0  # seconds until the next try of a refused client, while nothing is known of the Model's load
SOONEST = 1.0


@dataclass(frozen=True, slots=True)
class FallbackUsed:
    """The requested Model, and the reason why another Model answers."""

    wanted: Model
    reason: Reason


@lru_cache(maxsize=1024)
def header_value(name: str) -> str:
    """Return the name of a Model for a header: percent-encoded UTF-8.

    Letters, digits and `- . _ ~ : / @ + [ ]` are not encoded.
    """
    return quote(name, safe=":/@+[]")


@lru_cache(maxsize=1024)
def _model_headers(name: str) -> tuple[tuple[str, str], ...]:
    return (("X-Hotseat-Model", header_value(name)),)


class RoutedRequest:
    """The routing state of one request. `size` is the size of its body in bytes.

    `name` is the name by which its Model was requested. Call `finish` in any case. `repeatable`: it may be sent again although a server
    may have begun to answer it.
    """

    repeatable: ClassVar[bool] = True

    def __init__(
        self, registry: ModelRegistry, route: ModelRoute, name: str | None, capability: Capability | None, size: int = 0
    ) -> None:
        """`capability`: None if every Model has it. Raise BadRequest if neither the Model nor a fallback supports the request."""
        self.route, self.requested_name = route, name
        self.unnamed = False  # the client named no Model
        self.fallback_used: FallbackUsed | None = None
        self.began = time.monotonic()
        self._registry = registry
        self._capability, self._size = capability, size
        self.options = NO_LIMITS
        self.refuses = False  # it is not held: while no Model is ready for it, it is refused, and its Model is loaded
        self.may_wait = True
        self._visited: tuple[str, ...] = (route.model.name,)  # Models that are not tried again
        self._pending_request: PendingRequest | None = None
        self.held = False  # whether it was queued
        self._earlier_retries = 0
        self.attempts: UpstreamAttempts | None = None  # while the Model is one whose servers may fail
        if capability is not None and route.model.spec.capabilities and capability not in route.model.spec.capabilities:
            self._route_by_capability()

    @property
    def pending_request(self) -> PendingRequest:
        """The queued or dispatched request, after `submit`."""
        assert self._pending_request is not None  # noqa: S101
        return self._pending_request

    @property
    def requested_model(self) -> Model:
        """The Model that the client named, whether or not a fallback answers."""
        return self.route.model if self.fallback_used is None else self.fallback_used.wanted

    @property
    def waited(self) -> float | None:
        """Return the seconds from arrival to dispatch.

        None if the request was not queued, or not dispatched.
        """
        return self.dispatched - self.began if self.held and self.dispatched is not None else None

    @property
    def dispatched(self) -> float | None:
        """Return the time of dispatch on the monotonic clock. None if the request was not dispatched."""
        return None if self._pending_request is None else self._pending_request.dispatched

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return headers with the Model that answers, and the fallback, if one was used."""
        own = _model_headers(self.route.shown_name)
        if self.held:
            own = (*own, *self.queue_headers)
        if self.fallback_used is None:
            return own
        name = header_value(self.route.model.shown_name)
        wanted = header_value(self.fallback_used.wanted.shown_name)
        text = f"model={wanted}, fallback={name}, reason={self.fallback_used.reason.lower()}"
        return (*own, (HEADER, text))

    @property
    def position(self) -> int | None:
        """The position in the queue when the request arrived, 1 for the next. None if it was not queued."""
        return None if self._pending_request is None else self._pending_request.position

    @property
    def queue_headers(self) -> tuple[tuple[str, str], ...]:
        """Return the position in the queue and the estimated wait (seconds) on arrival, if the request was queued."""
        pending_request = self._pending_request
        if pending_request is None:
            return ()
        position = () if pending_request.position is None else (("X-Queue-Position", str(pending_request.position)),)
        wait = () if pending_request.estimate is None else (("X-Queue-Estimate", f"{pending_request.estimate:.1f}"),)
        return (*position, *wait)

    def submit(self, options: WaitOptions | None = None) -> None:
        """Dispatch or queue the request. Raise the HotseatError for the client if neither is possible.

        `options` has the wait headers. If the wait for the requested Model is known to be too long, the
        request goes to a fallback without queueing: a queued request could evict other models, a prewarm
        request cannot (`core.admission.prewarm`).
        """
        self.options = options or self.options
        try:
            if self.route.model.spec.fallback is not None:
                with suppress(NotResident):
                    return self._accept(self._submit_to(self.route, at_once=True))
                reason = self._fallback_reason(0.0 if self.refuses else self.options.limit)
                if reason is not None and self._answered_immediately(reason):
                    return None
            return self._accept(self._submit_to(self.route))
        except HotseatError as error:
            if not self.fail_over(error):
                raise

    def submit_if_ready(self, options: WaitOptions, why: str) -> None:
        """Dispatch the request, which must neither load a Model nor wait for one. Raise Conflict with WHY, or Unavailable."""
        self.options, self.may_wait = options, False
        model = self.route.model
        try:
            self._accept(self._submit_to(self.route, at_once=True))
        except NotResident:
            residents = self.route.handle.gate.residency.residents
            if any(each.model == model.name and each.state is InstanceState.READY for each in residents):
                busy = f"{model.shown_name} is busy (concurrency), and this request does not wait"
                raise Unavailable(busy, code="busy", retry_after=1.0) from None
            raise not_loaded(model.shown_name, why) from None

    def check_fallback(self, limit: float | None) -> float | None:
        """Move the request to a fallback if it has waited long enough and the fallback can answer immediately.

        `limit` is the client's own limit in seconds. Return the seconds until the next check, or None if no
        check is needed.
        """
        fallback = self.route.model.spec.fallback
        if fallback is None or self.pending_request.dispatched is not None:
            return None
        reason = self._fallback_reason(limit)
        if reason is not None:
            if self._answered_immediately(reason):
                return None
            for route, _ in self._fallbacks():
                if needs_no_accelerator(route):  # it may be ready before the requested Model
                    route.handle.gate.prewarm(route.model.name)
                    break
        return next_check(fallback, time.monotonic() - self.began, limit)

    def fail_over(self, error: HotseatError) -> bool:
        """Route the request elsewhere after a refusal. Return whether that succeeded.

        A fallback that can answer immediately is preferred. Otherwise the request queues for a fallback that
        needs no accelerator. If its Model was removed, the request is routed by its name again.
        """
        if isinstance(error, UnknownModel):
            return self._reroute()
        reason = reason_after_refusal(self.route.model.spec.fallback, error)
        if reason is None:
            return False
        if self._answered_immediately(reason):
            return True
        without_accelerator = ((route, name) for route, name in self._fallbacks() if needs_no_accelerator(route))
        return any(self._move_to(route, name, reason, at_once=False) for route, name in without_accelerator)

    @property
    def end_is_seen(self) -> bool:
        """Whether hotseat sees the end of the Model's engine. It does not of an external server."""
        return not self.route.model.is_external

    def wait_again(self) -> None:
        """Queue the request again, because its engine has ended and has received no byte of it.

        Raise the HotseatError for the client if that is not possible.
        """
        self.finish()
        self._pending_request = None
        self._accept(self._submit_to(self.route, since=self.began))

    @property
    def is_offered(self) -> bool:
        """Whether the residency has the address that the request was dispatched to."""
        residents = self.route.handle.gate.residency.residents
        return any(self.pending_request.address in each.addresses for each in residents)

    # The servers of an external Model -----------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the dispatched request is sent."""
        return self.pending_request.address if self.attempts is None else self.attempts.server.url

    @property
    def judge(self) -> Callable[[ResponseHead], HotseatError | None] | None:
        """Return what finds out whether an answer is for the client, or the request is sent again."""
        return None if self.attempts is None else self._judge

    def _judge(self, head: ResponseHead) -> HotseatError | None:
        assert self.attempts is not None  # noqa: S101
        now, fallback = time.monotonic(), self.route.model.spec.fallback
        falls_back = fallback is not None and Reason.FAILED in fallback.when and any(self._fallbacks())
        error = self.attempts.answered(head, now, self._rest(now), repeatable=self.repeatable)
        return error if error is not None and (error.pause is not None or falls_back) else None

    def choose_server(self) -> bool:
        """Choose the server for a dispatched request. Return False if another Model has it instead.

        Raise Unavailable if none can be sent a request, and UnknownModel for a request of a peer for a model of a peer: it could go on
        in a circle.

        Call it for a Model with `servers` only.
        """
        servers, now = self.route.servers, time.monotonic()
        assert servers is not None  # noqa: S101
        if self.options.from_peer and self.route.model.peer is not None:
            raise UnknownModel(
                f"The model `{self.route.model.shown_name}` is of a peer, and is not served to peers.", param="model"
            )
        attempts = self.attempts = self.attempts or UpstreamAttempts(servers)
        if attempts.choose(now):
            return True
        error = attempts.none_left(now)
        if not self.fail_over(error):
            raise error
        return False

    def pause_after(self, error: HotseatError) -> float | None:
        """Return the seconds until the next attempt after a failed one. 0 if another Model has the request now. None: there is none."""
        assert self.attempts is not None  # noqa: S101
        now = time.monotonic()
        pause = self.attempts.failed(error, now, self._rest(now), repeatable=self.repeatable)
        if (
            pause is None
            and self.repeatable
            and isinstance(error, UpstreamFailed)
            and not isinstance(error, Unreachable)
        ):
            return 0.0 if self.fail_over(UpstreamRejected(error.message)) else None
        return pause

    @property
    def retries(self) -> int:
        """How often the request was sent again to a server of an external Model."""
        return self._earlier_retries + (0 if self.attempts is None else self.attempts.retries)

    def _leave_servers(self) -> None:
        if self.attempts is not None:
            self._earlier_retries, self.attempts = self.retries, None

    def _rest(self, now: float) -> float:
        """Return how long the request may still take before its answer begins."""
        timeout = self.options.timeout
        return inf if timeout is None else self.began + timeout - now

    def finish(self) -> None:
        """End the request."""
        if self.attempts is not None:
            self.attempts.end()
        if self._pending_request is not None:
            self.route.handle.gate.finish(self._pending_request)

    def _fallback_reason(self, limit: float | None) -> Reason | None:
        model, handle, now = self.route.model, self.route.handle, time.monotonic()
        assert model.spec.fallback is not None  # noqa: S101
        status = handle.status(model.name)
        others = (r for r in handle.gate.residency.residents if r.model != model.name and r.on_accelerator)
        state = "loading" if status.state in NOT_LOADING and not any(others) else status.state  # it is about to load
        return fallback_reason(model.spec.fallback, state, now - self.began, expected_in(handle, status, now), limit)

    # Routing ----------------------------------------------------------------------------------------------------------

    def _route_by_capability(self) -> None:
        """Route a request that its Model does not support to the first fallback that states the capability."""
        spec = self.route.model.spec
        if spec.fallback is not None and Reason.UNSUPPORTED in spec.fallback.when:
            for route, name in self._fallbacks():
                self._set_route(route, name, Reason.UNSUPPORTED)
                return
        can = ", ".join(spec.capabilities)
        message = f"The model `{self.route.model.name}` does not support {self._capability}; it supports: {can}."
        raise BadRequest(message, code="unsupported", param="model")

    def _fallbacks(self) -> Iterator[tuple[ModelRoute, str]]:
        """Yield the fallbacks that support this request, in order, with the name in the document that refers to them."""
        visited = set(self._visited)
        fallback = self.route.model.spec.fallback
        while fallback is not None:
            try:
                route = self._registry.find(fallback.model)
            except UnknownModel:  # in a cluster its document may follow
                return
            if route.model.name in visited:
                return
            visited.add(route.model.name)
            if self.options.from_peer and route.model.peer is not None:
                return  # the request could go on in a circle
            if self._capability is None or supports(route.model.spec.capabilities, self._capability):
                yield route, fallback.model
            fallback = route.model.spec.fallback

    def _answered_immediately(self, reason: Reason) -> bool:
        return any(self._move_to(route, name, reason, at_once=True) for route, name in self._fallbacks())

    def _move_to(self, route: ModelRoute, name: str, reason: Reason, *, at_once: bool) -> bool:
        """Submit the request to another Model, then remove it from its own.

        Return whether either of them has it.
        """
        try:
            pending_request = self._submit_to(route, at_once=at_once)
        except HotseatError:
            return False
        old = self._pending_request
        if old is not None and old.dispatched is None and not self.route.handle.gate.divert(old):
            route.handle.gate.finish(pending_request)  # it was dispatched meanwhile
            return True
        if old is None and reason in (Reason.LOADING, Reason.WAITING):
            self.route.handle.gate.prewarm(self.route.model.name)
        self.finish()
        self._set_route(route, name, reason)
        self._accept(pending_request)
        return True

    def _reroute(self) -> bool:
        """Route the request by its name with the current documents, with the time that it has waited."""
        try:
            name = self._registry.default_name() if self.unnamed else self.requested_name
            if name is None:
                return False
            route = self._registry.find(name)
        except UnknownModel:
            return False
        self.finish()
        self._pending_request = None
        self._leave_servers()
        self.route, self.requested_name = route, name
        self._visited += (route.model.name,)
        try:
            self._accept(self._submit_to(route, since=self.began))
        except UnknownModel:
            return False
        return True

    def _set_route(self, route: ModelRoute, name: str, reason: Reason) -> None:
        self._leave_servers()
        self.fallback_used = self.fallback_used or FallbackUsed(self.route.model, reason)
        self.route, self.requested_name = route, name
        self._visited += (route.model.name,)

    def _accept(self, pending_request: PendingRequest) -> None:
        self._pending_request = pending_request
        self.held = self.held or pending_request.queued

    def _submit_to(self, route: ModelRoute, *, at_once: bool = False, since: float | None = None) -> PendingRequest:
        its, rest = self.options, None
        if its.timeout is not None:
            rest = max(0.0, its.timeout - (time.monotonic() - self.began))
        gate, name = route.handle.gate, route.model.name
        return gate.submit(
            name,
            its.priority,
            at_once=at_once,
            tenant=its.tenant,
            timeout=rest,
            size=self._size,
            since=since,
            retry_after=retry_after(route) if self.refuses else None,
            keep_alive=its.keep_alive,
        )


GET_LOADS_NOTHING = "a GET loads no model"
UNNAMED_LOADS_NOTHING = "a request without `model` loads none; name a model in `model`"


def not_loaded(model: str, why: str) -> Conflict:
    """Return the error for a request that loads no Model, if its Model is not ready."""
    return Conflict(f"{model} is not loaded, and {why}.", code="not_loaded", param="model")


def expected_in(handle: WorkspaceHandle, status: ModelStatus, now: float) -> float | None:
    """Return the expected seconds until a model is ready, from the last load. None if unknown.

    The duration of a wake is unknown, because the last time may have been a load. `min_seconds_to_ready` answers a
    similar question with a lower bound, half of the last time or less, because no request may be refused by
    mistake. With that bound, requests in the second half of a load would wait `fallback.after` in vain. An
    answer of the fallback that comes too soon does less harm.
    """
    if status.state in ("ready", "parked", "waking"):
        return None
    load = _last_load(handle, status.name)
    if load is None or status.state != "loading" or status.since is None:
        return load
    return max(0.0, load - (now - status.since))


def retry_after(route: ModelRoute) -> float:
    """Return the seconds after which a client is told to ask again for a Model that is not ready.

    That is the rest of its load, by the last one, or RETRY_AFTER if it was never loaded.
    """
    status = route.handle.status(route.model.name)
    load = None if status.state == "ready" else _last_load(route.handle, status.name)
    if load is None:
        return RETRY_AFTER
    began = status.since if status.state in ("loading", "waking") else None
    return max(SOONEST, load if began is None else load - (time.monotonic() - began))


def _last_load(handle: WorkspaceHandle, model: str) -> float | None:
    """Return the seconds that the last load of a model has taken, if it is known."""
    last = next((s for s in reversed(handle.switches()) if s.to == model and s.outcome == "completed"), None)
    return None if last is None else last.phases().get("load")


def needs_no_accelerator(route: ModelRoute) -> bool:
    """Whether the model needs no accelerator, so that it can be loaded beside any other."""
    wanted = route.model.spec.resources
    return not wanted.gpus and not wanted.accelerator_memory
