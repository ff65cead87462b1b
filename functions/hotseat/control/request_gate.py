"""Requests of one Workspace at this router: they are submitted, wait and end here.

The admission machine is driven by one thread, which the `LoopOwner` names: that of the gateway's event loop. It submits and
ends requests without a lock. What other threads do or read is run there.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from hotseat.control.owner import LoopOwner
from hotseat.core.admission.machine import AdmissionMachine
from hotseat.core.admission.messages import (
    AbortRequest,
    AdmissionCommand,
    AdmissionStimulus,
    ClientDisconnected,
    Dispatch,
    Limits,
    LimitsChanged,
    PrewarmRequested,
    Queued,
    Reject,
    ReportDemand,
    RequestArrived,
    RequestFinished,
    ResidencySeen,
    RouterClosed,
    ServedByFallback,
    WaitTimedOut,
)
from hotseat.core.errors import HotseatError, Unavailable
from hotseat.core.messages import Demand, QueuedDemand, Residency

Clock = Callable[[], float]


class PendingRequest:
    """One request, from `submit` until `finish`. Only the gate changes it."""

    __slots__ = (
        "_aborted",
        "_cancel",
        "_settled",
        "address",
        "dispatched",
        "error",
        "estimate",
        "position",
        "queued",
        "request",
    )

    def __init__(self, request: int) -> None:
        self.request = request
        self.dispatched: float | None = None
        self.queued = False  # it was not dispatched at once
        self.position: int | None = None  # in the queue when it arrived; 1 is next
        self.estimate: float | None = None  # seconds until dispatch, when it arrived
        self.address = ""
        self.error: HotseatError | None = None
        self._settled: Callable[[], None] | None = None
        self._aborted: HotseatError | None = None
        self._cancel: Callable[[HotseatError], None] | None = None

    @property
    def settled(self) -> bool:
        """Whether the request has been dispatched or refused."""
        return self.dispatched is not None or self.error is not None

    def on_settled(self, settled: Callable[[], None]) -> None:
        """Set the callback for when the queued request is dispatched or refused. It must not submit or end requests."""
        self._settled = settled

    def settle(self) -> None:
        """Call the callback, once."""
        settled, self._settled = self._settled, None
        if settled is not None:
            settled()

    def on_abort(self, cancel: Callable[[HotseatError], None]) -> None:
        """Set the callback that aborts the request if its model is stopped.

        Called immediately if that has already happened.
        """
        self._cancel = cancel
        if self._aborted is not None:
            cancel(self._aborted)

    def forget(self) -> None:
        """Drop the callbacks, and with them the reference cycles that they make."""
        self._settled = self._cancel = None

    def abort(self, error: HotseatError) -> None:
        """Abort the request."""
        self._aborted = error
        if self._cancel is not None:
            self._cancel(error)


class RequestGate:
    """Requests of one Workspace at this router. `on_demand(urgent)` is called after each change of demand.

    The methods of the first section are for the thread that `owner` names. Those of the second are for any thread.
    """

    def __init__(
        self, router: str, clock: Clock, on_demand: Callable[[bool], None], owner: LoopOwner | None = None
    ) -> None:
        self._machine = AdmissionMachine(router)
        self._clock = clock
        self._on_demand = on_demand
        self._owner = LoopOwner() if owner is None else owner
        self._pending_requests: dict[int, PendingRequest] = {}
        self._limits: Mapping[str, Limits] = {}  # of the documents, by model
        self._in_force: LimitsChanged | None = None  # without the weights of API keys
        self._key_weights: Mapping[str, int] = {}
        self._ids = itertools.count(1)
        self._closed = False
        self._empty = threading.Event()  # closed, and nothing is left

    # Requests, on the owning thread -----------------------------------------------------------------------------------

    def submit(
        self,
        model: str,
        priority: int = 0,
        *,
        at_once: bool = False,
        tenant: str = "",
        timeout: float | None = None,
        size: int = 0,
        since: float | None = None,
        retry_after: float | None = None,
        keep_alive: float | None = None,
    ) -> PendingRequest:
        """Submit a request. It is dispatched (`dispatched` is set) or queued (use `on_settled`).

        Raise the HotseatError for the client if it is refused. With `at_once`, raise NotResident instead of
        queueing. `timeout` is the time in seconds after which the client has no use for an answer: a request
        that cannot meet it is refused immediately. `size` is the size of its body in bytes. `since` is the
        time at which it was first queued, if it comes from another Workspace. With `retry_after`, raise
        ModelLoading if the model is not ready, and have it loaded: its client is told to try again after so
        many seconds at least. `keep_alive` is how many seconds the engine that serves it stays without a request.
        """
        now = self._clock()
        deadline = None if timeout is None else now + timeout
        pending_request = PendingRequest(next(self._ids))
        arrival = RequestArrived(
            now,
            pending_request.request,
            model,
            priority,
            at_once,
            tenant,
            deadline,
            size,
            since,
            retry_after,
            keep_alive,
        )
        try:
            self._pending_requests[pending_request.request] = pending_request
            self._step(arrival)
            if pending_request.queued:
                pending_request.position, pending_request.estimate = self.queue_position(pending_request)
        except BaseException:  # the caller has no PendingRequest to finish
            self.finish(pending_request)
            raise
        if pending_request.error is not None:
            self.finish(pending_request)
            raise pending_request.error
        return pending_request

    def expire(self, pending_request: PendingRequest) -> None:
        """End the wait of the request at its client's limit. It then has an error, unless it was just dispatched."""
        self._step(WaitTimedOut(self._clock(), pending_request.request))

    def divert(self, pending_request: PendingRequest) -> bool:
        """End the wait of the request because another model answers it.

        Its own model stays wanted. Return False if it was just dispatched.
        """
        self._step(ServedByFallback(self._clock(), pending_request.request))
        if pending_request.dispatched is not None:
            return False
        self.finish(pending_request)
        return True

    def prewarm(self, model: str) -> None:
        """Request that a model is loaded, although no request is queued for it."""
        self._step(PrewarmRequested(self._clock(), model))

    def finish(self, pending_request: PendingRequest) -> None:
        """End the request: relayed, failed, rejected or disconnected. Repeated calls have no effect."""
        if self._pending_requests.pop(pending_request.request, None) is None:
            return
        pending_request.forget()
        stimulus = ClientDisconnected if pending_request.dispatched is None else RequestFinished
        try:
            self._step(stimulus(self._clock(), pending_request.request))
        finally:
            if self._closed:
                self._update_empty()

    def queue_position(self, pending_request: PendingRequest) -> tuple[int | None, float | None]:
        """Return the position in the model's queue (1 is next) and the estimated wait in seconds.

        None if not queued, or unknown.
        """
        request, now = pending_request.request, self._clock()
        return self._machine.position(request), self._machine.estimate(request, now)

    # Residency, documents and readers, on any thread ------------------------------------------------------------------

    def apply_residency(self, residency: Residency) -> None:
        """Apply a new residency."""
        self._owner.call(lambda: self._step(ResidencySeen(self._clock(), residency)))

    def apply_limits(self, limits: LimitsChanged) -> None:
        """Apply changed documents."""
        self._limits = limits.models
        self._owner.call(lambda: self._step_limits(limits))

    def extend_limits(self, limits: LimitsChanged) -> None:
        """Apply changed documents, but keep the limits of Models that `apply_limits` will remove.

        Call this before names are routed to other Models, so that the Model of a request is known at every
        moment of a change.
        """
        both = replace(limits, models={**self._limits, **limits.models})
        self._owner.call(lambda: self._step_limits(both))

    def apply_key_weights(self, weights: Mapping[str, int]) -> None:
        """Apply the weights of API keys. Those of the document come first."""

        def apply() -> None:
            self._key_weights = weights
            if self._in_force is not None:
                self._step_limits(replace(self._in_force, now=self._clock()))

        self._owner.call(apply)

    def _step_limits(self, limits: LimitsChanged) -> None:
        self._in_force, sharing = limits, limits.sharing
        if self._key_weights:
            weights = {**self._key_weights, **sharing.weights}
            limits = replace(limits, sharing=replace(sharing, weights=weights))
        self._step(limits)

    def close(self) -> None:
        """Refuse all queued requests, and accept no more."""
        self._owner.call(self._close)

    def wait_empty(self, timeout: float) -> bool:
        """After `close`, wait until every request has ended. Return False after `timeout` seconds."""
        return self._empty.wait(timeout)

    def demand(self) -> Demand:
        """Return a demand snapshot for the scheduler."""
        return self._owner.call(self._machine.demand)

    def waiting(self, model: str | None = None) -> int:
        """Return the number of queued requests."""
        return self._owner.call(lambda: self._machine.waiting(model))

    def waiting_bytes(self) -> int:
        """Return the size of the bodies of queued requests, in bytes."""
        return self._owner.call(self._machine.waiting_bytes)

    def in_flight(self, instance: str | None = None) -> int:
        """Return the number of requests in flight, of one instance or of all."""
        if instance is not None:
            return self._owner.call(lambda: self._machine.in_flight(instance))
        return self._owner.call(lambda: sum(each.dispatched is not None for each in self._pending_requests.values()))

    def in_flight_of(self, model: str) -> int:
        """Return the number of requests in flight at all instances of a model."""

        def read() -> int:
            mine = [each.instance for each in self.residency.residents if each.model == model]
            return sum(map(self._machine.in_flight, mine))

        return self._owner.call(read)

    def queues(self, models: Iterable[str] | None = None) -> dict[str, tuple[QueuedDemand | None, float | None]]:
        """Return by model its queue, if any, and its service rate in requests per second, if known.

        For `models`, or for the models with queued requests.
        """

        def read() -> dict[str, tuple[QueuedDemand | None, float | None]]:
            now, waiting = self._clock(), self._machine.waiting_by_model()
            return {m: (waiting.get(m), self._machine.rate(m, now)) for m in (waiting if models is None else models)}

        return self._owner.call(read)

    def keep_alive(self, instance: str) -> float | None:
        """Return how many seconds an instance stays without a request, as a request at this router said. None: none did."""
        return self._owner.call(lambda: self._machine.keep_alive(instance))

    @property
    def residency(self) -> Residency:
        """Return the residency that this router knows."""
        return self._machine.residency

    # Commands ---------------------------------------------------------------------------------------------------------

    def _step(self, stimulus: AdmissionStimulus) -> None:
        """Drive the machine, and carry out its commands. Callbacks follow, when all of the step has been done."""
        urgent: bool | None = None
        callbacks: list[Callable[[], None]] = []
        for command in self._machine.step(stimulus):
            if isinstance(command, Dispatch):
                pending_request = self._pending_requests[command.request]
                pending_request.address = command.address
                pending_request.dispatched = stimulus.now
                if pending_request.queued:  # else its caller has not returned yet
                    callbacks.append(pending_request.settle)
            elif isinstance(command, ReportDemand):
                urgent = command.urgent or bool(urgent)
            else:
                self._carry_out(command, callbacks)
        if urgent is not None:
            self._on_demand(urgent)
        for callback in callbacks:
            callback()

    def _carry_out(self, command: AdmissionCommand, callbacks: list[Callable[[], None]]) -> None:
        if isinstance(command, Queued):
            self._pending_requests[command.request].queued = True
        elif isinstance(command, Reject):
            pending_request = self._pending_requests[command.request]
            pending_request.error = command.error(command.message, code=command.code, retry_after=command.retry_after)
            callbacks.append(pending_request.settle)
        elif isinstance(command, AbortRequest) and command.request in self._pending_requests:
            error = Unavailable(command.message, code="model_stopped", retry_after=1.0)
            callbacks.append(partial(self._pending_requests[command.request].abort, error))

    def _close(self) -> None:
        self._step(RouterClosed(self._clock()))
        self._closed = True
        self._update_empty()

    def _update_empty(self) -> None:
        if self._closed and not self._pending_requests:
            self._empty.set()
