"""Every transition of the admission machine, as stories: what it hears, and exactly what it says."""

import pytest

from hotseat.core.admission.machine import AdmissionMachine
from hotseat.core.admission.messages import (
    AbortRequest,
    ClientDisconnected,
    Dispatch,
    Limits,
    LimitsChanged,
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
from hotseat.core.errors import QueueFull, Unavailable, UnknownModel
from hotseat.core.messages import InstanceState, QueuedDemand, Refusal, Residency, Resident

READY, QUIESCING, DRAINING = InstanceState.READY, InstanceState.QUIESCING, InstanceState.DRAINING
LOADING, RELEASING, UNPROVEN = InstanceState.LOADING, InstanceState.RELEASING, InstanceState.UNPROVEN
AT_ONCE, LATER = ReportDemand(urgent=True), ReportDemand(urgent=False)


def resident(model: str, state: InstanceState = READY, *, of: int = 1, leaving: str | None = None) -> Resident:
    """The instance of a model that epoch `of` started."""
    address = None if state is LOADING else f"http://{model}{of}"
    return Resident(model, f"{model}@{of}", state, of, 0.0, address, leaving)


def seen(epoch: int, *residents: Resident, now: float = 0.0, refuse: dict[str, Refusal] | None = None) -> ResidencySeen:
    return ResidencySeen(now, Residency(epoch, residents, refuse or {}))


def to(request: int, model: str, of: int = 1) -> Dispatch:
    return Dispatch(request, f"{model}@{of}", f"http://{model}{of}")


def router(*, max_waiting: int = 100, **limits: Limits) -> AdmissionMachine:
    """A router that knows the models a and b, and has heard nothing of who is resident."""
    admission = AdmissionMachine("r")
    admission.step(LimitsChanged(0.0, {"a": Limits(), "b": Limits()} | limits, max_waiting))
    return admission


# Arriving -------------------------------------------------------------------------------------------------------------


def test_a_request_for_a_ready_model_is_dispatched_at_once() -> None:
    gate = router()
    assert gate.step(seen(1, resident("a"))) == [AT_ONCE]
    assert gate.step(RequestArrived(1.0, 1, "a")) == [to(1, "a"), LATER]
    assert gate.step(RequestArrived(1.1, 2, "a")) == [to(2, "a")]  # no edge: some were in flight already
    assert gate.in_flight("a@1") == 2
    assert gate.step(RequestFinished(2.0, 1)) == []
    assert gate.step(RequestFinished(2.1, 2)) == [LATER]
    assert gate.in_flight("a@1") == 0


def test_a_request_for_a_model_that_is_not_there_waits_and_the_first_one_is_told_at_once() -> None:
    gate = router()
    assert gate.step(RequestArrived(1.0, 1, "a")) == [Queued(1), AT_ONCE]
    assert gate.step(RequestArrived(2.0, 2, "a", priority=5)) == [Queued(2), LATER]
    assert gate.step(RequestArrived(3.0, 3, "b")) == [Queued(3), AT_ONCE]
    demand = gate.demand()
    assert demand.waiting == {"a": QueuedDemand(2, 1.0, 5), "b": QueuedDemand(1, 3.0, 0)}
    assert demand.requested == ("a", "b")
    assert (demand.router, demand.seq, demand.seen_epoch) == ("r", 1, -1)


def test_what_waited_is_dispatched_when_its_model_is_ready_in_order_of_arrival() -> None:
    gate = router()
    for request in (1, 2, 3):
        gate.step(RequestArrived(1.0, request, "a"))
    assert gate.step(seen(1, resident("a", LOADING))) == [AT_ONCE]
    assert gate.step(seen(2, resident("a"))) == [to(1, "a"), to(2, "a"), to(3, "a"), AT_ONCE]
    assert gate.waiting() == 0
    assert gate.demand().served == {"a@1": 3}


def test_higher_priority_goes_first_and_position_says_so() -> None:
    gate = router(a=Limits(concurrency=1))
    for request, priority in ((1, 0), (2, 5), (3, 0), (4, 5), (5, -1)):
        gate.step(RequestArrived(float(request), request, "a", priority))
    assert [gate.position(request) for request in (2, 4, 1, 3, 5)] == [1, 2, 3, 4, 5]
    assert gate.step(seen(1, resident("a"))) == [to(2, "a"), AT_ONCE]
    assert gate.position(2) is None
    assert [gate.step(RequestFinished(9.0, r))[0] for r in (2, 4, 1, 3)] == [to(r, "a") for r in (4, 1, 3, 5)]


def test_an_unknown_model_is_refused_and_wakes_nobody() -> None:
    gate = router()
    assert gate.step(RequestArrived(1.0, 1, "z")) == [
        Reject(1, UnknownModel, "model_not_found", "model z does not exist")
    ]
    assert gate.demand().waiting == {}


@pytest.mark.parametrize(
    ("full", "message"),
    [
        ({"max_waiting": 2}, "the queue is full (queue.maxWaiting: 2)"),
        ({"b": Limits(max_waiting=1)}, "the queue for b is full (queue.maxWaitingPerModel: 1)"),
    ],
    ids=["in all", "for one model"],
)
def test_a_full_queue_is_refused_but_not_to_those_who_need_not_wait(full: dict, message: str) -> None:
    gate = router(**full)
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(RequestArrived(1.0, 2, "b"))
    assert gate.step(RequestArrived(1.0, 3, "b")) == [Reject(3, QueueFull, "queue_full", message, 5.0)]
    gate.step(seen(1, resident("a")))
    assert gate.step(RequestArrived(1.0, 4, "a")) == [to(4, "a")]


def test_no_request_may_wait_where_the_queue_has_no_places() -> None:
    gate = router(max_waiting=0)
    message = "the queue is full (queue.maxWaiting: 0)"
    assert gate.step(RequestArrived(1.0, 1, "a")) == [Reject(1, QueueFull, "queue_full", message, 5.0)]


def test_a_tenant_with_as_many_waiting_as_it_may_is_refused_and_others_are_not() -> None:
    gate = AdmissionMachine("r")
    gate.step(LimitsChanged(0.0, {"a": Limits(), "b": Limits()}, 100, max_waiting_per_tenant=2))
    gate.step(RequestArrived(1.0, 1, "a", tenant="key-1"))
    gate.step(RequestArrived(1.0, 2, "b", tenant="key-1"))
    message = "the queue of tenant key-1 is full (queue.maxWaitingPerTenant: 2)"
    assert gate.step(RequestArrived(1.0, 3, "b", tenant="key-1")) == [Reject(3, QueueFull, "queue_full", message, 5.0)]
    assert gate.step(RequestArrived(1.0, 4, "b", tenant="key-2")) == [Queued(4), LATER]
    gate.step(ClientDisconnected(2.0, 1))
    assert gate.step(RequestArrived(2.0, 5, "b", tenant="key-1")) == [Queued(5), LATER]
    nameless = "the queue of requests without a tenant is full (queue.maxWaitingPerTenant: 0)"
    gate.step(LimitsChanged(3.0, {"a": Limits(), "b": Limits()}, 100, max_waiting_per_tenant=0))
    assert gate.step(RequestArrived(3.0, 6, "a")) == [Reject(6, QueueFull, "queue_full", nameless, 5.0)]


def test_bodies_that_wait_have_a_bound_and_count_until_they_are_forwarded_refused_or_gone() -> None:
    gate = AdmissionMachine("r")
    known = {"a": Limits(), "b": Limits()}
    gate.step(LimitsChanged(0.0, known, 100, max_waiting_bytes=1024))
    assert gate.step(RequestArrived(1.0, 1, "a", size=1000)) == [Queued(1), AT_ONCE]
    message = "the bodies of queued requests would exceed the memory limit (queue.maxWaitingBytes: 1Ki)"
    full = [Reject(2, QueueFull, "queue_full", message, 5.0)]
    assert gate.step(RequestArrived(2.0, 2, "b", size=25)) == full
    assert (gate.waiting_bytes(), gate.demand().waiting.keys()) == (1000, {"a"}), "nobody loads b for it"
    gate.step(seen(1, resident("b")))
    assert gate.step(RequestArrived(3.0, 2, "b", size=10**9))[0] == to(2, "b"), "it need not wait"
    assert gate.step(RequestArrived(4.0, 3, "a", size=24)) == [Queued(3), LATER]
    assert gate.waiting_bytes() == 1024
    gate.step(ClientDisconnected(5.0, 3))
    assert gate.step(RequestArrived(5.0, 4, "a", size=20)) == [Queued(4), LATER]
    gate.step(WaitTimedOut(6.0, 4))
    assert gate.step(RequestArrived(6.0, 5, "a", size=20)) == [Queued(5), LATER]
    gate.step(ServedByFallback(7.0, 5))
    assert gate.waiting_bytes() == 1000
    assert gate.step(seen(2, resident("a")))[0] == to(1, "a")
    assert gate.waiting_bytes() == 0
    gate.step(seen(3, resident("b")))
    assert gate.step(RequestArrived(8.0, 6, "a", size=1024)) == [Queued(6), AT_ONCE]
    gate.step(LimitsChanged(9.0, {"b": Limits()}, 100, max_waiting_bytes=1024))
    assert gate.waiting_bytes() == 0, "its model is gone"


def draining(concurrency: int = 1, waiting: int = 100) -> tuple[AdmissionMachine, int]:
    """A router whose model a has served twenty of those that waited, two a second; and the id of the next to finish."""
    gate = router(a=Limits(concurrency=concurrency), max_waiting=waiting)
    gate.step(seen(1, resident("a")))
    for request in range(1, waiting + concurrency + 1):
        gate.step(RequestArrived(0.0, request, "a"))
    for request in range(1, 21):
        gate.step(RequestFinished(request / 2, request))
    return gate, 21


def test_who_is_turned_away_is_told_to_come_when_half_of_the_queue_will_have_been_served() -> None:
    gate, _ = draining()
    assert gate.rate("a", 10.0) == pytest.approx(2.0, rel=0.01)
    for request in range(200, 220):
        gate.step(RequestArrived(10.0, request, "a"))
    refused = gate.step(RequestArrived(10.0, 300, "a"))[0]
    assert (refused.code, refused.retry_after) == ("queue_full", pytest.approx(100 / 2 / 2.0, rel=0.01))


def test_an_estimate_goes_by_how_the_queue_has_moved() -> None:
    gate, _ = draining()
    assert (gate.position(101), gate.estimate(101, 10.0)) == (80, pytest.approx(40.0, rel=0.01))
    assert gate.estimate(21, 10.0) is None, "it does not wait"
    assert router().estimate(1, 1.0) is None


def test_tenants_take_turns_where_a_bound_on_concurrency_makes_them_wait() -> None:
    gate = router(a=Limits(concurrency=4), max_waiting=2000)
    gate.step(seen(1, resident("a")))
    for request in range(1, 1005):
        gate.step(RequestArrived(1.0, request, "a", tenant="many"))
    assert gate.step(RequestArrived(2.0, 2000, "a", tenant="one")) == [Queued(2000), LATER]
    assert gate.position(2000) <= 2
    done = [gate.step(RequestFinished(3.0, request))[0].request for request in (1, 2)]
    assert 2000 in done


# Deadlines ------------------------------------------------------------------------------------------------------------


def too_late(request: int, left: float, least: float) -> Reject:
    message = f"a cannot serve this request within the {left:.1f} s left of X-Request-Timeout: it needs at least "
    message += f"{least:.1f} s"
    return Reject(request, Unavailable, "deadline_unreachable", message, max(1.0, least))


def outlook(epoch: int, *residents: Resident, **seconds: float) -> ResidencySeen:
    return ResidencySeen(5.0, Residency(epoch, residents, outlook=seconds, at=5.0))


def test_who_cannot_be_served_in_time_is_refused_at_once_and_wakes_nobody() -> None:
    gate = router()
    gate.step(outlook(1, resident("b"), a=20.0))
    assert gate.step(RequestArrived(60.0, 1, "a", deadline=79.0)) == [too_late(1, 19.0, 20.0)]
    assert (gate.waiting(), gate.demand().waiting, gate.demand().requested) == (0, {}, ())
    assert gate.step(RequestArrived(60.0, 2, "a", deadline=80.1)) == [Queued(2), AT_ONCE]
    assert gate.step(RequestArrived(60.0, 3, "a")) == [Queued(3), LATER]
    assert gate.demand().waiting["a"].deadline == 80.1
    assert gate.step(RequestArrived(60.0, 4, "b", deadline=60.0)) == [to(4, "b"), AT_ONCE], "it need not wait"


def test_nobody_is_refused_on_a_guess() -> None:
    gate = router()
    gate.step(outlook(1, resident("b")))
    assert gate.step(RequestArrived(6.0, 1, "a", deadline=6.01)) == [Queued(1), AT_ONCE]
    assert gate.step(RequestArrived(6.0, 2, "a", deadline=6.0)) == [too_late(2, 0.0, 0.0)], "not now is never"


def test_who_waits_is_sent_away_when_the_outlook_gets_worse() -> None:
    gate = router()
    gate.step(outlook(1, resident("a", RELEASING)))
    for request, deadline in ((1, 30.0), (2, 60.0), (3, None), (4, 20.0)):
        gate.step(RequestArrived(5.0, request, "a", deadline=deadline))
    assert gate.step(outlook(2, resident("b"), a=40.0)) == [too_late(4, 15.0, 40.0), too_late(1, 25.0, 40.0), AT_ONCE]
    assert gate.waiting("a") == 2


def test_what_loads_comes_nearer_with_time() -> None:
    gate = router()
    gate.step(outlook(1, resident("a", LOADING), a=20.0))
    assert gate.step(RequestArrived(20.0, 1, "a", deadline=25.1)) == [Queued(1), AT_ONCE]
    assert gate.estimate(1, 20.0) == pytest.approx(5.0)
    assert gate.step(RequestArrived(20.0, 2, "a", deadline=24.9)) == [too_late(2, 4.9, 5.0)]


def test_a_long_queue_refuses_who_is_in_a_hurry_by_twice_the_pace_that_was_seen() -> None:
    gate, _ = draining(waiting=100)
    refused = gate.step(RequestArrived(10.0, 200, "a", deadline=10.0 + 79 / 4))[0]
    assert (refused.code, refused.retry_after) == ("deadline_unreachable", pytest.approx(80 / 4, rel=0.01))
    assert gate.step(RequestArrived(10.0, 201, "a", deadline=10.0 + 81 / 4)) == [Queued(201), LATER]
    assert gate.step(RequestArrived(10.0, 202, "a", priority=1, deadline=11.0)) == [Queued(202), LATER], "it goes first"


def test_a_quiescing_model_may_be_taken_back_and_then_begin_with_many_at_once() -> None:
    gate, _ = draining(concurrency=4, waiting=20)
    for request in range(21, 25):
        gate.step(RequestFinished(11.0, request))
    assert gate.step(seen(2, resident("a", QUIESCING), now=11.0)) == [AT_ONCE]
    late = [gate.step(RequestArrived(11.0, request, "a", deadline=11.01))[0] for request in range(31, 36)]
    assert late[:4] == [Queued(31), Queued(32), Queued(33), Queued(34)]
    assert (late[4].request, late[4].code) == (35, "deadline_unreachable")


def test_a_queue_that_gets_slow_sends_away_who_will_be_too_late() -> None:
    gate, next_one = draining(waiting=100)
    gate.step(RequestArrived(10.0, 200, "a", deadline=40.0))
    assert gate.step(RequestFinished(10.5, next_one)) == [to(22, "a"), LATER]
    after = gate.step(RequestFinished(30.0, next_one + 1))
    assert [type(command) for command in after] == [Dispatch, Reject, ReportDemand]
    assert (after[1].request, after[1].code) == (200, "deadline_unreachable")


def test_without_a_bound_on_concurrency_a_long_queue_is_no_reason() -> None:
    """All of them begin at once when their model is ready."""
    gate = router(max_waiting=1000)
    for request in range(1, 501):
        gate.step(RequestArrived(0.0, request, "a"))
    gate.step(seen(1, resident("a"), now=50.0))
    gate.step(seen(2, resident("b"), now=51.0))
    for request in range(501, 901):
        gate.step(RequestArrived(60.0, request, "a"))
    assert gate.step(RequestArrived(60.0, 901, "a", deadline=61.0)) == [Queued(901), LATER]


# A model's instances ----------------------------------------------------------------------------------------------------


def test_two_instances_of_a_model_share_its_requests_and_a_quiescing_one_gets_none_of_the_new() -> None:
    gate = router()
    gate.step(seen(1, resident("a", of=1), resident("a", of=2)))
    assert [gate.step(RequestArrived(1.0, r, "a"))[0] for r in (1, 2, 3)] == [to(1, "a"), to(2, "a", of=2), to(3, "a")]
    gate.step(seen(2, resident("a", of=1), resident("a", QUIESCING, of=2)))
    assert gate.step(RequestArrived(1.0, 4, "a")) == [to(4, "a")]


# Bounds ---------------------------------------------------------------------------------------------------------------


def pods(*addresses: str, state: InstanceState = READY) -> Resident:
    """An instance of a with a pod at each address."""
    return Resident("a", "a@1", state, 1, 0.0, addresses[0], more=addresses[1:])


def test_each_pod_of_an_instance_takes_its_share_and_what_was_at_one_that_left_goes_on() -> None:
    gate = router(a=Limits(concurrency=1))
    gate.step(seen(1, pods("http://x")))
    assert gate.step(RequestArrived(1.0, 1, "a"))[0] == Dispatch(1, "a@1", "http://x")
    assert gate.step(RequestArrived(1.1, 2, "a")) == [Queued(2), AT_ONCE]
    assert gate.demand().busy_pods == {}, "there is only one"
    assert gate.step(seen(2, pods("http://x", "http://y"))) == [Dispatch(2, "a@1", "http://y"), AT_ONCE]
    assert gate.in_flight("a@1") == 2
    assert gate.demand().busy_pods == {"a@1": 2}
    gate.step(RequestFinished(2.0, 1))
    assert gate.demand().busy_pods == {"a@1": 2}, "the second is in use"
    gate.step(RequestFinished(2.1, 2))
    assert gate.demand().busy_pods == {"a@1": 0}
    assert gate.step(RequestArrived(3.0, 3, "a"))[0] == Dispatch(3, "a@1", "http://x")
    assert gate.demand().busy_pods == {"a@1": 1}
    assert gate.step(seen(3, pods("http://y", "http://z"))) == [AT_ONCE], "it is not aborted"
    assert [gate.step(RequestArrived(4.0, n, "a"))[0] for n in (4, 5)] == [
        Dispatch(4, "a@1", "http://y"),
        Dispatch(5, "a@1", "http://z"),
    ]
    assert gate.in_flight("a@1") == 3
    for request in (3, 4, 5):
        gate.step(RequestFinished(5.0, request))
    assert gate.in_flight("a@1") == 0


def test_a_quiescing_instance_serves_its_batch_on_all_of_its_pods() -> None:
    gate = router(a=Limits(concurrency=1))
    gate.step(seen(1, pods("http://x", "http://y")))
    for request in (1, 2, 3, 4):
        gate.step(RequestArrived(1.0, request, "a"))
    gate.step(seen(2, pods("http://x", "http://y", state=QUIESCING)))
    gate.step(RequestArrived(2.0, 5, "a"))
    assert gate.step(RequestFinished(3.0, 2))[0] == Dispatch(3, "a@1", "http://y")
    assert gate.step(RequestFinished(3.0, 1))[0] == Dispatch(4, "a@1", "http://x")
    assert gate.step(RequestFinished(4.0, 3)) == [], "the fifth came too late for the batch"
    assert gate.waiting() == 1


def test_a_bound_on_concurrency_holds_the_rest() -> None:
    gate = router(a=Limits(concurrency=2))
    gate.step(seen(1, resident("a")))
    assert [gate.step(RequestArrived(1.0, r, "a"))[0] for r in (1, 2, 3, 4)] == [
        to(1, "a"),
        to(2, "a"),
        Queued(3),
        Queued(4),
    ]
    assert gate.step(RequestFinished(2.0, 1)) == [to(3, "a"), LATER]  # one less waits
    assert gate.step(RequestFinished(2.0, 2)) == [to(4, "a"), AT_ONCE]  # none waits any longer
    assert gate.in_flight("a@1") == 2


def test_with_a_bound_of_one_the_next_follows_with_a_single_report() -> None:
    gate = router(a=Limits(concurrency=1))
    gate.step(seen(1, resident("a")))
    for request in (1, 2, 3):
        gate.step(RequestArrived(1.0, request, "a"))
    assert gate.step(RequestFinished(2.0, 1)) == [to(2, "a"), LATER]


def test_changed_limits_let_more_through() -> None:
    gate = router(a=Limits(concurrency=1))
    gate.step(seen(1, resident("a")))
    for request in (1, 2, 3):
        gate.step(RequestArrived(1.0, request, "a"))
    assert gate.step(LimitsChanged(2.0, {"a": Limits(concurrency=2)}, 100)) == [to(2, "a"), AT_ONCE]


def test_a_removed_model_sends_away_what_waits_and_lets_finish_what_is_in_flight() -> None:
    gate = router(a=Limits(concurrency=1))
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(RequestArrived(1.0, 2, "a"))
    gone = Reject(2, UnknownModel, "model_not_found", "model a was removed while this request was queued")
    assert gate.step(LimitsChanged(2.0, {"b": Limits()}, 100)) == [gone, AT_ONCE]
    assert gate.step(RequestArrived(2.0, 3, "a")) == [
        Reject(3, UnknownModel, "model_not_found", "model a does not exist")
    ]
    assert gate.step(RequestFinished(3.0, 1)) == [LATER]


# Ending ---------------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_takes_its_demand_with_it() -> None:
    gate = router()
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(RequestArrived(2.0, 2, "a"))
    assert gate.step(ClientDisconnected(3.0, 1)) == [LATER]
    assert gate.demand().waiting == {"a": QueuedDemand(1, 2.0, 0)}
    assert gate.step(ClientDisconnected(3.0, 2)) == [AT_ONCE]
    assert gate.demand().waiting == {}
    assert gate.step(seen(1, resident("a"))) == [AT_ONCE]  # nobody is dispatched


def test_a_client_that_goes_before_anybody_was_told_has_requested_nothing() -> None:
    gate = router()
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(ClientDisconnected(1.0, 1))
    assert gate.demand().requested == ()
    for request in (2, 3):
        gate.step(RequestArrived(1.0, request, "a"))
        gate.step(ClientDisconnected(1.0, request))
    gate.step(RequestArrived(1.0, 4, "a"))
    assert gate.demand().requested == ("a",)
    assert gate.demand().requested == ()  # said once


def test_a_client_that_goes_in_the_middle_makes_space() -> None:
    gate = router(a=Limits(concurrency=1))
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(RequestArrived(1.0, 2, "a"))
    assert gate.step(ClientDisconnected(2.0, 1)) == [to(2, "a"), AT_ONCE]


def test_waiting_ends_when_the_client_says_so_but_not_after_its_dispatch() -> None:
    gate = router()
    gate.step(RequestArrived(1.0, 1, "a"))
    message = "a did not become available within the client's limit on waiting (2.5 s)"
    assert gate.step(WaitTimedOut(3.5, 1)) == [Reject(1, Unavailable, "wait_timeout", message, 5.0), AT_ONCE]
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(4.0, 2, "a"))
    assert gate.step(WaitTimedOut(5.0, 2)) == []
    assert gate.in_flight("a@1") == 1


