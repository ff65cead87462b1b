"""Names of models in answers that pass: replaced where they are the answer's own, however the bytes are cut."""

import json
import threading
from typing import Any

import pytest

from hotseat.gateway.response_model import EventRenamer, JsonRenamer
from tests.unit.gateway.http.test_connection import Client
from tests.unit.gateway.relay.fake_engine import SSE, Engine, Peer, answers, chunk
from tests.unit.gateway.test_fallback_routing import model
from tests.unit.gateway.test_inference import CHAT, Router, post, resident, router

__all__ = ["router"]  # a fixture

NAME = 'Qwen/"3" ü'
VALUE = json.dumps(NAME).encode()
DOCUMENTS = [
    (b'{"model":"engine","choices":[]}', b'{"model":%b,"choices":[]}'),
    (b' {\n "id" : 1, "model" : "en\\"gi\\\\ne\\u00e9" }\n', b' {\n "id" : 1, "model" : %b }\n'),
    (b'{"object":"model","model":"e","x":{"model":"mine"},"y":[{"model":"mine"}]}', None),
    (b'{"choices":[{"message":{"content":"\\"model\\": \\"e\\" {[","model":"mine"}}],"model":"e"}', None),
    (b'{"type":"response.created","response":{"tools":[{"model":"mine"}],"model":"e"},"model":"e"}', None),
    (b'{"type":"message_start","message":{"id":"1","model":"e","usage":{"model":"mine"}}}', None),
    (b'{"response":"model","message":"{","model":"e"}', None),
    (b'{"x":{"response":{"model":"mine"}},"message":{"message":{"model":"mine"}}}', None),
    (b'{"model":null,"models":["model"],"mode":"e","model2":"e"}', None),
    (b'{"model":{"model":"mine"}}', None),
    (b'{"data":[[0.1,2e3],[-1]],"model":"e","usage":{}}\n{"model":"e"}\n', None),
    (b'{"x":"\\\\","model":"e"}', None),
    (b'{"abc\\"model":"mine","model":"e"}', None),
    (b'[{"model":"mine"}]', None),
    (b'{"model":"e","choi', None),
    (b'{"a":"b"}"mod', None),
    (b'{"mod', None),
    (b"", None),
]


def renamed(data: bytes) -> bytes:
    """Return what is right: each name of the engine, which is `e` in these documents, is replaced."""
    return data.replace(b'"model":"e"', b'"model":' + VALUE)


def cut(renamer: Any, data: bytes, size: int) -> bytes:
    return b"".join(renamer.feed(data[at : at + size]) for at in range(0, len(data), size)) + renamer.flush()


@pytest.mark.parametrize(("document", "right"), DOCUMENTS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 1000])
def test_the_name_of_a_document_is_replaced_and_nothing_else(document: bytes, right: bytes | None, size: int) -> None:
    wanted = renamed(document) if right is None else right % VALUE
    assert cut(JsonRenamer(VALUE), document, size) == wanted


EVENTS = [
    b'data: {"model":"e","choices":[{"delta":{"content":"\\"model\\":"}}]}\n\n',
    b'event: message_start\ndata:{"message":{"model":"e"}}\n\n',
    b': hotseat {"model":"mine"}\n\n',
    b'data: {"x":\r\ndata: {"model":"mine"},"model":"e"}\r\n\r\n',
    b'data: {"unclosed": "\n\ndata: {"model":"e"}\n\n',
    b'dat: {"model":"mine"}\n\ndata\n\n',
    b"data: [DONE]\n\n",
    b'data: {"mod\n\ndata: {"model":"e"}\n\n',
    b'data: {"choices":[]}\n\n',
    b'data: {"model":"e"}\r\rdata: {"model":"e"}',
    b"da",
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 1000])
def test_the_name_is_replaced_in_the_data_of_events(size: int) -> None:
    stream = b"".join(EVENTS)
    assert cut(EventRenamer(VALUE), stream, size) == renamed(stream)
    renamer = EventRenamer(VALUE)
    assert b"".join(map(renamer.feed, EVENTS)) + renamer.flush() == renamed(stream)


def test_an_answer_passes_as_it_comes() -> None:
    renamer = JsonRenamer(VALUE)
    assert renamer.feed(b'{"a":"' + b"x" * 100) == b'{"a":"' + b"x" * 100
    assert renamer.feed(b'","model":"eng') == b'","model":' + VALUE
    assert renamer.feed(b"ine") == b""
    assert renamer.feed(b'","b":[1,') == b',"b":[1,'
    assert renamer.feed(b'2],"m') == b"2],"
    assert renamer.feed(b'y":1}') == b'"my":1}'


