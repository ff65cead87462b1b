"""What `hotseat up` prints: for people, for programs, and for nobody."""

import io
import json
import shlex
import threading
import time

import pytest

from hotseat import __version__
from hotseat.cli.events import _FORMATTERS, BACKLOG, Activity, Console, chat_hints, line
from hotseat.cli.terminal import LiveLine, age, share, table, took
from hotseat.core.events import EVENT_TYPES

URL = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Tty(io.StringIO):
    def isatty(self):
        return True


def event(kind, subject="gemma", **data):
    return {
        "specversion": "1.0", "id": "1", "type": f"dev.hotseat.{kind}.v1", "source": "/workspaces/default",
        "subject": subject, "time": "2026-01-02T12:31:07.123Z", "epoch": 7, "data": data,
    }  # fmt: skip


PHASES = {"wait": 0.0, "drain": 0.01, "release": 0.12, "load": 1.31, "total": 1.44}
GOES = {"switch": "default/7", "workspace": "default", "from": ["qwen"], "to": "gemma", "reason": "demand"}
STARTED = event("switch.started", **GOES, waiting=2)
COMPLETED = event("switch.completed", **GOES, phases=PHASES)


def printed(*events, stream=None, json_lines=False, color=False):
    stream = stream or io.StringIO()
    console = Console(stream, json_lines, color)
    for one in events:
        console.event(one)
    console.close()
    return stream.getvalue()


def test_a_switch_is_one_line_with_its_phases_and_how_many_waited():
    assert printed(event("switch.requested", model="gemma"), STARTED, event("model.ready"), COMPLETED) == (
        "12:31:07  switch  qwen → gemma   drain 0.01s  release 0.12s  load 1.31s  total 1.44s  (2 waited)\n"
    )


def test_a_wait_that_can_be_seen_is_told():
    assert "gemma   wait 2.50s  drain 0.01s" in printed(
        event("switch.completed", **GOES, phases=PHASES | {"wait": 2.5})
    )


def test_a_first_load_and_an_unload_are_named_so():
    load = event("switch.completed", **GOES | {"from": []}, phases=PHASES | {"drain": 0.0, "release": 0.0})
    unload = event("switch.completed", **GOES | {"to": None}, phases={"drain": 0, "release": 0.2, "total": 0.2})
    assert printed(load, unload) == (
        "12:31:07  load    gemma   load 1.31s  total 1.44s\n"
        "12:31:07  unload  qwen   drain 0.00s  release 0.20s  total 0.20s\n"
    )


MESSAGE = "ended with 1 while loading\nloading weights\nout of memory"
FAILED = event("model.failed", reason="Exited", message=MESSAGE, retry_after=5)
SWITCH_FAILED = event("switch.failed", **GOES, phase="load", code="Exited", message=MESSAGE)


def test_a_failure_says_why_with_the_engines_last_lines_once():
    assert printed(STARTED, FAILED, SWITCH_FAILED) == (
        "12:31:07  failed  gemma  (next try in 5.00s)   Exited: ended with 1 while loading\n"
        "          | loading weights\n"
        "          | out of memory\n"
        "12:31:07  failed  qwen → gemma   while in load: Exited: ended with 1 while loading\n"
    )


def test_the_next_failure_shows_the_last_lines_again():
    assert printed(STARTED, FAILED, STARTED, FAILED).count("| out of memory") == 2


def test_a_switch_that_fails_alone_shows_the_last_lines_itself():
    assert printed(SWITCH_FAILED).endswith("| loading weights\n          | out of memory\n")


def test_colour_only_where_wanted():
    assert "\x1b[32mswitch\x1b[0m" in printed(COMPLETED, color=True)
    assert "\x1b" not in printed(COMPLETED, FAILED)


def test_the_banner_says_where_what_and_what_to_type_next():
    stream = io.StringIO()
    console = Console(stream, json_lines=False, color=False)
    models = [("gemma", "llamacpp", ["gpt-4o"], "unloaded"), ("embed", "llamacpp", [], "unloaded")]
    console.banner(URL, models, [("default", 1), ("two", 2), ("all", None)], chat_hints(URL, "gemma"))
    console.close()
    assert (
        stream.getvalue()
        == f"""\
hotseat {__version__} at http://127.0.0.1:8000, workspace default (1 GPU), two (2 GPUs), all (limited by groups)

  MODEL   ENGINE     STATE      OTHER-NAMES
  gemma   llamacpp   unloaded   gpt-4o
  embed   llamacpp   unloaded   -

Try:
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{{"model": "gemma", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
  hotseat chat gemma

Ctrl-C lets requests in flight finish and stops; a second Ctrl-C stops immediately.

"""
    )


