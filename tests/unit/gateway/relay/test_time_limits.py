"""Many requests share one timer for each limit, and each ends at its own time."""

from collections.abc import Callable
from typing import Any

import pytest

from hotseat.gateway.relay import time_limits
from hotseat.gateway.relay.time_limits import TimeLimits


class Loop:
    """A loop and a clock that stand still."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def call_later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        self.timers.append((self.now + seconds, call, arguments))

    def run(self, until: float) -> None:
        while due := [each for each in self.timers if each[0] <= until]:
            first = min(due, key=lambda each: each[0])
            self.timers.remove(first)
            self.now = first[0]
            first[1](*first[2])
        self.now = until


class Request:
    def __init__(self, name: str, late: list[str]) -> None:
        self.name, self.late = name, late

    def too_late(self) -> None:
        self.late.append(self.name)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(time_limits.asyncio, "get_running_loop", lambda: loop)
    monkeypatch.setattr(time_limits.time, "monotonic", lambda: loop.now)
    return loop


def test_each_is_late_at_its_own_time_and_one_that_ended_never(loop: Loop) -> None:
    late: list[str] = []
    limits = TimeLimits()
    a, b, c, d = (Request(name, late) for name in "abcd")
    limits.add(a, 10.0)
    limits.add(d, 3.0)
    loop.run(105.0)
    assert late == ["d"]
    limits.add(b, 10.0)
    limits.add(c, 10.0)
    limits.remove(b, 10.0)
    assert len(loop.timers) == 1
    loop.run(109.9)
    assert late == ["d"]
    loop.run(110.0)
    assert late == ["d", "a"]
    loop.run(114.9)
    assert late == ["d", "a"]
    loop.run(120.0)
    assert late == ["d", "a", "c"]
    assert loop.timers == []


def test_a_limit_is_used_again_after_all_of_it_have_ended(loop: Loop) -> None:
    late: list[str] = []
    limits = TimeLimits()
    first, second = Request("first", late), Request("second", late)
    limits.add(first, 10.0)
    limits.remove(first, 10.0)
    loop.run(105.0)
    limits.add(second, 10.0)
    loop.run(114.0)
    assert late == []
    limits.remove(second, 10.0)
    loop.run(200.0)
    assert (late, loop.timers) == ([], [])


def test_one_that_is_late_may_begin_another(loop: Loop) -> None:
    late: list[str] = []
    limits = TimeLimits()

    class Again(Request):
        def too_late(self) -> None:
            super().too_late()
            limits.add(Request("next", late), 10.0)

    limits.add(Again("again", late), 10.0)
    loop.run(119.0)
    assert late == ["again"]
    loop.run(120.0)
    assert late == ["again", "next"]


def test_to_end_it_twice_has_no_effect(loop: Loop) -> None:
    limits, request = TimeLimits(), Request("a", [])
    limits.add(request, 10.0)
    loop.run(110.0)
    limits.remove(request, 10.0)
    assert request.late == ["a"]