@pytest.mark.parametrize(
    "end", [ClientDisconnected(2.0, 1), RequestFinished(2.0, 1), WaitTimedOut(2.0, 1), ClientDisconnected(2.0, 99)]
)
def test_ends_can_race(end: ClientDisconnected | RequestFinished | WaitTimedOut) -> None:
    gate = router()
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(ClientDisconnected(1.5, 1))
    assert gate.step(end) == []


def test_at_the_end_nothing_waits_and_nothing_new_is_taken() -> None:
    gate = router()
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(RequestArrived(1.0, 2, "b"))

    def away(request: int) -> Reject:
        return Reject(request, Unavailable, "shutting_down", "hotseat is shutting down", 5.0)

    assert gate.step(RouterClosed(2.0)) == [away(2), AT_ONCE]
    assert gate.step(RequestArrived(2.0, 3, "a")) == [away(3)]
    assert gate.step(RequestFinished(3.0, 1)) == [LATER]  # what was in flight is not cut


# Making room ----------------------------------------------------------------------------------------------------------


def test_a_quiescing_model_serves_the_batch_it_had_and_holds_what_comes_later() -> None:
    gate = router(a=Limits(concurrency=1))
    gate.step(seen(1, resident("a")))
    for request in (1, 2, 3):
        gate.step(RequestArrived(1.0, request, "a"))
    assert gate.step(seen(2, resident("a", QUIESCING))) == [AT_ONCE]
    assert gate.demand().quiescing == {"a": 2}
    assert gate.step(RequestArrived(2.0, 4, "a", priority=9)) == [Queued(4), LATER]  # important, but too late
    assert gate.step(RequestFinished(3.0, 1)) == [to(2, "a"), LATER]
    assert gate.step(RequestFinished(3.0, 2)) == [to(3, "a"), LATER]
    assert gate.demand().quiescing == {}
    assert gate.step(RequestFinished(3.0, 3)) == [AT_ONCE]
    assert gate.demand().waiting == {"a": QueuedDemand(1, 2.0, 9)}
    assert gate.step(seen(3, resident("a", READY))) == [to(4, "a"), AT_ONCE]  # taken back after all


