"""The end: orderly for those who are being served, and without a trace on the accelerator however it comes."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hotseat.app import SHUTDOWN_MARGIN

from .conftest import Up
from .harness import CHAT, Hotseat, chat, eventually, model

SLOW = {"stream": True, "mock": {"tokens": 20, "tokens_per_second": 40}}  # an answer of 0.5 s
LONG = {
    "stream": True,
    "mock": {"tokens": 100, "tokens_per_second": 40},
}  # of 2.5 s: nothing that has to happen meanwhile is late
ENDLESS = {"stream": True, "mock": {"tokens": 10000, "tokens_per_second": 20}}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_to_the_end_what_is_in_flight_and_sends_away_what_waits(up: Up, number: int) -> None:
    hotseat = up(model("a"), model("b"))
    hotseat.ask("a")
    streams = [hotseat.send("a", **LONG), hotseat.send("a", **{**LONG, "stream": False})]
    streams[0].begun()
    eventually(lambda: hotseat.stats("a")["open"] == 2)
    waiter = hotseat.send("b")
    load = hotseat.call("POST", "/api/models/b/load?wait=true")
    follower = hotseat.get_stream("/api/models/a/logs?follow=true")
    next(follower)
    eventually(lambda: hotseat.waiting("b"))
    hotseat.signal(number)
    answer = waiter.answer()
    assert (answer.status, answer.code) == (503, "shutting_down")
    assert "Retry-After" in answer.headers
    assert load.answer().status == 503
    assert len(streams[0].answer().data()) == 101
    assert len(streams[1].answer().said.split()) == 100
    assert hotseat.ended() == 0
    assert hotseat.engines() == []
    ends = [row["event"] for row in hotseat.mock_lines() if row["model"] == "a" and row["event"] != "done"]
    assert ends[-2:] == ["term", "exit"]  # it writes "done" some time after the client has the whole answer
    assert hotseat.loads()["b"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_time_it_stops_at_once(up: Up, number: int) -> None:
    hotseat = up(model("a", "--fault", "hang-stop", "--child", lifecycle={"stopTimeout": "30s"}), model("b"))
    hotseat.expected_errors = ["exited with code 130"]
    stream = hotseat.send("a", **ENDLESS)
    stream.begun()
    waiter = hotseat.send("b")
    eventually(lambda: hotseat.waiting("b"))
    hotseat.signal(number)
    assert waiter.answer().code == "shutting_down", "it drains"
    began = time.monotonic()
    hotseat.signal(number)
    hotseat.ended()
    assert time.monotonic() - began < 10, "it waited for the stop timeout, 30 s"
    eventually(lambda: not hotseat.engines(), 10)


def test_while_it_drains_it_says_so(up: Up) -> None:
    hotseat = up(model("a"), model("b"))
    hotseat.ask("a")
    stream = hotseat.send("a", **LONG)
    stream.begun()
    hotseat.signal(signal.SIGTERM)
    eventually(lambda: hotseat.get("/ready").status == 503)
    for name in ("a", "b", "nobody"):
        answer = hotseat.ask(name)
        assert (answer.status, answer.code) == (
            (404, "model_not_found") if name == "nobody" else (503, "shutting_down")
        )
    assert hotseat.post("/api/models/b/load?wait=true").code == "shutting_down"
    assert hotseat.running()["a"] in ("quiescing", "draining")
    assert hotseat.get("/health").status == 200
    assert len(stream.answer().data()) == 101
    assert hotseat.ended() == 0


def test_a_drain_timeout_that_was_made_longer_while_it_ran_is_kept_to_at_the_end(up: Up) -> None:
    """A bug once: the process ended when the documents of its start would have had it end."""
    hotseat = up(model("a", lifecycle={"drainTimeout": "0s", "stopTimeout": "100ms"}))
    allowed = SHUTDOWN_MARGIN + 1  # rounded up
    hotseat.write([model("a", lifecycle={"drainTimeout": "1m", "stopTimeout": "100ms"})])
    hotseat.signal(signal.SIGHUP)
    hotseat.wait_for(lambda: any("reloaded" in message for message in hotseat.said()))
    stream = hotseat.send("a", stream=True, mock={"tokens": 2 * int(allowed + 2), "tokens_per_second": 2})
    stream.begun()
    hotseat.signal(signal.SIGTERM)
    assert stream.answer().body.endswith(b"data: [DONE]\n\n")
    assert hotseat.ended() == 0


def test_an_idle_hotseat_is_gone_at_once_whoever_is_still_connected(up: Up) -> None:
    hotseat = up(model("a"))
    kept = [http.client.HTTPConnection(hotseat.address, timeout=30) for _ in range(2)]
    kept[0].request("POST", CHAT, json.dumps(chat("a")))
    assert kept[0].getresponse().read()
    kept[1].connect()
    began = time.monotonic()
    hotseat.signal(signal.SIGINT)
    assert hotseat.ended() == 0
    assert time.monotonic() - began < 4
    for connection in kept:
        connection.close()


def test_a_request_that_is_never_finished_holds_it_up_for_a_moment_only(up: Up) -> None:
    hotseat = up(model("a"))
    half = http.client.HTTPConnection(hotseat.address, timeout=30)
    half.connect()
    half.sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    eventually(lambda: hotseat.get("/health").status == 200)
    began = time.monotonic()
    hotseat.signal(signal.SIGINT)
    assert hotseat.ended() == 0
    assert time.monotonic() - began < 4
    half.close()


def test_what_an_external_server_answers_is_served_to_the_end(up: Up) -> None:
    first = up(model("a"))
    first.ask("a")
    external = model("ext", engine="external", url=f"http://{first.address_of('a')}", args=[])
    hotseat = up(external)
    stream = hotseat.send("ext", **SLOW)
    stream.begun()
    hotseat.signal(signal.SIGINT)
    assert len(stream.answer().data()) == 21
    assert hotseat.ended() == 0


@pytest.mark.parametrize("who", ["arbiter", "worker", "both"])
def test_after_kill_9_no_engine_is_left(up: Up, who: str) -> None:
    stubborn = () if who == "arbiter" else ("--fault", "hang-stop", "--child")
    hotseat = up(model("a", *stubborn, lifecycle={"stopTimeout": "300ms"}))
    hotseat.expected_errors = ["was sent SIGKILL"]
    hotseat.ask("a")
    engine, worker = hotseat.stats("a")["pid"], hotseat.worker()
    left = hotseat.engines()
    assert engine in left
    if who != "arbiter":
        os.kill(worker, signal.SIGKILL)
    if who != "worker":
        hotseat.signal(signal.SIGKILL)
    eventually(lambda: not set(left) & set(hotseat.engines()), 3 if who == "arbiter" else 2)
    if who == "worker":
        hotseat.wait_for(lambda: sum("url" in line for line in hotseat.lines) == 2)
        assert hotseat.ask("a").by == "a", "the next worker serves"


def test_after_kill_9_the_next_one_begins_from_nothing(up: Up, tmp_path: Path) -> None:
    first = up(model("a"), folder=tmp_path)
    first.ask("a")
    os.kill(first.worker(), signal.SIGSTOP)
    first.signal(signal.SIGKILL)
    first.process.wait()
    os.killpg(first.process.pid, signal.SIGKILL)
    second = up(model("a"), model("b"), folder=tmp_path)
    assert second.ask("b").by == "b"
    assert second.running() == {"b": "ready"}


def test_two_of_one_state_folder_would_take_each_others_engines_for_left_over(up: Up) -> None:
    hotseat = up(model("a"))
    command = [str(Path(sys.executable).with_name("hotseat")), "up", "-f", str(hotseat.file), "--port", "0"]
    done = subprocess.run(
        [*command, "--state-dir", str(hotseat.state)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode != 0
    assert "another hotseat (pid " in done.stderr
    assert "Traceback" not in done.stderr
    assert hotseat.ask("a").by == "a"


def test_a_port_that_is_taken_is_said_at_once(up: Up) -> None:
    hotseat: Hotseat = up(model("a"))
    command = [str(Path(sys.executable).with_name("hotseat")), "up", "-f", str(hotseat.file)]
    port = hotseat.address.partition(":")[2]
    done = subprocess.run([*command, "--port", port], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    done = subprocess.run(
        [*command, "--port", port, "--state-dir", str(hotseat.state)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert f"hotseat process {hotseat.worker()} uses it" in done.stderr


@pytest.fixture
def on_terminal(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen, int]]]:
    """Start one whose controlling terminal is a new one; it, and the terminal's other end."""
    (tmp_path / "models.yaml").write_text(json.dumps(model("a")))
    command = [str(Path(sys.executable).with_name("hotseat")), "up", "-f", str(tmp_path / "models.yaml"), "--port", "0"]
    command += ["--state-dir", str(tmp_path / "state"), "--cache-dir", str(tmp_path / "cache")]

    def start(*before: str) -> tuple[subprocess.Popen, int]:
        terminal, theirs = os.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *before, *command],
            stdin=theirs,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        os.close(theirs)
        started.append(process)
        assert "url" in json.loads(process.stdout.readline())
        return process, terminal

    started: list[subprocess.Popen] = []
    yield start
    for process in started:
        with process:
            process.kill()


# SIGHUP is ignored where the tests run under nohup.
_TAKE_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
)


def test_it_ends_with_its_terminal(on_terminal: Callable[..., tuple[subprocess.Popen, int]]) -> None:
    process, terminal = on_terminal()
    process.send_signal(signal.SIGHUP)  # as long as that is there, this is a reload
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    os.close(terminal)
    assert process.wait(30) == 0


def test_under_nohup_it_survives_its_terminal(on_terminal: Callable[..., tuple[subprocess.Popen, int]]) -> None:
    process, terminal = on_terminal("nohup")
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_documents_from_the_standard_input_cannot_be_reloaded(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("hotseat")), "up", "-f", "-", "--port", "0"]
    command += ["--state-dir", str(tmp_path / "state"), "--cache-dir", str(tmp_path / "cache")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps(model("a")))
        process.stdin.close()
        assert [row["name"] for row in json.loads(process.stdout.readline())["models"]] == ["a"]
        process.send_signal(signal.SIGHUP)
        assert "not reloaded" in json.loads(process.stdout.readline())["message"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
