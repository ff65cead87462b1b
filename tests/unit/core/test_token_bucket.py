"""A limit on requests per minute: how many pass in any time, and what a client is told to wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.core.token_bucket import TokenBucket


def test_a_burst_of_a_minute_passes_at_once_and_then_one_after_the_other() -> None:
    bucket = TokenBucket(60, 100.0)
    assert [bucket.take(100.0) for _ in range(60)] == [0.0] * 60
    assert (bucket.take(100.0), bucket.left) == (1.0, 0)
    assert bucket.take(100.5) == pytest.approx(0.5)
    assert bucket.take(101.0) == 0.0
    assert bucket.full_after == pytest.approx(60)


def test_it_fills_up_to_a_minute_and_no_further() -> None:
    bucket = TokenBucket(3, 0.0)
    bucket.take(0.0)
    assert [bucket.take(1e6) for _ in range(4)] == [0.0, 0.0, 0.0, 20.0]


@given(st.integers(1, 1000), st.lists(st.floats(0, 100), max_size=200))
def test_no_more_pass_than_have_flown_in_and_who_waits_as_told_passes(per_minute: int, pauses: list[float]) -> None:
    bucket, now, passed = TokenBucket(per_minute, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        wait = bucket.take(now)
        if wait:
            now += wait + 1e-6
            assert bucket.take(now) == 0.0
        passed += 1
    assert passed <= per_minute * (1 + now / 60) + 1e-6


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(1, 10.0)
    assert bucket.take(10.0) == 0.0
    assert bucket.take(5.0) == bucket.take(10.0) == 60.0
