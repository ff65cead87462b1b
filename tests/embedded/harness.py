"""A real `hotseat up` for a test: on a free port, with folders of its own, its JSON lines read as they come.

Every mock engine holds a lock on the seat for as long as it lives and dies with "is taken" where another has it; `close`
looks for that, for errors in hotseat's own log and for engines that are left, so each test of this folder tests those too.
"""

import contextlib
import hashlib
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

CHAT = "/v1/chat/completions"
PATIENCE = 30.0  # seconds after which something that should happen has not; a busy machine needs some of them
PREFIX = "dev.hotseat."

Document = dict[str, Any]


def model(name: str, *args: str, **spec: Any) -> Document:
    """Document of a mock model that loads in 0.1 s; `args` are the mock's, further ones or others."""
    loads = () if "--load-time" in args else ("--load-time", "0.1")
    spec = {"engine": "mock", "args": [*loads, *args], **spec}
    return {"apiVersion": "hotseat.dev/v1alpha1", "kind": "Model", "metadata": {"name": name}, "spec": spec}


def workspace(name: str = "default", **spec: Any) -> Document:
    return {"apiVersion": "hotseat.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": name}, "spec": spec}


def chat(model: str, said: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": said}], **more}


def lives(process: psutil.Process) -> bool:
    """Whether it has not ended; one that nobody has reaped yet has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two
        return False


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE, pause: float = 0.005) -> Any:
    """What the condition gives, once that is true; looked at after each pause."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(pause)
    return found


def quickest(seconds: Callable[[], float], below: float, trials: int = 8) -> None:
    """Look that something takes less than `below` seconds: what else the machine does can only add to that, so one trial has to show it."""
    taken: list[float] = []
    while not taken or taken[-1] >= below:
        assert len(taken) < trials, f"each took {below} s or more: {taken}"
        taken.append(seconds())


@contextlib.contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Time what is done inside; gives what tells the seconds so far, or in all once it is over."""
    began, end = time.monotonic(), list[float]()
    yield lambda: (end[0] if end else time.monotonic()) - began
    end.append(time.monotonic())


@dataclass(frozen=True)
class Answer:
    """One whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def said(self) -> str:
        """What the model said, streamed or not."""
        if self.headers["Content-Type"].startswith("text/event-stream"):
            return "".join(piece["choices"][0]["delta"].get("content", "") for piece in self.data())
        return self.json()["choices"][0]["message"]["content"]

    @property
    def by(self) -> str:
        """Name of the model that answered: mocks begin with it."""
        return self.said.partition(":")[0]

    @property
    def code(self) -> str:
        """Code of an error in OpenAI's shape."""
        assert self.status >= 400
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error["code"]

    def data(self) -> list[Any]:
        """Data of a stream's events, without its [DONE]."""
        rows = [row[6:] for row in self.body.decode().split("\n") if row.startswith("data: ")]
        return [json.loads(row) for row in rows if row != "[DONE]"]


class Call:
    """A request that was sent; its answer is taken when the test wants it."""

    def __init__(
        self, address: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self._http = http.client.HTTPConnection(address, timeout=PATIENCE)
        self._response: http.client.HTTPResponse | None = None
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        self._http.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})

    def begun(self) -> http.client.HTTPResponse:
        """Wait for the head."""
        if self._response is None:
            self._response = self._http.getresponse()
        return self._response

    def lines(self) -> Iterator[str]:
        """Lines of the body as they come, without the empty ones."""
        while line := self.begun().readline():
            if line.strip():
                yield line.decode().rstrip("\n")

    def answer(self) -> Answer:
        """Wait for all of it."""
        try:
            response = self.begun()
            return Answer(response.status, response.headers, response.read())
        finally:
            self.leave()

    def has_answer(self) -> bool:
        """Whether anything came yet."""
        return bool(select.select([self._http.sock], [], [], 0)[0])

    def leave(self) -> None:
        """Go away, answered or not."""
        if self._response is not None:
            self._response.close()
        self._http.close()


