"""The course of one request: from the Model that it names to the one that answers it, which may be a fallback."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from hotseat.control.desk import Ticket
from hotseat.control.register import Place, Register, Room
from hotseat.core.documents import Capability
from hotseat.core.errors import BadRequest, HotseatError, NotResident, UnknownModel
from hotseat.core.fallback import OUT, Reason, does, due, look_again, refused
from hotseat.core.seats import ModelStatus
from hotseat.gateway.asking import Asking

HEADER = "X-Hotseat-Fallback"
ENDS_WITHIN = 1.0  # seconds in which the end of an engine that takes no connections is heard of


@dataclass(frozen=True, slots=True)
class Detour:
    """Why another Model answers than the one that was asked for."""

    wanted: str
    reason: Reason


class Course:
    """Where one request stands, whose body has `size` bytes. `asked` is the name of its Model to whoever sent it there.

    Whatever happens, `finish` ends it.
    """

    def __init__(self, house: Register, place: Place, asked: str | None, capability: Capability, size: int = 0) -> None:
        """BadRequest: the Model does not do what is asked, and none does it instead."""
        self.place, self.asked = place, asked
        self.detour: Detour | None = None
        self.began = time.monotonic()
        self._house = house
        self._capability, self._size = capability, size
        self.asking = Asking()
        self._passed = {place.model.name}  # Models that it will not come back to
        self._ticket: Ticket | None = None
        self._held = False
        self._go_by_kind()

    @property
    def ticket(self) -> Ticket:
        """Its ticket at the desk of its place, after `submit`."""
        assert self._ticket is not None  # noqa: S101
        return self._ticket

    @property
    def waited(self) -> float | None:
        """Seconds from its arrival to its dispatch, wherever it waited; None if it did not have to, or was never dispatched."""
        return self.dispatched - self.began if self._held and self.dispatched is not None else None

    @property
    def dispatched(self) -> float | None:
        """When an engine got it, on the monotonic clock; None if none did."""
        return None if self._ticket is None else self._ticket.dispatched

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Headers for the client: who answers, and why another than was asked for."""
        name = self.place.model.name
        own = (("X-Hotseat-Model", name), *self.queue_headers)
        if self.detour is None:
            return own
        text = f"model={self.detour.wanted}, fallback={name}, reason={self.detour.reason.lower()}"
        return (*own, (HEADER, text))

    @property
    def queue_headers(self) -> tuple[tuple[str, str], ...]:
        """Headers for the client where it was held: its place in the queue when it came, and the seconds that it looked then."""
        ticket = self._ticket
        if ticket is None:
            return ()
        place = () if ticket.position is None else (("X-Queue-Position", str(ticket.position)),)
        wait = () if ticket.estimate is None else (("X-Queue-Estimate", f"{ticket.estimate:.1f}"),)
        return (*place, *wait)

    def submit(self, asking: Asking | None = None) -> None:
        """Bring it to the desk: it is dispatched then, or waits. Raises what the client shall be told.

        `asking`: what its headers say of how it may wait.
        Where its wait is known to be too long it does not begin: whoever waits has a claim that a wish has not (`core.wants`).
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
        """See whether it has waited long enough and can be answered elsewhere; its ticket is dispatched then.

        `limit` is the client's own, in seconds. Returns seconds until the next look; None: none is needed.
        """
        fallback = self.place.model.spec.fallback
        if fallback is None or self.ticket.dispatched is not None:
            return None
        reason = self._due(limit)
        if reason is not None:
            if self._answered_at_once(reason):
                return None
            for place, _ in self._others():
                if _needs_no_seat(place):  # it may answer before the wanted one does: whoever is first
                    place.room.desk.want(place.model.name)
                    break
        return look_again(fallback, time.monotonic() - self.began, limit)

    def give_way(self, error: HotseatError) -> bool:
        """Go elsewhere after a refusal: where it can be answered at once, else where it can wait without taking a seat.

        One whose Model has left the Workspace follows it. Raises what the client shall be told where it may not wait there.
        """
        if isinstance(error, UnknownModel):
            return self._follow()
        reason = refused(self.place.model.spec.fallback, error)
        if reason is None:
            return False
        if self._answered_at_once(reason):
            return True
        seatless = ((place, asked) for place, asked in self._others() if _needs_no_seat(place))
        return any(self._moved(place, asked, reason, at_once=False) for place, asked in seatless)

    def wait_again(self) -> bool:
        """Bring it back where its engine has ended and has seen nothing of it. Raises what the client shall be told."""
        if self.place.model.spec.url:
            return False  # a server that is not ours, of whose end nobody hears
        ended = threading.Event()
        self.ticket.on_cut(lambda _: ended.set())
        if not ended.wait(ENDS_WITHIN):
            return False
        self.finish()
        self._ticket = None
        self._stand(self._bring(self.place, since=self.began))
        return True

    def finish(self) -> None:
        """End it, however it went."""
        if self._ticket is not None:
            self.place.room.desk.finish(self._ticket)

    def _due(self, limit: float | None) -> Reason | None:
        model, room, now = self.place.model, self.place.room, time.monotonic()
        assert model.spec.fallback is not None  # noqa: S101
        status = room.status(model.name)
        others = (r for r in room.desk.residency.residents if r.model != model.name and r.seated)
        state = "loading" if status.state in OUT and not any(others) else status.state  # it will, this moment
        return due(model.spec.fallback, state, now - self.began, expected_in(room, status, now), limit)

    # Moving -----------------------------------------------------------------------------------------------------------

    def _go_by_kind(self) -> None:
        """Leave a Model that does not do what is asked for the first that states it; as if that had been asked for."""
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

    def _others(self) -> Iterator[tuple[Place, str]]:
        """Yield what the chain of fallbacks offers for this request, and the name that its document gives it."""
        passed = set(self._passed)
        fallback = self.place.model.spec.fallback
        while fallback is not None:
            try:
                place = self._house.find(fallback.model)
            except UnknownModel:  # a cluster takes documents one by one: it may come yet
                return
            if place.model.name in passed:
                return
            passed.add(place.model.name)
            if does(place.model.spec.capabilities, self._capability):
                yield place, fallback.model
            fallback = place.model.spec.fallback

    def _answered_at_once(self, reason: Reason) -> bool:
        return any(self._moved(place, asked, reason, at_once=True) for place, asked in self._others())

    def _moved(self, place: Place, asked: str, reason: Reason, *, at_once: bool) -> bool:
        """Take a place elsewhere, then leave the one that it has; True: it is in the hands of one of them."""
        try:
            ticket = self._bring(place, at_once=at_once)
        except HotseatError:
            return False
        old = self._ticket
        if old is not None and old.dispatched is None and not self.place.room.desk.divert(old):
            place.room.desk.finish(ticket)  # its turn has come this moment
            return True
        if old is None and reason in (Reason.LOADING, Reason.WAITING):
            self.place.room.desk.want(self.place.model.name)
        self.finish()
        self._arrive(place, asked, reason)
        self._stand(ticket)
        return True

    def _follow(self) -> bool:
        """Go where its name leads by the documents of now, and wait there as long as it would have here."""
        try:
            place = self._house.default() if self.asked is None else self._house.find(self.asked)
        except UnknownModel:
            return False
        if place is None:
            return False
        self.finish()
        self._ticket = None
        self.place = place
        self._passed.add(place.model.name)
        try:
            self._stand(self._bring(place, since=self.began))
        except UnknownModel:
            return False
        return True

    def _arrive(self, place: Place, asked: str, reason: Reason) -> None:
        self.detour = self.detour or Detour(self.place.model.name, reason)
        self.place, self.asked = place, asked
        self._passed.add(place.model.name)

    def _stand(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._held = self._held or ticket.held

    def _bring(self, place: Place, *, at_once: bool = False, since: float | None = None) -> Ticket:
        its, rest = self.asking, None
        if its.timeout is not None:
            rest = max(0.0, its.timeout - (time.monotonic() - self.began))
        desk, name = place.room.desk, place.model.name
        return desk.submit(
            name, its.priority, at_once=at_once, tenant=its.tenant, timeout=rest, size=self._size, since=since
        )


def expected_in(room: Room, status: ModelStatus, now: float) -> float | None:
    """Seconds until a model will be ready as likely as not: what is left of a load as long as its last; None: not known.

    What a wake takes is not known: the last time may have been a load. `core.outlook` has another answer to nearly this question:
    the least that it can take, half of what it did or less, as nobody may be refused by mistake. By that, whoever comes in the
    second half of a load would wait `fallback.after` in vain; being answered by the fallback too soon does less harm.
    """
    if status.state in ("ready", "parked", "waking"):
        return None
    last = next((s for s in reversed(room.switches()) if s.to == status.name and s.outcome == "completed"), None)
    load = None if last is None else last.phases().get("load")
    if load is None or status.state != "loading" or status.since is None:
        return load
    return max(0.0, load - (now - status.since))


def _needs_no_seat(place: Place) -> bool:
    """Whether it can be loaded beside anything; an external one is always there."""
    wanted = place.model.spec.resources
    return not wanted.gpus and not wanted.accelerator_memory