def test_a_batch_does_not_grow_with_later_news_of_the_same_quiescing() -> None:
    """A bug once: the first request after the quiescing became part of the batch with the next Residency."""
    gate = router()
    gate.step(seen(1, resident("a", QUIESCING)))
    assert gate.step(RequestArrived(1.0, 1, "a")) == [Queued(1), AT_ONCE]
    assert gate.step(seen(2, resident("a", QUIESCING), resident("b", LOADING, of=2))) == [AT_ONCE]
    assert gate.demand().quiescing == {}


def test_each_quiescing_of_a_new_instance_has_a_batch_of_its_own() -> None:
    gate = router()
    gate.step(seen(1, resident("a", QUIESCING, of=1)))
    gate.step(RequestArrived(1.0, 1, "a"))
    assert gate.step(seen(9, resident("a", QUIESCING, of=8))) == [to(1, "a", of=8), AT_ONCE]


def test_a_draining_model_takes_nothing_and_its_last_request_is_told_at_once() -> None:
    gate = router()
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(seen(2, resident("a", DRAINING)))
    assert gate.step(RequestArrived(2.0, 2, "a")) == [Queued(2), AT_ONCE]
    gate.step(ClientDisconnected(2.0, 2))
    assert gate.step(RequestFinished(3.0, 1)) == [AT_ONCE]
    assert gate.demand().in_flight == {}


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            resident("a", RELEASING, leaving="evicted"),
            "a was stopped: its requests did not finish before the drain deadline (lifecycle.drainTimeout)",
        ),
        (
            resident("a", UNPROVEN, leaving="evicted"),
            "a was stopped: its requests did not finish before the drain deadline (lifecycle.drainTimeout)",
        ),
        (resident("a", RELEASING, leaving="failed"), "the engine of a ended"),
        (resident("b", of=3), "the engine of a ended"),
    ],
    ids=["stopped", "stuck", "crashed", "gone unseen"],
)
def test_what_is_in_flight_on_an_instance_that_is_stopped_is_cut_once(now: Resident, message: str) -> None:
    gate = router()
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(1.0, 1, "a"))
    assert gate.step(seen(2, now)) == [AbortRequest(1, message), AT_ONCE]
    assert gate.step(seen(3, now)) == [AT_ONCE]
    assert gate.in_flight("a@1") == 1  # until it finishes
    assert gate.step(RequestFinished(2.0, 1)) == [LATER]


