"""`maxWait: Auto`: how long others wait behind a busy model, and what keeping that bound costs."""

import pytest

from tests.simulated.clients import closed_loop

FOREVER = 1e6  # seconds: a bound that ends no turn


def test_an_engine_that_starts_in_a_second_keeps_nobody_waiting_for_eighteen() -> None:
    """A bug once: with the settings that are there by default, the request for b came after 18.2 s."""
    record = closed_loop({"a": 4, "b": 1}, load=1.0, seconds=18.0, answer=0.25)
    assert record.waits["b"][0] < 12.0


@pytest.mark.parametrize("load", [0.3, 1.0, 6.0])
@pytest.mark.parametrize("models", ["ab", "abcd"])
def test_models_that_are_all_busy_lose_less_than_a_tenth_where_switches_are_quick(models: str, load: float) -> None:
    assert share_of_exhaustive(models, load, answer=1.0) >= 0.9


@pytest.mark.parametrize("load", [8.0, 30.0, 200.0])
@pytest.mark.parametrize("models", ["ab", "abcd"])
def test_and_less_than_a_quarter_where_they_are_slow(models: str, load: float) -> None:
    assert share_of_exhaustive(models, load, answer=load / 5) >= 0.75


def share_of_exhaustive(models: str, load: float, answer: float) -> float:
    """Answers beside those of a scheduler that stays with the first model, which is what exhaustive service does here."""
    seconds = max(300.0, 100 * load)
    clients = dict.fromkeys(models, 16)
    bound = closed_loop(clients, load=load, seconds=seconds, answer=answer)
    exhaustive = closed_loop(clients, load=load, seconds=seconds, answer=answer, max_wait=FOREVER)
    assert min(len(turns) for turns in bound.turns.values()) >= 2, "each has its turns"
    return bound.answered / exhaustive.answered
