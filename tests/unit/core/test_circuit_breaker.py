"""The circuit breaker, by explicit times."""

from math import inf

import pytest

from hotseat.core.circuit_breaker import CircuitBreaker, CircuitState


def opened(failures: int = 3, duration: float = 10.0) -> CircuitBreaker:
    breaker = CircuitBreaker(failures, duration)
    for _ in range(failures):
        breaker.failed(0.0, trial=breaker.begin())
    return breaker


def test_it_opens_at_the_threshold_and_not_before() -> None:
    breaker = CircuitBreaker(3, 10.0)
    for count in (1, 2):
        assert not breaker.begin()
        breaker.failed(0.0, trial=False)
        assert (breaker.state(0.0), breaker.failures, breaker.allows_at(0.0)) == (CircuitState.CLOSED, count, 0.0)
    breaker.failed(1.0, trial=False)
    assert (breaker.state(1.0), breaker.allows_at(1.0)) == (CircuitState.OPEN, 11.0)


def test_a_success_ends_the_row_of_failures() -> None:
    breaker = CircuitBreaker(2, 10.0)
    for _ in range(5):
        breaker.failed(0.0, trial=False)
        breaker.succeeded()
    assert (breaker.state(0.0), breaker.failures) == (CircuitState.CLOSED, 0)


def test_after_its_time_one_request_is_let_through_and_no_other() -> None:
    breaker = opened()
    assert breaker.state(9.9) is CircuitState.OPEN
    assert (breaker.state(10.0), breaker.allows_at(10.0)) == (CircuitState.HALF_OPEN, 10.0)
    assert breaker.begin()
    assert breaker.allows_at(12.0) == inf


@pytest.mark.parametrize("ends_well", [True, False])
def test_the_outcome_of_the_trial_decides(ends_well: bool) -> None:
    breaker = opened()
    trial = breaker.begin()
    if ends_well:
        breaker.succeeded()
        assert (breaker.state(10.0), breaker.begin()) == (CircuitState.CLOSED, False)
    else:
        breaker.failed(10.0, trial=trial)
        assert (breaker.state(10.0), breaker.allows_at(10.0)) == (CircuitState.OPEN, 20.0)


def test_a_trial_that_is_abandoned_makes_room_for_another() -> None:
    breaker = opened()
    breaker.begin()
    breaker.abandoned()
    assert breaker.allows_at(10.0) == 10.0


def test_failures_of_earlier_requests_do_not_prolong_it() -> None:
    breaker = opened()
    breaker.failed(9.0, trial=False)
    assert breaker.allows_at(9.0) == 10.0


def test_an_earlier_request_that_succeeds_closes_it() -> None:
    breaker = opened()
    breaker.succeeded()
    assert breaker.state(1.0) is CircuitState.CLOSED


def test_without_a_threshold_it_never_opens() -> None:
    breaker = CircuitBreaker(inf, 10.0)
    for _ in range(1000):
        breaker.failed(0.0, trial=breaker.begin())
    assert breaker.state(0.0) is CircuitState.CLOSED
