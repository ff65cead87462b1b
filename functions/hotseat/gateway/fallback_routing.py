"""Routing of one request, from the Model that it names to the Model that answers it, which can be a fallback."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

from hotseat.api.fallback import Reason
from hotseat.api.model import Capability, Model
from hotseat.control.registry import ModelRegistry, ModelRoute, WorkspaceHandle
from hotseat.control.request_gate import PendingRequest
from hotseat.core.admission.fallback import NOT_LOADING, fallback_reason, next_check, reason_after_refusal, supports
from hotseat.core.errors import BadRequest, HotseatError, NotResident, UnknownModel
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.wait_headers import WaitOptions

HEADER = "X-Hotseat-Fallback"
ENDS_WITHIN = 1.0  # seconds in which the end of an engine that takes no connections is heard of


@dataclass(frozen=True, slots=True)
class FallbackUsed:
    """The requested Model, and the reason why another Model answers."""

    wanted: Model
    reason: Reason


def header_value(name: str) -> str:
    """Write a name of a Model so that it can stand in a header, and in a list there: percent-encoded UTF-8, as in a URL.

    What names are made of as a rule stays as it is: letters, digits and `- . _ ~ : / @ + [ ]`.
    """
    return quote(name, safe=":/@+[]")


class RoutedRequest:
    """The routing state of one request. `size` is the size of its body in bytes.

    `asked` is the name by which its Model was requested. Call `finish` in any case.
    """

    def __init__(
        self, registry: ModelRegistry, place: ModelRoute, asked: str | None, capability: Capability, size: int = 0
    ) -> None:
        """Raise BadRequest if neither the Model nor a fallback supports the request."""
        self.place, self.asked = place, asked
        self.fallback_used: FallbackUsed | None = None
        self.began = time.monotonic()
        self._registry = registry
        self._capability, self._size = capability, size
        self.asking = WaitOptions()
        self._passed = {place.model.name}  # Models that it will not come back to
        self._pending_request: PendingRequest | None = None
        self._held = False
        self._go_by_kind()

    @property
    def pending_request(self) -> PendingRequest:
        """The queued or dispatched request, after `submit`."""
        assert self._pending_request is not None  # noqa: S101
        return self._pending_request

    @property
    def waited(self) -> float | None:
        """Return the seconds from arrival to dispatch.

        None if the request was not queued, or not dispatched.
        """
        return self.dispatched - self.began if self._held and self.dispatched is not None else None

    @property
    def dispatched(self) -> float | None:
        """Return the time of dispatch on the monotonic clock. None if the request was not dispatched."""
        return None if self._pending_request is None else self._pending_request.dispatched

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Headers for the client: who answers, and why another than was asked for."""
        name = header_value(self.place.model.shown_name)
        own = (("X-Hotseat-Model", name), *self.queue_headers)
        if self.fallback_used is None:
            return own
        wanted = header_value(self.fallback_used.wanted.shown_name)
        text = f"model={wanted}, fallback={name}, reason={self.fallback_used.reason.lower()}"
        return (*own, (HEADER, text))

    @property
    def queue_headers(self) -> tuple[tuple[str, str], ...]:
        """Return the position in the queue and the estimated wait (seconds) on arrival, if the request was queued."""
        pending_request = self._pending_request
        if pending_request is None:
            return ()
        place = () if pending_request.position is None else (("X-Queue-Position", str(pending_request.position)),)
        wait = () if pending_request.estimate is None else (("X-Queue-Estimate", f"{pending_request.estimate:.1f}"),)
        return (*place, *wait)

    def submit(self, asking: WaitOptions | None = None) -> None:
        """Dispatch or queue the request. Raise the HotseatError for the client if neither is possible.

        `asking` has the wait headers. If the wait for the requested Model is known to be too long, the
        request goes to a fallback without queueing: a queued request could evict other models, a prewarm
        request cannot (`core.admission.prewarm`).
        """
        self.asking = asking or self.asking
        try:
            if self.place.model.spec.fallback is not None:
                with suppress(NotResident):
                    return self._stand(self._bring(self.place, at_once=True))
                reason = self._due(self.asking.limit)
                if reason is not None and self._answered_at_once(reason):
                    return None
            return self._stand(self._bring(self.place))
        except HotseatError as error:
            if not self.give_way(error):
                raise

    def look(self, limit: float | None) -> float | None:
        """Move the request to a fallback if it has waited long enough and the fallback can answer immediately.

        `limit` is the client's own limit in seconds. Return the seconds until the next check, or None if no
        check is needed.
        """
        fallback = self.place.model.spec.fallback
        if fallback is None or self.pending_request.dispatched is not None:
            return None
        reason = self._due(limit)
        if reason is not None:
            if self._answered_at_once(reason):
                return None
            for place, _ in self._others():
                if _needs_no_seat(place):  # it may answer before the wanted one does: whoever is first
                    place.handle.gate.want(place.model.name)
                    break
        return next_check(fallback, time.monotonic() - self.began, limit)

    def give_way(self, error: HotseatError) -> bool:
        """Route the request elsewhere after a refusal. Return whether that succeeded.

        A fallback that can answer immediately is preferred. Otherwise the request queues for a fallback that
        needs no accelerator. If its Model was removed, the request is routed by its name again.
        """
        if isinstance(error, UnknownModel):
            return self._follow()
        reason = reason_after_refusal(self.place.model.spec.fallback, error)
        if reason is None:
            return False
        if self._answered_at_once(reason):
            return True
        seatless = ((place, asked) for place, asked in self._others() if _needs_no_seat(place))
        return any(self._moved(place, asked, reason, at_once=False) for place, asked in seatless)

    def wait_again(self) -> bool:
        """Queue the request again if its engine has ended and has received no byte of it."""
        if self.place.model.spec.url:
            return False  # a server that is not ours, of whose end nobody hears
        ended = threading.Event()
        self.pending_request.on_cut(lambda _: ended.set())
        if not ended.wait(ENDS_WITHIN):
            return False
        self.finish()
        self._pending_request = None
        self._stand(self._bring(self.place, since=self.began))
        return True

    def finish(self) -> None:
        """End the request."""
        if self._pending_request is not None:
            self.place.handle.gate.finish(self._pending_request)

    def _due(self, limit: float | None) -> Reason | None:
        model, handle, now = self.place.model, self.place.handle, time.monotonic()
        assert model.spec.fallback is not None  # noqa: S101
        status = handle.status(model.name)
        others = (r for r in handle.gate.residency.residents if r.model != model.name and r.on_accelerator)
        state = "loading" if status.state in NOT_LOADING and not any(others) else status.state  # it will, this moment
        return fallback_reason(model.spec.fallback, state, now - self.began, expected_in(handle, status, now), limit)

    # Moving -----------------------------------------------------------------------------------------------------------

    def _go_by_kind(self) -> None:
        """Route a request that its Model does not support to the first fallback that states the capability."""
        spec = self.place.model.spec
        if not spec.capabilities or self._capability in spec.capabilities:
            return
        if spec.fallback is not None and Reason.UNSUPPORTED in spec.fallback.when:
            for place, asked in self._others():
                self._arrive(place, asked, Reason.UNSUPPORTED)
                return
        can = ", ".join(spec.capabilities)
        message = f"The model `{self.place.model.name}` does not support {self._capability}; it supports: {can}."
        raise BadRequest(message, code="unsupported", param="model")

    def _others(self) -> Iterator[tuple[ModelRoute, str]]:
        """Yield the fallbacks that support this request, in order, with the name in the document that refers to them."""
        passed = set(self._passed)
        fallback = self.place.model.spec.fallback
        while fallback is not None:
            try:
                place = self._registry.find(fallback.model)
            except UnknownModel:  # a cluster takes documents one by one: it may come yet
                return
            if place.model.name in passed:
                return
            passed.add(place.model.name)
            if supports(place.model.spec.capabilities, self._capability):
                yield place, fallback.model
            fallback = place.model.spec.fallback

    def _answered_at_once(self, reason: Reason) -> bool:
        return any(self._moved(place, asked, reason, at_once=True) for place, asked in self._others())

    def _moved(self, place: ModelRoute, asked: str, reason: Reason, *, at_once: bool) -> bool:
        """Submit the request to another Model, then remove it from its own.

        Return whether either of them has it.
        """
        try:
            pending_request = self._bring(place, at_once=at_once)
        except HotseatError:
            return False
        old = self._pending_request
        if old is not None and old.dispatched is None and not self.place.handle.gate.divert(old):
            place.handle.gate.finish(pending_request)  # its turn has come this moment
            return True
        if old is None and reason in (Reason.LOADING, Reason.WAITING):
            self.place.handle.gate.want(self.place.model.name)
        self.finish()
        self._arrive(place, asked, reason)
        self._stand(pending_request)
        return True

    def _follow(self) -> bool:
        """Route the request by its name with the current documents, with the time that it has waited."""
        try:
            place = self._registry.default() if self.asked is None else self._registry.find(self.asked)
        except UnknownModel:
            return False
        if place is None:
            return False
        self.finish()
        self._pending_request = None
        self.place = place
        self._passed.add(place.model.name)
        try:
            self._stand(self._bring(place, since=self.began))
        except UnknownModel:
            return False
        return True

    def _arrive(self, place: ModelRoute, asked: str, reason: Reason) -> None:
        self.fallback_used = self.fallback_used or FallbackUsed(self.place.model, reason)
        self.place, self.asked = place, asked
        self._passed.add(place.model.name)

    def _stand(self, pending_request: PendingRequest) -> None:
        self._pending_request = pending_request
        self._held = self._held or pending_request.held

    def _bring(self, place: ModelRoute, *, at_once: bool = False, since: float | None = None) -> PendingRequest:
        its, rest = self.asking, None
        if its.timeout is not None:
            rest = max(0.0, its.timeout - (time.monotonic() - self.began))
        gate, name = place.handle.gate, place.model.name
        return gate.submit(
            name, its.priority, at_once=at_once, tenant=its.tenant, timeout=rest, size=self._size, since=since
        )


def expected_in(handle: WorkspaceHandle, status: ModelStatus, now: float) -> float | None:
    """Return the expected seconds until a model is ready, from the last load. None if unknown.

    The duration of a wake is unknown, because the last time may have been a load. `min_seconds_to_ready` answers a
    similar question with a lower bound, half of the last time or less, because no request may be refused by
    mistake. With that bound, requests in the second half of a load would wait `fallback.after` in vain. An
    answer of the fallback that comes too soon does less harm.
    """
    if status.state in ("ready", "parked", "waking"):
        return None
    last = next((s for s in reversed(handle.switches()) if s.to == status.name and s.outcome == "completed"), None)
    load = None if last is None else last.phases().get("load")
    if load is None or status.state != "loading" or status.since is None:
        return load
    return max(0.0, load - (now - status.since))


def _needs_no_seat(place: ModelRoute) -> bool:
    """Whether the model needs no accelerator, so that it can be loaded beside any other."""
    wanted = place.model.spec.resources
    return not wanted.gpus and not wanted.accelerator_memory
