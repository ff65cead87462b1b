"""What may pass from one hop to the next, and what must not (RFC 9110, 7.6.1)."""

import pytest

from hotseat.core.errors import UpstreamFailed
from hotseat.gateway.relay import Call, RequestHeaders, end_to_end, request_target
from hotseat.gateway.relay.http1 import encode_request, parse_response


def parse(*lines, status="HTTP/1.1 200 OK", method="POST"):
    return parse_response("\r\n".join([status, *lines, "", ""]).encode("latin-1"), method)


def test_hop_by_hop_fields_and_those_that_connection_names_stay_here():
    kept = end_to_end([
        ("Connection", "keep-alive, X-Secret-Hop"), ("X-Secret-Hop", "1"), ("Keep-Alive", "5"), ("TE", "trailers"), ("Trailer", "X"),
        ("Transfer-Encoding", "chunked"), ("Upgrade", "h2c"), ("Proxy-Authorization", "p"), ("Proxy-Connection", "close"),
        ("Expect", "100-continue"), ("Host", "us"), ("Content-Length", "9"), ("Accept-Encoding", "gzip, br"),
        ("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-Proto", "https"), ("Content-Type", "application/json"), ("X-Unknown", "kept"),
    ])  # fmt: skip
    assert kept == [
        ("Accept-Encoding", "gzip, br"), ("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-Proto", "https"),
        ("Content-Type", "application/json"), ("X-Unknown", "kept"),
    ]  # fmt: skip


def test_an_engine_learns_nothing_of_a_web_page():
    assert end_to_end([
        ("Origin", "https://app.example"), ("ORIGIN", "null"), ("Access-Control-Request-Method", "POST"),
        ("access-control-request-headers", "a"), ("Access-Control-Request-Private-Network", "true"), ("Accept", "*/*"),
    ]) == [("Accept", "*/*")]  # fmt: skip


def test_an_engine_says_nothing_in_the_place_of_hotseat():
    """CORS headers, of which a browser accepts one only, and those of a hotseat that is the engine."""
    head = parse(
        "Access-Control-Allow-Origin: *", "access-control-expose-headers: *", "X-Hotseat-Model: lie", "X-HOTSEAT-Fallback: lie",
        "X-Queue-Position: 7", "x-queue-estimate: 7", "X-Request-Id: 7", "OpenAI-Version: 1", "Vary: Origin", "Content-Length: 0",
    )  # fmt: skip
    assert head.headers == [("X-Request-Id", "7"), ("OpenAI-Version", "1"), ("Vary", "Origin"), ("Content-Length", "0")]


@pytest.mark.parametrize("name", ["Authorization", "AUTHORIZATION", "x-api-key", "X-API-Key", "api-key"])
def test_a_clients_key_never_leaves(name):
    assert end_to_end([(name, "sk-secret")]) == []


def test_a_request_says_whom_it_is_for_and_how_long_it_is():
    head = encode_request(Call("", "POST", "/v1/x?a=b", [("Host", "evil"), ("Accept", "*/*")], b"{}"), "127.0.0.1:80")
    assert head == b"POST /v1/x?a=b HTTP/1.1\r\nHost: 127.0.0.1:80\r\nAccept: */*\r\nContent-Length: 2\r\n\r\n"
    assert b"Content-Length: 0\r\n" in encode_request(Call("", "POST", "/"), "h")
    assert b"Content-Length" not in encode_request(Call("", "GET", "/"), "h")


@pytest.mark.parametrize(
    "call",
    [
        Call("", "POST", "/x HTTP/1.1\r\nEvil: 1"),
        Call("", "POST", "/a b"),
        Call("", "POST", "/\x00"),
        Call("", "PO ST", "/"),
        Call("", "POST", "/", [("X-A", "1\r\nEvil: 1")]),
        Call("", "POST", "/", [("X-A", "1\nEvil: 1")]),
        Call("", "POST", "/", [("X-A", "1\rEvil")]),
        Call("", "POST", "/", [("X-A: 1\r\nEvil", "1")]),
        Call("", "POST", "/", [("X-A", "1\0")]),
    ],
)
def test_nothing_can_be_smuggled_into_a_request(call):
    with pytest.raises(ValueError, match=r"cannot stand|line break"):
        encode_request(call, "h")


