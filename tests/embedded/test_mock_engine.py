"""The mock engine keeps its promises: every other test believes what it says."""

import base64
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from hotseat.api.model import Model
from hotseat.engines.base import Placement
from hotseat.engines.mock import Mock
from hotseat.engines.mock_server import SEAT_TAKEN

from .harness import eventually, lives, quickest, stopwatch


class Process:
    """A mock engine under test."""

    def __init__(self, *args: str, gpus: int = 1, env: dict[str, str] | None = None) -> None:
        document = {"metadata": {"name": "a"}, "spec": {"engine": "mock", "args": args, "resources": {"gpus": gpus}}}
        launch = Mock().launch(Model.model_validate(document), Placement("127.0.0.1", 0))
        self.popen = subprocess.Popen(
            launch.argv,
            env={**os.environ, **launch.env, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.http = requests.Session()

    @property
    def url(self) -> str:
        if not hasattr(self, "_url"):
            self._url = self.popen.stdout.readline().split()[-1]
        return self._url

    def get(self, path: str) -> requests.Response:
        return self.http.get(self.url + path, timeout=30)

    def post(self, path: str, body: Any = None, **more: Any) -> requests.Response:
        return self.http.post(self.url + path, json=body, timeout=30, **more)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), timeout=30)

    def stats(self) -> dict[str, Any]:
        return self.get("/stats").json()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(30)

    def close(self) -> None:
        self.http.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(30)
        self.popen.stdout.close()
        self.popen.stderr.close()


@pytest.fixture
def mock() -> Iterator[Callable[..., Process]]:
    with contextlib.ExitStack() as stack:

        def start(*args: str, **more: Any) -> Process:
            process = Process(*args, **more)
            stack.callback(process.close)
            return process

        yield start


