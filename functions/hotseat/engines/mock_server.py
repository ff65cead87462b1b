"""The process of the mock engine: loading, device locks, faults and routes.

While it runs it holds an exclusive lock on one file per GPU ("seat"), and it exits with an error if
another mock has the lock. So every test detects two models on one GPU. It imports little of the
standard library, because its start is part of every switch.
"""

import argparse
import fcntl
import functools
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

from hotseat.engines import mock_http as answers
from hotseat.engines.mock_http import Disconnected, DropConnection, MockConnection, MockRequest
from hotseat.engines.mock_slots import MockSlots, SlotProblem

SEAT_TAKEN = 86  # exit status
HOLD_STEP = 0.05  # seconds between checks whether a held request is released
LOG_TIME = 0.05  # seconds before an orderly exit, in which responses are still logged
DEVICES = "CUDA_VISIBLE_DEVICES"
KEY_VARIABLE = "MOCK_API_KEY"
FAULTS = (
    "never-ready", "exit-loading", "die-midstream", "cut-midstream", "hang-stop", "error-500", "hang", "garbage", "no-health",
    "busy-health",
    "sleep-fails", "sleep-hangs", "sleep-lies", "die-asleep", "wake-fails", "wake-hangs", "die-waking",
    "save-fails", "save-hangs", "die-saving", "restore-fails", "restore-hangs", "die-restoring", "metrics-fail",
)  # fmt: skip
INFERENCE = {
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v1/reranking", "/v1/responses", "/v1/moderations",
    "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech",
    "/v1/images/generations", "/v1/images/edits", "/v1/images/variations",
    "/rerank", "/reranking", "/infill", "/tokenize",
}  # fmt: skip


SLEEP = {
    ("POST", "/sleep"), ("POST", "/wake_up"), ("GET", "/is_sleeping"), ("POST", "/collective_rpc"), ("POST", "/reset_prefix_cache"),
}  # fmt: skip
# What SGLang has in their place, with a body.
SGLANG_SLEEP = {"/release_memory_occupation": "/sleep", "/resume_memory_occupation": "/wake_up"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _fault(text: str) -> str:
    if text.partition(":")[0] not in FAULTS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(FAULTS)}")
    return text


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hotseat.engines.mock_server", description="A mock engine.", allow_abbrev=False)
    add = parser.add_argument
    add("--name", required=True, help="name that its answers bear")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True, help="0: any; the first line of output tells")
    add("--load-time", type=float, default=0.0, metavar="S", help="answers 503 on /health for so long")
    add("--listen-late", action="store_true", help="do not even listen before it is loaded")
    add("--tokens", type=int, default=16, metavar="N", help="per answer, where the request sets no maximum")
    add("--tokens-per-second", type=float, default=0.0, metavar="R", help="0: as fast as it goes")
    add("--first-token", type=float, default=0.0, metavar="S", help="time before the first token")
    add("--stop-time", type=float, default=0.0, metavar="S", help="time from SIGTERM to its end")
    add("--memory", default="0", metavar="QUANTITY", help="taken; shown in /stats")
    add("--sleep", action="store_true", help="has /sleep, /wake_up, /is_sleeping, and those of SGLang")
    add("--sleep-clears-slots", action="store_true", help="its slots are empty after it slept")
    add("--sleep-time", type=float, default=0.0, metavar="S")
    add("--wake-time", type=float, default=0.0, metavar="S")
    add("--slots", type=int, default=0, metavar="N", help="prompt caches that can be saved, a word being a token")
    add("--slot-save-path", default="", metavar="DIR", help="where they are saved")
    add(
        "--prompt-rate",
        type=float,
        default=0.0,
        metavar="R",
        help="tokens of prompts per second; 0: as fast as it goes",
    )
    add("--token-bytes", type=int, default=0, metavar="N", help="size of a saved token")
    add("--save-time", type=float, default=0.0, metavar="S", help="time to save a slot")
    add("--restore-time", type=float, default=0.0, metavar="S", help="time to restore a slot")
    add("--fault", type=_fault, action="append", default=[], metavar="FAULT", help=", ".join(FAULTS))
    add("--child", action="store_true", help="fork a child that ignores SIGTERM and holds the seat too")
    add("--log", metavar="FILE", help="append JSON lines: start, ready, request, done, sleep, wake, term, exit")
    add("--seat", action="append", metavar="FILE", help="lock this file; instead of those in HOTSEAT_MOCK_SEAT")
    add(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="so many of the files in HOTSEAT_MOCK_SEAT (separated by colons)",
    )
    return parser


