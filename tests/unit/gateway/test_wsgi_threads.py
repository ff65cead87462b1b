"""WSGI applications behind the event loop: their answers, streams that wait for their clients, and errors."""

import threading
import time

import pytest

from hotseat.gateway.service import PlainService
from hotseat.gateway.threads import Threads
from hotseat.gateway.wsgi_threads import DEPARTED, WsgiThreads
from tests.unit.gateway.http.running import LOOPS, Server, eventually
from tests.unit.gateway.http.test_connection import Client, code

GET = b"GET %b HTTP/1.1\r\nHost: h:80\r\nX-A: 1\r\nX_A: 2\r\n\r\n"


class App:
    """An application with a route for each case."""

    def __init__(self):
        self.environs, self.closed, self.written = [], threading.Event(), 0

    def __call__(self, environ, start_response):
        self.environs.append(environ)
        return getattr(self, environ["PATH_INFO"].strip("/"))(environ, start_response)

    def whole(self, environ, start_response):
        body = environ["wsgi.input"].read() + b"!"
        start_response("201 Made", [("Content-Length", str(len(body))), ("X-B", "2")])
        return [body]

    def unmeasured(self, environ, start_response):
        start_response("200 OK", [])
        return []

    def bodiless(self, environ, start_response):
        start_response("204 No Content", [])
        return []

    def lies(self, environ, start_response):
        start_response("200 OK", [("Content-Length", "100")])
        return [b"abc"]

    def stream(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield b"data: 1\n\n"
        yield b""
        yield b"data: 2\n\n"

    def endless(self, environ, start_response):
        start_response("200 OK", [])
        try:
            while not environ[DEPARTED]():
                self.written += 1
                yield b"x" * 100_000
        finally:
            self.closed.set()

    def fails(self, environ, start_response):
        raise ZeroDivisionError

    def breaks(self, environ, start_response):
        start_response("200 OK", [])
        yield b"abc"
        raise ZeroDivisionError

    def none(self, environ, start_response):
        raise MemoryError


@pytest.fixture
def app():
    return App()


@pytest.fixture(params=LOOPS)
def server(request, app):
    threads = Threads(4, backlog=0)
    made = Server(loop=request.param)
    made.http.service = PlainService(WsgiThreads(app, threads, made.owner), 1000)
    made.threads = threads
    yield made
    made.close()
    threads.shutdown()


def test_answers_of_each_kind_and_what_the_application_is_told(server, app):
    post = b"POST /whole?q=1 HTTP/1.1\r\nHost: h:80\r\nContent-Type: text/x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with Client(server, post + GET % b"/unmeasured") as client:
        assert client.answer() == (201, b"abc!")
        assert client.answer() == (200, b"")
        client.send(GET % b"/bodiless")
        assert "Content-Length" not in client.head()
        client.send(GET % b"/stream" + GET % b"/unmeasured")
        assert client.answer() == (200, b"data: 1\n\ndata: 2\n\n")
        assert client.answer() == (200, b"")
    first, second, *_ = app.environs
    assert {name: first[name] for name in ("REQUEST_METHOD", "QUERY_STRING", "CONTENT_TYPE", "CONTENT_LENGTH")} == {
        "REQUEST_METHOD": "POST",
        "QUERY_STRING": "q=1",
        "CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": "3",
    }
    assert second["SERVER_PORT"] == str(server.address[1]), "the listener's, whatever Host says"
    assert second["HTTP_X_A"] == "1", "no other header is taken for it"


def test_no_header_is_taken_for_more_than_a_header(server, app):
    """A client, or one behind a proxy that passes everything on, says neither where the application is nor how it is reached."""
    lies = b"SCRIPT_NAME: /x\r\nScript-Name: /x\r\nX-Forwarded-Prefix: /x\r\nPATH_INFO: /x\r\nPath-Info: /x\r\nRemote-User: root\r\n"
    lies += b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\nX-Forwarded-Host: x\r\nContent_Length: 9\r\nServer-Port: 1\r\n"
    with Client(server, b"GET /unmeasured HTTP/1.1\r\nHost: h:80\r\n" + lies + b"\r\n") as client:
        assert client.answer() == (200, b"")
    (environ,) = app.environs
    about = "SCRIPT_NAME", "PATH_INFO", "wsgi.url_scheme", "SERVER_NAME", "SERVER_PORT", "CONTENT_LENGTH"
    assert [environ[name] for name in about] == ["", "/unmeasured", "http", "h", str(server.address[1]), "0"]
    assert "REMOTE_USER" not in environ


def test_a_stream_goes_no_faster_than_its_client_reads_and_ends_with_it(server, app):
    with Client(server, GET % b"/endless") as client:
        client.head()
        count = -1
        while count != app.written:  # until it waits
            count = app.written
            time.sleep(0.2)
        assert count < 200
        assert not app.closed.is_set()
    assert app.closed.wait(5)


def test_a_client_that_leaves_ends_a_stream_that_waits_for_news(server, app):
    def quiet(environ, start_response):
        start_response("200 OK", [])
        try:
            yield b"begun"
            while not environ[DEPARTED]():
                time.sleep(0.005)
        finally:
            app.closed.set()

    app.quiet = quiet
    with Client(server, GET % b"/quiet") as client:
        client.head()
    assert app.closed.wait(5)


@pytest.mark.parametrize(
    ("path", "status", "reason"), [(b"/fails", 500, "internal_error"), (b"/none", 503, "overloaded")]
)
def test_an_application_that_fails_is_an_error_of_the_api(server, path, status, reason, caplog):
    with Client(server, GET % path + GET % b"/unmeasured") as client:
        answer = client.answer()
        assert (answer[0], code(answer[1])) == (status, reason)
        assert client.answer() == (200, b"")
    assert ("ZeroDivisionError" in caplog.text) == (status == 500)


def test_a_stream_that_breaks_does_not_look_whole(server, caplog):
    with Client(server, GET % b"/breaks") as client, pytest.raises(ConnectionResetError):
        assert not client.rest().endswith(b"0\r\n\r\n")
    assert "ZeroDivisionError" in caplog.text


def test_a_wrong_length_is_made_right(server):
    with Client(server, GET % b"/lies") as client:
        assert client.answer() == (200, b"abc")


def test_too_large_a_body_is_refused(server, app):
    with Client(server, b"POST /whole HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n") as client:
        assert client.answer()[0] == 413
    assert not app.environs


def test_more_requests_than_threads_are_refused_at_once(server, app):
    go_on = threading.Event()

    def waits(environ, start_response):
        go_on.wait(10)
        start_response("200 OK", [])
        return []

    app.waits = waits
    clients = [Client(server, GET % b"/waits") for _ in range(4)]
    eventually(lambda: len(app.environs) == 4)
    with Client(server, GET % b"/waits") as client:
        status, body = client.answer()
        assert (status, code(body)) == (503, "overloaded")
    go_on.set()
    for client in clients:
        assert client.answer() == (200, b"")
        client.sock.close()
