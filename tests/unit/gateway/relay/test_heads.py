"""What may pass from one hop to the next, and what must not (RFC 9110, 7.6.1)."""

from dataclasses import replace

import pytest

from hotseat.core.errors import UpstreamFailed
from hotseat.gateway.relay import Call
from hotseat.gateway.relay.heads import MAX_HOSTS, encode_request, read_response


def request(*fields, method="POST", target=b"/", body=b"", **call):
    """The headers that an engine gets."""
    head = encode_request(Call("", method, target, fields, body, **call), b"h")
    assert head.endswith(b"\r\n\r\n")
    return head.split(b"\r\n")[2:-2]


def response(*fields, code=200, method="POST", keep_alive=True):
    return read_response(code, b"OK", list(fields), method, keep_alive=keep_alive)


def lines(head):
    return head.fields.split(b"\r\n")[:-1]


def test_hop_by_hop_fields_and_those_that_connection_names_stay_here():
    kept = request(
        (b"Connection", b"keep-alive, X-Secret-Hop"), (b"X-Secret-Hop", b"1"), (b"Keep-Alive", b"5"), (b"TE", b"trailers"),
        (b"Trailer", b"X"), (b"Transfer-Encoding", b"chunked"), (b"Upgrade", b"h2c"), (b"Proxy-Authorization", b"p"),
        (b"Proxy-Connection", b"close"), (b"Expect", b"100-continue"), (b"Host", b"us"), (b"Content-Length", b"9"),
        (b"Accept-Encoding", b"gzip, br"), (b"X-Forwarded-For", b"10.0.0.1"), (b"Content-Type", b"application/json"),
        (b"X-Unknown", b"kept"), method="GET",
    )  # fmt: skip
    assert kept == [
        b"Accept-Encoding: gzip, br",
        b"X-Forwarded-For: 10.0.0.1",
        b"Content-Type: application/json",
        b"X-Unknown: kept",
    ]


@pytest.mark.parametrize("name", [b"Authorization", b"AUTHORIZATION", b"x-api-key", b"X-API-Key", b"api-key"])
def test_a_clients_key_never_leaves(name):
    assert request((name, b"sk-secret"), method="GET") == []


@pytest.mark.parametrize(
    "name", [b"Origin", b"ORIGIN", b"access-control-request-headers", b"Access-Control-Request-Private-Network"]
)
def test_which_page_asks_is_judged_here(name):
    assert request((name, b"https://app.example"), method="GET") == []


def test_a_key_of_the_engine_can_be_neither_set_nor_taken_out_by_a_client():
    own = {"own_headers": b"X-Team: blue\r\nAuthorization: Bearer k\r\n", "own_names": {b"x-team", b"authorization"}}
    kept = request(
        (b"x-TEAM", b"red"), (b"X-Other", b"1"), (b"Connection", b"X-Team, Authorization"), method="GET", **own
    )
    assert kept == [b"X-Other: 1", b"X-Team: blue", b"Authorization: Bearer k"]


def test_a_request_says_whom_it_is_for_and_how_long_it_is():
    head = encode_request(
        Call("", "POST", b"/v1/x?a=b", [(b"Host", b"evil"), (b"Accept", b"*/*")], b"{}"), b"127.0.0.1:80"
    )
    assert head == b"POST /v1/x?a=b HTTP/1.1\r\nHost: 127.0.0.1:80\r\nAccept: */*\r\nContent-Length: 2\r\n\r\n"
    assert request() == [b"Content-Length: 0"]
    assert request(method="GET") == []


def test_a_head_is_encoded_once_for_each_engine():
    fields = [(b"Accept", b"*/*"), (b"Content-Length", b"2")]
    encoded = {}
    for host, body in ((b"a:1", b"{}"), (b"a:1", b"{ }"), (b"b:1", b"")) * 2:
        call = Call("", "POST", b"/x", fields, body)
        assert encode_request(replace(call, encoded=encoded), host) == encode_request(call, host)
    assert list(encoded) == [b"a:1", b"b:1"]
    for port in range(100):
        encode_request(replace(call, encoded=encoded), b"c:%d" % port)
    assert len(encoded) <= MAX_HOSTS


def test_an_upgrade_is_asked_for_where_it_may_be():
    asked = (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Key", b"k")
    assert request(*asked, method="GET") == [b"Sec-WebSocket-Key: k"]
    assert request(*asked, method="GET", upgrade=True)[1:] == [b"Connection: Upgrade", b"Upgrade: websocket"]


def test_an_answer_that_is_inserted_into_a_stream_is_asked_for_without_compression():
    assert request((b"Accept-Encoding", b"gzip"), method="GET", plain=True) == [b"Accept-Encoding: identity"]


@pytest.mark.parametrize(
    ("method", "target"), [("POST", b"/x HTTP/1.1\r\nEvil: 1"), ("POST", b"/a b"), ("PO ST", b"/")]
)
def test_nothing_can_be_smuggled_into_a_request(method, target):
    with pytest.raises(ValueError, match="cannot stand"):
        request(method=method, target=target)


def test_a_response_keeps_its_own_fields_only():
    head = response(
        (b"Content-Type", b"application/json"), (b"Server", b"uvicorn"), (b"date", b"x"), (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"), (b"Keep-Alive", b"timeout=5"), (b"Content-Length", b"5"), (b"Content-Encoding", b"gzip"),
        (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"X-Request-Id", b"7"), (b"Proxy-Authenticate", b"n"),
        keep_alive=False,
    )  # fmt: skip
    assert lines(head) == [
        b"Content-Type: application/json", b"Content-Encoding: gzip", b"Set-Cookie: a=1", b"Set-Cookie: b=2",
        b"X-Engine-Request-Id: 7",
    ]  # fmt: skip
    assert (head.status, head.length, head.keep_alive, head.encoded) == ("200 OK", b"5", False, "gzip")


@pytest.mark.parametrize(
    "name",
    [
        b"Access-Control-Allow-Origin",
        b"access-control-expose-headers",
        b"X-Hotseat-Model",
        b"X-Hotseat-Fallback",
        b"X-Queue-Position",
    ],
)
def test_what_hotseat_says_itself_is_not_said_by_an_engine(name):
    assert lines(response((name, b"lie"))) == []


def test_event_streams_are_not_to_be_buffered_or_cached():
    chunked = (b"Transfer-Encoding", b"chunked")
    head = response((b"Content-Type", b"text/event-stream; charset=utf-8"), chunked, (b"X-Accel-Buffering", b"yes"))
    assert lines(head)[1:] == [b"X-Accel-Buffering: no", b"Cache-Control: no-cache"]
    assert head.event_stream
    head = response((b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-store"))
    assert b"Cache-Control: no-store" in lines(head)


def test_framing_is_chosen_as_rfc_9112_says():
    length, chunked = (b"Content-Length", b"7"), (b"Transfer-Encoding", b"Chunked")
    assert response(length).length == b"7"
    assert not response(chunked).until_close
    both = response(chunked, length)
    assert (both.length, both.until_close, both.keep_alive, lines(both)) == (None, False, False, [])
    assert (response().length, response().until_close) == (None, True)
    assert response(length, method="HEAD").length == b"7"
    none = response(length, code=204)
    assert (none.length, none.until_close, lines(none)) == (None, False, [])
    with pytest.raises(UpstreamFailed):
        response((b"Transfer-Encoding", b"gzip, chunked"))
    with pytest.raises(UpstreamFailed):
        response(*[(b"A", b"1")] * 200)
