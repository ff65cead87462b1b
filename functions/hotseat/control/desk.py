"""The desk: where requests of one Workspace wait. The shell around the admission machine.

Threads bring requests here; one lock guards the machine, and each step under it takes microseconds. A request that must wait
gets a file descriptor to be woken by, so that its thread can watch its client and its turn in one poll().
"""

import itertools
import os
import select
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from hotseat.core.admission import Admission
from hotseat.core.errors import HotseatError, Unavailable
from hotseat.core.intake import (
    Arrive,
    Close,
    Command,
    Cut,
    Dispatch,
    Divert,
    Expire,
    Finish,
    Hold,
    Leave,
    Limits,
    LimitsChanged,
    Reject,
    ReportDemand,
    ResidencySeen,
    Stimulus,
    Want,
)
from hotseat.core.messages import Demand, Residency, Waiting

LONGEST_POLL = 3600.0  # seconds; poll() takes no more than a few weeks, and a client may ask for more

Clock = Callable[[], float]


class ClientGone(Exception):
    """The client went away while its request waited."""


class Client(Protocol):
    """The connection of a request that waits."""

    def fileno(self) -> int:
        """Descriptor to poll, or -1 if there is none to watch."""

    def departed(self) -> bool:
        """Tell whether the client is gone, asked when the descriptor has news. Data that it sent early is no departure."""


class Ticket:
    """One request at the desk, from `submit` until `finish`; written by the desk only."""

    __slots__ = (
        "_cancel",
        "_cut",
        "address",
        "dispatched",
        "error",
        "estimate",
        "held",
        "position",
        "request",
        "wake",
    )

    def __init__(self, request: int) -> None:
        self.request = request
        self.dispatched: float | None = None
        self.held = False  # it had to wait
        self.position: int | None = None  # its place in the queue when it came
        self.estimate: float | None = None  # seconds until its turn, as it looked then
        self.address = ""
        self.error: HotseatError | None = None
        self.wake: int | None = None  # descriptor that its thread polls while it waits
        self._cut: HotseatError | None = None
        self._cancel: Callable[[HotseatError], None] | None = None

    def on_cut(self, cancel: Callable[[HotseatError], None]) -> None:
        """Say how to end it, should its model be stopped under it. Called at once if that has happened already."""
        self._cancel = cancel
        if self._cut is not None:
            cancel(self._cut)

    def cut(self, error: HotseatError) -> None:
        """End it."""
        self._cut = error
        if self._cancel is not None:
            self._cancel(error)