def test_a_request_to_a_server_outside_is_never_cut() -> None:
    gate = router()
    gate.step(seen(1, resident("a", of=0)))
    gate.step(RequestArrived(1.0, 1, "a"))
    assert gate.step(seen(2)) == [AT_ONCE]  # its document was removed


def test_what_was_served_is_counted_as_long_as_the_instance_is_there() -> None:
    gate = router()
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(RequestFinished(1.0, 1))
    assert gate.demand().served == {"a@1": 1}
    gate.step(seen(2))
    assert gate.demand().served == {}


# Refusals -------------------------------------------------------------------------------------------------------------


def test_who_waits_when_a_refusal_is_seen_gets_it_once_and_the_others_only_while_it_is_in_force() -> None:
    gate = router()
    gate.step(seen(1))
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(RequestArrived(1.0, 2, "b"))
    refusal = {"a": Refusal(2, "model_failed", "a failed: Exited", retry_at=12.0)}
    answer = Reject(1, Unavailable, "model_failed", "a failed: Exited", 10.0)
    assert gate.step(seen(2, now=2.0, refuse=refusal)) == [answer, AT_ONCE]
    assert gate.step(RequestArrived(11.5, 3, "a")) == [Reject(3, Unavailable, "model_failed", "a failed: Exited", 1.0)]
    assert gate.step(RequestArrived(12.0, 4, "a")) == [Queued(4), AT_ONCE]
    assert gate.step(seen(3, now=12.5, refuse=refusal)) == [AT_ONCE]  # that one has been carried out
    again = {"a": Refusal(4, "model_failed", "a failed: Exited", retry_at=14.5)}
    answer = Reject(4, Unavailable, "model_failed", "a failed: Exited", 2.0)
    assert gate.step(seen(4, now=12.5, refuse=again)) == [answer, AT_ONCE]


