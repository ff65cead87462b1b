import pytest

from hotseat.core.backoff import backoff


@pytest.mark.parametrize(("retry", "seconds"), [(1, 0.25), (2, 0.5), (3, 1.0), (5, 4.0), (6, 5.0), (10_000, 5.0)])
def test_it_doubles_up_to_the_longest(retry: int, seconds: float) -> None:
    assert backoff(retry, 0.25, 5.0, lambda: 0.0) == seconds


def test_a_random_half_is_taken_away() -> None:
    assert backoff(1, 1.0, 5.0, lambda: 0.5) == 0.75
    assert backoff(9, 1.0, 4.0, lambda: 0.999999) == pytest.approx(2.0, abs=0.001)