class Desk:
    """Requests of one Workspace at this router. Thread-safe; `on_demand(urgent)` is called whenever demand has changed."""

    def __init__(self, router: str, clock: Clock, on_demand: Callable[[bool], None]) -> None:
        self._machine = Admission(router)
        self._clock = clock
        self._on_demand = on_demand
        self._lock = threading.Lock()
        self._tickets: dict[int, Ticket] = {}
        self._known: Mapping[str, Limits] = {}  # what the documents say of each Model
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
    ) -> Ticket:
        """Bring a request. It is dispatched (`dispatched` is set) or it has to `wait`. Raises what a client shall be told.

        One that shall be answered `at_once` never waits: NotResident. `timeout`: seconds after which its client has no use for
        an answer; one that cannot be in time is refused at once. `size`: bytes of its body.
        `since`: when it began to wait, where it comes from another desk.
        """
        now = self._clock()
        deadline = None if timeout is None else now + timeout
        ticket = Ticket(next(self._ids))
        arrival = Arrive(now, ticket.request, model, priority, at_once, tenant, deadline, size, since)
        try:
            self._bring(ticket, arrival)
        except BaseException:  # whatever it is: nobody has the ticket, so nobody else would end it
            self.finish(ticket)
            raise
        return ticket

    def _bring(self, ticket: Ticket, arrival: Arrive) -> None:
        with self._lock:
            self._tickets[ticket.request] = ticket
            urgent = self._carry_out(self._machine.step(arrival))
            if ticket.held:
                ticket.position, ticket.estimate = self._standing(ticket, arrival.now)
        if urgent is not None:
            self._on_demand(urgent)
        if ticket.error is not None:
            raise ticket.error

    def wait(self, ticket: Ticket, client: Client, timeout: float | None = None) -> bool:
        """Wait for its turn: True once dispatched, False after `timeout` seconds. Raises a HotseatError or ClientGone."""
        if ticket.dispatched is None and ticket.error is None:
            self._poll(ticket, client, timeout)
        if ticket.error is not None:
            raise ticket.error
        return ticket.dispatched is not None

    def _poll(self, ticket: Ticket, client: Client, timeout: float | None) -> None:
        deadline = None if timeout is None else self._clock() + timeout
        poller = select.poll()
        wake = ticket.wake
        assert wake is not None  # noqa: S101 — a held ticket has one until `finish`
        poller.register(wake, select.POLLIN)
        if client.fileno() >= 0:
            poller.register(client.fileno(), select.POLLIN | select.POLLRDHUP)
        while ticket.dispatched is None and ticket.error is None:
            rest = None if deadline is None else min(max(0.0, deadline - self._clock()), LONGEST_POLL) * 1000
            events = poller.poll(rest)
            if not events:
                return
            if any(fd != wake for fd, _ in events):
                if client.departed():
                    raise ClientGone
                poller.modify(
                    client.fileno(), select.POLLRDHUP
                )  # it sent more than its request: only its leaving matters now

    def expire(self, ticket: Ticket) -> None:
        """Say that its client does not want to wait any longer; `wait` raises then, unless it was dispatched just now."""
        self._step(Expire(self._clock(), ticket.request))

    def divert(self, ticket: Ticket) -> bool:
        """End its wait, as another model answers it; its own stays wanted. False: it was dispatched just now."""
        self._step(Divert(self._clock(), ticket.request))
        if ticket.dispatched is not None:
            return False
        self.finish(ticket)
        return True

    def want(self, model: str) -> None:
        """Have a model brought that no request waits for."""
        self._step(Want(self._clock(), model))

    def finish(self, ticket: Ticket) -> None:
        """End it, however it went: relayed, failed, rejected, its client gone. Once is enough, twice does no harm."""
        with self._lock:
            if self._tickets.pop(ticket.request, None) is None:
                return
            stimulus = Leave if ticket.dispatched is None else Finish
            urgent = self._carry_out(self._machine.step(stimulus(self._clock(), ticket.request)))
            if ticket.wake is not None:
                os.close(ticket.wake)
                ticket.wake = None
            self._note_empty()
        if urgent is not None:
            self._on_demand(urgent)

    # The rest of the world --------------------------------------------------------------------------------------------

    def see(self, residency: Residency) -> None:
        """Take in who holds the accelerator now."""
        self._step(ResidencySeen(self._clock(), residency))

    def change(self, limits: LimitsChanged) -> None:
        """Take in the documents."""
        self._known = limits.models
        self._step(limits)

    def widen(self, limits: LimitsChanged) -> None:
        """Take in the documents but for the Models that `change` will remove: call this before names lead elsewhere.

        So a request finds its Model at every moment of a change, by its old place or by its new one.
        """
        self._step(replace(limits, models={**self._known, **limits.models}))

    def close(self) -> None:
        """Send away all that waits, take nothing more."""
        self._step(Close(self._clock()))
        with self._lock:
            self._closed = True
            self._note_empty()

    def wait_empty(self, timeout: float) -> bool:
        """After `close`: wait until every request has ended; False after `timeout` seconds."""
        return self._empty.wait(timeout)

    def demand(self) -> Demand:
        """Take a snapshot for the switcher."""
        with self._lock:
            return self._machine.demand()

    def waiting(self, model: str | None = None) -> int:
        """Count requests that wait."""
        with self._lock:
            return self._machine.waiting(model)

    def waiting_bytes(self) -> int:
        """Count the bytes of the bodies of those that wait."""
        with self._lock:
            return self._machine.waiting_bytes()

    def in_flight(self, holder: str | None = None) -> int:
        """Count requests that a holder, or all of them, are answering."""
        with self._lock:
            if holder is not None:
                return self._machine.in_flight(holder)
            return sum(ticket.dispatched is not None for ticket in self._tickets.values())

    def lines(self, models: Iterable[str] | None = None) -> dict[str, tuple[Waiting | None, float | None]]:
        """By model: what waits, if anything does, and how many a second are served while somebody waits, if that is known.

        Of these models, else of those that somebody waits for.
        """
        with self._lock:
            now, waiting = self._clock(), self._machine.waiting_by_model()
            return {m: (waiting.get(m), self._machine.rate(m, now)) for m in (waiting if models is None else models)}

    def standing(self, ticket: Ticket) -> tuple[int | None, float | None]:
        """Place in its model's queue, 1 for the next, and about how many seconds it still waits; None: it does not, or nobody knows."""
        with self._lock:
            return self._standing(ticket, self._clock())

    def _standing(self, ticket: Ticket, now: float) -> tuple[int | None, float | None]:
        return self._machine.position(ticket.request), self._machine.estimate(ticket.request, now)

    @property
    def residency(self) -> Residency:
        """What it knows of who holds the accelerator."""
        return self._machine.residency

    # Commands ---------------------------------------------------------------------------------------------------------

    def _step(self, stimulus: Stimulus) -> None:
        with self._lock:
            urgent = self._carry_out(self._machine.step(stimulus))
        if urgent is not None:
            self._on_demand(urgent)

    def _carry_out(self, commands: list[Command]) -> bool | None:
        """Do what the machine says, under the lock. Returns whether demand changed, and how urgent that is."""
        urgent: bool | None = None
        for command in commands:
            if isinstance(command, Dispatch):
                ticket = self._tickets[command.request]
                ticket.address = command.address
                ticket.dispatched = self._clock()
                self._wake(ticket)
            elif isinstance(command, ReportDemand):
                urgent = command.urgent or bool(urgent)
            elif isinstance(command, Hold):
                ticket = self._tickets[command.request]
                ticket.held = True
                try:
                    ticket.wake = _new_wake()
                except OSError as error:  # the other commands are carried out all the same, and `submit` ends this one
                    message = f"the request cannot be queued: {error.strerror}; try again later"
                    ticket.error = Unavailable(message, code="overloaded", retry_after=1.0)
            elif isinstance(command, Reject):
                ticket = self._tickets[command.request]
                ticket.error = command.error(command.message, code=command.code, retry_after=command.retry_after)
                self._wake(ticket)
            elif isinstance(command, Cut) and command.request in self._tickets:
                self._tickets[command.request].cut(Unavailable(command.message, code="model_stopped", retry_after=1.0))
        return urgent

    def _note_empty(self) -> None:
        if self._closed and not self._tickets:
            self._empty.set()

    def _wake(self, ticket: Ticket) -> None:
        if ticket.wake is not None:
            os.eventfd_write(ticket.wake, 1)


def _new_wake() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