def options_problem(argv: list[str]) -> str | None:
    """Return what is wrong with the arguments; None if they are valid."""
    try:
        _parser().parse_args(argv)
    except ValueError as error:
        return str(error)
    return None


class DeviceLocks:
    """Locks on files. They belong to the open files, so that a child process keeps them as it would keep a GPU."""

    def __init__(self, model: str, files: list[str], count: int) -> None:
        self._model, self._files, self._count = model, files, count
        self._held: list[int] = []

    def take(self) -> None:
        """Acquire as many locks as are needed. End the process if another mock has them."""
        for file in self._files:
            if len(self._held) == self._count:
                return
            lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                instance = os.read(lock, 200).decode()
                os.close(lock)
                if len(self._files) > self._count:
                    continue
                self._die(f"seat {file} is taken by {instance}")
            os.truncate(lock, 0)
            os.pwrite(lock, f"pid {os.getpid()} (model {self._model})".encode(), 0)
            self._held.append(lock)
        if len(self._held) < self._count:
            self._die(f"{self._count - len(self._held)} of {self._count} seats missing, all of {self._files} are taken")

    def _die(self, message: str) -> NoReturn:
        sys.stderr.write(f"mock {self._model}: {message}\n")
        sys.stderr.flush()
        os._exit(SEAT_TAKEN)

    def free(self) -> None:
        """Release the locks while the mock sleeps."""
        for lock in self._held:
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)
        self._held.clear()