# Over HTTP ------------------------------------------------------------------------------------------------------------

JSON = b'{"model":"a","n":%d}'
HEAD = b"HTTP/1.1 %b\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n%b"
CLIENT = {"names": ["Bö b"], "responseModelName": "Client"}


def whole(body: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json", more: bytes = b"") -> bytes:
    return HEAD % (status, kind, more, len(body), body)


def ask(router: Router, answer: Any, name: str = "Bö b", *headers: str, **spec: Any) -> tuple[str, int, bytes]:
    """Return the head, the status and the body that a client gets. `answer`: the engine's, or a script."""
    with Engine(answers(answer) if isinstance(answer, bytes) else answer) as engine:
        router.ready("a", engine.address, **(spec or CLIENT))
        with Client(router, post({**CHAT, "model": name}, *headers)) as client:
            head = client.head()
            client._rest = head.encode("latin-1") + client._rest
            found = (head, *client.answer())
        router.connections.close()
    return found


def test_a_whole_answer_has_the_length_of_what_is_sent(router: Router) -> None:
    head, status, body = ask(router, whole(JSON % 1))
    assert (status, json.loads(body)) == (200, {"model": "Bö b", "n": 1})
    assert f"Content-Length: {len(body)}\r\n" in head
    assert head.lower().count("content-length") == 1


def test_an_answer_in_pieces_is_chunked_and_comes_at_once(router: Router) -> None:
    came = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD % (b"200 OK", b"application/json", b"", 20, b'{"model":"a",'))
        assert came.wait(10)
        peer.send(b'"n":22}')
        peer.until_closed()

    with Engine(script) as engine:
        router.ready("a", engine.address, **CLIENT)
        with Client(router, post({**CHAT, "model": "a"})) as client:
            head = client.head()
            assert "Transfer-Encoding: chunked\r\n" in head
            assert "content-length" not in head.lower()
            client._read(lambda data: 0 if b'"model":"a",' in data else None)
            came.set()
            client._rest = head.encode() + client._rest
            assert client.answer() == (200, b'{"model":"a","n":22}')
        router.connections.close()


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (whole(JSON % 1, kind=b"application/x-ndjson; charset=utf-8"), JSON.replace(b'"a"', b'"B\\u00f6 b"') % 1),
        (whole(JSON % 1, more=b"Content-Encoding: identity\r\n"), JSON.replace(b'"a"', b'"B\\u00f6 b"') % 1),
        (whole(JSON % 1, more=b"Content-Encoding: gzip\r\n"), JSON % 1),
        (whole(JSON % 1, status=b"400 Bad Request"), JSON % 1),
        (whole(JSON % 1, kind=b"text/plain"), JSON % 1),
        (SSE + chunk(b'data: {"model":"a"}\n\n') + b"0\r\n\r\n", b'data: {"model":"B\\u00f6 b"}\n\n'),
        (SSE + chunk(b'data: {"mo') + chunk(b'del":"a"}') + b"0\r\n\r\n", b'data: {"model":"B\\u00f6 b"}'),
    ],
)
def test_what_is_neither_json_nor_events_or_is_compressed_passes(router: Router, answer: bytes, right: bytes) -> None:
    assert ask(router, answer)[2] == right


def test_by_default_the_engine_decides(router: Router) -> None:
    assert ask(router, whole(JSON % 1), "Bö b", names=["Bö b"])[2] == JSON % 1


def test_if_a_fallback_answers_the_requested_model_decides(router: Router) -> None:
    other = {"model": "b", "after": "0s"}
    models = model("a", fallback=other, **CLIENT), model("b", names=["b2"]), model("c", names=["c2"], fallback=other)
    with Engine(answers(whole(JSON % 1))) as engine:
        router.world.tell("w", *models, residents=resident("b", engine.address))
        with Client(router, post({**CHAT, "model": "a"}) + post({**CHAT, "model": "c"})) as client:
            assert client.answer()[1] == JSON % 1, "the name that was sent is the same"
            assert client.answer()[1] == JSON % 1
            client.send(post({**CHAT, "model": "Bö b"}))
            assert json.loads(client.answer()[1])["model"] == "Bö b"
        router.connections.close()
