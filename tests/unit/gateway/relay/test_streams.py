"""The right stream for each server, and a server that knows the answer is out."""

import socket
import ssl

import pytest
from gunicorn.http.wsgi import Response as GunicornResponse
from werkzeug.test import Client as WsgiClient

from hotseat.gateway.relay import (
    Call,
    ClientGone,
    Connections,
    Exchange,
    PlainStream,
    RequestHeaders,
    TakeoverStream,
    client_stream,
)
from tests.unit.gateway.relay.fake_engine import SSE, Client, Engine, FakeRequest, answers, chunk, sized


def environ(sock, response, protocol="HTTP/1.1"):
    found = {"hotseat.start_response": response.start_response, "SERVER_PROTOCOL": protocol, "REQUEST_METHOD": "POST"}
    return found | ({} if sock is None else {"gunicorn.socket": sock})


@pytest.fixture
def sock():
    one, other = socket.socketpair()
    with one, other:
        yield one


def test_gunicorns_own_socket_is_taken_over(sock):
    response = GunicornResponse(FakeRequest(close=False), sock, None)
    assert isinstance(client_stream(environ(sock, response)), TakeoverStream)


def test_what_frames_its_bytes_itself_is_not_taken_over(sock):
    class Http2Response(GunicornResponse):
        pass

    response = GunicornResponse(FakeRequest(close=False), sock, None)
    assert isinstance(client_stream(environ(sock, Http2Response(None, sock, None))), PlainStream)
    assert isinstance(client_stream(environ(None, response)), PlainStream)
    with ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(
        socket.socket(), do_handshake_on_connect=False, server_hostname="x"
    ) as secure:
        assert isinstance(client_stream(environ(secure, response)), PlainStream)


def test_another_gunicorn_with_another_response_is_not_taken_over(sock):
    response = GunicornResponse(FakeRequest(close=False), sock, None)
    del response.response_length
    assert isinstance(client_stream(environ(sock, response)), PlainStream)


def test_a_write_to_a_client_that_left_says_so():
    with Client() as client:
        client.stream.begin("200 OK", [])
        client.sock.close()
        with pytest.raises(ClientGone):
            write_for_ever(client.stream)


def write_for_ever(stream):
    while True:
        stream.write(b"x" * 1000)


@pytest.mark.parametrize("header", [("X-A", "1\r\nB: 2"), ("X-A", "1\n"), ("X-A\r\nB", "1"), ("X-A", "\0")])
def test_no_header_can_split_a_response(header):
    with Client() as client:
        for stream in (client.stream, PlainStream(lambda *_: pytest.fail("it started"))):
            with pytest.raises(ValueError, match="line break"):
                stream.begin("200 OK", [header])
            assert not stream.begun


def test_an_empty_write_ends_no_chunked_body():
    with Client() as client:
        client.stream.begin("200 OK", [])
        client.stream.write(b"")
        client.stream.write(b"a")
        client.stream.end()
        assert client.answer()[1] == b"1\r\na\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "body"), [(sized(b"{}"), b"{}"), (SSE + chunk(b"data: 1\n\n") + b"0\r\n\r\n", b"data: 1\n\n")]
)
def test_a_server_of_any_kind_hands_out_what_was_relayed_and_nothing_else(answer, body):
    connections = Connections()

    def app(environ, start_response):
        environ["hotseat.start_response"] = start_response
        stream = client_stream(environ)
        call = Call(engine.address, "POST", "/v1/x", RequestHeaders(environ), environ["wsgi.input"].read())
        Exchange(connections, call).run(stream, extra=[("X-Hotseat-Model", "m")])
        return stream.finish()

    with Engine(answers(answer)) as engine:
        response = WsgiClient(app).post("/v1/x", json={"model": "m"}, headers={"Authorization": "Bearer secret"})
        connections.close()
    assert (response.status_code, response.data, response.headers["X-Hotseat-Model"]) == (200, body, "m")
    assert b'{"model": "m"}' in engine.requests[0]
    assert b"secret" not in engine.requests[0]
