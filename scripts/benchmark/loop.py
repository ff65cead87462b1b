"""Parts `idle`, `stalled` and `bodies`: whether anything keeps the gateway's event loop busy, or holds it up."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from benchmark.client import HOST, TIMEOUT, Client, Unexpected, post, request_for, running
from benchmark.report import Row, median, percentile
from benchmark.servers import Server, external, hotseat, model

MODELS = 10
IDLE_SHARE = 0.2  # percent of a core, the target

IDLE, SLOW, DEAF = (
    2000,
    1000,
    200,
)  # connections without a request, that send a byte now and then, and whose answer is not read
BYTE_EVERY = 10.0  # seconds
SETTLED = 3.0  # seconds in which all buffers of answers that are not read are full
CHATS_RATIO = 2.0  # the target

BODY = 20_000_000  # bytes
PIECE = 16  # bytes of a small chunk
DELAY = 50.0  # ms, the target
PAUSE = 0.3  # seconds without the body


def measure_idle(folder: Path, seconds: float) -> list[Row]:
    """CPU of all processes of a hotseat that nobody asks anything."""
    with hotseat(folder, [model(f"m-{number}") for number in range(MODELS)], watch=True) as server:
        with Client(server.port) as client:
            client.ask("m-0")
        time.sleep(2)
        began, before = time.monotonic(), server.cpu_of_all()
        time.sleep(seconds)
        used = (server.cpu_of_all() - before) / (time.monotonic() - began)
    return [
        Row("idle", f"CPU with {MODELS} Models, one loaded, over {seconds:g} s", 100 * used, "%", at_most=IDLE_SHARE)
    ]


# Clients that do nothing ----------------------------------------------------------------------------------------------


def measure_stalled(folder: Path, files: int, rounds: int, seconds: float) -> list[Row]:
    """Latency of one chat after another, beside many clients that do nothing, and without them."""
    count = IDLE + SLOW + DEAF
    if files < 2 * count:
        raise Unexpected(
            f"{count:,} connections need a limit of {2 * count:,} open files, it is {files:,}; raise `ulimit -n`"
        )
    alone: list[tuple[float, float]] = []
    beside: list[tuple[float, float]] = []
    with external(folder) as engine, hotseat(folder, _documents(engine)) as server, Client(server.port) as client:
        _chats(client, seconds, _nothing)
        for _ in range(rounds):
            alone.append(_chats(client, seconds, _nothing))
            with Stalled(server.port) as stalled:
                _wait(SETTLED, stalled.step)
                if (unread := sum(row["in_flight"] for row in running(server.port)["running"])) != DEAF:
                    raise Unexpected(f"{unread} of {DEAF} answers that are not read are in flight")
                beside.append(_chats(client, seconds, stalled.step))
            time.sleep(1)  # their connections are closed
    what = f"{IDLE:,} idle connections, {SLOW:,} that send a byte each {BYTE_EVERY:g} s, {DEAF} that do not read"
    rows = []
    for index, name in enumerate(("p50", "p99")):
        before, now = (median(figures[index] for figures in each) for each in (alone, beside))
        target = CHATS_RATIO if name == "p99" else None
        rows += [
            Row("stalled", f"chat {name}, alone", 1000 * before, "ms"),
            Row("stalled", f"chat {name}, beside {what}", 1000 * now, "ms"),
            Row("stalled", f"chat {name}, ratio", now / before, at_most=target),
        ]
    return rows


class Stalled:
    """Clients that hold connections and do next to nothing. The connections close with the context."""

    def __init__(self, port: int) -> None:
        self._all = contextlib.ExitStack()
        self._port = port
        self._slow: list[socket.socket] = []
        self._sent = 0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        for _ in range(IDLE):
            self._connect()
        self._slow = [self._connect() for _ in range(SLOW)]
        for _ in range(DEAF):
            deaf = self._connect(receive=4096)
            deaf.sendall(request_for("endless", stream=True))
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._all.close()

    def step(self) -> None:
        """Send the bytes that are due."""
        due = int((time.monotonic() - self._began) / BYTE_EVERY * SLOW)
        while self._sent < due:
            each, which = divmod(self._sent, SLOW)
            self._slow[which].send(b"POST /v1/chat/completions HTTP/1.1\r\n"[each : each + 1])
            self._sent += 1

    def _connect(self, receive: int | None = None) -> socket.socket:
        client = self._all.enter_context(socket.socket())
        if receive is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        client.settimeout(TIMEOUT)
        client.connect((HOST, self._port))
        return client


def _documents(engine: Server) -> list[dict[str, object]]:
    url = f"http://{HOST}:{engine.port}"
    endless = {**model("endless"), "spec": {"engine": "external", "url": url, "concurrency": 1000}}
    return [model("m"), endless]


def _chats(client: Client, seconds: float, between: Callable[[], None]) -> tuple[float, float]:
    """Return p50 and p99 of one chat after another, in seconds."""
    client.ask("m")
    end, took = time.monotonic() + seconds, []
    while time.monotonic() < end:
        took.append(client.ask("m"))
        between()
    return percentile(took, 0.5), percentile(took, 0.99)


def _wait(seconds: float, between: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        between()
        time.sleep(0.01)


def _nothing() -> None:
    pass


# Strange bodies -------------------------------------------------------------------------------------------------------


def measure_bodies(folder: Path, rounds: int) -> list[Row]:
    """Largest latency of small requests beside a large one, for each shape of that."""
    worst: dict[str, list[float]] = {}
    statuses: dict[str, str] = {}
    with external(folder) as engine, hotseat(folder, _documents(engine)) as server, Client(server.port) as client:
        client.ask("m")
        for _ in range(rounds):
            worst.setdefault("nothing", []).append(_beside(client, lambda: time.sleep(1) or "")[0])
            for shape, request in _bodies():
                largest, statuses[shape] = _beside(client, lambda request=request: _send(server.port, request))
                worst.setdefault(shape, []).append(largest)
                time.sleep(PAUSE)
    return [
        Row("bodies", f"largest latency of a chat beside {shape}{told}", 1000 * median(values), "ms", at_most=DELAY)
        for shape, values in worst.items()
        for told in [f", answered {statuses[shape]}" if shape in statuses else ""]
    ]


def _bodies() -> Iterator[tuple[str, bytes]]:
    """Yield requests of BODY bytes, with what they are."""

    def filled(each: bytes, before: bytes = b'{"model": "endless", "x": ', after: bytes = b"}") -> bytes:
        return before + each * ((BODY - len(before) - len(after)) // len(each)) + after

    megabytes = f"{BODY // 10**6} MB of"
    yield f"{megabytes} [],", post(filled(b"[],", after=b"0]}", before=b'{"model": "endless", "x": ['))
    yield f"{megabytes} [],, cut off", post(filled(b"[],", before=b"["))
    yield f"{megabytes} [", post(filled(b"["))
    yield f"{megabytes} objects in objects", post(filled(b'{"a":'))
    text = filled(b"x", before=b'{"model": "endless", "x": "', after=b'"}')
    yield f"{megabytes} one string", post(text)
    yield f"{megabytes} escapes", post(filled(rb"\u0061", before=b'{"model": "endless", "x": "', after=b'"}'))
    yield f"{megabytes} numbers", post(filled(b"1e5,", before=b'{"model": "endless", "x": [', after=b"0]}"))
    keys = b",".join(
        b'"key-%d":0' % number for number in itertools.takewhile(lambda n: n < 1_000_000, itertools.count())
    )
    yield "1,000,000 keys", post(b'{"model": "endless",' + keys + b"}")
    yield f"{megabytes} the key model", post(filled(b'"model":"endless",', before=b"{", after=b'"x":0}'))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
    yield (
        f"{megabytes} chunks of {PIECE} bytes",
        head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n",
    )
    many = b"".join(b"x-%d: y\r\n" % number for number in range(1_000_000))
    yield "1,000,000 headers", b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n" + many + b"\r\n"


def _send(port: int, request: bytes) -> str:
    """Return the status of the answer. The server may close the connection before it has read all."""
    with socket.create_connection((HOST, port), timeout=TIMEOUT) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(request)
        with contextlib.suppress(ConnectionError):
            return client.recv(65536)[9:12].decode()
    return "by closing"


def _beside(client: Client, work: Callable[[], str]) -> tuple[float, str]:
    """Return the largest latency of chats while WORK is done in a thread, in seconds, and what it returned."""
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    took = [client.ask("m")]
    thread.start()
    while thread.is_alive():
        took.append(client.ask("m"))
        time.sleep(0.001)
    took += [client.ask("m") for _ in range(20)]
    if not results:
        raise Unexpected("a large request was not answered")
    return max(took), results[0]
