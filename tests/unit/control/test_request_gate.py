"""The request gate: threads wait for dispatch, their client or a timeout, and leave nothing behind."""

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
    """What the gate said of demand."""


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def gate(told: Told) -> RequestGate:
    gate = RequestGate("router", lambda: 100.0, told.append)
    gate.apply_limits(LimitsChanged(100.0, {"a": Limits(), "b": Limits()}, 2))
    told.clear()
    return gate


def ready(epoch: int, model: str = "a", state: InstanceState = InstanceState.READY) -> Residency:
    return Residency(epoch, (Resident(model, f"{model}@1", state, 1, 0.0, "http://127.0.0.1:1"),))


def waits(gate: RequestGate, pending_request: PendingRequest, client: FakeClient) -> threading.Thread:
    thread = threading.Thread(target=gate.wait, args=(pending_request, client))
    thread.start()
    return thread


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_one_that_need_not_wait_costs_no_descriptor(gate: RequestGate) -> None:
    gate.apply_residency(ready(1))
    before = open_files()
    pending_request = gate.submit("a")
    assert (pending_request.address, pending_request.queued, open_files()) == ("http://127.0.0.1:1", False, before)
    assert gate.in_flight("a@1") == gate.in_flight() == 1
    gate.finish(pending_request)
    assert gate.in_flight() == 0


def test_one_that_waits_is_woken_by_its_turn(gate: RequestGate, client: FakeClient, told: Told) -> None:
    before = open_files()
    pending_request = gate.submit("a")
    assert (pending_request.queued, told, gate.waiting("a"), gate.queue_position(pending_request)) == (
        True,
        [True],
        1,
        (1, None),
    )
    thread = waits(gate, pending_request, client)
    gate.apply_residency(ready(1))
    thread.join(5)
    assert (thread.is_alive(), pending_request.dispatched) == (False, 100.0)
    gate.finish(pending_request)
    gate.finish(pending_request)
    assert (gate.waiting(), gate.in_flight(), open_files()) == (0, 0, before)


def test_one_that_is_held_knows_its_place_and_how_long_it_looks(client: FakeClient) -> None:
    now = 100.0
    gate = RequestGate("router", lambda: now, lambda _: None)
    gate.apply_limits(LimitsChanged(now, {"a": Limits(concurrency=1)}, 100))
    gate.apply_residency(ready(1))
    pending_requests = [gate.submit("a", tenant=f"key-{number}") for number in range(12)]
    assert (pending_requests[0].position, pending_requests[3].position, pending_requests[3].estimate) == (
        None,
        3,
        None,
    ), "nothing was measured yet"
    for pending_request in pending_requests[:11]:
        now += 2.0
        gate.finish(pending_request)
    late = [gate.submit("a"), gate.submit("a")]
    assert (late[1].position, late[1].estimate) == (2, pytest.approx(4.0, rel=0.05))
    now += 1.0
    gate.finish(pending_requests[11])
    assert gate.queue_position(late[0]) == (None, None)
    assert gate.queue_position(late[1]) == (1, pytest.approx(2.0, rel=0.1))
    assert gate.queues(["a", "b"]) == {"a": (QueuedDemand(1, 122.0), pytest.approx(0.5, rel=0.1)), "b": (None, None)}
    with pytest.raises(Unavailable) as refused:
        gate.submit("a", timeout=0.0)
    assert refused.value.code == "deadline_unreachable"


def test_a_time_limit_ends_the_wait_and_expiry_the_request(gate: RequestGate, client: FakeClient) -> None:
    pending_request = gate.submit("a")
    assert gate.wait(pending_request, client, 0.0) is False
    gate.expire(pending_request)
    with pytest.raises(Unavailable, match="did not become available"):
        gate.wait(pending_request, client)
    assert gate.waiting() == 0


def test_a_client_that_leaves_is_noticed_and_its_demand_goes(gate: RequestGate, client: FakeClient, told: Told) -> None:
    pending_request = gate.submit("a")
    client.there.close()
    with pytest.raises(ClientDisconnectedError):
        gate.wait(pending_request, client)
    gate.finish(pending_request)
    assert (gate.waiting(), gate.demand().waiting, told[-1]) == (0, {}, True)


def test_bytes_that_come_ahead_are_no_departure(gate: RequestGate, client: FakeClient) -> None:
    client.early = True
    pending_request = gate.submit("a")
    client.there.sendall(b"GET / HTTP/1.1")
    assert gate.wait(pending_request, client, 0.01) is False, "and it does not spin over them"
    gate.apply_residency(ready(1))
    assert gate.wait(pending_request, client) is True


def test_a_full_queue_is_said_at_once(gate: RequestGate) -> None:
    pending_requests = [gate.submit("a"), gate.submit("b")]
    with pytest.raises(QueueFull):
        gate.submit("a")
    assert gate.queues() == {"a": (QueuedDemand(1, 100.0), None), "b": (QueuedDemand(1, 100.0), None)}
    for pending_request in pending_requests:
        gate.finish(pending_request)


@pytest.mark.parametrize("late", [False, True])
def test_one_whose_engine_is_stopped_under_it_is_told_whenever_it_says_how(gate: RequestGate, late: bool) -> None:
    gate.apply_residency(ready(1))
    pending_request = gate.submit("a")
    errors: list[object] = []
    if not late:
        pending_request.on_abort(errors.append)
    gate.apply_residency(ready(2, state=InstanceState.RELEASING))
    if late:
        pending_request.on_abort(errors.append)
    assert [type(error) for error in errors] == [Unavailable]


def test_a_closed_gate_sends_away_what_waits_and_is_empty_when_the_last_has_ended(
    gate: RequestGate, client: FakeClient
) -> None:
    gate.apply_residency(ready(1))
    served, held = gate.submit("a"), gate.submit("b")
    gate.close()
    with pytest.raises(Unavailable, match="shutting down"):
        gate.wait(held, client)
    gate.finish(held)
    assert gate.wait_empty(0.0) is False
    with pytest.raises(Unavailable):
        gate.submit("a")
    gate.finish(served)
    assert gate.wait_empty(0.0) is True


def test_one_for_which_there_is_no_descriptor_to_wait_with_is_refused_and_leaves_nothing(
    gate: RequestGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "eventfd", none)
    with pytest.raises(Unavailable, match="Too many open files") as refused:
        gate.submit("a")
    assert (refused.value.code, refused.value.retry_after) == ("overloaded", 1.0)
    assert (gate.waiting(), gate.in_flight()) == (0, 0)
    gate.close()
    assert gate.wait_empty(0), "the end does not wait for it either"


@pytest.mark.parametrize("resident", [True, False])
def test_whatever_fails_after_it_was_taken_in_it_is_neither_waiting_nor_in_flight(resident: bool) -> None:
    short = False

    def on_demand(_: bool) -> None:
        if short:
            raise MemoryError

    gate = RequestGate("router", lambda: 100.0, on_demand)
    gate.apply_limits(LimitsChanged(100.0, {"a": Limits()}, 2))
    if resident:
        gate.apply_residency(ready(1))
    before, short = open_files(), True
    with pytest.raises(MemoryError):
        gate.submit("a")
    assert (gate.waiting(), gate.in_flight(), open_files()) == (0, 0, before)
