"""The request gate: requests wait for dispatch, a refusal or a timeout, and leave nothing behind."""

import asyncio
import threading

import pytest

from hotseat.control.owner import LoopOwner
from hotseat.control.request_gate import PendingRequest, RequestGate
from hotseat.core.admission.messages import Limits, LimitsChanged
from hotseat.core.errors import QueueFull, Unavailable
from hotseat.core.messages import InstanceState, QueuedDemand, Residency, Resident


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


def settles(pending_request: PendingRequest) -> list[PendingRequest]:
    """Note when the request is dispatched or refused."""
    settled: list[PendingRequest] = []
    pending_request.on_settled(lambda: settled.append(pending_request))
    return settled


def test_one_that_need_not_wait_is_dispatched_at_once(gate: RequestGate) -> None:
    gate.apply_residency(ready(1))
    pending_request = gate.submit("a")
    assert (pending_request.address, pending_request.queued) == ("http://127.0.0.1:1", False)
    assert gate.in_flight("a@1") == gate.in_flight() == 1
    gate.finish(pending_request)
    assert gate.in_flight() == 0


def test_one_that_waits_is_told_of_its_turn(gate: RequestGate, told: Told) -> None:
    pending_request = gate.submit("a")
    assert (pending_request.queued, told, gate.waiting("a"), gate.queue_position(pending_request)) == (
        True,
        [True],
        1,
        (1, None),
    )
    settled = settles(pending_request)
    gate.apply_residency(ready(1))
    assert (settled, pending_request.dispatched) == ([pending_request], 100.0)
    gate.apply_residency(ready(2))
    gate.finish(pending_request)
    gate.finish(pending_request)
    assert (gate.waiting(), gate.in_flight(), len(settled)) == (0, 0, 1)


def test_one_that_is_held_knows_its_place_and_how_long_it_looks() -> None:
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


def test_a_time_limit_ends_the_wait(gate: RequestGate) -> None:
    pending_request = gate.submit("a")
    settled = settles(pending_request)
    gate.expire(pending_request)
    assert settled == [pending_request]
    with pytest.raises(Unavailable, match="did not become available"):
        raise pending_request.error
    assert gate.waiting() == 0


def test_one_whose_client_leaves_takes_its_demand_along(gate: RequestGate, told: Told) -> None:
    pending_request = gate.submit("a")
    gate.finish(pending_request)
    assert (gate.waiting(), gate.demand().waiting, told[-1]) == (0, {}, True)


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


def test_what_ends_when_its_engine_is_stopped_may_submit_again(gate: RequestGate) -> None:
    """The callback runs after the step, with the machine at rest."""
    gate.apply_residency(ready(1))
    first, second = gate.submit("a"), gate.submit("a")
    again: list[PendingRequest] = []

    def resubmit(_: object) -> None:
        gate.finish(first)
        again.append(gate.submit("a"))

    first.on_abort(resubmit)
    gate.apply_residency(ready(2, state=InstanceState.RELEASING))
    assert [each.queued for each in again] == [True]
    for each in (*again, second):
        gate.finish(each)
    assert (gate.waiting(), gate.in_flight()) == (0, 0)


def test_a_closed_gate_sends_away_what_waits_and_is_empty_when_the_last_has_ended(gate: RequestGate) -> None:
    gate.apply_residency(ready(1))
    served, held = gate.submit("a"), gate.submit("b")
    settled = settles(held)
    gate.close()
    assert settled == [held]
    with pytest.raises(Unavailable, match="shutting down"):
        raise held.error
    gate.finish(held)
    assert gate.wait_empty(0.0) is False
    with pytest.raises(Unavailable):
        gate.submit("a")
    gate.finish(served)
    assert gate.wait_empty(0.0) is True


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
    short = True
    with pytest.raises(MemoryError):
        gate.submit("a")
    assert (gate.waiting(), gate.in_flight()) == (0, 0)


def test_other_threads_drive_and_read_it_on_the_loop_that_owns_it() -> None:
    owner, loop = LoopOwner(), asyncio.new_event_loop()
    gate = RequestGate("router", lambda: 100.0, lambda _: None, owner)
    gate.apply_limits(LimitsChanged(100.0, {"a": Limits()}, 100))  # before the loop runs, in this thread
    threads: list[threading.Thread] = []
    pending_requests: list[PendingRequest] = []
    seen_on: set[int] = set()

    async def serve() -> None:
        owner.begin(loop)
        for _ in range(50):
            pending_requests.append(gate.submit("a"))
            pending_requests[-1].on_settled(lambda: seen_on.add(threading.get_ident()))
        threads.extend(threading.Thread(target=gate.apply_residency, args=(ready(n),)) for n in range(1, 5))
        threads.extend(threading.Thread(target=gate.demand) for _ in range(5))
        for thread in threads:
            thread.start()
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        loop_thread.append(threading.get_ident())
        owner.end()

    loop_thread: list[int] = []
    loop.run_until_complete(serve())
    loop.close()
    assert seen_on == set(loop_thread)
    assert gate.in_flight() == 50, "it can be read after the loop has ended, too"
    for each in pending_requests:
        gate.finish(each)
