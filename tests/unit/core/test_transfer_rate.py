"""Rates of transfers, and the time that is left."""

import pytest

from hotseat.core.transfer_rate import WINDOW, TransferRate, seconds_left


def test_a_rate_needs_two_reports_at_different_times() -> None:
    rate = TransferRate()
    assert rate.update(1.0, 100) is None
    assert rate.update(1.0, 200) is None
    assert rate.update(2.0, 300) == 200


def test_a_rate_is_that_of_the_last_reports() -> None:
    rate = TransferRate()
    for second in range(100):
        rate.update(float(second), second * 10)
    for second in range(100, 100 + int(WINDOW) + 2):
        last = rate.update(float(second), 1000 + (second - 100) * 50)
    assert last == 50


def test_a_transfer_that_stalls_slows_down_and_one_that_begins_anew_has_no_rate_yet() -> None:
    rate = TransferRate()
    rate.update(0.0, 0)
    assert rate.update(10.0, 1000) == 100
    assert rate.update(100.0, 1000) == 0
    assert rate.update(101.0, 10) is None
    assert rate.rate is None


@pytest.mark.parametrize(
    ("done", "total", "rate", "left"),
    [
        (0, 100, 10, 10),
        (100, 100, 10, 0),
        (5, None, 10, None),
        (5, 10, None, None),
        (5, 10, 0, None),
        (None, 10, 1, None),
        (11, 10, 1, 0),
    ],
)
def test_seconds_left(done: int | None, total: int | None, rate: int | None, left: int | None) -> None:
    assert seconds_left(done, total, rate) == left
