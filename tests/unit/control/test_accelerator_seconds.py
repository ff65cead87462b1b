"""Seconds of the accelerator: who could serve, who was idle, and what switching took."""

import pytest

from hotseat.control.accelerator_seconds import AcceleratorSeconds, Totals
from hotseat.core.messages import EXTERNAL_EPOCH, InstanceState, Resident


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def resident(model: str, state: InstanceState, *devices: str, epoch: int = 1) -> Resident:
    return Resident(model, f"w/{model}@1", state, epoch, 0.0, devices=devices)


def rounded(totals: Totals) -> tuple[dict[str, float], dict[str, float], float]:
    return dict(totals.resident), dict(totals.idle), totals.switching


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_switch_from_an_idle_model_to_a_busy_one(clock: Clock) -> None:
    seconds, gpus = AcceleratorSeconds(clock), {"a": 2, "b": 1}

    def step(after: float, *residents: Resident, busy: tuple[str, ...] = ()) -> None:
        clock.now += after
        seconds.update(residents, busy, gpus)

    step(5, resident("a", InstanceState.LOADING))
    step(10, resident("a", InstanceState.READY), busy=("a",))
    step(3, resident("a", InstanceState.READY))
    step(7, resident("a", InstanceState.DRAINING))
    step(1, resident("a", InstanceState.RELEASING), resident("b", InstanceState.LOADING, "0"))
    step(4, resident("b", InstanceState.READY, "0"), busy=("b",))
    clock.now += 6
    # a loads 10 s on 2 GPUs, drains 1 s and is released for 4 s, in which b loads on one GPU.
    assert rounded(seconds.totals()) == ({"a": 3 + 7 + 1, "b": 6}, {"a": 7 + 1}, 10 * 2 + 1 * 2 + 4 * (2 + 1))


def test_sums_grow_between_steps_and_never_fall(clock: Clock) -> None:
    seconds = AcceleratorSeconds(clock)
    seconds.update([resident("a", InstanceState.READY)], (), {"a": 1})
    clock.now += 1
    first = seconds.totals()
    clock.now += 1
    assert (first.resident["a"], seconds.totals().resident["a"]) == (1, 2)
    clock.now -= 5  # no clock of ours does that
    assert seconds.totals().resident["a"] == 2
    seconds.update([], (), {})
    clock.now += 100
    assert rounded(seconds.totals()) == ({"a": 2}, {"a": 2}, 0.0)


def test_each_replica_counts(clock: Clock) -> None:
    seconds = AcceleratorSeconds(clock)
    seconds.update([resident("a", InstanceState.READY)] * 2, (), {"a": 1})
    clock.now += 3
    assert seconds.totals().resident["a"] == 6


@pytest.mark.parametrize("state", [InstanceState.PARKED, InstanceState.UNPROVEN])
def test_neither_parked_nor_unproven_instances_count(clock: Clock, state: InstanceState) -> None:
    seconds = AcceleratorSeconds(clock)
    seconds.update([resident("a", state)], (), {"a": 1})
    clock.now += 3
    assert rounded(seconds.totals()) == ({}, {}, 0.0)


def test_external_servers_hold_no_accelerator(clock: Clock) -> None:
    seconds = AcceleratorSeconds(clock)
    seconds.update([resident("a", InstanceState.READY, epoch=EXTERNAL_EPOCH)], (), {"a": 1})
    clock.now += 3
    assert rounded(seconds.totals()) == ({}, {}, 0.0)
