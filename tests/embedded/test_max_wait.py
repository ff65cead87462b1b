"""Clients that give up and ask again, engines that are killed while they are ready, and models that others keep busy."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from .conftest import Up
from .harness import Call, Hotseat, eventually, model, quickest, stopwatch, workspace


def kill(hotseat: Hotseat, name: str) -> None:
    """Kill a ready engine, and wait until hotseat knows."""
    before = len(hotseat.events("model.failed", name))
    os.kill(hotseat.stats(name)["pid"], signal.SIGKILL)
    hotseat.wait_event("model.failed", name, before + 1)


def give_up(hotseat: Hotseat, name: str, patience: float) -> int:
    """Ask with a bound of the client's own; its status."""
    return hotseat.ask(name, headers={"X-Hotseat-Max-Wait": f"{round(1000 * patience)}ms"}).status


def test_no_load_is_thrown_away_for_clients_that_give_up_and_ask_again(up: Up) -> None:
    """A bug once: of 33 loads 31 were given up half-way, and one answer came in 45 s."""
    hotseat = up(model("a", "--load-time", "1"), model("b", "--load-time", "1"))
    answers = {"a": 0, "b": 0}
    end = time.monotonic() + 30

    def client(name: str) -> None:
        while answers[name] < 3 and time.monotonic() < end:
            answers[name] += give_up(hotseat, name, 0.8) == 200
            time.sleep(0.2)

    clients = [threading.Thread(target=client, args=(name,)) for name in answers]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert min(answers.values()) == 3
    hotseat.catch_up()
    cancelled = len(hotseat.events("switch.cancelled"))
    assert cancelled <= len(hotseat.events("switch.completed"))
    assert not hotseat.events("switch.failed")


def test_a_load_that_nobody_wants_any_longer_makes_room_at_once_and_counts_as_cancelled(up: Up) -> None:
    hotseat = up(model("slow", "--load-time", "60", lifecycle={"stopTimeout": "0s"}), model("b"))
    call = hotseat.send("slow")
    hotseat.wait_event("switch.started", "slow")
    call.leave()
    eventually(lambda: not hotseat.waiting())
    assert hotseat.ask("b").status == 200
    cancelled = hotseat.wait_event("switch.cancelled", "slow")["data"]
    assert (cancelled["code"], cancelled["phase"]) == ("Abandoned", "load")
    assert hotseat.metrics()["hotseat_switches_total", "", "cancelled", "demand", "slow"] == 1
    hotseat.wait_event("switch.completed", "b")
    rows = hotseat.get("/api/switches").json()["switches"]
    assert [(row["to"], row["outcome"]) for row in rows] == [("slow", "cancelled"), ("b", "completed")]
    assert not hotseat.events("switch.failed")


def test_a_model_whose_engine_is_killed_again_and_again_answers_after_one_load_each(up: Up) -> None:
    """A bug once: 503 in 0 ms after the second time, for every request during the back-off."""
    hotseat = up(model("a"))
    assert hotseat.ask("a").status == 200
    for count in range(3):
        kill(hotseat, "a")
        calls = [hotseat.send("a") for _ in range(3)]
        assert [call.answer().status for call in calls] == [200] * 3
        assert hotseat.loads()["a"] == count + 2


@contextlib.contextmanager
def kept_busy(hotseat: Hotseat, name: str, clients: int, seconds: float) -> Iterator[set[str]]:
    """So many clients that ask again and again; gives the errors that they got so far. An answer takes `seconds`."""
    over, codes = threading.Event(), set[str]()

    def ask() -> None:
        while not over.is_set():
            answer = hotseat.ask(name, mock={"first_token": seconds})
            codes.update(set() if answer.status == 200 else {answer.json()["error"]["message"]})

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for each in threads:
        each.start()
    try:
        yield codes
    finally:
        over.set()
        for each in threads:
            each.join()


def test_a_model_goes_on_with_the_engine_that_is_ready_while_the_other_crashes(up: Up) -> None:
    """A bug once: from the second crash on, each request was refused for 1, 2, 4, 8 … s."""
    hotseat = up(workspace(capacity={"gpus": 2}), model("a", concurrency=1, scheduling={"replicas": 2}), seats=2)

    def engines() -> list[dict[str, str]]:
        return hotseat.get("/running").json()["running"]

    with kept_busy(hotseat, "a", 4, 0.6) as codes:
        for count in range(1, 4):
            eventually(lambda: [row["state"] for row in engines()] == ["ready"] * 2, 30)
            oldest = min(engines(), key=lambda row: row["epoch"])
            stats = Call(oldest["address"].removeprefix("http://"), "GET", "/stats").answer().json()
            os.kill(stats["pid"], signal.SIGKILL)
            hotseat.wait_event("model.failed", "a", count)
            assert [hotseat.ask("a").status for _ in range(3)] == [200] * 3
    assert codes <= {"The engine closed the connection without a response.", "the engine of a ended"}, (
        "as they were in flight"
    )


def test_with_settings_as_they_are_a_busy_model_does_not_keep_another_waiting_for_long(up: Up) -> None:
    """A bug once: 18 s behind four clients, for an engine that starts in 1 s."""
    hotseat = up(model("a"), model("b"))
    assert hotseat.ask("a").status == 200
    with kept_busy(hotseat, "a", 4, 0.2):

        def trial() -> float:
            with stopwatch() as seconds:
                assert hotseat.ask("b").status == 200
            return seconds()

        quickest(trial, 15.0)  # ten loads and stops, or 5 s, then a drain and a load; the old bound was 30 s
    told = hotseat.get("/running").json()["workspaces"][0]
    assert told["max_wait"] == "Auto"
    assert 5.0 <= told["effective_max_wait"] <= hotseat.longest_auto_wait()
