"""What `hotseat top` shows for given answers, and what its keys do."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from hotseat.cli.terminal import text_width
from hotseat.cli.top_picture import CHOSEN, Action, Answers, Line, TopView, model_lines, picture
from hotseat.cli.top_screen import keys_of, styled
from tests.unit.cli.fake_hotseat import model

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def listed(name: str, state: str = "unloaded", **more: object) -> dict[str, object]:
    return model(name, status={"value": state, "state": state, "since": None, "message": "", "progress": None, **more})


def queue(name: str, **more: object) -> dict[str, object]:
    row = {
        "model": name,
        "metadata_name": name,
        "workspace": "default",
        "waiting": 0,
        "in_flight": 0,
        "oldest_seconds": None,
    }
    return row | more


def resident(name: str, state: str, seconds: float, **more: object) -> dict[str, object]:
    return {
        "model": name,
        "state": state,
        "since": ago(seconds),
        "workspace": "default",
        "in_flight": 0,
        "pinned": False,
    } | more


SWITCH = {
    "id": "default/1", "workspace": "default", "from": ["gemma"], "to": "qwen", "reason": "demand", "outcome": "completed",
    "started_at": ago(300), "waiting": 1, "phases": {"wait": 0.0, "drain": 0.5, "release": 0.12, "load": 1.31, "total": 1.93},
    "message": "",
}  # fmt: skip
GPU = {
    "id": "0", "uuid": "GPU-1", "name": "NVIDIA H200", "memory_used": 80 << 30, "memory_total": 140 << 30, "utilization": 0.45,
    "temperature": 41, "power": 320.4, "workspace": "default",
}  # fmt: skip
BUSY = Answers(
    models=[listed("bge"), listed("gemma", "ready", pinned=True), listed("qwen")],
    running={
        "running": [resident("gemma", "ready", 192, in_flight=2, pinned=True)],
        "workspaces": [{"name": "default", "gpus": 1, "policy": "batch", "effective_max_wait": 60.0}],
    },
    queue=[
        queue("bge"),
        queue("gemma", in_flight=2),
        queue("qwen", waiting=3, oldest_seconds=12.3, reason="Turn", message="gemma comes first", expected_at=ago(-8)),
    ],
    gpus=[GPU],
    switches=[SWITCH],
    requests=[
        {"model": "gemma", "arrived_at": ago(4), "seconds": 4.0, "tokens_per_second": None},
        {"model": "gemma", "arrived_at": ago(10), "seconds": 5.0, "tokens_per_second": 45.12},
    ],
)  # fmt: skip


def plain(lines: list[Line]) -> list[str]:
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def clock_of(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).astimezone().strftime("%H:%M:%S")


def test_all_of_it_on_a_wide_terminal() -> None:
    assert plain(picture(BUSY, TopView("http://box:8000"), NOW, 130)) == [
        f"hotseat  http://box:8000  {clock_of(0)}  2 in flight, 3 queued",
        "",
        "default  1 GPU, policy batch, waits at most 1m, 3 queued",
        "",
        "GPU  NAME         MEMORY                    USED             TEMP   POWER  WORKSPACE",
        "0    NVIDIA H200  ██████░░░░ 80Gi of 140Gi  ████░░░░░░  45%  41 °C  320 W  default",
        "",
        "MODEL  STATE         FOR    IN-FLIGHT  TOKENS/S  QUEUED  OLDEST  EXPECTED  WHY",
        "gemma  ready,pinned  3m12s  2          45.1      -       -       -         -",
        "qwen   unloaded      -      -          -         3       12s     8s        Turn: gemma comes first",
        "bge    unloaded      -      -          -         -       -       -         -",
        "",
        "LAST SWITCHES",
        f"{clock_of(300)}  gemma → qwen  demand  drain 0.50s  release 0.12s  load 1.31s  total 1.93s",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_a_narrow_terminal_leaves_out_what_matters_least(width: int) -> None:
    lines = picture(BUSY, TopView("http://box:8000", selected="qwen"), NOW, width, 20)
    assert all(text_width(line) <= width for line in plain(lines))
    (qwen,) = [line for line in plain(lines) if line.startswith("▶ qwen")]
    if width == 80:
        assert qwen.endswith("Turn: gemma comes f…")
    if width == 60:
        assert qwen.split() == ["▶", "qwen", "unloaded", "-", "3", "12s", "8s"]


def test_the_picture_fills_the_height_and_shows_the_selected_model() -> None:
    many = Answers(queue=[queue(f"m{number:03}") for number in range(200)], switches=[SWITCH] * 40)
    view = TopView(selected="m120")
    for height in (8, 12, 24, 50):
        lines = picture(many, view, NOW, 80, height)
        assert len(lines) == height
        assert [line.split()[1] for line in plain(lines) if line.startswith("▶")] == ["m120"]
        assert plain(lines)[-1].startswith("↑↓ select")


@pytest.mark.parametrize(
    ("residents", "phases", "expected"),
    [
        ([("gemma", "draining", 3.2)], {"wait": 0.0, "drain": 0.0}, "switch  gemma → qwen  drain 3.20s  (1 waiting)"),
        ([("gemma", "saving", 0.5)], {"drain": 0.3}, "switch  gemma → qwen  drain 0.30s  save 0.50s  (1 waiting)"),
        ([("gemma", "releasing", 0.5)], {"drain": 0.3}, "switch  gemma → qwen  drain 0.30s  release 0.50s  (1 waiting)"),
        ([("qwen", "loading", 40)], {"drain": 0.3, "release": 0.1}, "switch  gemma → qwen  drain 0.30s  release 0.10s  load 40.0s  (1 waiting)"),
        ([], {"wait": 0.0}, "switch  gemma → qwen  wait 300.0s  (1 waiting)"),
    ],
)  # fmt: skip
def test_a_running_switch_shows_its_phase(
    residents: list[tuple[str, str, float]], phases: dict[str, float], expected: str
) -> None:
    answers = replace(
        BUSY,
        running={"running": [resident(name, state, seconds) for name, state, seconds in residents]},
        switches=[{**SWITCH, "outcome": "running", "phases": phases}],
    )
    found = [line for line in plain(picture(answers, TopView(), NOW, 130)) if line.startswith("switch")]
    assert found == [expected.replace("300.0s", "5m")]


def test_failures_and_fetches_say_what_is_known() -> None:
    answers = Answers(
        models=[listed("a", "failed", message="exit status 1\nlog"), listed("b", "fetching")],
        running={
            "running": [],
            "fetching": [{"model": "b", "done": 1 << 30, "total": 2 << 30, "rate": None, "remaining": 60}],
        },
        switches=[{**SWITCH, "outcome": "failed", "message": "exit status 1. Its last output:\nbegin\nno memory"}],
    )
    lines = plain(picture(answers, TopView(), NOW, 130))
    assert [line for line in lines if line.startswith("a ")] == [
        "a      failed    -    -          -         -       -       -         exit status 1"
    ]
    assert "fetch   b  50%  1Gi of 2Gi  1m left" in lines
    assert lines[-1].endswith("gemma → qwen  demand  failed: exit status 1. Its last output: no memory")


def test_answers_of_an_earlier_version_are_enough() -> None:
    assert plain(picture(Answers(), TopView("http://x"), NOW, 80))[2:] == ["no models"]
    old = Answers(queue=[{"model": "a", "waiting": 1, "in_flight": 0}], running={"running": []})
    assert plain(picture(old, TopView("http://x"), NOW, 80))[2:] == [
        "MODEL  STATE     FOR  IN-FLIGHT  TOKENS/S  QUEUED  OLDEST",
        "a      unloaded  -    -          -         1       -",
    ]
    bare = {
        "id": "0",
        **dict.fromkeys(
            ("uuid", "name", "memory_used", "memory_total", "utilization", "temperature", "power", "workspace")
        ),
    }
    assert plain(picture(Answers(gpus=[bare]), TopView(), NOW, 80))[3].split() == ["0", *"------"]


def test_names_and_messages_have_no_control_characters() -> None:
    answers = Answers(queue=[queue("a\x1b[2J", waiting=1, reason="Turn", message="b\x07")])
    assert not any("\x1b" in line or "\x07" in line for line in plain(picture(answers, TopView(), NOW, 80, 20)))


def test_a_hotseat_that_does_not_answer_is_connected_to() -> None:
    view = TopView("http://x", problem="no hotseat answers at http://x;\nstart one")
    assert plain(picture(BUSY, view, NOW, 80))[0] == "hotseat  connecting…  no hotseat answers at http://x; start one"


def test_the_selected_model_stays_selected_and_is_marked() -> None:
    view = TopView()
    for key, expected in (
        ("down", "qwen"),
        ("j", "bge"),
        ("down", "bge"),
        ("k", "qwen"),
        ("up", "gemma"),
        ("up", "gemma"),
    ):
        assert view.press(key, BUSY) is None
        assert view.selected == expected
    view.selected = "qwen"
    moved = replace(BUSY, queue=[queue("bge", waiting=1), *BUSY.queue[1:]])
    (line,) = [line for line in picture(moved, view, NOW, 80, 24) if any(style == CHOSEN for _, style in line)]
    assert "".join(text for text, _ in line).startswith("▶ qwen")
    assert "\x1b[7m" in styled(line)


def test_keys_give_commands() -> None:
    view = TopView(selected="qwen")
    assert view.press("l", BUSY) == Action("load", "qwen")
    assert TopView(selected="bge").press("u", BUSY) == Action("unload", "bge")
    assert view.press("p", BUSY) == Action("pin", "qwen")
    view.selected = "gemma"
    assert view.press("p", BUSY) == Action("unpin", "gemma")
    assert TopView().press("l", BUSY) == Action("load", "gemma"), "the first model is selected at first"
    assert TopView().press("l", Answers()) is None
    assert not view.over
    view.press("q", BUSY)
    assert view.over


def test_a_model_with_queued_requests_is_unloaded_after_a_question() -> None:
    view = TopView(selected="qwen")
    assert view.press("u", BUSY) is None
    asked = plain(picture(BUSY, view, NOW, 80, 24))[-1]
    assert asked == "Unload qwen? 3 queued get a 503. y: yes, any other key: no"
    assert view.press("y", BUSY) == Action("unload", "qwen")


def test_a_model_with_requests_in_flight_is_unloaded_after_a_question() -> None:
    view = TopView(selected="gemma")
    assert view.press("u", BUSY) is None
    assert (
        plain(picture(BUSY, view, NOW, 80, 24))[-1]
        == "Unload gemma? 2 in flight finish first. y: yes, any other key: no"
    )
    assert view.press("q", BUSY) is None
    assert not view.asking
    assert not view.over, "q was the answer"
    view.press("u", BUSY)
    assert view.press("y", BUSY) == Action("unload", "gemma")


def test_a_filter_leaves_models_and_commands_are_for_them() -> None:
    view = TopView(selected="gemma")
    for key in ("/", "Q", "x", "backspace", "w"):
        assert view.press(key, BUSY) is None
    assert plain(picture(BUSY, view, NOW, 80, 24))[-1] == "/Qw▏"
    view.press("enter", BUSY)
    assert [line.name for line in view.shown(model_lines(BUSY))] == ["qwen"]
    assert plain(picture(BUSY, view, NOW, 80, 24))[-1].startswith("/Qw (1)  ↑↓")
    assert view.press("l", BUSY) == Action("load", "qwen")
    view.press("esc", BUSY)
    assert len(view.shown(model_lines(BUSY))) == 3


def test_help_lists_the_keys() -> None:
    view = TopView()
    view.press("?", BUSY)
    lines = plain(picture(BUSY, view, NOW, 80, 30))
    assert "u         unload it: requests in flight finish first" in lines
    view.press("esc", BUSY)
    assert not view.help


def test_virtual_models_and_adapters_have_no_line_of_their_own() -> None:
    answers = Answers(models=[listed("a"), {**listed("any"), "members": ["a"]}, {**listed("a-lora"), "parent": "a"}])
    assert [line.name for line in model_lines(answers)] == ["a"]


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"lq", ["l", "q"]),
        (b"\x1b[A\x1bOB\x1b[6~", ["up", "down", "page down"]),
        (b"\x1b", ["esc"]),
        ("ü\r\x7f".encode(), ["ü", "enter", "backspace"]),
        (b"\x1b[1;5C\x01\xff", []),
    ],
)
def test_keys_of_a_terminal(data: bytes, keys: list[str]) -> None:
    assert keys_of(data) == keys
