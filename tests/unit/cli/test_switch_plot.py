"""The time line of `hotseat switches --plot`: what is drawn when, and the picture itself."""

import struct
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from hotseat.cli.switch_plot import spans
from tests.unit.cli.fake_hotseat import FakeHotseat, sse

BEGIN = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC).timestamp()


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(BEGIN + seconds, UTC).isoformat()


def switch(
    at: float, to: str, *leaving: str, outcome: str = "completed", waiting: int = 0, **phases: float
) -> dict[str, Any]:
    total = sum(seconds for phase, seconds in phases.items() if phase != "wait")
    phases = {"wait": 0.0, "drain": 0.0, "release": 0.0, **phases, **({"total": total} if outcome != "running" else {})}
    return {
        "id": f"default/{at}", "workspace": "default", "from": list(leaving), "to": to, "reason": "demand", "outcome": outcome,
        "started_at": moment(at), "waiting": waiting, "phases": phases, "message": "",
    }  # fmt: skip


def event(at: float, kind: str, model: str, **data: Any) -> dict[str, Any]:
    return {
        "type": f"dev.hotseat.{kind}.v1",
        "subject": model,
        "time": moment(at),
        "data": {"instance": f"default/{model}@1", **data},
    }


def drawn(switches: list[dict[str, Any]], events: list[dict[str, Any]] = [], now: float = 100) -> list[tuple[Any, ...]]:  # noqa: B006
    """Spans with times since BEGIN, as tuples."""
    return [
        (
            span.model,
            span.kind,
            round(span.begin - BEGIN, 3),
            round(span.end - BEGIN, 3),
            *([span.note] if span.note else []),
        )
        for span in spans(switches, events, BEGIN + now)
    ]


def test_two_switches_with_all_their_phases() -> None:
    first = switch(0, "a", load=4.0)
    second = switch(20, "b", "a", waiting=3, wait=5.0, drain=2.0, save=0.5, release=1.0, load=6.0, restore=0.5)
    assert drawn([second, first]) == [
        ("a", "load", 0, 4),
        ("a", "resident", 4, 20),
        ("a", "drain", 20, 22),
        ("a", "save", 22, 22.5),
        ("a", "release", 22.5, 23.5),
        ("b", "wait", 15, 30, "3"),
        ("b", "load", 23.5, 29.5),
        ("b", "restore", 29.5, 30),
        ("b", "resident", 30, 100),
    ]


def test_what_was_resident_before_the_first_switch_was_so_from_the_beginning() -> None:
    assert drawn([switch(20, "b", "a", waiting=1, wait=5.0, load=2.0)])[:1] == [("a", "resident", 15, 20)]


def test_an_idle_model_that_was_unloaded_ends_by_its_event() -> None:
    events = [
        event(31, "model.released", "a", reason="idle", seconds=1.0),
        event(32, "model.released", "stranger", seconds=1.0),
    ]
    assert drawn([switch(0, "a", load=4.0)], events) == [
        ("a", "load", 0, 4),
        ("a", "resident", 4, 30),
        ("a", "release", 30, 31),
    ]


def test_the_event_of_a_release_that_a_switch_has_told_adds_nothing() -> None:
    switches = [switch(0, "a", load=4.0), switch(20, "b", "a", drain=1.0, release=1.0, load=2.0)]
    assert drawn(switches, [event(22, "model.released", "a", reason="evicted", seconds=1.0)]) == drawn(switches)


def test_a_model_that_has_failed_to_load_was_never_resident() -> None:
    switches = [switch(0, "a", load=4.0), switch(20, "b", "a", outcome="failed", waiting=1, release=1.0, load=2.0)]
    events = [event(23, "model.failed", "b", reason="LoadFailed"), event(24, "model.released", "b", seconds=0.5)]
    assert [row for row in drawn(switches, events) if row[0] == "b"] == [
        ("b", "wait", 20, 23, "1"),
        ("b", "load", 21, 23, "failed"),
    ]


def test_a_model_that_has_failed_to_load_was_not_resident_before_if_the_next_switch_begins_before_its_event() -> None:
    failed = switch(0, "a", outcome="failed", load=1.0)
    events = [event(1.003, "model.failed", "a", reason="LoadFailed")]
    assert drawn([failed, switch(1, "b", "a", load=1.0)], events) == [
        ("a", "load", 0, 1, "failed"),
        ("b", "load", 1, 2),
        ("b", "resident", 2, 100),
    ]


def test_a_switch_that_goes_on_has_no_phases_and_its_victim_may_still_serve() -> None:
    switches = [switch(0, "a", load=4.0), switch(90, "b", "a", outcome="running", waiting=2, wait=3.0)]
    assert drawn(switches)[1:] == [("a", "resident", 4, 100), ("b", "wait", 87, 100, "2")]


def test_replicas_count_as_their_model() -> None:
    assert drawn([switch(0, "a", load=4.0), switch(20, "b", "a#2", load=1.0)])[1] == ("a", "resident", 4, 20)


def test_nothing_is_nothing() -> None:
    assert spans([], [], BEGIN) == []


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake() -> FakeHotseat:
    fake = FakeHotseat()
    switches = [switch(0, "a", load=4.0), switch(20, "b", "a", waiting=3, wait=5.0, drain=2.0, release=1.0, load=6.0)]
    switches.append(switch(60, "c", "b", outcome="failed", load=6.0))
    fake.answers["GET /api/switches"] = {"switches": switches}
    fake.answers["GET /api/events"] = lambda _: sse(event(50, "model.released", "b", seconds=1.0))
    return fake


def test_a_png_of_sensible_size_is_drawn(fake: FakeHotseat, hotseat: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    result = hotseat("switches", "--plot", str(path))
    assert result.stdout == f"{path}: 3 switches of 3 models\n"
    picture = path.read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    assert 1000 < width < 2500
    assert 200 < height < 1500
    assert fake.last.path == "/api/events", "there is no history"


def test_an_svg_names_the_models(hotseat: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "out.svg"
    assert hotseat("switches", "--plot", str(path)).exit_code == 0
    assert "<svg" in path.read_text()


def test_events_of_the_history_are_taken_where_there_is_one(
    fake: FakeHotseat, hotseat: Callable[..., Result], tmp_path: Path
) -> None:
    fake.answers["GET /api/history/events"] = {"events": [], "oldest": None}
    assert hotseat("switches", "--plot", str(tmp_path / "out.png")).exit_code == 0
    assert fake.last.query == {"since": moment(0), "limit": "10000"}


def test_without_switches_there_is_nothing_to_draw(
    fake: FakeHotseat, hotseat: Callable[..., Result], tmp_path: Path
) -> None:
    fake.answers["GET /api/switches"] = {"switches": []}
    result = hotseat("switches", "--plot", str(tmp_path / "out.png"))
    assert (result.exit_code, result.stderr) == (1, "Error: --plot: there was no switch\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.gif", "allowed: a file whose name ends with .png, .svg, .pdf"), ("no/out.png", "does not exist")],
)
def test_a_file_that_cannot_be_drawn_is_refused_before_anything_is_asked(
    fake: FakeHotseat, hotseat: Callable[..., Result], tmp_path: Path, name: str, message: str
) -> None:
    result = hotseat("switches", "--plot", str(tmp_path / name))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not fake.requests


def test_without_matplotlib_it_is_said_what_to_install(
    hotseat: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = hotseat("switches", "--plot", str(tmp_path / "out.png"))
    assert (result.exit_code, result.stderr) == (1, "Error: --plot needs matplotlib: pip install 'hotseat[plot]'\n")
