"""What is learned from snapshots of demand: how fast requests come, how fast they are answered, how soon the next one comes."""

import pytest

from hotseat.core.messages import Demand, QueuedDemand
from hotseat.core.scheduler.stats import ArrivalRates

OF = {"w/a@1": "a", "w/b@2": "b"}


class Router:
    """Tells of one model at a time, as a router does: whole snapshots, each with the next number."""

    def __init__(self, rates: ArrivalRates, instance: str = "w/a@1") -> None:
        self.rates, self.instance, self.last = rates, instance, Demand("r", 0, 0)

    def tell(self, now: float, *, waiting: int = 0, flying: int = 0, served: int = 0) -> None:
        queue = {OF[self.instance]: QueuedDemand(waiting, now)} if waiting else {}
        flights = {self.instance: flying} if flying else {}
        new = Demand("r", self.last.seq + 1, 0, queue, flights, {self.instance: served})
        self.rates.record(now, self.last, new, OF)
        self.last = new


def test_arrivals_are_counted_whether_they_wait_or_are_served_at_once() -> None:
    rates = ArrivalRates()
    router = Router(rates)
    for second in range(600):
        router.tell(float(second), served=second, waiting=0)
    assert rates.arrivals("a", 600.0) == pytest.approx(1.0, rel=0.02)
    for second in range(600, 1200):  # now nobody is served: they pile up
        router.tell(float(second), served=599, waiting=second - 598)
    assert rates.arrivals("a", 1200.0) == pytest.approx(1.0, rel=0.02)


def test_arrivals_fade_when_nothing_comes_any_longer() -> None:
    rates = ArrivalRates()
    router = Router(rates)
    for second in range(600):
        router.tell(float(second), served=second)
    assert rates.arrivals("a", 600.0) > 2.5 * rates.arrivals("a", 1800.0) > 0
    assert rates.arrivals("nobody", 600.0) == 0.0


def test_a_first_burst_is_no_flood() -> None:
    rates = ArrivalRates()
    Router(rates).tell(0.0, waiting=30)
    assert rates.arrivals("a", 0.001) == pytest.approx(1.0, rel=0.05)


def test_the_pace_is_learned_while_there_is_plenty_to_do_and_only_then() -> None:
    rates = ArrivalRates()
    router = Router(rates)
    done = 0
    for tenth in range(100):  # four a second, eight at a time, and always one more that waits
        done = tenth * 4 // 10
        router.tell(tenth / 10, waiting=5, flying=8, served=8 + done)
    assert rates.pace("a") == pytest.approx(4.0, rel=0.1)
    router.tell(10.0, flying=8, served=8 + done)  # nobody waits any longer
    for second in range(12, 600):  # one every ten seconds is not what it can do
        router.tell(float(second), served=8 + done + second // 10)
    assert rates.pace("a") == pytest.approx(4.0, rel=0.1)


def test_a_few_answers_are_no_pace() -> None:
    rates = ArrivalRates()
    router = Router(rates)
    router.tell(0.0, waiting=5, flying=8, served=8)
    router.tell(2.0, waiting=0, flying=5, served=13)
    assert rates.pace("a") == 0.0


def test_how_soon_the_next_request_came_is_remembered_the_last_few_times() -> None:
    rates = ArrivalRates()
    router = Router(rates)
    for turn in range(10):
        router.tell(10.0 * turn, flying=1, served=turn + 1)
        router.tell(10.0 * turn + 9.5, served=turn + 1)
        router.tell(10.0 * turn + 9.8, served=turn + 1)  # a sign of life in between changes nothing
    assert rates.gaps("a") == pytest.approx((0.5,) * 8)


def test_what_a_router_did_before_it_was_heard_of_does_not_count() -> None:
    rates = ArrivalRates()
    Router(rates).tell(0.0, served=1000)
    assert rates.arrivals("a", 1.0) == 0.0


def test_models_are_counted_apart_and_can_be_forgotten() -> None:
    rates = ArrivalRates()
    Router(rates).tell(0.0, waiting=30)
    Router(rates, "w/b@2").tell(0.0, waiting=60)
    assert rates.arrivals("b", 1.0) == pytest.approx(2 * rates.arrivals("a", 1.0))
    rates.forget("b")
    assert rates.arrivals("b", 1.0) == 0.0
    assert rates.arrivals("a", 1.0) > 0.0
