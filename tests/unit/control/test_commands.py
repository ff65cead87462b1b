"""Commands of operators and their results, on one machine and on a cluster alike."""

from collections.abc import Callable

import pytest

from hotseat.control.workspace_controller import ModelCommands
from hotseat.core.errors import Unavailable
from hotseat.core.messages import InstanceState, Refusal, Residency
from hotseat.core.scheduler.messages import (
    FetchOrdered,
    LoadOrdered,
    ModelStatus,
    PinOrdered,
    SchedulerStimulus,
    UnloadOrdered,
    UnpinOrdered,
)


class Steps:
    """A scheduler whose steps are given: each is a model's state, and the states of its instances after that step."""

    def __init__(self, *steps: tuple[str, dict[str, InstanceState]], **refusals: Refusal) -> None:
        self.steps = list(steps)
        self.residency = Residency(1, (), refusals)
        self.told: list[SchedulerStimulus] = []

    def status(self) -> tuple[ModelStatus, ...]:
        return (ModelStatus("a", self.steps[0][0], message="why"),)

    def instances(self, _model: str) -> dict[str, InstanceState]:
        return self.steps[0][1]

    def has_load_request(self, _model: str) -> bool:
        return self.steps[0][0] == "loading"

    def send(self, stimulus: SchedulerStimulus) -> None:
        self.told.append(stimulus)

    def execute(
        self, stimulus: SchedulerStimulus, outcome: Callable[[], ModelStatus | None], _timeout: float | None
    ) -> ModelStatus | None:
        self.told.append(stimulus)
        while (found := outcome()) is None and len(self.steps) > 1:
            self.steps.pop(0)
        return found


def operator(steps: Steps) -> ModelCommands:
    return ModelCommands(steps, lambda: 1.0)


LOADING = ("loading", {"w/a@1": InstanceState.LOADING})
READY = ("ready", {"w/a@1": InstanceState.READY})
GONE: tuple[str, dict[str, InstanceState]] = ("unloaded", {})
UNPROVEN = ("unproven", {"w/a@1": InstanceState.UNPROVEN})


def test_a_load_ends_ready_and_an_unload_with_nothing_left() -> None:
    steps = Steps(LOADING, READY)
    assert operator(steps).load("a", None).state == "ready"
    assert operator(Steps(READY, GONE)).unload("a", None).state == "unloaded"
    assert steps.told == [LoadOrdered(1.0, "a")]


def test_who_does_not_wait_is_told_how_it_is_now() -> None:
    steps = Steps(READY)
    assert operator(steps).unload("a", 0).state == "ready"
    assert steps.told == [UnloadOrdered(1.0, "a")]


def test_an_unload_waits_for_what_was_there_when_it_came_only() -> None:
    anew = ("loading", {"w/a@2": InstanceState.LOADING})
    assert operator(Steps(READY, anew)).unload("a", None).state == "loading"


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ((LOADING,), "loading"),
        ((LOADING, ("failed", {})), "model_failed"),
        ((LOADING, GONE), "unloaded"),
    ],
)
def test_a_load_that_did_not_end_ready_says_why(steps: tuple[tuple[str, dict]], code: str) -> None:
    with pytest.raises(Unavailable) as told:
        operator(Steps(*steps)).load("a", 5)
    assert told.value.code == code


def test_a_load_that_was_refused_is_told_with_what_requests_are() -> None:
    refusal = Refusal(1, "too_large", "a claims more than there is", None)
    with pytest.raises(Unavailable, match="more than there is") as told:
        operator(Steps(LOADING, GONE, a=refusal)).load("a", 5)
    assert told.value.code == "too_large"


@pytest.mark.parametrize(("last", "code"), [(READY, "unloading"), (UNPROVEN, "release_unproven")])
def test_an_unload_without_proof_is_no_success(last: tuple[str, dict], code: str) -> None:
    with pytest.raises(Unavailable) as told:
        operator(Steps(READY, last)).unload("a", 5)
    assert told.value.code == code


def test_a_pin_waits_as_a_load_does_and_an_unpin_for_its_step_only() -> None:
    steps = Steps(LOADING, READY)
    assert operator(steps).pin("a", None).state == "ready"
    assert operator(steps).unpin("a").state == "ready"
    assert steps.told == [PinOrdered(1.0, "a"), UnpinOrdered(1.0, "a")]


def test_a_fetch_waits_for_its_step_only() -> None:
    steps = Steps(("fetching", {}), GONE)
    assert operator(steps).fetch("a").state == "fetching"
    assert steps.told == [FetchOrdered(1.0, "a")]


@pytest.mark.parametrize("timeout", [0, 5])
def test_a_pin_beside_which_there_is_no_space_is_refused_whether_or_not_somebody_waits(timeout: float) -> None:
    refusal = Refusal(1, "pinned", "a does not fit beside b: pinned", None)
    with pytest.raises(Unavailable, match="beside b") as told:
        operator(Steps(GONE, a=refusal)).pin("a", timeout)
    assert told.value.code == "pinned"
