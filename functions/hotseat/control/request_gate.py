"""The threads' side of the admission machine: requests of one Workspace are submitted, wait and end here.

One lock guards the machine, and each step under it takes microseconds. A queued request has a file descriptor that becomes
readable when it is dispatched, so that its thread can watch the descriptor and its client in one poll().
"""

import itertools
import os
import select
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

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

LONGEST_POLL = 3600.0  # seconds; poll() takes no more than a few weeks, and a client may ask for more

Clock = Callable[[], float]


class ClientDisconnectedError(Exception):
    """The client disconnected while its request was queued."""


class WaitingClient(Protocol):
    """The connection of a queued request."""

    def fileno(self) -> int:
        """Return the file descriptor to poll, or -1 if there is none."""

    def departed(self) -> bool:
        """Return whether the client has disconnected.

        Called when the descriptor has news. Early data is no disconnect.
        """


class PendingRequest:
    """One request, from `submit` until `finish`. Only the gate changes it."""

    __slots__ = (
        "_aborted",
        "_cancel",
        "address",
        "dispatched",
        "error",
        "estimate",
        "position",
        "queued",
        "request",
        "wake",
    )

    def __init__(self, request: int) -> None:
        self.request = request
        self.dispatched: float | None = None
        self.queued = False  # it was not dispatched at once
        self.position: int | None = None  # in the queue when it arrived; 1 is next
        self.estimate: float | None = None  # seconds until dispatch, when it arrived
        self.address = ""
        self.error: HotseatError | None = None
        self.wake: int | None = None  # the descriptor that its thread polls while it is queued
        self._aborted: HotseatError | None = None
        self._cancel: Callable[[HotseatError], None] | None = None

    def on_abort(self, cancel: Callable[[HotseatError], None]) -> None:
        """Set the callback that aborts the request if its model is stopped.

        Called immediately if that has already happened.
        """
        self._cancel = cancel
        if self._aborted is not None:
            cancel(self._aborted)

    def abort(self, error: HotseatError) -> None:
        """Abort the request."""
        self._aborted = error
        if self._cancel is not None:
            self._cancel(error)


