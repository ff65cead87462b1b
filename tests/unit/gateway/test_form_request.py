"""Large forms are in files: they arrive as small ones do, hold little memory, and leave nothing behind, however they end."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotseat.gateway import form_request, spool
from hotseat.gateway.http import connection
from hotseat.gateway.relay import UploadExchange
from hotseat.gateway.relay.pool import WRITE_BUFFER
from hotseat.gateway.spool import PIECE, Spool, SpooledForm, SpooledUpload
from tests.unit.gateway.http.running import LOOPS, eventually
from tests.unit.gateway.http.test_connection import Client, code
from tests.unit.gateway.relay.fake_engine import Engine, Peer, answers, sized
from tests.unit.gateway.test_form import part, whole
from tests.unit.gateway.test_inference import Router, post
from tests.unit.gateway.test_routes import FORM

PATH = "/v1/audio/transcriptions"
LIMIT = 30_000_000
FILE = part("file", os.urandom(2_000_000), filename="a.wav")
MODEL = part("model", b"whisper-1")


class SpoolingRouter(Router):
    """A gateway that keeps large forms in files of a folder."""

    def __init__(self, loop: str, folder: Path) -> None:
        self.folder, self.spool = folder, Spool(folder, LIMIT)
        super().__init__(loop, self.spool)

    def files(self) -> int:
        """Open files in the folder, none of which has a name."""
        assert not list(self.folder.iterdir())
        count = 0
        for each in Path("/proc/self/fd").iterdir():
            try:
                count += str(each.readlink()).startswith(f"{self.folder}/")
            except FileNotFoundError:
                continue
        return count

    def check_nothing_is_left(self) -> None:
        super().check_nothing_is_left()
        eventually(lambda: not self.files())
        assert self.spool.budget._kept == 0


@pytest.fixture(params=LOOPS)
def router(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SpoolingRouter]:
    made = SpoolingRouter(request.param, tmp_path)
    yield made
    made.connections.close()
    made.close()


def chunked(raw: bytes, size: int) -> bytes:
    head = post(b"", FORM, path=PATH).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    pieces = (raw[at : at + size] for at in range(0, len(raw), size))
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def asked(router: Router, *pieces: bytes) -> tuple[int, Any]:
    with Client(router) as client:
        for piece in pieces:
            client.send(piece)
        status, body = client.answer()
        return status, code(body) if status >= 400 else body


def bodies(engine: Engine) -> list[bytes]:
    found = []
    for request in engine.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        assert b"\r\nContent-Length: %d" % len(body) in head
        assert FORM.encode() in head
        found.append(body)
    return found


@pytest.mark.parametrize("parts", [(FILE, MODEL), (MODEL, FILE), (FILE, MODEL, FILE)])
@pytest.mark.parametrize("size", [0, 7000, 700_000])
def test_a_large_form_arrives_with_the_name_that_its_engine_has(
    router: SpoolingRouter, parts: tuple[bytes, ...], size: int
) -> None:
    raw = whole(*parts)
    with Engine(answers(sized(b"{}"))) as engine:
        router.ready("a", engine.address, names=["whisper-1"])
        assert asked(router, chunked(raw, size) if size else post(raw, FORM, path=PATH)) == (200, b"{}")
        assert bodies(engine) == [raw.replace(MODEL, part("model", b"a"))]
        router.connections.close()


FILTERS = {"strip": ["file", "unknown"], "default": {"prompt": "p" * 100, "n": [1, 2]}, "set": {"stream": False}}


@pytest.mark.parametrize("filters", [None, FILTERS])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_form_in_a_file_is_passed_on_as_one_in_memory(
    loop: str, filters: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, whatever its parts, and however it is cut on its way."""
    for module, name, value in ((connection, "JOINED", 50), (form_request, "JOINED", 50), (spool, "PIECE", 64)):
        monkeypatch.setattr(module, name, value)
    spooling, holding = SpoolingRouter(loop, tmp_path), Router(loop)
    try:
        with Engine(answers(sized(b"{}"))) as engine:
            for each in (spooling, holding):
                each.ready("a", engine.address, names=["whisper-1"], filters=filters)

            @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
            @given(
                st.lists(
                    st.sampled_from([
                        MODEL, part("model", b"a"), part("file", bytes(300), filename="f"), part("stream", b"true"),
                        b"--x-1\r\n", part("prompt", b""), b"\r\n",
                    ]),
                    max_size=5,
                ),
                st.integers(1, 90),
                st.lists(st.integers(1, 2000), max_size=3),
            )  # fmt: skip
            def check(parts: list[bytes], size: int, cuts: list[int]) -> None:
                request = chunked(whole(*parts), size)
                ends = sorted({*cuts, len(request)})
                pieces = [request[start:end] for start, end in zip([0, *ends], ends, strict=False)]
                engine.requests.clear()
                answer = asked(spooling, *pieces)
                got = bodies(engine)
                assert (asked(holding, *pieces), bodies(engine)) == (answer, got * 2)
                assert answer[0] in {200, 400, 404}

            check()
            spooling.connections.close()
            holding.connections.close()
    finally:
        holding.close()
        spooling.close()