def test_a_refusal_without_a_time_is_for_those_who_wait_only() -> None:
    gate = router()
    gate.step(seen(1))
    gate.step(RequestArrived(1.0, 1, "a"))
    refusal = {"a": Refusal(2, "unloaded", "a was unloaded")}
    assert gate.step(seen(2, refuse=refusal)) == [Reject(1, Unavailable, "unloaded", "a was unloaded"), AT_ONCE]
    assert gate.step(RequestArrived(2.0, 2, "a")) == [Queued(2), AT_ONCE]


def test_a_new_router_does_not_carry_out_what_is_over() -> None:
    """A bug once: a router that came later answered its first waiters with a failure of long ago."""
    gate = router()
    gate.step(RequestArrived(100.0, 1, "a"))
    gate.step(RequestArrived(100.0, 2, "b"))
    refusals = {"a": Refusal(3, "model_failed", "a failed", 50.0), "b": Refusal(4, "model_failed", "b failed", 102.0)}
    answer = Reject(2, Unavailable, "model_failed", "b failed", 2.0)
    assert gate.step(seen(9, now=100.0, refuse=refusals)) == [answer, AT_ONCE]
    assert gate.waiting("a") == 1


# Stale news -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [4, 5])
def test_a_residency_that_is_not_newer_changes_nothing(epoch: int) -> None:
    gate = router()
    gate.step(seen(5, resident("a")))
    gate.step(RequestArrived(1.0, 1, "a"))
    assert gate.step(seen(epoch, resident("a", RELEASING), refuse={"b": Refusal(5, "model_failed", "")})) == []
    assert gate.step(RequestArrived(1.0, 2, "a")) == [to(2, "a")]
    assert gate.demand().seen_epoch == 5