class MockServer:
    """One mock engine."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.faults = {fault.partition(":")[0]: fault.partition(":")[2] for fault in options.fault}
        shared = _assigned_files([file for file in os.environ.get("HOTSEAT_MOCK_SEAT", "").split(os.pathsep) if file])
        files = options.seat or (shared if options.gpus else [])
        self.locks = DeviceLocks(
            options.name, files, len(files) if options.seat else min(options.gpus, len(files) or 0)
        )
        self.memory = options.memory
        self.ready = False
        self.sleeping = False
        self.released = threading.Event()  # requests that were to be held are answered
        mark = f"{options.name} {options.token_bytes}"
        self.slots = (
            MockSlots(options.slots, options.slot_save_path, options.token_bytes, mark) if options.slots else None
        )
        self.lock = threading.Lock()  # guards the two attributes below
        self.counts = {"requests": 0, "open": 0, "cancelled": 0}
        self.key = os.environ.get(KEY_VARIABLE)  # that each request must have
        self.last: dict[str, Any] = {"body": None, "headers": None, "path": None}
        self._log = os.open(options.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if options.log else None

    def log(self, event: str, **more: Any) -> None:
        """Append a line in one write, so that several mocks can share a file."""
        if self._log is not None:
            line = {"time": time.time(), "event": event, "model": self.options.name, "pid": os.getpid(), **more}
            os.write(self._log, json.dumps(line).encode() + b"\n")

    # Start and end ----------------------------------------------------------------------------------------------------

    def run(self) -> NoReturn:
        """Load and serve until a signal."""
        self.log("start")
        signal.signal(signal.SIGTERM, lambda *_: self._handle_signal())
        signal.signal(signal.SIGINT, lambda *_: self._handle_signal())
        self.locks.take()
        if self.options.child:
            _fork_child()
        if self.options.listen_late:
            self._load()
        listener = _listen(self.options.host, self.options.port)
        sys.stdout.write(
            f"mock {self.options.name} listens on http://{self.options.host}:{listener.getsockname()[1]}\n"
        )
        sys.stdout.flush()
        if self.options.listen_late:
            self._set_ready()
        elif self.options.load_time or "exit-loading" in self.faults:
            threading.Thread(target=self._load_in_background, daemon=True).start()
        else:
            self._set_ready()
        while True:
            client, _ = listener.accept()
            threading.Thread(target=self._serve, args=(MockConnection(client),), daemon=True).start()

    def _load(self) -> None:
        time.sleep(self.options.load_time)
        if "exit-loading" in self.faults:
            sys.stderr.write(f"mock {self.options.name}: failed to load, as it was told to\n")
            self._exit(int(self.faults["exit-loading"] or 1))

    def _load_in_background(self) -> None:
        self._load()
        self._set_ready()

    def _set_ready(self) -> None:
        if "never-ready" not in self.faults:
            self.ready = True
            self.log("ready")

    def _handle_signal(self) -> None:
        self.log("term")
        if "hang-stop" not in self.faults:
            time.sleep(self.options.stop_time)
            until = time.monotonic() + LOG_TIME
            while self.counts["open"] and time.monotonic() < until:
                time.sleep(0.001)
            self._exit(0)

    def _exit(self, status: int) -> NoReturn:
        self.log("exit", status=status)
        sys.stderr.flush()
        os._exit(status)

    # Requests ---------------------------------------------------------------------------------------------------------

    def _serve(self, connection: MockConnection) -> None:
        try:
            for request in connection.requests():
                if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                    connection.reply(401, answers.problem("The key is missing or wrong.", "invalid_api_key"))
                elif request.path in INFERENCE and request.method == "POST":
                    self._inference(connection, request)
                elif request.path == "/metrics":
                    self._tell_metrics(connection)
                else:
                    connection.reply(*self._respond(request))
        except (Disconnected, DropConnection):
            pass
        finally:
            connection.close()

    def _tell_metrics(self, connection: MockConnection) -> None:
        if "metrics-fail" in self.faults:
            connection.reply(500, answers.problem(f"{self.options.name} was told not to tell", "mock"))
            return
        count = self.counts["requests"]
        text = (
            f"# HELP mock_requests_total Requests.\n# TYPE mock_requests_total counter\nmock_requests_total {count}\n"
        )
        connection.reply_bytes(text.encode() + (self.slots.metrics() if self.slots else b""))

    def _respond(self, request: MockRequest) -> tuple[int, Any]:  # noqa: PLR0911 — one a route
        """Return the status and the body for all routes except inference."""
        match request.method, request.path:
            case _, "/echo":
                return 200, {
                    "method": request.method,
                    "headers": request.headers,
                    "body": request.body.decode("latin-1"),
                }
            case "GET", "/health" if "no-health" not in self.faults:
                busy = "busy-health" in self.faults and self.counts["open"] > 0
                return (
                    (200, {"status": "ok"})
                    if self.ready and not busy
                    else (503, {"status": "busy" if self.ready else "loading"})
                )
            case "GET", "/props":
                return 200, {"model_alias": self.options.name}
            case "GET", "/v1/audio/voices":
                return 200, {"voices": [self.options.name]}
            case "GET", "/v1/models":
                return 200, {
                    "object": "list",
                    "data": [{"id": self.options.name, "object": "model", "owned_by": "mock"}],
                }
            case ("GET", "/stats") | ("POST", "/release"):
                if request.method == "POST":
                    self.released.set()
                with self.lock:
                    return 200, {
                        **self.counts,
                        "last": self.last,
                        "memory": self.memory,
                        "devices": os.environ.get(DEVICES),
                        "pid": os.getpid(),
                        "sleeping": self.sleeping,
                    }
            case method, path if self.options.sleep and (method, SGLANG_SLEEP.get(path, path)) in SLEEP:
                return self._sleep(request)
            case method, path if self.slots and path.startswith("/slots"):
                return (200, self.slots.rows()) if method == "GET" else self._transfer(self.slots, request)
        return 404, answers.problem(f"no route {request.method} {request.path}", "not_found", "invalid_request_error")

    def _transfer(self, slots: MockSlots, request: MockRequest) -> tuple[int, Any]:
        """Save or restore a slot."""
        what = "save" if request.query == "action=save" else "restore"
        if f"{what}-hangs" in self.faults:
            time.sleep(float("1e6"))
        time.sleep(self.options.save_time if what == "save" else self.options.restore_time)
        if f"die-{what.removesuffix('e')}ing" in self.faults:
            self._exit(1)
        if f"{what}-fails" in self.faults:
            return 500, answers.problem(f"{self.options.name} was told not to {what}", "mock")
        try:
            move = slots.save if what == "save" else slots.restore
            done = move(int(request.path.rpartition("/")[2]), request.json()["filename"])
        except SlotProblem as problem:
            return 500, answers.problem(str(problem), "mock")
        self.log(what, **done)
        return 200, done

    def _sleep(self, request: MockRequest) -> tuple[int, Any]:
        if request.path in SGLANG_SLEEP and not request.body:
            return 422, {"detail": "Field required"}
        what = {"/sleep": "sleep", "/wake_up": "wake"}.get(SGLANG_SLEEP.get(request.path, request.path))
        if request.query == "tags=weights" or (what is None and request.method == "POST"):
            self.log(request.path[1:], query=request.query, body=request.body.decode())
            what = None  # it sleeps until the rest is woken, as vLLM does (docs/features/sleep_mode.md)
        if f"{what}-hangs" in self.faults:
            time.sleep(float("1e6"))
        if f"{what}-fails" in self.faults:
            return 500, answers.problem(f"{self.options.name} was told not to {what}", "mock")
        if what == "sleep" and not self.sleeping and "sleep-lies" not in self.faults:
            self._enter_sleep()
        elif what == "wake" and self.sleeping:
            self._wake_up()
        return 200, {"is_sleeping": self.sleeping}

    def _enter_sleep(self) -> None:
        time.sleep(self.options.sleep_time)
        self.sleeping = True
        if self.slots and self.options.sleep_clears_slots:
            self.slots.clear()
        self.locks.free()
        self.log("sleep")
        if "die-asleep" in self.faults:
            threading.Timer(float(self.faults["die-asleep"] or 0.3), self._exit, (1,)).start()

    def _wake_up(self) -> None:
        self.locks.take()
        time.sleep(self.options.wake_time)
        if "die-waking" in self.faults:
            self._exit(1)
        self.sleeping = False
        self.log("wake")

    def _inference(self, connection: MockConnection, request: MockRequest) -> None:
        with self.lock:
            self.counts["requests"] += 1
            self.counts["open"] += 1
            number = self.counts["requests"]
        self.log("request", id=number, path=request.path)
        cancelled = False
        try:
            self._handle_inference(connection, request, number)
        except Disconnected:
            cancelled = True
            raise
        finally:
            self.log("done", id=number, cancelled=cancelled, sent=connection.sent)
            with self.lock:
                self.counts["open"] -= 1
                self.counts["cancelled"] += cancelled

    def _handle_inference(self, connection: MockConnection, request: MockRequest, number: int) -> None:
        multipart = request.headers.get("content-type", "").startswith("multipart/")
        try:
            body = {} if multipart else request.json()
        except ValueError:
            return connection.reply(
                400, answers.problem("the body is not JSON", "invalid_request", "invalid_request_error")
            )
        with self.lock:
            self.last = {
                "body": body or request.body.decode("latin-1"),
                "headers": request.headers,
                "path": request.path,
            }
        if self.sleeping or not self.ready:
            return connection.reply(503, answers.problem("asleep" if self.sleeping else "loading", "not_ready"))
        preferences = body.get("mock") or {}
        self.memory = preferences.get("memory", self.memory)
        fault, _, detail = preferences.get("fault", "").partition(":")
        faults = {**self.faults, fault: detail} if fault else self.faults
        if "hang" in faults:
            connection.wait_until(float("inf"))
        if "garbage" in faults:
            connection.send(b"\x00\x15this is no HTTP\r\n\r\n")
            raise DropConnection
        while preferences.get("hold") and not self.released.is_set():  # until POST /release
            connection.wait_until(time.monotonic() + HOLD_STEP)
        status = 500 if "error-500" in faults else preferences.get("status", 200)
        if status != 200:  # noqa: PLR2004
            return connection.reply(status, answers.problem(f"{self.options.name} was told to answer {status}", "mock"))
        if request.path.endswith("/completions"):
            return self._complete(connection, body, number, faults, chat="chat" in request.path)
        connection.wait_until(time.monotonic() + preferences.get("first_token", self.options.first_token))
        return self._reply(connection, request, body, number)

    def _reply(self, connection: MockConnection, request: MockRequest, body: dict[str, Any], number: int) -> None:
        if request.path == "/v1/audio/speech":
            return connection.reply_bytes(answers.speech(self.options.name, body), "audio/wav")
        whole = self._body(request, body, number)
        if request.path == "/v1/responses" and body.get("stream"):
            connection.open_stream()
            for event in answers.response_events(whole):
                connection.event(event)
            return connection.close_stream()
        return connection.reply(200, whole)

    def _body(self, request: MockRequest, body: dict[str, Any], number: int) -> dict[str, Any]:  # noqa: PLR0911 — one a kind
        name, path = self.options.name, request.path
        if path == "/v1/embeddings":
            return answers.embeddings(name, body)
        if "rerank" in path:
            return answers.rerank(name, body)
        if path == "/v1/responses":
            return answers.response(name, body, number)
        if path == "/v1/moderations":
            return answers.moderation(name, body)
        if path.startswith("/v1/images/"):
            return answers.image(name, body)
        if path.startswith("/v1/audio/"):
            return answers.transcription(name, request.body)
        return {"content": name, "tokens": list(request.body)}

    def _complete(
        self, connection: MockConnection, body: dict[str, Any], number: int, faults: dict[str, str], *, chat: bool
    ) -> None:
        preferences = body.get("mock") or {}
        count = (
            preferences.get("tokens")
            or body.get("max_completion_tokens")
            or body.get("max_tokens")
            or self.options.tokens
        )
        rate = preferences.get("tokens_per_second", self.options.tokens_per_second)
        begin = time.monotonic() + preferences.get("first_token", self.options.first_token)
        answer = answers.MockAnswer(self.options.name, body, number, count, chat=chat)
        if self.slots:
            cached, seconds = self.slots.take(body, self.options.prompt_rate)
            answer.usage["prompt_tokens_details"] = {"cached_tokens": cached}
            begin += seconds
        streamed = bool(body.get("stream"))
        if streamed:
            connection.open_stream()
        for index, token in enumerate(answer.tokens):
            connection.wait_until(begin + (index / rate if rate else 0.0))
            self._maybe_fail(index, faults)
            if streamed:
                connection.event(answer.chunk(token, first=index == 0))
        if not streamed:
            return connection.reply(200, answer.complete())
        for chunk in answer.call_chunks():
            connection.event(chunk)
        connection.event(answer.chunk(None))
        if (body.get("stream_options") or {}).get("include_usage"):
            connection.event(answer.usage_chunk())
        connection.event(b"[DONE]")
        return connection.close_stream()

    def _maybe_fail(self, index: int, faults: dict[str, str]) -> None:
        """Apply the faults die-midstream and cut-midstream after the token with this index."""
        if "die-midstream" in faults and index == int(faults["die-midstream"] or 3):
            self._exit(1)
        if "cut-midstream" in faults and index == int(faults["cut-midstream"] or 3):
            raise DropConnection


def _assigned_files(files: list[str]) -> list[str]:
    """Return the files of the assigned GPUs if their numbers are indexes of files, else all files."""
    numbers = [int(name) for name in os.environ.get(DEVICES, "").split(",") if name.isdecimal()]
    return [files[number] for number in numbers] if numbers and max(numbers) < len(files) else files


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(4096)
    return listener


def _fork_child() -> None:
    """Start a child that only SIGKILL ends, and that holds the locks of its parent."""
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            time.sleep(3600)


def main(argv: list[str]) -> NoReturn:
    """Run a mock engine."""
    try:
        options = _parser().parse_args(argv)
    except ValueError as error:
        sys.exit(f"hotseat.engines.mock_server: {error}")
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most, 65536)), most))
    threading.stack_size(512 * 1024)  # there may be a thousand streams, with a thread each
    MockServer(options).run()


if __name__ == "__main__":
    main(sys.argv[1:])
