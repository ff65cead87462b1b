"""When windows of a schedule are open, over time zones and clocks that change; and who is told of it."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.api.model import Model
from hotseat.api.types import Window
from hotseat.control.schedule_timer import LONGEST, ScheduleTimer
from hotseat.core.policy.api import Capacity
from hotseat.core.scheduler.messages import ConfigChanged, SchedulingSpec
from hotseat.manifests.schedule_windows import Open, look, problems

WORK = {"start": "0 8 * * 1-5", "duration": "10h", "timeZone": "Europe/Berlin"}


def window(**fields: Any) -> Window:
    return Window.model_validate(fields)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def is_open(text: str, **fields: Any) -> bool:
    return look([window(**fields)], at(text)).wanted


@pytest.mark.parametrize(
    ("when", "wanted", "until"),
    [
        ("2026-07-06T07:59:59+02:00", False, "2026-07-06T08:00:00+02:00"),  # a Monday
        ("2026-07-06T08:00:00+02:00", True, "2026-07-06T18:00:00+02:00"),
        ("2026-07-06T17:59:59.5+02:00", True, "2026-07-06T18:00:00+02:00"),
        ("2026-07-06T18:00:00+02:00", False, "2026-07-07T08:00:00+02:00"),
        ("2026-07-10T18:00:00+02:00", False, "2026-07-13T08:00:00+02:00"),  # over the weekend
        ("2026-01-05T08:00:00+01:00", True, "2026-01-05T18:00:00+01:00"),  # in winter, an hour later by UTC
    ],
)
def test_a_window_opens_at_its_time_where_its_people_are(when: str, wanted: bool, until: str) -> None:
    assert look([window(**WORK)], at(when)) == Open(wanted, False, at(until))


def test_times_without_a_zone_are_utc() -> None:
    assert is_open("2026-07-06T08:00:00+00:00", start="0 8 * * *", duration="1m")


def test_a_window_may_last_over_midnight_and_over_its_own_next_start() -> None:
    night = {"start": "0 22 * * *", "duration": "8h"}
    assert is_open("2026-07-07T05:59:00+00:00", **night)
    assert not is_open("2026-07-07T06:00:00+00:00", **night)
    always = {"start": "0 * * * *", "duration": "90m"}
    for minute in range(0, 240, 7):
        assert look([window(**always)], at("2026-07-07T05:00:00+00:00") + timedelta(minutes=minute)).wanted


@pytest.mark.parametrize(
    ("day", "first"),
    [
        ("2026-03-28", "2026-03-28T01:30:00+00:00"),
        ("2026-03-29", "2026-03-29T01:00:00+00:00"),  # 02:30 is skipped: at 03:00, right after
        ("2026-03-30", "2026-03-30T00:30:00+00:00"),
        ("2026-10-25", "2026-10-25T00:30:00+00:00"),  # 02:30 comes twice: the first
    ],
)
def test_a_start_in_an_hour_that_is_skipped_or_doubled_comes_once(day: str, first: str) -> None:
    early = window(start="30 2 * * *", duration="30m", timeZone="Europe/Berlin")
    minutes = [at(f"{day}T00:00:00+00:00") + timedelta(minutes=n) for n in range(24 * 60 - 120)]
    opened = [minute for minute in minutes if look([early], minute).wanted]
    assert (opened[0], len(opened)) == (at(first), 30)


def test_a_window_lasts_as_long_on_the_day_that_the_clocks_change() -> None:
    night = window(start="0 22 * * *", duration="8h", timeZone="Europe/Berlin")
    assert look([night], at("2026-10-24T22:00:00+02:00")).until == at("2026-10-25T05:00:00+01:00")


def test_of_several_windows_any_may_be_open_and_any_may_pin() -> None:
    both = [window(start="0 8 * * *", duration="4h"), window(start="0 10 * * *", duration="1h", pinned=True)]
    assert look(both, at("2026-07-06T09:00:00+00:00")) == Open(True, False, at("2026-07-06T10:00:00+00:00"))
    assert look(both, at("2026-07-06T10:30:00+00:00")) == Open(True, True, at("2026-07-06T11:00:00+00:00"))
    assert look(both, at("2026-07-06T11:00:00+00:00")) == Open(True, False, at("2026-07-06T12:00:00+00:00"))
    assert look([], at("2026-07-06T09:00:00+00:00")) == Open()


@given(
    start=st.sampled_from(["0 8 * * 1-5", "30 2 * * *", "*/7 * * * *", "0 0 29 2 *", "15,45 1-3 1 */3 *"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    minutes=st.integers(1, 3000),
    when=st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001 - made UTC below
)
def test_nothing_changes_before_the_time_to_look_again(start: str, zone: str, minutes: int, when: datetime) -> None:
    when = when.replace(tzinfo=UTC)
    schedule = [window(start=start, duration=f"{minutes}m", timeZone=zone)]
    now = look(schedule, when)
    assert now.until is not None
    assert now.until > when
    for share in (0.001, 0.5, 0.999):
        assert look(schedule, when + (now.until - when) * share).wanted == now.wanted
    if not now.wanted:
        assert look(schedule, now.until).wanted


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"start": "0 8 * * 5-1"}, [("start", "is not a valid cron time: Bad day-of-week")]),
        ({"start": "0 8 * XYZ *"}, [("start", "is not a valid cron time: Bad month")]),
        ({"start": "0 8 30 2 *"}, [("start", "is not a valid cron time: Bad day-of-month")]),
        ({"start": "0 8 29 2 *"}, []),
        ({"timeZone": "Europe/Berlni"}, [("timeZone", "is not a known time zone")]),
        ({"timeZone": "Europe"}, [("timeZone", "is not a known time zone")]),  # a folder of the database
    ],
)
def test_what_is_no_window_is_said(fields: dict[str, str], found: list[tuple[str, str]]) -> None:
    assert list(problems(window(**{"start": "0 8 * * *", "duration": "1h"} | fields))) == found


# Who is told ----------------------------------------------------------------------------------------------------------


class Day:
    """A timetable on a day whose time a test tells."""

    def __init__(self, when: str) -> None:
        self.now = at(when)
        self.told: list[ConfigChanged] = []
        self.table = ScheduleTimer(self.told.append, lambda: 7.0, self.today)

    def today(self) -> float:
        return self.now.timestamp()

    def pass_to(self, when: str) -> float | None:
        self.now = at(when)
        return self.table.evaluate()

    @property
    def open(self) -> tuple[bool, bool]:
        terms = self.told[-1].models["a"]
        return terms.wanted, terms.kept


def models(**lifecycle: Any) -> list[Model]:
    specs = {"a": {"engine": "mock", "lifecycle": lifecycle}, "b": {"engine": "mock"}}
    return [Model.model_validate({"metadata": {"name": name}, "spec": spec}) for name, spec in specs.items()]


TERMS = {"a": SchedulingSpec(priority=3), "b": SchedulingSpec()}


def test_the_switcher_is_told_when_a_window_opens_and_closes_and_at_no_other_time() -> None:
    day = Day("2026-07-06T07:00:00+02:00")
    day.table.configure(models(schedule=[WORK | {"pinned": True}]), TERMS, Capacity(2))
    assert day.told == [ConfigChanged(7.0, TERMS, Capacity(2))]
    assert day.pass_to("2026-07-06T07:59:00+02:00") == 60.0
    assert len(day.told) == 1
    assert day.pass_to("2026-07-06T08:00:00+02:00") == 36_000.0
    assert day.open == (True, True)
    assert (day.told[-1].models["a"].priority, day.told[-1].models["b"]) == (3, TERMS["b"])
    day.pass_to("2026-07-06T12:00:00+02:00")
    assert len(day.told) == 2
    day.pass_to("2026-07-06T19:00:00+02:00")  # the machine slept
    assert day.open == (False, False)
    day.table.close()
    assert day.pass_to("2026-07-07T09:00:00+02:00") is None
    assert len(day.told) == 3


def test_documents_are_told_at_once_and_as_the_time_is() -> None:
    day = Day("2026-07-06T09:00:00+02:00")
    day.table.configure(models(), TERMS, Capacity(1))
    assert day.open == (False, False)
    day.table.configure(models(schedule=[WORK]), TERMS, Capacity(1))
    assert day.open == (True, False)
    day.table.configure(models(schedule=[WORK]), TERMS, Capacity(1))
    assert len(day.told) == 3, "the same documents are told as well: a fingerprint may have changed elsewhere"
    day.table.configure(models(), TERMS, Capacity(1))
    assert day.open == (False, False)
    day.table.close()


def test_it_looks_again_by_itself_when_a_window_opens() -> None:
    opened, now = threading.Event(), [at("2026-07-06T07:59:59.98+02:00")]

    def hear(stimulus: ConfigChanged) -> None:
        if stimulus.models["a"].wanted:
            opened.set()

    def today() -> float:
        before, now[0] = now[0], at("2026-07-06T08:00:00+02:00")
        return before.timestamp()

    table = ScheduleTimer(hear, lambda: 0.0, today)
    table.configure(models(schedule=[WORK]), TERMS, Capacity(1))
    assert opened.wait(5.0)
    table.close()


def test_no_look_is_far_off_for_the_clock_may_be_set() -> None:
    day = Day("2026-07-06T19:00:00+02:00")
    day.table.configure(models(schedule=[WORK]), TERMS, Capacity(1))
    due = day.table._worker._due
    assert due is not None
    assert due - LONGEST == pytest.approx(time.monotonic(), abs=5)
    day.table.close()
    assert day.table._worker._due is None