def test_edges_are_urgent_only_while_somebody_waits_for_them() -> None:
    gate = router()
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(1.0, 1, "b"))
    assert gate.step(RequestArrived(1.0, 2, "a")) == [to(2, "a"), AT_ONCE]  # b waits for a to be idle
    assert gate.step(RequestFinished(2.0, 2)) == [AT_ONCE]


# What a refusal does not concern --------------------------------------------------------------------------------------


def failing(epoch: int, retry_at: float, *, waits: bool = False) -> dict[str, Refusal]:
    return {"a": Refusal(epoch, "model_failed", "a failed: Exited", retry_at, waits)}


def test_a_refusal_concerns_no_request_that_a_ready_engine_can_take() -> None:
    """A bug once: a model whose replica was ready answered 503 for minutes."""
    gate = router(a=Limits(concurrency=1))
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(RequestArrived(1.0, 2, "a"))
    assert gate.step(seen(2, resident("a"), now=2.0, refuse=failing(2, 60.0))) == [AT_ONCE]
    assert gate.step(RequestArrived(3.0, 3, "a"))[0] == Queued(3)
    assert gate.step(RequestFinished(4.0, 1))[0] == to(2, "a")


def test_a_back_off_is_waited_out_by_those_who_have_the_time() -> None:
    gate = router()
    gate.step(seen(1))
    gate.step(RequestArrived(1.0, 1, "a"))
    gate.step(RequestArrived(1.0, 2, "a", deadline=4.0))
    said = gate.step(seen(2, now=2.0, refuse=failing(2, 6.0, waits=True)))
    assert said == [Reject(2, Unavailable, "model_failed", "a failed: Exited", 4.0), AT_ONCE]
    assert gate.step(RequestArrived(3.0, 3, "a", deadline=5.0)) == [
        Reject(3, Unavailable, "model_failed", "a failed: Exited", 3.0)
    ]
    assert gate.step(RequestArrived(3.0, 4, "a", deadline=9.0))[0] == Queued(4)
    assert [c for c in gate.step(seen(3, resident("a"), now=7.0)) if isinstance(c, Dispatch)] == [
        to(1, "a"),
        to(4, "a"),
    ]