class Hotseat:
    """One `hotseat up`. `env` and `options` are added to what it gets anyway; its mocks share `seats` seats.

    `limits` are options of the shell's `ulimit` for it.
    """

    def __init__(
        self,
        folder: Path,
        documents: Iterable[Document],
        *options: str,
        env: Mapping[str, str] | None = None,
        seats: int = 1,
        limits: str = "",
    ) -> None:
        self.folder = folder
        self.file = folder / "models.yaml"
        self.state = folder / "state"
        self.mock_log = folder / "mock.log"
        self.expected_errors: list[str] = []  # in hotseat's own log; without one of these, an error fails the test
        self.write(documents)
        command = [str(Path(sys.executable).with_name("hotseat")), "up", "-f", str(self.file), "--port", "0"]
        command += ["--state-dir", str(self.state), "--cache-dir", str(folder / "cache"), *options]
        if limits:
            command = ["sh", "-c", f'ulimit {limits} && exec "$@"', "sh", *command]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HOTSEAT_API", "K_"))}
        files = [str(folder / f"seat-{number}") for number in range(seats)]
        environment |= {"HOTSEAT_MOCK_SEAT": os.pathsep.join(files), **(env or {})}
        self._stderr = (folder / "stderr").open("a+")
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,
        )
        self.lines: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.calls: list[Call] = []
        self._forgotten = (0, 0)  # lines of its own, and of the mocks, that fresh() has put behind us
        try:
            self.url: str = self.wait_for(lambda: next((line["url"] for line in self.lines if "url" in line), None))
        except AssertionError:
            self._kill()
            raise AssertionError(f"hotseat did not start:\n{self.log()}") from None
        self.address = self.url.removeprefix("http://")

    def write(self, documents: Iterable[Document]) -> None:
        """Put these documents into the file, at once."""
        documents = [json.loads(json.dumps(document)) for document in documents]
        for document in documents:
            if document["spec"].get("engine") == "mock":
                document["spec"]["args"] += ["--log", str(self.mock_log)]
        draft = self.folder / "draft"
        draft.write_text(yaml.safe_dump_all(documents))
        draft.rename(self.file)

    # Requests ---------------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Call:
        """Send a request; of header names, _ stands for -."""
        call = Call(self.address, method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        self.calls.append(call)
        return call

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers).answer()

    def get_stream(self, path: str, **headers: str) -> Iterator[str]:
        """Lines of an answer that does not end, as they come."""
        call = self.call("GET", path, **headers)
        assert call.begun().status == 200
        return (line for line in call.lines() if not line.startswith(":"))

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("POST", path, body, **headers).answer()

    def send(self, model: str, said: str = "hi", *, headers: Mapping[str, str] | None = None, **body: Any) -> Call:
        """Send a chat; `answer()` waits for it."""
        return self.call("POST", CHAT, chat(model, said, **body), **(headers or {}))

    def ask(self, model: str, said: str = "hi", **more: Any) -> Answer:
        """Send a chat and wait for the answer."""
        return self.send(model, said, **more).answer()

    @property
    def shelf(self) -> Path:
        """The directory for prompts in memory."""
        mark = hashlib.sha256(str(self.state).encode()).hexdigest()[:12]
        return Path(f"/dev/shm/hotseat-{os.geteuid()}-{mark}")

    def fresh(self) -> "Hotseat":
        """Unload everything and forget what was before, for the next test that shares it."""
        for call in self.calls:
            call.leave()
        self.calls.clear()
        assert self.post("/api/models/unload?wait=30s").status == 200
        eventually(lambda: not self.waiting())
        self.catch_up()
        self._forgotten = (0, 0)
        self._forgotten = (len(self.lines), len(self.mock_lines()))
        return self

    # What is known ----------------------------------------------------------------------------------------------------

    def running(self) -> dict[str, str]:
        """State of each resident."""
        return {row["model"]: row["state"] for row in self.get("/running").json()["running"]}

    def address_of(self, model: str) -> str:
        rows = self.get("/running").json()["running"]
        return next(row["address"] for row in rows if row["model"] == model).removeprefix("http://")

    def stats(self, model: str) -> Any:
        """What the mock engine tells of itself: its pid, and the last request as it arrived there."""
        return Call(self.address_of(model), "GET", "/stats").answer().json()

    def waiting(self, model: str | None = None) -> int:
        rows = self.get("/running").json()["waiting"]
        return sum(row["count"] for row in rows if model in (None, row["model"]))

    def metrics(self) -> dict[tuple[str, ...], float]:
        """All samples: name and label values, the latter in the order of the labels' names."""
        families = text_string_to_metric_families(self.get("/metrics").body.decode())
        return {
            (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
            for family in families
            for sample in family.samples
        }

    def mock_lines(self) -> list[dict[str, Any]]:
        """What all mock engines wrote: start, ready, request, done, term, exit, each with its time."""
        if not self.mock_log.exists():
            return []
        return [json.loads(line) for line in self.mock_log.read_text().splitlines()][self._forgotten[1] :]

    def moment(self, event: str, model: str) -> float:
        """When a mock wrote that line first."""
        return next(row["time"] for row in self.mock_lines() if (row["event"], row["model"]) == (event, model))

    def answered(self, model: str) -> float:
        """When a mock began to send the end of its last answer: its line `done` comes after that, perhaps after all that follows."""
        return max(row["sent"] for row in self.mock_lines() if (row["event"], row["model"]) == ("done", model))

    def loads(self) -> Counter[str]:
        """How many engines were started, by model."""
        return Counter(line["model"] for line in self.mock_lines() if line["event"] == "start")

    def events(self, kind: str | None = None, model: str | None = None) -> list[dict[str, Any]]:
        """CloudEvents that were printed so far."""
        with self._news:
            found = [line["event"] for line in self.lines[self._forgotten[0] :] if "event" in line]
        wanted = kind and f"{PREFIX}{kind}.v1"
        return [e for e in found if wanted in (None, e["type"]) and model in (None, e.get("subject"))]

    def catch_up(self) -> list[dict[str, Any]]:
        """Wait until everything that has happened so far has been printed; all events since the start or `fresh`."""
        told = [
            json.loads(line[6:]) for line in self.get_stream("/api/events?follow=false") if line.startswith("data:")
        ]
        ids = {event["id"] for event in told if "demand.reported" not in event["type"]}
        self.wait_for(lambda: ids <= {line["event"]["id"] for line in self.lines if "event" in line})
        return self.events()

    def wait_for(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """What the condition gives, once that is true; looked at with every line that hotseat prints."""
        with self._news:
            assert self._news.wait_for(condition, seconds), "it never came true"
            return condition()

    def wait_event(self, kind: str, model: str | None = None, count: int = 1) -> dict[str, Any]:
        """Wait for the event of that kind that is the `count`-th since the start."""
        self.wait_for(lambda: len(self.events(kind, model)) >= count)
        return self.events(kind, model)[count - 1]

    def longest_auto_wait(self) -> float:
        """Seconds that `maxWait: Auto` stands for at most, by the slowest load, stop and drain so far."""
        self.catch_up()
        kinds = ("model.ready", "model.released")
        slowest = [max(event["data"]["seconds"] for event in self.events(kind)) for kind in kinds]
        drains = [event["data"]["phases"].get("drain", 0.0) for event in self.events("switch.completed")]
        return max(5.0, 10 * (sum(slowest) + max(drains, default=0.0)))

    def said(self) -> list[str]:
        """Messages for people so far."""
        with self._news:
            return [line["message"] for line in self.lines if "event" not in line]

    def log(self) -> str:
        """Hotseat's own log, from standard error."""
        return (self.folder / "stderr").read_text()

    def worker(self) -> int:
        """Pid of the process that owns the engines."""
        children = psutil.Process(self.process.pid).children()
        return next(child.pid for child in children if "supervisor" not in " ".join(child.cmdline()))

    def engines(self) -> list[int]:
        """Pids of all processes that this hotseat started for its models, its supervisors included."""
        mark = f"HOTSEAT_ENGINE_OF={self.state}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found

    # The end ----------------------------------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; its exit status."""
        status = self.process.wait(seconds)
        self._reader.join(PATIENCE)
        return status

    def close(self) -> None:
        """Stop it, if it still runs, and look whether all went well."""
        for call in self.calls:
            call.leave()
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        self._end()
        assert "is taken" not in json.dumps(self.events("model.failed")) + self.log(), "two engines on one seat"
        bad = [line for line in self.log().splitlines() if _is_bad(line)]
        bad = [line for line in bad if not any(expected in line for expected in self.expected_errors)]
        assert not bad, "\n".join(bad)
        eventually(lambda: not self.engines(), 2)

    def _end(self) -> None:
        try:
            self.process.wait(PATIENCE)
            eventually(lambda: not self._is_left())
        except (subprocess.TimeoutExpired, AssertionError):
            raise AssertionError(f"hotseat did not end:\n{self.log()}") from None
        finally:
            self._kill()

    def _is_left(self) -> bool:
        """Whether any of its own processes, arbiter and worker, is still there."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _kill(self) -> None:
        """End what is left of hotseat itself."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()  # it ends with the last process that has the other end
        self.process.stdout.close()
        self._stderr.close()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._news:
                self.lines.append(json.loads(line))
                self._news.notify_all()


def _is_bad(line: str) -> bool:
    """Whether a line of the log tells of a bug or of something that should not be."""
    with contextlib.suppress(ValueError):
        return json.loads(line)["level"] not in ("debug", "info")
    return "[ERROR]" in line or "Traceback" in line or "Error:" in line
