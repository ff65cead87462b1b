"""The desk: threads that wait for their turn, for their client, for their time; each leaves nothing behind."""

import errno
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from hotseat.control.request_gate import ClientDisconnectedError, PendingRequest, RequestGate
from hotseat.core.admission.messages import Limits, LimitsChanged
from hotseat.core.errors import QueueFull, Unavailable
from hotseat.core.messages import InstanceState, QueuedDemand, Residency, Resident


class FakeClient:
    """A client on a socket pair."""

    def __init__(self) -> None:
        self.here, self.there = socket.socketpair()
        self.early = False  # its news are bytes that it sent ahead

    def fileno(self) -> int:
        return self.here.fileno()

    def departed(self) -> bool:
        return not self.early


@pytest.fixture
def client() -> Iterator[FakeClient]:
    client = FakeClient()
    yield client
    client.here.close()
    client.there.close()


class Told(list[bool]):
    """What the desk said of demand."""


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def desk(told: Told) -> RequestGate:
    desk = RequestGate("router", lambda: 100.0, told.append)
    desk.change(LimitsChanged(100.0, {"a": Limits(), "b": Limits()}, 2))
    told.clear()
    return desk


def ready(epoch: int, model: str = "a", state: InstanceState = InstanceState.READY) -> Residency:
    return Residency(epoch, (Resident(model, f"{model}@1", state, 1, 0.0, "http://127.0.0.1:1"),))


def waits(desk: RequestGate, ticket: PendingRequest, client: FakeClient) -> threading.Thread:
    thread = threading.Thread(target=desk.wait, args=(ticket, client))
    thread.start()
    return thread


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_one_that_need_not_wait_costs_no_descriptor(desk: RequestGate) -> None:
    desk.see(ready(1))
    before = open_files()
    ticket = desk.submit("a")
    assert (ticket.address, ticket.held, open_files()) == ("http://127.0.0.1:1", False, before)
    assert desk.in_flight("a@1") == desk.in_flight() == 1
    desk.finish(ticket)
    assert desk.in_flight() == 0


def test_one_that_waits_is_woken_by_its_turn(desk: RequestGate, client: FakeClient, told: Told) -> None:
    before = open_files()
    ticket = desk.submit("a")
    assert (ticket.held, told, desk.waiting("a"), desk.standing(ticket)) == (True, [True], 1, (1, None))
    thread = waits(desk, ticket, client)
    desk.see(ready(1))
    thread.join(5)
    assert (thread.is_alive(), ticket.dispatched) == (False, 100.0)
    desk.finish(ticket)
    desk.finish(ticket)
    assert (desk.waiting(), desk.in_flight(), open_files()) == (0, 0, before)


def test_one_that_is_held_knows_its_place_and_how_long_it_looks(client: FakeClient) -> None:
    now = 100.0
    desk = RequestGate("router", lambda: now, lambda _: None)
    desk.change(LimitsChanged(now, {"a": Limits(concurrency=1)}, 100))
    desk.see(ready(1))
    tickets = [desk.submit("a", tenant=f"key-{number}") for number in range(12)]
    assert (tickets[0].position, tickets[3].position, tickets[3].estimate) == (None, 3, None), (
        "nothing was measured yet"
    )
    for ticket in tickets[:11]:
        now += 2.0
        desk.finish(ticket)
    late = [desk.submit("a"), desk.submit("a")]
    assert (late[1].position, late[1].estimate) == (2, pytest.approx(4.0, rel=0.05))
    now += 1.0
    desk.finish(tickets[11])
    assert desk.standing(late[0]) == (None, None)
    assert desk.standing(late[1]) == (1, pytest.approx(2.0, rel=0.1))
    assert desk.lines(["a", "b"]) == {"a": (QueuedDemand(1, 122.0), pytest.approx(0.5, rel=0.1)), "b": (None, None)}
    with pytest.raises(Unavailable) as refused:
        desk.submit("a", timeout=0.0)
    assert refused.value.code == "deadline_unreachable"


