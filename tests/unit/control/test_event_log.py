"""The bus: a history with numbers, listeners that may fail, followers that wait."""

import socket
import threading
from typing import Any

import pytest

from hotseat.control import event_log as bus_module
from hotseat.control.event_log import EventLog, HttpSink
from hotseat.core.events import Emit, shown_model_of


def emit(bus: EventLog, *subjects: str) -> None:
    for subject in subjects:
        bus.emit("default", 3, Emit("model.ready", subject, {"instance": "h"}))


def test_events_are_numbered_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "HISTORY", 3)
    bus = EventLog()
    emit(bus, *"abcde")
    assert [(number, event["subject"]) for number, event in bus.after(0)] == [(3, "c"), (4, "d"), (5, "e")]
    assert [number for number, _ in bus.after(4)] == [5]
    assert (bus.after(5), bus.count) == ([], 5)


def test_an_event_is_a_cloudevent() -> None:
    bus = EventLog("//host")
    emit(bus, "a", "")
    (_, event), (_, about_nobody) = bus.after(0)
    assert event.items() >= {
        "specversion": "1.0", "source": "//host/workspaces/default", "type": "dev.hotseat.model.ready.v1",
        "subject": "a", "epoch": 3, "datacontenttype": "application/json", "data": {"instance": "h"},
    }.items()  # fmt: skip
    assert "subject" not in about_nobody, "the specification allows no empty one"


def test_models_are_named_as_people_see_them_and_metadata_name_stands_beside() -> None:
    bus, shown = EventLog(), {"a": "Qwen 3\tB", "b": "C# 7b"}
    bus.add_shown_names(shown)
    bus.add_shown_names({"b": "C# 7b"})  # the document of a is gone; its end is told later
    data = {"from": ["a", "b#2", "c"], "to": "a", "switch": "default/1"}
    bus.emit("default", 3, Emit("switch.started", "a", data))
    bus.emit(
        "default", 3, Emit("demand.reported", "", {"waiting": {"a": {"count": 1}}, "in_flight": {"default/a@1": 2}})
    )
    bus.emit("default", 3, Emit("switch.started", "b", {**data, "waiting": 2}))
    switch, demand, other = (event for _, event in bus.after(0))
    assert (switch["subject"], switch["metadataname"]) == ("Qwen 3%09B", "a"), (
        "no attribute may have control characters"
    )
    assert switch["data"] == {"from": ["Qwen 3\tB", "C# 7b#2", "c"], "to": "Qwen 3\tB", "switch": "default/1"}
    assert demand["data"] == {"waiting": {"Qwen 3\tB": {"count": 1}}, "in_flight": {"default/a@1": 2}}
    assert (other["subject"], other["data"]["waiting"], "metadataname" in demand) == ("C# 7b", 2, False)
    assert [shown_model_of(seat) for seat in ("C# 7b#2", "C# 7b", "qwen#12")] == ["C# 7b", "C# 7b", "qwen"]


def test_a_listener_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    bus, heard = EventLog(), []

    def bad(event: Any) -> None:
        raise ValueError(event)

    bus.subscribe(bad)
    bus.subscribe(heard.append)
    emit(bus, "a")
    assert [event["subject"] for event in heard] == ["a"]
    assert "a listener failed" in caplog.text


def test_a_follower_waits_for_news_and_goes_home_at_the_end() -> None:
    bus = EventLog()
    seen: list[list[Any]] = []
    thread = threading.Thread(target=lambda: seen.extend([bus.after(0, 5), bus.after(1, 5)]))
    thread.start()
    emit(bus, "a")
    bus.close()
    thread.join(5)
    assert ([len(news) for news in seen], bus.closed) == ([1, 0], True)


def test_no_key_in_the_url_of_a_sink_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    bus = EventLog()
    emit(bus, "a")
    sink = HttpSink(f"http://ada:PASSWORD@{address}/hook?token=SECRET", attempts=1)
    sink(bus.after(0)[0][1])
    sink.close()
    assert f"was not delivered to http://{address}/hook: " in caplog.text
    assert "Connection refused" in caplog.text
    assert not [secret for secret in ("SECRET", "PASSWORD", "ada") if secret in caplog.text]
