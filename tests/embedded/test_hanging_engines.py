"""Engines that hang once they are ready: nobody waits for them for ever."""

import os
import signal

from .conftest import Up
from .harness import eventually, model


def test_a_hung_engine_is_stopped_and_started_again_for_those_who_wait(up: Up) -> None:
    health = {"period": "1s", "failureThreshold": 2}  # the next engine must not look hung because the machine is busy
    hotseat = up(model("a", concurrency=1, health=health, lifecycle={"stopTimeout": "0s"}))
    assert hotseat.ask("a").status == 200
    begun = hotseat.send("a", mock={"first_token": 600})
    eventually(lambda: hotseat.stats("a")["requests"] == 2)
    os.kill(hotseat.stats("a")["pid"], signal.SIGSTOP)
    calls = [hotseat.send("a") for _ in range(2)]
    assert [call.answer().status for call in calls] == [200, 200]
    assert begun.answer().status in (502, 503), "the engine that hung had begun it"
    assert hotseat.loads() == {"a": 2}
    failed = hotseat.wait_event("model.failed", "a")["data"]
    assert failed["reason"] == "Unhealthy"
    assert "GET /health got no response in time (health.period 1s, health.failureThreshold 2)" in failed["message"]


def test_an_engine_that_sends_bytes_is_left_alone_though_it_answers_no_health_check(up: Up) -> None:
    health = {"period": "500ms", "failureThreshold": 2}
    hotseat = up(model("a", "--fault", "busy-health", health=health))
    answer = hotseat.ask("a", stream=True, mock={"tokens": 80, "tokens_per_second": 40})
    assert len(answer.data()) == 81
    assert hotseat.loads()["a"] == 1


def test_an_answer_that_does_not_begin_ends_with_a_timeout(up: Up) -> None:
    hotseat = up(model("a", "--fault", "hang", concurrency=1, lifecycle={"responseStartTimeout": "300ms"}))
    calls = [hotseat.send("a") for _ in range(3)]
    answers = [call.answer() for call in calls]
    assert {(answer.status, answer.code) for answer in answers} == {(504, "upstream_timeout")}
    assert hotseat.running() == {"a": "ready"}, "it answers its health checks"