def events(response: requests.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


CHAT = "/v1/chat/completions"
HELLO = {"model": "my-alias", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 4}


class TestAnswers:
    def test_chat_says_who_answers_and_what_was_said(self, mock: Callable[..., Process]) -> None:
        answer = mock().post(CHAT, HELLO).json()
        assert answer["choices"][0]["message"] == {"role": "assistant", "content": "a: hello there 3"}
        assert (answer["model"], answer["usage"]["completion_tokens"]) == ("my-alias", 4)

    def test_streamed_chat_says_the_same(self, mock: Callable[..., Process]) -> None:
        response = mock().post(CHAT, {**HELLO, "stream": True, "stream_options": {"include_usage": True}})
        assert response.headers["Content-Type"] == "text/event-stream"
        *pieces, last, usage = events(response)
        assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == "a: hello there 3"
        assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
        assert last["choices"][0]["finish_reason"] == "stop"
        assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 6)

    def test_text_completion(self, mock: Callable[..., Process]) -> None:
        a = mock()
        assert a.post("/v1/completions", {"prompt": "hi", "max_tokens": 2}).json()["choices"][0]["text"] == "a: hi"
        pieces = events(a.post("/v1/completions", {"prompt": "hi", "max_tokens": 2, "stream": True}))
        assert [piece["choices"][0]["text"] for piece in pieces] == ["a:", " hi", ""]

    def test_a_tool_is_called_by_its_name_or_by_choice(self, mock: Callable[..., Process]) -> None:
        a = mock()
        tools = [
            {"type": "function", "function": {"name": name, "parameters": {"properties": {"text": {}}}}}
            for name in ("one", "two")
        ]
        asked = {"messages": [{"role": "user", "content": "call two"}], "tools": tools}
        function = {"name": "two", "arguments": '{"text": "call two"}'}
        choice = a.post(CHAT, asked).json()["choices"][0]
        assert (choice["message"]["tool_calls"][0]["function"], choice["finish_reason"]) == (function, "tool_calls")
        for tool_choice in ("required", {"type": "function", "function": {"name": "one"}}):
            message = a.post(CHAT, {**asked, "tool_choice": tool_choice}).json()["choices"][0]["message"]
            assert message["tool_calls"][0]["function"]["name"] == "one"
        pieces = [piece["choices"][0] for piece in events(a.post(CHAT, {**asked, "stream": True}))]
        parts = [call["function"] for piece in pieces for call in piece["delta"].get("tool_calls", [])]
        assert {"name": parts[0]["name"], "arguments": "".join(part["arguments"] for part in parts)} == function
        assert pieces[-1]["finish_reason"] == "tool_calls"
        result = {"role": "tool", "tool_call_id": "call-1", "content": "done"}
        for body in (
            {**asked, "tool_choice": "none"},
            {**asked, "tools": tools[:1]},
            {**asked, "messages": [*asked["messages"], result]},
        ):
            assert a.post(CHAT, body).json()["choices"][0]["message"]["content"].startswith("a: call two")

    def test_embeddings_depend_on_the_text_alone(self, mock: Callable[..., Process]) -> None:
        a = mock()
        one, two, again = (
            item["embedding"] for item in a.post("/v1/embeddings", {"input": ["x", "y", "x"]}).json()["data"]
        )
        assert one == again != two
        packed = a.post("/v1/embeddings", {"input": "x", "encoding_format": "base64"}).json()["data"][0]["embedding"]
        assert struct.unpack("<8f", base64.b64decode(packed)) == pytest.approx(one)

    def test_rerank_and_transcription(self, mock: Callable[..., Process]) -> None:
        a = mock()
        results = a.post("/v1/rerank", {"query": "red car", "documents": ["blue sky", "a red car"], "top_n": 1}).json()[
            "results"
        ]
        assert results == [{"index": 1, "relevance_score": 1.0}]
        form = {"file": ("a.wav", b"RIFF"), "model": (None, "whisper")}
        assert requests.post(f"{a.url}/v1/audio/transcriptions", files=form, timeout=30).json()["model"] == "whisper"

    def test_unknown_fields_are_there_to_be_looked_at(self, mock: Callable[..., Process]) -> None:
        a = mock("--memory", "4Gi")
        a.post(CHAT, {**HELLO, "x_unknown": {"deep": [1]}}, headers={"X-Mine": "1"})
        stats = a.stats()
        assert stats["last"]["body"]["x_unknown"] == {"deep": [1]}
        assert stats["last"]["headers"]["x-mine"] == "1"
        assert (stats["requests"], stats["open"], stats["cancelled"], stats["memory"]) == (1, 0, 0, "4Gi")

    def test_bodies_may_be_chunked_and_malformed_ones_are_told(self, mock: Callable[..., Process]) -> None:
        a = mock()
        parts = (part for part in (b'{"prompt": "hi",', b' "max_tokens": 2}'))
        assert a.http.post(a.url + "/v1/completions", data=parts, timeout=30).json()["choices"][0]["text"] == "a: hi"
        assert a.http.post(a.url + CHAT, data="{", timeout=30).status_code == 400
        assert a.get("/nowhere").status_code == 404
        assert a.get("/echo?x=1").json()["method"] == "GET"

    def test_tokens_come_at_the_rate_that_was_asked_for(self, mock: Callable[..., Process]) -> None:
        a = mock("--tokens-per-second", "100", "--first-token", "0.1")

        def at_its_rate() -> float:
            with stopwatch() as seconds:
                a.post(CHAT, {**HELLO, "max_tokens": 21})
            assert seconds() >= 0.3
            return seconds()

        def at_once() -> float:
            with stopwatch() as seconds:
                a.post(CHAT, {**HELLO, "mock": {"first_token": 0, "tokens_per_second": 0, "tokens": 500}})
            return seconds()

        quickest(at_its_rate, 0.6)
        quickest(at_once, 0.2)

    def test_300_streams_at_once(self, mock: Callable[..., Process]) -> None:
        a = mock("--tokens-per-second", "5")
        body = json.dumps({**HELLO, "stream": True, "max_tokens": 10}).encode()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(a.connect()) for _ in range(300)]
            for client in clients:
                client.sendall(
                    b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
                )
            eventually(lambda: a.stats()["open"] == 300)
        eventually(lambda: a.stats()["cancelled"] == 300)


