"""What is measured of saving and restoring."""

import pytest

from hotseat.runtimes.prompt_transfer import Rates


def test_rates() -> None:
    assert Rates().seconds(100) == 0.0
    assert Rates(10.0, 100.0).seconds(100) == 20.0
    assert Rates(10.0, 100.0, 500.0).seconds(100) == 12.0


def test_one_slow_measurement_or_a_small_one_does_not_make_a_cache_too_costly_for_good() -> None:
    rates, size = Rates(), 2**24
    rates.record_save(100, 1000, 9.0)
    assert (rates.per_token, rates.save) == (10.0, 0.0)
    rates.record_save(1000, size, 0.5)
    rates.record_restore(size, 0.25)
    assert rates.seconds(1000) == pytest.approx(0.75)
    rates.record_save(1000, size, 50.0)
    assert rates.seconds(1000) == pytest.approx(1.0)
    for _ in range(9):
        rates.record_save(1000, size, 50.0)
    assert rates.seconds(1000) > 15.0  # it is slow indeed
    slow = rates.seconds(1000)
    rates.doubt()
    assert rates.seconds(1000) == pytest.approx(slow / 1.5)