def test_headers_are_read_from_a_wsgi_environ():
    environ = {
        "HTTP_X_FORWARDED_FOR": "1.2.3.4",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "2",
        "wsgi.input": None,
    }
    assert list(RequestHeaders(environ)) == [("X-Forwarded-For", "1.2.3.4"), ("Content-Type", "application/json")]


def test_the_target_is_the_path_of_the_route_and_the_clients_query():
    """However the client wrote the path, and whatever a header says of a prefix (SCRIPT_NAME)."""
    odd = {"RAW_URI": "/x/v1/%63hat?x=%20#f", "SCRIPT_NAME": "/x", "PATH_INFO": "/v1/chat", "QUERY_STRING": "x=%20"}
    assert request_target(odd) == "/v1/chat?x=%20"
    assert request_target({"PATH_INFO": "/v1/chat"}) == "/v1/chat"
    assert request_target({"PATH_INFO": "/a b/\xc3\xa9?", "QUERY_STRING": "a= \xe9"}) == "/a%20b/%C3%A9%3F?a=%20%E9"


def test_a_response_keeps_its_own_fields_only():
    head = parse(
        "Content-Type: application/json", "Server: uvicorn", "date: x", "Connection: close, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5",
        "Content-Length: 5", "Content-Encoding: gzip", "Set-Cookie: a=1", "Set-Cookie: b=2", "X-Request-Id:  7 ", "Proxy-Authenticate: n",
    )  # fmt: skip
    assert head.headers == [
        ("Content-Type", "application/json"), ("Content-Encoding", "gzip"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"),
        ("X-Request-Id", "7 "), ("Content-Length", "5"),
    ]  # fmt: skip
    assert (head.status, head.length, head.keep_alive, head.encoded) == ("200 OK", 5, False, "gzip")


def test_event_streams_are_not_to_be_buffered_or_cached():
    head = parse(
        "Content-Type: text/event-stream; charset=utf-8", "Transfer-Encoding: chunked", "X-Accel-Buffering: yes"
    )
    assert head.headers[1:] == [("X-Accel-Buffering", "no"), ("Cache-Control", "no-cache")]
    assert ("Cache-Control", "no-store") in parse("Content-Type: text/event-stream", "Cache-Control: no-store").headers


@pytest.mark.parametrize(
    ("status", "lines", "kept"),
    [
        ("HTTP/1.1 200 OK", [], True),
        ("HTTP/1.1 200 OK", ["Connection: close"], False),
        ("HTTP/1.1 200 OK", ["Connection: Keep-Alive"], True),
        ("HTTP/1.0 200 OK", [], False),
        ("HTTP/1.0 200 OK", ["Connection: keep-alive"], True),
        ("HTTP/1.1 200 OK", ["Transfer-Encoding: chunked", "Content-Length: 5"], False),
    ],
)
def test_when_a_connection_may_be_used_again(status, lines, kept):
    assert parse(*lines, status=status).keep_alive is kept


def test_framing_is_chosen_as_rfc_9112_says():
    assert parse("Content-Length: 7").length == 7
    assert parse("Content-Length: 7, 7").length == 7
    assert parse("Transfer-Encoding: Chunked").chunked
    both = parse("Transfer-Encoding: chunked", "Content-Length: 7")
    assert (both.chunked, both.length, both.headers) == (True, None, [])
    assert (parse().length, parse().chunked) == (None, False)
    assert parse("Content-Length: 7", method="HEAD").length == 0
    assert parse("Content-Length: 7", method="HEAD").headers == [("Content-Length", "7")]
    assert parse(status="HTTP/1.1 204 No Content").length == 0
    assert parse("Content-Length: 0", status="HTTP/1.1 204 No Content").headers == [], "RFC 9110, 8.6"
    assert parse("Content-Length: 7", status="HTTP/1.1 304").headers == [("Content-Length", "7")]
    assert parse(status="HTTP/1.1 304").status == "304 "


@pytest.mark.parametrize(
    "block",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: 1\nEvil: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: 1\rEvil: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : 1\r\n\r\n",
        b"HTTP/1.1 200 O\nK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused(block):
    with pytest.raises(UpstreamFailed):
        parse_response(block, "POST")
