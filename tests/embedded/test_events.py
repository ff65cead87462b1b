"""What the world is told of each switch: as a stream to follow, and to a sink somewhere else."""

import itertools
import json
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from .conftest import Up
from .harness import PREFIX, Hotseat, eventually, model, quickest, stopwatch
from .receiver import Receiver


def kinds(events: Iterable[dict[str, Any]]) -> list[str]:
    """Types without what they share; demand is left out, since it comes when it likes."""
    found = [event["type"].removeprefix(PREFIX).removesuffix(".v1") for event in events]
    return [kind for kind in found if kind != "demand.reported"]


def parse(lines: Iterable[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, type and event of each in a stream."""
    number = name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "id":
            number = value
        elif field == "event":
            name = value
        else:
            assert field == "data"
            yield int(number), name, json.loads(value)


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(model("a"), model("b"), model("bad", "--fault", "exit-loading"))


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


def test_a_switch_is_told_in_order_with_its_phases(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    hotseat.ask("b")
    hotseat.wait_event("switch.completed", "b")
    events = hotseat.catch_up()
    assert kinds(events) == [
        "switch.requested", "switch.started", "model.ready", "switch.completed",
        "switch.requested", "switch.started", "model.released", "model.ready", "switch.completed",
    ]  # fmt: skip
    requested, started, released, ready, completed = [e for e in events if "demand" not in e["type"]][4:]
    assert (requested["subject"], requested["data"]["waiting"]) == ("b", 1)
    assert started["data"].items() <= {**completed["data"], "waiting": 1}.items()
    assert (started["data"]["from"], started["data"]["to"], started["data"]["reason"]) == (["a"], "b", "demand")
    assert (released["subject"], released["data"]["reason"]) == ("a", "evicted")
    assert ready["data"]["instance"].startswith("default/b@")
    assert set(completed["data"]["phases"]) == {"wait", "drain", "release", "load", "total"}
    epochs = [event["epoch"] for event in events]
    assert epochs == sorted(epochs)
    for event in events:
        assert (event["specversion"], event["source"]) == ("1.0", "/workspaces/default")
    assert len({event["id"] for event in events}) == len(events)


def test_history_news_and_where_one_left_off(hotseat: Hotseat) -> None:
    hotseat.ask("a")
    past = list(parse(hotseat.get_stream("/api/events?follow=false")))
    numbers = [number for number, _, _ in past]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all(name == event["type"] for _, name, event in past)

    assert len(list(parse(hotseat.get_stream("/api/events?follow=false&history=2")))) == 2
    assert list(parse(hotseat.get_stream("/api/events?follow=false&history=0"))) == []

    follower = parse(hotseat.get_stream("/api/events?history=0"))
    hotseat.ask("b")
    seen = list(itertools.islice((item for item in follower if "demand" not in item[1]), 5))
    assert kinds(event for _, _, event in seen)[-1] == "switch.completed"
    resumed = parse(hotseat.get_stream("/api/events?follow=false", Last_Event_ID=str(seen[1][0])))
    assert [item for item in resumed if "demand" not in item[1]][:3] == seen[2:]
    before_a_restart = parse(hotseat.get_stream("/api/events?follow=false", Last_Event_ID=str(10**6)))
    assert next(before_a_restart)[0] == 1
    assert hotseat.get("/api/events?history=x").status == 400


def test_a_follower_that_leaves_is_let_go(hotseat: Hotseat) -> None:
    followers = [hotseat.call("GET", "/api/events") for _ in range(3)]
    for follower in followers:
        head = follower.begun()
        assert head.headers["Content-Type"].startswith("text/event-stream")
        assert (head.headers["X-Accel-Buffering"], head.headers["Cache-Control"]) == ("no", "no-cache")
        follower.leave()
    assert hotseat.ask("a").by == "a"


def test_a_load_that_fails_is_told_as_such(hotseat: Hotseat) -> None:
    hotseat.ask("bad")
    hotseat.wait_event("switch.failed", "bad")
    events = hotseat.catch_up()
    assert kinds(events)[:4] == ["switch.requested", "switch.started", "model.failed", "switch.failed"]
    failed = hotseat.events("model.failed")[0]["data"]
    assert (failed["reason"], failed["retry_after"]) == ("ExitedWhileLoading", 1.0)
    assert failed["message"].endswith("mock bad: failed to load, as it was told to")
    switch = hotseat.events("switch.failed")[0]["data"]
    assert (switch["phase"], switch["code"], switch["to"]) == ("load", "ExitedWhileLoading", "bad")


@pytest.fixture
def sink() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_it_gets_every_event_in_order_as_a_binary_cloudevent(sink: Receiver, up: Up) -> None:
    sink.plan = [500, 503]
    hotseat = up(model("a"), env={"K_SINK": sink.url + "/in", "K_CE_OVERRIDES": '{"extensions": {"zone": "lab"}}'})
    hotseat.ask("a")
    sink.wait_for(lambda: any("switch.completed" in headers["ce-type"] for _, headers, _ in sink.requests))
    tried = [headers["ce-id"] for _, headers, _ in sink.requests]
    assert tried[0] == tried[1] == tried[2], "the first needed three tries, and none went ahead of it"
    got = sink.requests[2:]
    sent = hotseat.catch_up()
    told = [item for item in got if "demand" not in item[1]["ce-type"]]
    assert [headers["ce-id"] for _, headers, _ in told] == [event["id"] for event in sent]
    for (path, headers, body), event in zip(told, sent, strict=True):
        assert (path, headers["ce-specversion"], headers["ce-zone"]) == ("/in", "1.0", "lab")
        assert headers["Content-Type"] == "application/json"
        assert {"type": headers["ce-type"], "source": headers["ce-source"], "subject": headers["ce-subject"]} == {
            name: event[name] for name in ("type", "source", "subject")
        }
        assert headers["ce-epoch"] == str(event["epoch"])
        assert json.loads(body) == event["data"]


def test_one_that_hangs_or_is_not_there_delays_no_switch(sink: Receiver, up: Up) -> None:
    sink.hanging = True
    several = [up(model("a"), model("b"), options=("--sink", url)) for url in (sink.url, "http://127.0.0.1:9/")]
    for hotseat in several:
        hotseat.expected_errors = ["was not delivered to"]
        names = itertools.cycle("ab")

        def switch(hotseat: Hotseat = hotseat, names: Iterator[str] = names) -> float:
            name = next(names)
            with stopwatch() as seconds:
                assert hotseat.ask(name).by == name
            return seconds()

        switch()
        switch()
        quickest(switch, 0.6)
    began = time.monotonic()
    for hotseat in several:
        hotseat.signal(signal.SIGINT)
    assert [hotseat.ended() for hotseat in several] == [0, 0]
    assert time.monotonic() - began < 15


def test_what_it_refuses_for_good_is_counted(sink: Receiver, up: Up) -> None:
    sink.plan = [400]
    hotseat = up(model("a"), options=("--sink", sink.url))
    hotseat.expected_errors = ["was not delivered to"]
    hotseat.ask("a")
    sink.wait_for(lambda: len(sink.requests) >= 3)
    ids = [headers["ce-id"] for _, headers, _ in sink.requests]
    assert len(set(ids)) == len(ids), "no use in repeating it"
    assert eventually(lambda: hotseat.metrics()["hotseat_events_undelivered_total",]) == 1