class RequestGate:
    """Requests of one Workspace at this router.

    Thread-safe. `on_demand(urgent)` is called after each change of demand.
    """

    def __init__(self, router: str, clock: Clock, on_demand: Callable[[bool], None]) -> None:
        self._machine = AdmissionMachine(router)
        self._clock = clock
        self._on_demand = on_demand
        self._lock = threading.Lock()
        self._pending_requests: dict[int, PendingRequest] = {}
        self._limits: Mapping[str, Limits] = {}  # of the documents, by model
        self._ids = itertools.count(1)
        self._closed = False
        self._empty = threading.Event()  # closed, and nothing is left

    # Requests ---------------------------------------------------------------------------------------------------------

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
    ) -> PendingRequest:
        """Submit a request. It is dispatched (`dispatched` is set) or queued (call `wait`).

        Raise the HotseatError for the client if it is refused. With `at_once`, raise NotResident instead of
        queueing. `timeout` is the time in seconds after which the client has no use for an answer: a request
        that cannot meet it is refused immediately. `size` is the size of its body in bytes. `since` is the
        time at which it was first queued, if it comes from another Workspace.
        """
        now = self._clock()
        deadline = None if timeout is None else now + timeout
        pending_request = PendingRequest(next(self._ids))
        arrival = RequestArrived(now, pending_request.request, model, priority, at_once, tenant, deadline, size, since)
        try:
            self._submit(pending_request, arrival)
        except BaseException:  # the caller has no PendingRequest to finish
            self.finish(pending_request)
            raise
        return pending_request

    def _submit(self, pending_request: PendingRequest, arrival: RequestArrived) -> None:
        with self._lock:
            self._pending_requests[pending_request.request] = pending_request
            urgent = self._carry_out(self._machine.step(arrival))
            if pending_request.queued:
                pending_request.position, pending_request.estimate = self._queue_position(pending_request, arrival.now)
        if urgent is not None:
            self._on_demand(urgent)
        if pending_request.error is not None:
            raise pending_request.error

    def wait(self, pending_request: PendingRequest, client: WaitingClient, timeout: float | None = None) -> bool:
        """Wait until dispatch. Return False after `timeout` seconds. Raise HotseatError or ClientDisconnectedError."""
        if pending_request.dispatched is None and pending_request.error is None:
            self._poll(pending_request, client, timeout)
        if pending_request.error is not None:
            raise pending_request.error
        return pending_request.dispatched is not None

    def _poll(self, pending_request: PendingRequest, client: WaitingClient, timeout: float | None) -> None:
        deadline = None if timeout is None else self._clock() + timeout
        poller = select.poll()
        wake = pending_request.wake
        assert wake is not None  # noqa: S101 — a queued request has one until `finish`
        poller.register(wake, select.POLLIN)
        if client.fileno() >= 0:
            poller.register(client.fileno(), select.POLLIN | select.POLLRDHUP)
        while pending_request.dispatched is None and pending_request.error is None:
            rest = None if deadline is None else min(max(0.0, deadline - self._clock()), LONGEST_POLL) * 1000
            events = poller.poll(rest)
            if not events:
                return
            if any(fd != wake for fd, _ in events):
                if client.departed():
                    raise ClientDisconnectedError
                poller.modify(
                    client.fileno(), select.POLLRDHUP
                )  # it sent more than its request; only a disconnect matters now

    def expire(self, pending_request: PendingRequest) -> None:
        """End the wait of the request at its client's limit.

        `wait` then raises, unless it was just dispatched.
        """
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
        with self._lock:
            if self._pending_requests.pop(pending_request.request, None) is None:
                return
            stimulus = ClientDisconnected if pending_request.dispatched is None else RequestFinished
            urgent = self._carry_out(self._machine.step(stimulus(self._clock(), pending_request.request)))
            if pending_request.wake is not None:
                os.close(pending_request.wake)
                pending_request.wake = None
            self._update_empty()
        if urgent is not None:
            self._on_demand(urgent)

    # Residency and documents ------------------------------------------------------------------------------------------

    def apply_residency(self, residency: Residency) -> None:
        """Apply a new residency."""
        self._step(ResidencySeen(self._clock(), residency))

    def apply_limits(self, limits: LimitsChanged) -> None:
        """Apply changed documents."""
        self._limits = limits.models
        self._step(limits)

    def extend_limits(self, limits: LimitsChanged) -> None:
        """Apply changed documents, but keep the limits of Models that `apply_limits` will remove.

        Call this before names are routed to other Models, so that the Model of a request is known at every
        moment of a change.
        """
        self._step(replace(limits, models={**self._limits, **limits.models}))

    def close(self) -> None:
        """Refuse all queued requests, and accept no more."""
        self._step(RouterClosed(self._clock()))
        with self._lock:
            self._closed = True
            self._update_empty()

    def wait_empty(self, timeout: float) -> bool:
        """After `close`, wait until every request has ended. Return False after `timeout` seconds."""
        return self._empty.wait(timeout)

    def demand(self) -> Demand:
        """Return a demand snapshot for the scheduler."""
        with self._lock:
            return self._machine.demand()

    def waiting(self, model: str | None = None) -> int:
        """Return the number of queued requests."""
        with self._lock:
            return self._machine.waiting(model)

    def waiting_bytes(self) -> int:
        """Return the size of the bodies of queued requests, in bytes."""
        with self._lock:
            return self._machine.waiting_bytes()

    def in_flight(self, instance: str | None = None) -> int:
        """Return the number of requests in flight, of one instance or of all."""
        with self._lock:
            if instance is not None:
                return self._machine.in_flight(instance)
            return sum(pending_request.dispatched is not None for pending_request in self._pending_requests.values())

    def in_flight_of(self, model: str) -> int:
        """Return the number of requests in flight at all instances of a model."""
        return sum(self.in_flight(each.instance) for each in self.residency.residents if each.model == model)

    def queues(self, models: Iterable[str] | None = None) -> dict[str, tuple[QueuedDemand | None, float | None]]:
        """Return by model its queue, if any, and its service rate in requests per second, if known.

        For `models`, or for the models with queued requests.
        """
        with self._lock:
            now, waiting = self._clock(), self._machine.waiting_by_model()
            return {m: (waiting.get(m), self._machine.rate(m, now)) for m in (waiting if models is None else models)}

    def queue_position(self, pending_request: PendingRequest) -> tuple[int | None, float | None]:
        """Return the position in the model's queue (1 is next) and the estimated wait in seconds.

        None if not queued, or unknown.
        """
        with self._lock:
            return self._queue_position(pending_request, self._clock())

    def _queue_position(self, pending_request: PendingRequest, now: float) -> tuple[int | None, float | None]:
        return self._machine.position(pending_request.request), self._machine.estimate(pending_request.request, now)

    @property
    def residency(self) -> Residency:
        """Return the residency that this router knows."""
        return self._machine.residency

    # Commands ---------------------------------------------------------------------------------------------------------

    def _step(self, stimulus: AdmissionStimulus) -> None:
        with self._lock:
            urgent = self._carry_out(self._machine.step(stimulus))
        if urgent is not None:
            self._on_demand(urgent)

    def _carry_out(self, commands: list[AdmissionCommand]) -> bool | None:
        """Carry out the machine's commands, under the lock.

        Return whether demand changed, and how urgent that is.
        """
        urgent: bool | None = None
        for command in commands:
            if isinstance(command, Dispatch):
                pending_request = self._pending_requests[command.request]
                pending_request.address = command.address
                pending_request.dispatched = self._clock()
                self._wake(pending_request)
            elif isinstance(command, ReportDemand):
                urgent = command.urgent or bool(urgent)
            elif isinstance(command, Queued):
                pending_request = self._pending_requests[command.request]
                pending_request.queued = True
                try:
                    pending_request.wake = _new_wake()
                except OSError as error:  # the other commands are carried out all the same, and `submit` ends this one
                    message = f"the request cannot be queued: {error.strerror}"
                    pending_request.error = Unavailable(message, code="overloaded", retry_after=1.0)
            elif isinstance(command, Reject):
                pending_request = self._pending_requests[command.request]
                pending_request.error = command.error(
                    command.message, code=command.code, retry_after=command.retry_after
                )
                self._wake(pending_request)
            elif isinstance(command, AbortRequest) and command.request in self._pending_requests:
                self._pending_requests[command.request].abort(
                    Unavailable(command.message, code="model_stopped", retry_after=1.0)
                )
        return urgent

    def _update_empty(self) -> None:
        if self._closed and not self._pending_requests:
            self._empty.set()

    def _wake(self, pending_request: PendingRequest) -> None:
        if pending_request.wake is not None:
            os.eventfd_write(pending_request.wake, 1)


def _new_wake() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