# Keep alive -----------------------------------------------------------------------------------------------------------


def test_what_a_request_says_of_its_engine_is_reported_from_its_dispatch_until_the_engine_is_gone() -> None:
    gate = router(a=Limits(concurrency=1))
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(1.0, 1, "a"))
    assert gate.demand().keep_alive == {}
    gate.step(RequestArrived(2.0, 2, "a", keep_alive=0.0))  # queued: it says nothing yet
    assert (gate.demand().keep_alive, gate.keep_alive("a@1")) == ({}, None)
    gate.step(RequestFinished(3.0, 1))
    assert (gate.demand().keep_alive, gate.keep_alive("a@1")) == ({"a@1": (0.0, 3.0)}, 0.0)
    gate.step(RequestFinished(4.0, 2))
    gate.step(RequestArrived(5.0, 3, "a"))  # it does not say, so the last one counts
    gate.step(RequestFinished(6.0, 3))
    gate.step(seen(2, resident("a", QUIESCING)))
    assert gate.demand().keep_alive == {"a@1": (0.0, 3.0)}
    gate.step(seen(3, resident("b")))
    assert gate.demand().keep_alive == {}


def test_what_a_request_says_ends_when_its_engine_is_parked() -> None:
    gate = router()
    gate.step(seen(1, resident("a")))
    gate.step(RequestArrived(2.0, 2, "a", keep_alive=60.0))
    gate.step(seen(2, resident("a", InstanceState.PARKED)))
    assert gate.demand().keep_alive == {}