class Held:
    """A form whose reads are answered at once."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.size = raw, len(raw)

    def read(self, parts: list[Any], then: Any) -> None:
        then(b"".join(each if isinstance(each, bytes) else self.raw[each[0] : sum(each)] for each in parts), None)


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 300), st.binary(max_size=150), st.integers(1, 200))
def test_pieces_of_an_upload_are_the_form_with_its_new_value(
    raw: bytes, start: int, end: int, value: bytes, piece: int
) -> None:
    start, end = sorted(min(each, len(raw)) for each in (start, end))
    upload = SpooledUpload(Held(raw), [(start, end, value)])  # type: ignore[arg-type]
    pieces: list[bytes] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spool, "PIECE", piece)
        while (at := sum(map(len, pieces))) < len(upload):
            upload.read(at, lambda data, _: pieces.append(data))
            assert 0 < len(pieces[-1]) <= piece
    assert b"".join(pieces) == raw[:start] + value + raw[end:]


def test_a_queued_form_holds_no_memory_and_is_sent_when_its_model_is_ready(router: SpoolingRouter) -> None:
    raw = whole(FILE, MODEL)
    router.ready("a", "", names=["whisper-1"], capabilities=["transcription"])
    with Engine(answers(sized(b"{}"))) as engine, Client(router, post(raw, FORM, path=PATH)) as client:
        handle = router.world.find("a").handle
        eventually(lambda: handle.gate.waiting() == 1)
        assert router.files() == 1
        assert router.spool.budget._kept == len(raw)
        assert router.http.service._inference.body_budget._kept == connection.JOINED
        router.ready("a", engine.address, names=["whisper-1"], capabilities=["transcription"])
        assert client.answer() == (200, b"{}")
        assert bodies(engine) == [raw.replace(MODEL, part("model", b"a"))]
        router.connections.close()


def test_no_more_is_read_than_a_slow_engine_takes(router: SpoolingRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, read, seen = threading.Event(), [0], []
    send = UploadExchange._send

    def counted(exchange: UploadExchange, connection: Any, data: bytes, error: Any) -> None:
        read[0] += len(data)
        seen.append(connection._transport.get_write_buffer_size())
        send(exchange, connection, data, error)

    def script(peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        assert goes_on.wait(10)
        peer.request()
        peer.send(sized(b"{}"))

    monkeypatch.setattr(UploadExchange, "_send", counted)
    raw = whole(*[FILE] * 8, MODEL)
    with Engine(script) as engine:
        router.ready("a", engine.address, names=["whisper-1"])
        with Client(router, post(raw, FORM, path=PATH)) as client:
            eventually(lambda: read[0] > 2 * WRITE_BUFFER)
            goes_on.set()
            assert client.answer() == (200, b"{}")
        assert max(seen) <= WRITE_BUFFER + PIECE
        assert bodies(engine) == [raw.replace(MODEL, part("model", b"a"))]
        router.connections.close()


def test_a_client_waits_for_a_slow_disk(router: SpoolingRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, most = threading.Event(), [0]
    append, write = SpooledForm._append, SpooledForm.write

    def slow(form: SpooledForm, pieces: list[bytes]) -> None:
        assert goes_on.wait(10)
        append(form, pieces)

    def counted(form: SpooledForm, data: bytes) -> None:
        write(form, data)
        most[0] = max(most[0], form._waiting)

    monkeypatch.setattr(SpooledForm, "_append", slow)
    monkeypatch.setattr(SpooledForm, "write", counted)
    raw = whole(FILE, FILE, MODEL)
    with Engine(answers(sized(b"{}"))) as engine, Client(router) as client:
        router.ready("a", engine.address, names=["whisper-1"])
        sender = threading.Thread(target=client.send, args=(post(raw, FORM, path=PATH),))
        sender.start()
        eventually(lambda: most[0] >= PIECE)
        goes_on.set()
        sender.join()
        assert client.answer() == (200, b"{}")
        assert bodies(engine) == [raw.replace(MODEL, part("model", b"a"))]
        router.connections.close()
    assert most[0] < 4 * PIECE


@pytest.mark.parametrize("raw", [FILE, whole(MODEL, FILE, MODEL), whole(FILE, b"--x-1"), whole(FILE)[:-6]])
def test_a_large_malformed_form_is_refused_and_loads_nothing(router: SpoolingRouter, raw: bytes) -> None:
    router.ready("a", "", names=["whisper-1"])
    with Client(router) as client:
        for _ in range(2):  # on one connection
            client.send(post(raw, FORM, path=PATH))
            status, body = client.answer()
            assert (status, code(body)) == (400, "invalid_request")
    assert not router.world.wanted("a")


@pytest.mark.parametrize("sent", [1000, 1_000_000, len(FILE), 2 * len(FILE)])
def test_a_client_that_leaves_leaves_nothing(router: SpoolingRouter, sent: int) -> None:
    router.ready("a", "", names=["whisper-1"])
    with Client(router, post(whole(FILE, MODEL), FORM, path=PATH)[:sent]):
        eventually(lambda: router.spool.budget._kept > 0)
        if sent > 2 * connection.JOINED:
            eventually(lambda: router.files() == 1)
    router.check_nothing_is_left()


@pytest.mark.parametrize(("path", "message"), [("/dev/full", "out of disk space"), ("/proc/self/nothing", "in a file")])
def test_a_full_or_broken_disk_is_told(
    router: SpoolingRouter, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    router.ready("a", "", names=["whisper-1"])
    monkeypatch.setattr(spool, "TemporaryFile", lambda **_: Path(path).open("wb", buffering=0))  # noqa: SIM115
    with Client(router, post(whole(FILE, MODEL), FORM, path=PATH)) as client:
        status, body = client.answer()
    assert (status, code(body)) == (503, "overloaded")
    assert message in json.loads(body)["error"]["message"]


def test_a_file_that_cannot_be_read_back_is_told(router: SpoolingRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with Engine(Peer.until_closed) as engine:
        router.ready("a", engine.address, names=["whisper-1"])
        assert asked(router, post(whole(FILE, MODEL), FORM, path=PATH)) == (503, "overloaded")
        assert engine.closed.wait(10)


def test_it_is_sent_again_if_the_connection_turns_out_to_be_closed(
    router: SpoolingRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotseat.gateway.relay.pool.EngineConnection.is_stale", lambda _: False)
    go_on, closed, raw = threading.Event(), threading.Event(), whole(FILE, MODEL)
    start = UploadExchange.start

    def one_answer(peer: Peer) -> None:
        peer.request()
        peer.send(sized(b"1"))
        go_on.wait(10)
        peer.sock.close()
        closed.set()

    def start_late(exchange: UploadExchange) -> None:
        go_on.set()
        closed.wait(10)  # the loop does not look at the connection in between
        start(exchange)

    with Engine(one_answer, answers(sized(b"2"))) as engine:
        router.ready("a", engine.address, names=["whisper-1"])
        assert asked(router, post(raw, FORM, path=PATH)) == (200, b"1")
        monkeypatch.setattr(UploadExchange, "start", start_late)
        assert asked(router, post(raw, FORM, path=PATH)) == (200, b"2")
        assert engine.connections == 2
        assert bodies(engine) == [raw.replace(MODEL, part("model", b"a"))] * 2
        router.connections.close()


def test_an_engine_may_answer_before_it_has_read_all(router: SpoolingRouter) -> None:
    def script(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
        peer.until_closed()

    with Engine(script) as engine:
        router.ready("a", engine.address, names=["whisper-1"])
        with Client(router, post(whole(*[FILE] * 8, MODEL), FORM, path=PATH)) as client:
            assert client.answer() == (413, b"{}")
        assert engine.closed.wait(10)


def test_limits_of_size(router: SpoolingRouter) -> None:
    router.ready("a", "", names=["whisper-1"])
    head = post(b"", FORM, path=PATH)
    huge = head.replace(b"Length: 0", b"Length: %d" % (LIMIT + 1))
    assert asked(router, huge) == (413, "request_too_large")
    most = head.replace(b"Length: 0", b"Length: %d" % LIMIT)
    with Client(router, most), Client(router, most), Client(router, most), Client(router, most):
        router.concurrency.resize(10)
        eventually(lambda: router.spool.budget._kept == 4 * LIMIT)
        with Client(router, head.replace(b"Length: 0", b"Length: 300000")) as client:
            status, body = client.answer()
        assert (status, code(body)) == (429, "too_many_bytes")
        assert "disk limit" in json.loads(body)["error"]["message"]
    router.check_nothing_is_left()