def test_a_time_limit_ends_the_wait_and_expiry_the_request(desk: RequestGate, client: FakeClient) -> None:
    ticket = desk.submit("a")
    assert desk.wait(ticket, client, 0.0) is False
    desk.expire(ticket)
    with pytest.raises(Unavailable, match="did not become available"):
        desk.wait(ticket, client)
    assert desk.waiting() == 0


def test_a_client_that_leaves_is_noticed_and_its_demand_goes(desk: RequestGate, client: FakeClient, told: Told) -> None:
    ticket = desk.submit("a")
    client.there.close()
    with pytest.raises(ClientDisconnectedError):
        desk.wait(ticket, client)
    desk.finish(ticket)
    assert (desk.waiting(), desk.demand().waiting, told[-1]) == (0, {}, True)


def test_bytes_that_come_ahead_are_no_departure(desk: RequestGate, client: FakeClient) -> None:
    client.early = True
    ticket = desk.submit("a")
    client.there.sendall(b"GET / HTTP/1.1")
    assert desk.wait(ticket, client, 0.01) is False, "and it does not spin over them"
    desk.see(ready(1))
    assert desk.wait(ticket, client) is True


def test_a_full_queue_is_said_at_once(desk: RequestGate) -> None:
    tickets = [desk.submit("a"), desk.submit("b")]
    with pytest.raises(QueueFull):
        desk.submit("a")
    assert desk.lines() == {"a": (QueuedDemand(1, 100.0), None), "b": (QueuedDemand(1, 100.0), None)}
    for ticket in tickets:
        desk.finish(ticket)


@pytest.mark.parametrize("late", [False, True])
def test_one_whose_engine_is_stopped_under_it_is_told_whenever_it_says_how(desk: RequestGate, late: bool) -> None:
    desk.see(ready(1))
    ticket = desk.submit("a")
    errors: list[object] = []
    if not late:
        ticket.on_cut(errors.append)
    desk.see(ready(2, state=InstanceState.RELEASING))
    if late:
        ticket.on_cut(errors.append)
    assert [type(error) for error in errors] == [Unavailable]


def test_a_closed_desk_sends_away_what_waits_and_is_empty_when_the_last_has_ended(
    desk: RequestGate, client: FakeClient
) -> None:
    desk.see(ready(1))
    served, held = desk.submit("a"), desk.submit("b")
    desk.close()
    with pytest.raises(Unavailable, match="shutting down"):
        desk.wait(held, client)
    desk.finish(held)
    assert desk.wait_empty(0.0) is False
    with pytest.raises(Unavailable):
        desk.submit("a")
    desk.finish(served)
    assert desk.wait_empty(0.0) is True


def test_one_for_which_there_is_no_descriptor_to_wait_with_is_refused_and_leaves_nothing(
    desk: RequestGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "eventfd", none)
    with pytest.raises(Unavailable, match="Too many open files") as refused:
        desk.submit("a")
    assert (refused.value.code, refused.value.retry_after) == ("overloaded", 1.0)
    assert (desk.waiting(), desk.in_flight()) == (0, 0)
    desk.close()
    assert desk.wait_empty(0), "the end does not wait for it either"


@pytest.mark.parametrize("resident", [True, False])
def test_whatever_fails_after_it_was_taken_in_it_is_neither_waiting_nor_in_flight(resident: bool) -> None:
    short = False

    def on_demand(_: bool) -> None:
        if short:
            raise MemoryError

    desk = RequestGate("router", lambda: 100.0, on_demand)
    desk.change(LimitsChanged(100.0, {"a": Limits()}, 2))
    if resident:
        desk.see(ready(1))
    before, short = open_files(), True
    with pytest.raises(MemoryError):
        desk.submit("a")
    assert (desk.waiting(), desk.in_flight(), open_files()) == (0, 0, before)
