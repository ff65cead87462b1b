"""Answers of a mock response: each route has one in its form, or says that it has none."""

import base64
import json
import struct

import pytest

from hotseat.core.errors import BadRequest, NotImplementedByServer
from hotseat.gateway.apis import openai
from hotseat.gateway.mock_answers import mock_answer, requested_text
from hotseat.gateway.relay import Call

ASKED = {
    "model": "m", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi", "query": "a", "documents": ["a b", "c"],
}  # fmt: skip
WITHOUT = {path for path in openai.ROUTES if "/images/" in path}


@pytest.mark.parametrize("path", openai.ROUTES)
def test_every_route_is_answered_or_refused(path):
    if path in WITHOUT:
        with pytest.raises(NotImplementedByServer, match=path):
            mock_answer(path.encode(), json.dumps(ASKED).encode(), "the text")
        return
    kind, body = mock_answer(f"{path}?a=b".encode(), json.dumps(ASKED).encode(), "the text")
    assert body
    if kind == "application/json":
        json.loads(body)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_a_stream_has_the_whole_text(path):
    kind, body = mock_answer(path.encode(), json.dumps(ASKED | {"stream": True}).encode(), "all  of\nthe text ")
    events = [json.loads(line[6:]) for line in body.decode().split("\n") if line.startswith("data: {")]
    assert kind == "text/event-stream"
    if path == "/v1/responses":
        assert [each["delta"] for each in events if "delta" in each] == ["all  of\nthe text "]
        return
    pieces = [each["choices"][0] for each in events]
    assert (
        "".join(each.get("text") or each.get("delta", {}).get("content", "") for each in pieces) == "all  of\nthe text "
    )
    assert pieces[-1]["finish_reason"] == "stop"


def test_embeddings_may_be_asked_for_as_base64_with_their_dimensions():
    asked = {"model": "m", "input": ["a", "b"], "dimensions": 3}
    plain = json.loads(mock_answer(b"/v1/embeddings", json.dumps(asked).encode(), "")[1])["data"]
    coded = json.loads(
        mock_answer(b"/v1/embeddings", json.dumps(asked | {"encoding_format": "base64"}).encode(), "")[1]
    )["data"]
    for one, other in zip(plain, coded, strict=True):
        assert struct.unpack("<3f", base64.b64decode(other["embedding"])) == pytest.approx(one["embedding"], abs=1e-6)


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b'{"messages": 7}', b'{"messages": ["a"]}', b"{"])
def test_a_body_that_is_no_request_is_refused(body):
    with pytest.raises(BadRequest):
        mock_answer(b"/v1/chat/completions", body, "x")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"mock_response": "yes"}', "yes"),
        (b'{"mock_response": 7}', None),
        (b'{"messages": "\\"mock_response\\": \\"no\\""}', None),
        (b'["mock_response"]', None),
        (b'{"mock_response": ', None),
        (b"{}", None),
    ],
)
def test_a_request_asks_for_a_text_by_its_own_field_alone(body, text):
    assert requested_text(Call("", "POST", b"/", (), body)) == text