class TestComingAndGoing:
    def test_it_listens_at_once_and_is_ready_after_its_load_time(self, mock: Callable[..., Process]) -> None:
        a = mock("--load-time", "2")
        assert a.get("/health").status_code == 503
        assert a.post(CHAT, HELLO).status_code == 503
        eventually(lambda: a.get("/health").status_code == 200)

        def trial() -> float:
            a = mock("--load-time", "0.3")
            assert a.url
            with stopwatch() as seconds:
                eventually(lambda: a.get("/health").status_code == 200)
            assert seconds() > 0.1
            return seconds()

        quickest(trial, 0.6)

    def test_it_may_listen_late(self, mock: Callable[..., Process]) -> None:
        began = time.monotonic()
        a = mock("--load-time", "0.3", "--listen-late")
        assert a.get("/health").status_code == 200
        assert time.monotonic() - began > 0.3

    def test_it_stops_at_once_or_after_its_stop_time(self, mock: Callable[..., Process]) -> None:
        def trial(stop_time: float) -> float:
            a = mock("--stop-time", str(stop_time))
            a.get("/health")
            with stopwatch() as seconds:
                assert a.end() == 0
            assert seconds() >= stop_time
            return seconds()

        for stop_time in (0.0, 0.2):
            quickest(lambda stop_time=stop_time: trial(stop_time), stop_time + 0.2)

    def test_its_log_tells_when_what_happened(self, mock: Callable[..., Process], tmp_path: Path) -> None:
        a = mock("--log", str(tmp_path / "log"))
        a.post(CHAT, HELLO)
        eventually(lambda: "done" in (tmp_path / "log").read_text())
        a.end()
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        assert [line["event"] for line in lines] == ["start", "ready", "request", "done", "term", "exit"]
        assert lines == sorted(lines, key=lambda line: line["time"])
        assert {line["model"] for line in lines} == {"a"}

    def test_requests_are_held_until_it_is_told_to_release_them(self, mock: Callable[..., Process]) -> None:
        a = mock()
        assert a.get("/health").ok
        with ThreadPoolExecutor(2) as clients:
            asked = [
                clients.submit(a.post, path, {**HELLO, "mock": {"hold": True}}) for path in (CHAT, "/v1/completions")
            ]
            eventually(lambda: a.stats()["open"] == 2)
            assert not any(each.done() for each in asked)
            assert a.post("/release").ok
            assert all(each.result().ok for each in asked)
        assert a.post(CHAT, {**HELLO, "mock": {"hold": True}}).ok, "later ones are not held"

    def test_a_client_that_leaves_is_noticed_within_50_ms(self, mock: Callable[..., Process], tmp_path: Path) -> None:
        a = mock("--log", str(tmp_path / "log"))

        def trial(preferences: dict[str, float]) -> float:
            cancelled, client = a.stats()["cancelled"], a.connect()
            body = json.dumps({**HELLO, "stream": True, "mock": preferences}).encode()
            client.sendall(b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
            eventually(lambda: a.stats()["open"] == 1)
            left = time.time()
            client.close()
            eventually(lambda: a.stats()["open"] == 0)
            last = json.loads((tmp_path / "log").read_text().splitlines()[-1])
            assert (last["event"], last["cancelled"]) == ("done", True)
            assert a.stats()["cancelled"] == cancelled + 1
            return last["time"] - left

        for preferences in ({"first_token": 60}, {"hold": True}, {"tokens": 100, "tokens_per_second": 2}):
            quickest(lambda preferences=preferences: trial(preferences), 0.05)


class TestSeats:
    def test_the_second_on_a_seat_dies_loudly(self, mock: Callable[..., Process], tmp_path: Path) -> None:
        seat = str(tmp_path / "seat")
        first = mock("--seat", seat)
        first.get("/health")
        second = mock(env={"HOTSEAT_MOCK_SEAT": seat})
        assert second.popen.wait(30) == SEAT_TAKEN
        assert f"seat {seat} is taken by pid {first.popen.pid} (model a)" in second.popen.stderr.read()
        first.end(signal.SIGKILL)
        assert mock("--seat", seat).get("/health").ok

    def test_of_several_seats_each_takes_as_many_as_it_has_gpus(
        self, mock: Callable[..., Process], tmp_path: Path
    ) -> None:
        env = {"HOTSEAT_MOCK_SEAT": f"{tmp_path / '0'}:{tmp_path / '1'}"}
        assert mock(env=env).get("/health").ok
        assert mock(env=env).get("/health").ok
        assert mock(env=env, gpus=0).get("/health").ok
        assert mock(env=env).popen.wait(30) == SEAT_TAKEN

    def test_it_gives_the_seat_up_while_it_sleeps(self, mock: Callable[..., Process], tmp_path: Path) -> None:
        seat = str(tmp_path / "seat")
        sleeper = mock("--seat", seat, "--sleep", "--wake-time", "0.1")
        assert sleeper.post("/sleep?level=1").json() == {"is_sleeping": True}
        assert sleeper.post(CHAT, HELLO).status_code == 503
        other = mock("--seat", seat)
        assert other.get("/health").ok
        other.end()
        assert sleeper.post("/wake_up").json() == {"is_sleeping": False}
        assert sleeper.post(CHAT, HELLO).ok
        assert mock("--seat", seat).popen.wait(30) == SEAT_TAKEN

    def test_a_sleeper_that_wakes_on_a_taken_seat_dies_loudly(
        self, mock: Callable[..., Process], tmp_path: Path
    ) -> None:
        sleeper = mock("--seat", str(tmp_path / "seat"), "--sleep")
        sleeper.post("/sleep")
        assert mock("--seat", str(tmp_path / "seat")).get("/health").ok
        with pytest.raises(requests.ConnectionError):
            sleeper.post("/wake_up")
        assert sleeper.popen.wait(30) == SEAT_TAKEN

    def test_a_leaked_child_still_holds_the_seat(self, mock: Callable[..., Process], tmp_path: Path) -> None:
        seat = str(tmp_path / "seat")
        a = mock("--seat", seat, "--child")
        a.get("/health")
        (child,) = psutil.Process(a.popen.pid).children()
        a.end()
        child.terminate()
        assert mock("--seat", seat).popen.wait(30) == SEAT_TAKEN
        child.kill()
        eventually(lambda: not lives(child))
        assert mock("--seat", seat).get("/health").ok


class TestFaults:
    def test_never_ready(self, mock: Callable[..., Process]) -> None:
        a = mock("--fault", "never-ready")
        assert a.get("/health").status_code == 503

    def test_no_health(self, mock: Callable[..., Process]) -> None:
        a = mock("--fault", "no-health")
        assert (a.get("/health").status_code, a.post(CHAT, HELLO).status_code) == (404, 200)

    @pytest.mark.parametrize(("fault", "status"), [("exit-loading", 1), ("exit-loading:7", 7)])
    def test_exit_while_loading(self, mock: Callable[..., Process], fault: str, status: int) -> None:
        a = mock("--fault", fault, "--load-time", "0.05")
        assert a.popen.wait(30) == status
        assert "failed to load" in a.popen.stderr.read()

    def test_hang_on_stop(self, mock: Callable[..., Process]) -> None:
        a = mock("--fault", "hang-stop")
        a.get("/health")
        a.popen.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            a.popen.wait(0.2)
        assert a.post(CHAT, HELLO).ok

    def test_die_midstream(self, mock: Callable[..., Process]) -> None:
        a = mock("--fault", "die-midstream:2", "--tokens-per-second", "100")
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            a.post(CHAT, {**HELLO, "stream": True})
        assert a.popen.wait(30) == 1

    def test_faults_of_one_request_leave_the_engine_alone(self, mock: Callable[..., Process]) -> None:
        a = mock()
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            a.post(CHAT, {**HELLO, "stream": True, "mock": {"fault": "cut-midstream:1"}})
        with pytest.raises(requests.ConnectionError):
            a.post(CHAT, {**HELLO, "mock": {"fault": "garbage"}})
        with pytest.raises(requests.Timeout):
            requests.post(a.url + CHAT, json={**HELLO, "mock": {"fault": "hang"}}, timeout=0.1)
        assert a.post(CHAT, {**HELLO, "mock": {"status": 429}}).status_code == 429
        assert a.post(CHAT, HELLO).ok

    def test_error_500(self, mock: Callable[..., Process]) -> None:
        response = mock("--fault", "error-500").post(CHAT, HELLO)
        assert (response.status_code, response.json()["error"]["code"]) == (500, "mock")


def test_arguments_that_it_does_not_know_are_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hotseat.engines.mock_server", "--name", "a", "--port", "0", "--x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "hotseat.engines.mock_server: unrecognized arguments: --x\n")
