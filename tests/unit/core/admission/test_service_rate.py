"""How fast a queue drains, and what clients are told from that."""

from dataclasses import replace

import pytest

from hotseat.core.admission.queues import QueueLimits, QueueUsage
from hotseat.core.admission.service_rate import MEMORY, RELIABLE, ServiceRate, ServiceRates, min_wait, retry_after


def steady(per_second: float, seconds: float, drain: ServiceRate | None = None, start: float = 0.0) -> ServiceRate:
    drain = drain or ServiceRate()
    drain.run(start, on=True)
    for number in range(1, round(seconds * per_second) + 1):
        drain.record(start + number / per_second)
    return drain


def test_nothing_is_known_before_anything_was_served() -> None:
    drain = ServiceRate()
    drain.run(0.0, on=True)
    assert drain.rate(10.0) is None


def test_a_steady_stream_is_measured_as_what_it_is() -> None:
    assert steady(4.0, 600.0).rate(600.0) == pytest.approx(4.0, rel=0.01)


def test_turns_and_the_time_between_them_are_both_in_the_rate() -> None:
    """A model that serves a hundred at once, once in fifty seconds."""
    drain = ServiceRate()
    drain.run(0.0, on=True)
    for turn in range(1, 40):
        for _ in range(100):
            drain.record(50.0 * turn)
    assert drain.rate(50.0 * 39 + 25) == pytest.approx(2.0, rel=0.1)


def test_an_idle_night_does_not_make_a_queue_slow_but_a_standstill_does() -> None:
    drain = steady(4.0, 600.0)
    drain.run(600.0, on=False)
    assert drain.rate(40_000.0) == pytest.approx(4.0, rel=0.01)
    drain.run(40_000.0, on=True)
    assert drain.rate(40_000.0 + MEMORY) == pytest.approx(1.34, rel=0.01), "a third of what it was"


def test_what_is_new_outweighs_what_is_old() -> None:
    drain = steady(1.0, 600.0)
    assert steady(10.0, 3 * MEMORY, drain, 600.0).rate(600.0 + 3 * MEMORY) == pytest.approx(10.0, rel=0.06)


def test_the_pace_of_a_model_counts_only_while_it_takes_requests_and_needs_some_evidence() -> None:
    drains, now = ServiceRates(), 0.0
    drains.update(now, "a", waits=True, open_=False, any_waits=True)
    drains.update(now := 90.0, "a", waits=True, open_=True, any_waits=True)
    for number in range(RELIABLE):
        drains.record(now := 90.0 + (number + 1) / 2, "a")
    assert drains.pace(now, "a") is None
    for _ in range(RELIABLE):
        drains.record(now := now + 0.5, "a")
    assert drains.pace(now, "a") == pytest.approx(2.0, rel=0.01)
    assert drains.rate(now, "a") < 0.25 < drains.pace(now, "a")
    assert drains.rate(now) == drains.rate(now, "a")
    drains.forget({"b"})
    assert (drains.rate(now, "a"), drains.pace(now, "a")) == (None, None)


@pytest.mark.parametrize(
    ("count", "rate", "seconds"),
    [(100, 2.0, 25.0), (100, None, 5.0), (100, 0.0, 5.0), (1, 100.0, 1.0), (0, 2.0, 1.0), (10_000, 0.1, 300.0)],
)
def test_who_is_turned_away_comes_again_when_half_of_the_queue_is_served(
    count: float, rate: float | None, seconds: float
) -> None:
    assert retry_after(count, rate) == seconds


def test_each_bound_says_its_name_and_reckons_with_its_own_rate() -> None:
    drains = ServiceRates()
    for model in ("a", "b"):
        drains.update(0.0, model, waits=True, open_=True, any_waits=True)
    for second in range(1, 41):
        drains.record(float(second), "a")
        for _ in range(3):
            drains.record(float(second), "b")
    crowd = QueueUsage("a", "key-1", of_model=20, of_tenant=10, total=400, tenants=2, size=2**20 + 1)
    quotas = QueueLimits(total=400, per_model=20, per_tenant=10)
    said = {
        quotas: (" of tenant key-1 is full (queue.maxWaitingPerTenant: 10)", 10 / 2 / (4 / 2)),
        QueueLimits(400, 20): (" for a is full (queue.maxWaitingPerModel: 20)", 20 / 2 / 1),
        QueueLimits(400, 21, 11): (" is full (queue.maxWaiting: 400)", 400 / 2 / 4),
    }
    for each, (words, seconds) in said.items():
        message, retry = each.check(crowd, drains, 40.0)
        assert (message, retry) == (f"the queue{words}", pytest.approx(seconds, rel=0.05))
    words = "the bodies of queued requests would exceed the memory limit (queue.maxWaitingBytes: 1Mi)"
    assert QueueLimits(401, 21, 11, 2**20).check(crowd, drains, 40.0) == (
        words,
        pytest.approx(400 / 2 / 4, rel=0.05),
    )
    assert QueueLimits(401, 21, 11, 2**20 + 1).check(crowd, drains, 40.0) is None


def test_routers_share_each_bound_rounded_up() -> None:
    crowd = QueueUsage("a", "key-1", of_model=2, of_tenant=1, total=3, tenants=3, size=400)

    def said(*bounds: int | None) -> str:
        full = QueueLimits(*bounds, routers=3).check(crowd, ServiceRates(), 0.0)
        return full[0].partition("queue.")[2] if full else ""

    assert said(9) == "maxWaiting: 9, shared by 3 routers)"
    assert said(10) == ""
    assert said(10, 6) == "maxWaitingPerModel: 6, shared by 3 routers)"
    assert said(10, 7, 3) == "maxWaitingPerTenant: 3, shared by 3 routers)"
    assert said(10, 7, 4, 1197) == "maxWaitingBytes: 1.2Ki, shared by 3 routers)"
    assert said(10, 7, 4, 1198) == ""
    assert said(0) == "maxWaiting: 0, shared by 3 routers)", "nobody is to wait"


def test_a_body_larger_than_a_routers_share_may_wait_alone() -> None:
    """However empty the router, it would be refused again and again."""
    quotas = QueueLimits(10, size=1200, routers=3)
    alone = QueueUsage("a", "", of_model=0, of_tenant=0, total=0, tenants=0, size=1200)
    assert quotas.check(alone, ServiceRates(), 0.0) is None
    assert quotas.check(replace(alone, size=1201), ServiceRates(), 0.0)
    assert quotas.check(replace(alone, total=1), ServiceRates(), 0.0)


@pytest.mark.parametrize(
    ("ready_in", "place", "slots", "pace", "seconds"),
    [
        (7.0, 1, 4, 2.0, 7.0),
        (7.0, 44, 4, 2.0, 7.0 + 40 / 4),  # 40 have to go before, at twice the pace that was seen at best
        (0.0, 1, 1, 2.0, 0.0),
        (7.0, 500, 0, 2.0, 7.0),  # all of them begin at once
        (7.0, 500, 4, None, 7.0),
    ],
)
def test_the_soonest_counts_only_what_cannot_be_avoided(
    ready_in: float, place: int, slots: int, pace: float | None, seconds: float
) -> None:
    assert min_wait(ready_in, place, slots, pace) == seconds
