"""The takeover leans on gunicorn's insides, so here it runs in a real one: the connection must come out of it in good order."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.unit.gateway.relay.fake_engine import SSE, Engine, answers, chunk, dechunk, sized

from .harness import eventually, quickest, stopwatch

APP = """
import json
from hotseat.core.errors import HotseatError
from hotseat.gateway.errors import api_kind, error_body
from hotseat.gateway.relay import (
    Call, Connections, Exchange, PlainStream, RequestHeaders, client_socket, client_stream, request_target)

connections = Connections()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/own":
        return answer(start_response, "200 OK", b"own")
    environ["hotseat.start_response"] = start_response
    plain = "HTTP_X_PLAIN" in environ
    stream = PlainStream(start_response, client_socket(environ)) if plain else client_stream(environ)
    call = Call(environ["HTTP_X_ENGINE"], environ["REQUEST_METHOD"], request_target(environ), RequestHeaders(environ),
                environ["wsgi.input"].read())
    try:
        Exchange(connections, call).run(stream, extra=[("X-Stream", type(stream).__name__)])
    except HotseatError as error:
        return answer(start_response, f"{api_kind(error).status} Failed", json.dumps(error_body(error)).encode())
    return stream.finish()

def answer(start_response, status, body):
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]
"""
WORKERS = ["gthread", "hotseat.gateway.worker.Worker"]


@pytest.fixture(scope="module", params=WORKERS)
def server(request, tmp_path_factory):
    """Port of a running gunicorn, and its access log."""
    folder = tmp_path_factory.mktemp("relay")
    (folder / "relay_app.py").write_text(APP)
    log = folder / "access.log"
    with socket.create_server(("127.0.0.1", 0)) as listener, (folder / "log").open("wb") as output:
        options = ["-k", request.param, "--threads", "8", "--graceful-timeout", "2", "--access-logfile", str(log)]
        options += [
            "--access-logformat",
            "%(r)s %(s)s %(B)s",
            "--no-control-socket",
            "--bind",
            f"fd://{listener.fileno()}",
        ]
        command = [sys.executable, "-m", "gunicorn", *options, "--chdir", str(folder), "relay_app:app"]
        process = subprocess.Popen(command, stdout=output, stderr=output, pass_fds=[listener.fileno()])
        try:
            yield listener.getsockname()[1], log
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(30)
    assert "Traceback" not in (folder / "log").read_text()


class Browser:
    """One client connection."""

    def __init__(self, server, engine):
        self.sock = socket.create_connection(("127.0.0.1", server[0]), timeout=30)
        self._engine = engine
        self._rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def request(self, path="/v1/x", *headers, method="POST", version="1.1", body=b"{}"):
        lines = [f"{method} {path} HTTP/{version}", "Host: us", f"X-Engine: {self._engine.address}", *headers]
        lines += [f"Content-Length: {len(body)}", "", ""]
        return "\r\n".join(lines).encode() + body

    def send(self, *arguments, **fields):
        self.sock.sendall(self.request(*arguments, **fields))

    def head(self):
        while b"\r\n\r\n" not in self._rest:
            more = self.sock.recv(65536)
            assert more, self._rest
            self._rest += more
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head.decode()

    def answer(self):
        """Head and body of an answer that has a length."""
        head = self.head()
        length = int(re.search(r"(?i)content-length: (\d+)", head)[1])
        while len(self._rest) < length:
            self._rest += self.sock.recv(65536)
        body, self._rest = self._rest[:length], self._rest[length:]
        return head, body

    def until_closed(self):
        data = self._rest
        while piece := self.sock.recv(65536):
            data += piece
        return data


PLAIN = pytest.mark.parametrize("header", [(), ("X-Plain: 1",)], ids=["takeover", "plain"])


def silent(peer):
    peer.request()
    peer.until_closed()


@PLAIN
def test_one_client_connection_carries_relayed_and_other_answers(server, header):
    with Engine(answers(sized(b"relayed"))) as engine, Browser(server, engine) as browser:
        for _ in range(3):
            browser.send("/v1/x", *header)
            head, body = browser.answer()
            assert body == b"relayed"
            assert f"X-Stream: {'PlainStream' if header else 'TakeoverStream'}" in head
            assert len(re.findall("(?m)^Date: ", head)) == 1
            browser.send("/own", method="GET", body=b"")
            assert browser.answer()[1] == b"own"


@PLAIN
def test_a_stream_goes_through_and_the_connection_on(server, header):
    stream = SSE + chunk(b"data: 1\n\n") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    with Engine(answers(stream)) as engine, Browser(server, engine) as browser:
        for _ in range(2):
            browser.send("/v1/x", *header)
            head = browser.head()
            while not browser._rest.endswith(b"0\r\n\r\n"):
                browser._rest += browser.sock.recv(65536)
            assert b"".join(dechunk(browser._rest)) == b"data: 1\n\ndata: [DONE]\n\n"
            assert "X-Accel-Buffering: no" in head
            browser._rest = b""


def test_a_pipelined_request_is_answered_or_its_connection_closed_at_once(server):
    def trial():
        with Engine(answers(sized(b"1"))) as engine, Browser(server, engine) as browser:
            with stopwatch() as seconds:
                browser.sock.sendall(browser.request() + browser.request())
                head, body = browser.answer()
                assert body == b"1"
                if "Connection: close" in head:
                    assert browser.until_closed() == b""
                else:
                    assert browser.answer()[1] == b"1"
            return seconds()

    quickest(trial, 1)


@PLAIN
def test_head_has_no_body_and_keeps_the_connection(server, header):
    with (
        Engine(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")) as engine,
        Browser(server, engine) as browser,
    ):
        for _ in range(2):
            browser.send("/v1/x", *header, method="HEAD", body=b"")
            assert "Content-Length: 99" in browser.head()
            assert browser._rest == b""


@PLAIN
def test_an_http_1_0_client_reads_until_the_end(server, header):
    stream = SSE + chunk(b"data: 1\n\n") + b"0\r\n\r\n"
    with Engine(answers(stream)) as engine, Browser(server, engine) as browser:
        browser.send("/v1/x", *header, version="1.0")
        head, _, body = browser.until_closed().partition(b"\r\n\r\n")
        assert body == b"data: 1\n\n"
        assert b"chunked" not in head


def test_an_http_1_0_client_may_keep_its_connection(server):
    with Engine(answers(sized(b"1"))) as engine, Browser(server, engine) as browser:
        for _ in range(2):
            browser.send("/v1/x", "Connection: keep-alive", version="1.0")
            assert "Connection: keep-alive" in browser.answer()[0]


@PLAIN
def test_a_client_that_leaves_while_the_engine_is_silent_frees_the_engine_at_once(server, header):
    def trial():
        with Engine(silent) as engine:
            with Browser(server, engine) as browser:
                browser.send("/v1/x", *header)
                eventually(lambda: engine.requests)
                left_at = time.monotonic()
            assert engine.closed.wait(30)
            return engine.closed_at - left_at

    quickest(trial, 0.1)


@PLAIN
def test_an_engine_that_dies_first_is_an_ordinary_error_and_the_connection_goes_on(server, header):
    with Engine(lambda peer: peer.request()) as engine, Browser(server, engine) as browser:
        browser.send("/v1/x", *header)
        head, body = browser.answer()
        assert head.startswith("HTTP/1.1 502 ")
        assert b'"upstream_failed"' in body
        browser.send("/own", method="GET", body=b"")
        assert browser.answer()[1] == b"own"


@PLAIN
def test_an_engine_that_dies_in_a_stream_leaves_an_event_and_a_good_connection(server, header):
    def dies(peer):
        peer.request()
        peer.send(SSE + chunk(b"data: 1\n\n"))

    with Engine(dies) as engine, Browser(server, engine) as browser:
        browser.send("/v1/x", *header)
        browser.head()
        while not browser._rest.endswith(b"0\r\n\r\n"):
            browser._rest += browser.sock.recv(65536)
        pieces = dechunk(browser._rest)
        assert b'"upstream_failed"' in pieces[-1]
        browser._rest = b""
        browser.send("/own", method="GET", body=b"")
        assert browser.answer()[1] == b"own"


@PLAIN
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_answer_that_is_cut_short_never_looks_whole(server, header, version):
    def dies(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")

    def trial():
        with Engine(dies) as engine, Browser(server, engine) as browser:
            with stopwatch() as seconds:
                browser.send("/v1/x", *header, version=version)
                with contextlib.suppress(ConnectionResetError):
                    assert browser.until_closed().endswith(b"abc")
            return seconds()

    quickest(trial, 1)


def test_connections_that_were_cut_are_not_counted_twice(server):
    """More of them than the server has threads, and it still takes requests."""

    def dies(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")

    with Engine(dies) as engine:
        for _ in range(20):
            with Browser(server, engine) as browser, contextlib.suppress(ConnectionResetError):
                browser.send()
                browser.until_closed()
        with Browser(server, engine) as browser:
            browser.send("/own", method="GET", body=b"")
            assert browser.answer()[1] == b"own"


def test_the_access_log_tells_what_was_sent(server):
    with (
        Engine(answers(sized(b"relayed").replace(b"200 OK", b"201 Made"))) as engine,
        Browser(server, engine) as browser,
    ):
        browser.send("/logged")
        head, _ = browser.answer()
        browser.send("/own", method="GET", body=b"")
        browser.answer()
    eventually(lambda: f"POST /logged HTTP/1.1 201 {len(head) + 4 + 7}\n" in server[1].read_text())