def test_the_hints_can_be_pasted_and_name_the_key_and_another_address():
    curl, chat = chat_hints("http://gpu-box:9000", "gemma", with_key=True)
    words = shlex.split(curl)
    assert words[:4] == [
        "curl",
        "http://gpu-box:9000/v1/chat/completions",
        "-H",
        "Authorization: Bearer $HOTSEAT_API_KEY",
    ]
    assert json.loads(words[-1])["model"] == "gemma"
    assert chat == "hotseat --url http://gpu-box:9000 chat gemma"
    assert shlex.split(chat_hints(URL, "it's a name")[1]) == ["hotseat", "chat", "it's a name"]


def test_for_programs_every_line_is_one_json_object():
    stream = io.StringIO()
    console = Console(stream, json_lines=True, color=False)
    console.banner(URL, [("gemma", "mock", ["g"], "unloaded")], [("default", 1)], ["ignored"])
    console.log("models.yaml has changed")
    for one in (STARTED, FAILED, event("demand.reported"), COMPLETED):
        console.event(one)
    console.close()
    banner, log, started, failed, completed = map(json.loads, stream.getvalue().splitlines())
    assert (banner["url"], banner["models"][0]["other_names"], banner["workspaces"]) == (
        URL,
        ["g"],
        [{"name": "default", "gpus": 1}],
    )
    assert (log["level"], log["message"]) == ("info", "models.yaml has changed")
    assert started["event"] == STARTED
    assert failed["level"] == "error"
    assert failed["message"].endswith("loading weights out of memory (next try in 5.00s)")
    assert completed["message"].startswith("switch.completed gemma qwen → gemma drain 0.01s")
    assert completed["time"] == COMPLETED["time"]


def test_a_model_that_outgrows_its_claim_is_told():
    grown = event("model.outgrown", instance="default/3", claimed=8 * 2**30, seen=9.5 * 2**30)
    assert printed(grown) == "12:31:07  grown   gemma   uses 9.5Gi of accelerator memory, but claims 8Gi\n"


def test_a_download_does_not_flood_the_log():
    fetching = [event("model.fetching", done=done, total=100, message="") for done in range(50)]
    lines = printed(*fetching, event("model.cached"), json_lines=True).splitlines()
    assert [json.loads(one)["event"]["type"] for one in lines] == [
        "dev.hotseat.model.fetching.v1",
        "dev.hotseat.model.cached.v1",
    ]


def test_on_a_terminal_a_live_line_shows_the_load_and_leaves_nothing():
    shown = printed(STARTED, event("model.released", "qwen"), COMPLETED, stream=Tty())
    assert "gemma  waiting for qwen to leave  0.0s" in shown
    assert "gemma  loading  0.0s" in shown
    assert shown.rpartition("\x1b[2K")[2] == ""


