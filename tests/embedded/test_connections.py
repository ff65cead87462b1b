"""Connections and heads of requests: what is bounded, in a gunicorn of its own with shorter times."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Self

import pytest

from hotseat.gateway.worker import MAX_HEAD

from .harness import eventually

APP = """
from hotseat.gateway import worker
worker.HEAD_TIME = 1.5
worker._SOCKET_OPTIONS = worker._SOCKET_OPTIONS[:-1] + ((*worker._SOCKET_OPTIONS[-1][:2], worker.struct.pack("ll", 0, 400000)),)
worker.SWEEP = 0.05
Worker = worker.Worker

from hotseat.core.errors import HotseatError
from hotseat.gateway.errors import api_kind
from hotseat.gateway.body import read_body

def app(environ, start_response):
    try:
        answer, status = read_body(environ, 10**6) or b"no body", "200 OK"
    except HotseatError as error:
        kind = api_kind(error)
        answer, status = kind.code.encode(), f"{kind.status} Failed"
    start_response(status, [("Content-Length", str(len(answer)))])
    return [answer]
"""
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Where it listens: four connections, four threads, one second of keep-alive."""
    folder = tmp_path_factory.mktemp("connections")
    (folder / "quick_app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listener, (folder / "log").open("wb") as output:
        command = [sys.executable, "-m", "gunicorn", "-k", "quick_app.Worker", "--threads", "4", "--keep-alive", "1"]
        command += ["--worker-connections", "4", "--no-control-socket", "--bind", f"fd://{listener.fileno()}"]
        process = subprocess.Popen(
            [*command, "--chdir", str(folder), "quick_app:app"],
            env={"PYTHONPATH": str(folder), "PATH": ""},
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
        )
        try:
            yield listener.getsockname()
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(30)
    log = (folder / "log").read_text()
    assert "Traceback" not in log, log


class Client:
    """One connection."""

    def __init__(self, address: tuple[str, int], data: bytes = b"") -> None:
        self.sock = socket.create_connection(address, timeout=30)
        self.sock.sendall(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def rest(self) -> bytes:
        """All until the other side closes."""
        data = b""
        while piece := self.sock.recv(65536):
            data += piece
        return data

    def answer(self, body: bytes = b"no body") -> bytes:
        """An answer with that body."""
        data = b""
        while not data.endswith(b"\r\n\r\n" + body):
            piece = self.sock.recv(65536)
            assert piece, data
            data += piece
        return data


def test_half_a_head_is_waited_for_for_a_while(address: tuple[str, int]) -> None:
    began = time.monotonic()
    with Client(address, GET[:20]) as client:
        assert client.rest().startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 5


def test_a_head_that_drips_is_bounded_as_a_whole(address: tuple[str, int]) -> None:
    with Client(address, b"GET / HTTP/1.1\r\n") as client:

        def drip() -> bool:
            time.sleep(0.02)
            try:
                client.sock.sendall(b"X: y\r\n")
            except OSError:
                return True
            return False

        eventually(drip, 5)


def test_a_connection_on_which_nothing_comes_is_closed(address: tuple[str, int]) -> None:
    with Client(address) as client:
        assert client.rest() == b""


def test_a_kept_connection_is_closed_after_a_while(address: tuple[str, int]) -> None:
    with Client(address, GET) as client:
        assert client.answer().startswith(b"HTTP/1.1 200 ")
        assert client.rest() == b""


def test_a_body_that_stalls_is_not_waited_for_for_ever(address: tuple[str, int]) -> None:
    with Client(address, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc") as client:
        assert b"request_timeout" in client.answer(b"request_timeout")


def test_too_large_a_head_is_refused(address: tuple[str, int]) -> None:
    with Client(address, b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_HEAD) as client:
        assert client.rest().startswith(b"HTTP/1.1 431 ")


def test_a_head_in_pieces_and_requests_in_one_piece_are_served(address: tuple[str, int]) -> None:
    with Client(address) as client:
        for byte in GET:
            client.sock.sendall(bytes([byte]))
        client.answer()
        client.sock.sendall(GET + GET[:9])
        client.answer()
        time.sleep(0.05)  # longer than a thread stays with its connection
        client.sock.sendall(GET[9:12])
        time.sleep(0.05)
        client.sock.sendall(GET[12:] + b"\r\n" + GET)
        data = b""
        while data.count(b"no body") < 2:
            piece = client.sock.recv(65536)
            assert piece, data
            data += piece


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\nHost: localhost\n\n", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_is_refused_at_once(address: tuple[str, int], head: bytes) -> None:
    with Client(address, head) as client:
        assert client.rest().startswith(b"HTTP/1.1 400 ")


def test_the_longest_silent_connection_makes_room_for_a_new_one(address: tuple[str, int]) -> None:
    clients = [Client(address) for _ in range(60)]
    with Client(address, GET) as client:
        assert client.answer().startswith(b"HTTP/1.1 200 ")
    for each in clients:
        each.sock.close()
