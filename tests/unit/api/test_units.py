"""Durations, quantities and times: what is read, what is refused, and that writing brings back what was read."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.api.units import (
    Unreadable,
    format_bytes,
    format_duration,
    format_time,
    parse_bytes,
    parse_duration,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25), ("1.5s", 1.5), ("0", 0), ("0s", 0), ("1m1ms", 60.001)],
)
def test_a_duration_is_read_as_seconds(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    ["", "5", "5 m", "-5s", "5d", "s", "1.s", "5m\n", "٣s", 5, 0, 1.5, True, None, ["5s"], "9" * 400 + "h", "3000000h"],
)
def test_what_is_no_duration_is_refused_with_an_example(value):
    with pytest.raises(Unreadable, match=r"^a duration such as 90s"):
        parse_duration(value)


@given(st.integers(0, 10**12))
def test_a_written_duration_reads_as_the_same_milliseconds(milliseconds):
    assert round(parse_duration(format_duration(milliseconds / 1000)) * 1000) == milliseconds


def test_durations_are_written_as_people_write_them():
    assert [format_duration(it) for it in (0, 0.25, 10, 300, 5400, 90, 1.5)] == [
        "0s",
        "250ms",
        "10s",
        "5m",
        "1h30m",
        "1m30s",
        "1500ms",
    ]


@pytest.mark.parametrize(
    ("value", "quantity"), [("500m", "0.5"), (2, "2"), (0.5, "0.5"), ("1.5k", "1500"), ("0", "0"), ("4", "4")]
)
def test_a_quantity_is_read_as_a_number(value, quantity):
    assert parse_quantity(value) == Decimal(quantity)


@pytest.mark.parametrize(
    "value", ["", "-1", -1, "1GB", "1 Gi", "Gi", True, None, float("inf"), float("nan"), "9" * 30, "1Gi\n", "1..5", [1]]
)
def test_what_is_no_quantity_is_refused(value):
    for parse in (parse_quantity, parse_bytes):
        with pytest.raises(Unreadable, match="such as"):
            parse(value)


@pytest.mark.parametrize(
    ("value", "count"), [("24Gi", 24 * 2**30), ("500M", 500 * 10**6), (7, 7), ("0.1Gi", 107374183), ("0", 0)]
)
def test_memory_is_read_as_whole_bytes_rounded_up(value, count):
    assert parse_bytes(value) == count


def test_a_thousandth_of_a_byte_is_refused_as_nobody_means_it():
    with pytest.raises(Unreadable, match="an amount of memory such as 24Gi"):
        parse_bytes("512m")


def test_bytes_are_written_for_people():
    assert [format_bytes(it) for it in (0, 1023, 1536, 24 * 2**30, 5 * 2**40)] == ["0", "1023", "1.5Ki", "24Gi", "5Ti"]


def test_a_time_is_written_in_utc_as_precisely_as_is_asked():
    assert format_time(0.9994) == "1970-01-01T00:00:00.999Z"
    assert format_time(86400, "seconds") == "1970-01-02T00:00:00Z"
    assert format_time(0.5, "microseconds") == "1970-01-01T00:00:00.500000Z"