def test_a_broken_stream_hurts_nobody():
    class Broken(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    console = Console(Broken(), json_lines=False, color=False)
    console.log("lost")
    console.event(COMPLETED)
    console.close()


@pytest.mark.parametrize(
    "odd", [{}, {"type": 1, "data": "x"}, event("switch.completed", phases="x"), event("a.b") | {"time": 0}]
)
@pytest.mark.parametrize("json_lines", [True, False])
def test_an_event_that_makes_no_sense_does_not_stop_the_next(odd, json_lines):
    assert "qwen → gemma" in printed(odd, COMPLETED, json_lines=json_lines)


def test_a_reader_that_has_stopped_holds_up_nobody_and_loses_lines_beyond_the_backlog():
    go_on = threading.Event()

    class Stopped(io.StringIO):
        def write(self, text):
            go_on.wait(20)
            return super().write(text)

    stream = Stopped()
    console = Console(stream, json_lines=False, color=False)
    for _ in range(2 * BACKLOG):
        console.log("line")
    go_on.set()
    console.close()
    assert BACKLOG <= len(stream.getvalue().splitlines()) <= BACKLOG + 1


def test_lines_of_many_threads_stay_whole():
    stream = io.StringIO()
    console = Console(stream, json_lines=False, color=False)
    threads = [threading.Thread(target=console.log, args=(f"line {n}",)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    console.close()
    assert sorted(one[10:] for one in stream.getvalue().splitlines()) == sorted(f"line {n}" for n in range(50))


def test_what_is_said_after_the_end_is_still_written():
    stream = io.StringIO()
    console = Console(stream, json_lines=False, color=False)
    console.log("one")
    console.close()
    console.log("two")
    console.close()
    assert len(stream.getvalue().splitlines()) == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (event("switch.requested", model="gemma", waiting=3), "switch.requested  gemma   3 waiting"),
        (event("switch.started", **GOES), "switch.started    gemma   qwen → gemma   demand"),
        (event("model.released", "qwen", reason="switch", seconds=0.12), "model.released    qwen   switch   after 0.12s"),
        (event("model.fetching", done=2**30, total=2**31, message=""), "model.fetching    gemma   50%  1Gi of 2Gi"),
        (
            event("model.fetching", done=2**30, total=2**31, rate=2**26, remaining=16, message=""),
            "model.fetching    gemma   50%  1Gi of 2Gi  64Mi/s  16s left",
        ),
        (event("model.outgrown", instance="default/3", claimed=8 * 2**30, seen=9 * 2**30), "model.outgrown    gemma   uses 9Gi of accelerator memory, but claims 8Gi"),
        (event("model.parked", seconds=0.5, memory=2**30), "model.parked      gemma   after 0.50s   1Gi"),
        (SWITCH_FAILED, "switch.failed     gemma   qwen → gemma   while in load: ended with 1 while loading loading weights out of memory"),
    ],
)  # fmt: skip
def test_any_event_has_one_line(given, told):
    assert line(given) == f"12:31:07  {told}"


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_every_kind_of_event_has_a_line_even_without_its_data(kind):
    told = line(event(kind))
    assert told.startswith(f"12:31:07  {kind}")
    assert "\n" not in told


def test_only_kinds_that_exist_are_told_in_a_way_of_their_own():
    assert _FORMATTERS.keys() <= EVENT_TYPES.keys()


def test_activity_knows_what_goes_on():
    activity = Activity()
    activity.update(event("switch.requested", model="gemma", waiting=1), 0.0)
    assert activity.text(1.5) == "gemma  waiting  1.5s"
    activity.update(event("model.fetching", done=2**20, total=None), 2.0)
    assert activity.text(3.0) == "gemma  fetching  1Mi  3.0s"
    activity.update(event("model.cached"), 3.0)
    activity.update(STARTED, 3.0)
    assert activity.text(4.0) == "gemma  waiting for qwen to leave  1.0s"
    activity.update(event("model.parked", "qwen"), 4.0)
    activity.update(event("switch.requested", "embed", model="embed"), 4.0)
    assert activity.text(4.5) == "gemma  loading  0.5s   embed  waiting  0.5s"
    activity.update(COMPLETED, 5.0)
    activity.update(event("model.failed", "embed"), 5.0)
    assert activity.text(6.0) == ""


def test_a_live_line_is_cut_to_the_terminal_and_stays_below_what_is_printed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    stream = Tty()
    live = LiveLine(stream)
    live.show("0123456789abc")
    live.print("above")
    live.show("0123456789xyz")  # looks the same
    live.show("")
    assert stream.getvalue() == "\r\x1b[2K012345678\r\x1b[2Kabove\n012345678\r\x1b[2K"


@pytest.mark.parametrize(
    ("seconds", "short"),
    [(-1, "0s"), (0.9, "0s"), (59, "59s"), (60, "1m"), (192, "3m12s"), (7200, "2h"), (90061, "1d1h")],
)
def test_ages_are_short(seconds, short):
    assert age(seconds) == short


@pytest.mark.parametrize(
    ("seconds", "short"), [(None, "-"), (0.004, "0.00s"), (1.44, "1.44s"), (41.26, "41.3s"), (125, "2m5s")]
)
def test_durations_are_as_exact_as_they_matter(seconds, short):
    assert took(seconds) == short


@pytest.mark.parametrize(
    ("done", "total", "shown"), [(None, 5, ""), (0, 2**30, "0%  0 of 1Gi"), (1536, None, "1.5Ki"), (7, 0, "7")]
)
def test_progress_shows_what_is_known(done, total, shown):
    assert share(done, total) == shown


def test_a_table_has_no_trailing_blanks():
    assert table(["A", "LONG"], [("aaa", ""), ("b", "c")]) == "A     LONG\naaa   -\nb     c"


def test_engines_cannot_command_the_terminal():
    failed = event("model.failed", reason="Exited", message="it ended:\nlast \x1b[2Jline\x9b")
    switch = event("switch.failed", **GOES, phase="load", code="Exited", message="it ended:\nother \x1b[2Jline")
    text = printed(failed, switch)
    assert r"last \x1b[2Jline\x9b" in text
    assert r"other \x1b[2Jline" in text
    assert not set(text) & set("\x1b\x9b")
