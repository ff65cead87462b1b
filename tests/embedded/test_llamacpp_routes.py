"""llama.cpp's own routes, through hotseat, with a real model in the real server."""

import json

import pytest

from .conftest import Up
from .harness import Hotseat
from .test_llamacpp_prompts import gemma


@pytest.fixture(scope="module")
def hotseat(shared_up: Up) -> Hotseat:
    ranks = gemma("ranks")
    ranks["spec"]["capabilities"] = ["rerank"]
    up = shared_up(gemma("gemma", "--embeddings", "--pooling", "mean"), ranks)
    assert up.post("/tokenize", {"model": "gemma", "content": "hello"}).status == 200
    return up


def test_tokens_go_there_and_back(hotseat: Hotseat) -> None:
    text = "Llamas are not alpacas."
    tokens = hotseat.post("/tokenize", {"content": text}).json()["tokens"]
    assert len(tokens) > 3
    assert hotseat.post("/detokenize", {"model": "gemma", "tokens": tokens}).json()["content"] == text


def test_a_template_is_applied(hotseat: Hotseat) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    assert "Say hello." in hotseat.post("/apply-template", {"messages": messages}).json()["prompt"]


def test_a_completion_in_its_own_form_is_whole_or_streamed(hotseat: Hotseat) -> None:
    body = {"prompt": "One, two,", "n_predict": 4, "temperature": 0}
    whole = hotseat.post("/completion", body).json()
    assert whole["tokens_predicted"] == 4
    streamed = hotseat.post("/completion", body | {"stream": True}).data()
    assert "".join(piece["content"] for piece in streamed) == whole["content"]


def test_embeddings_in_its_own_form(hotseat: Hotseat) -> None:
    answer = hotseat.post("/embedding", {"content": "a cat"})
    assert answer.status == 200, answer.body
    assert hotseat.post("/v1/embeddings", {"model": "gemma", "input": "a cat"}).status == 200


def test_properties_and_slots_can_be_read_and_not_changed(hotseat: Hotseat) -> None:
    props = hotseat.get("/props?model=gemma").json()
    assert props == hotseat.get("/props").json()
    assert props["total_slots"] == len(hotseat.get("/slots").json())
    for path in ("/props", "/slots/0?action=save", "/slots/0?action=erase"):
        assert hotseat.post(path, {"filename": "a"}).code == "path_not_allowed"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/infill", {"input_prefix": "def a(", "input_suffix": "return b"}),
        ("/rerank", {"query": "a", "documents": ["b"]}),
    ],
)
def test_what_the_model_cannot_is_said_by_the_engine(hotseat: Hotseat, path: str, body: dict[str, object]) -> None:
    """Gemma has no tokens to fill in text, and ranks nothing."""
    answer = hotseat.post(path, body)
    assert (answer.status, answer.json()["error"]["type"]) == (501, "not_supported_error"), json.dumps(answer.json())


def test_documents_are_ranked(hotseat: Hotseat) -> None:
    """By all spellings. Gemma is not trained for it, so the order means nothing. This test is the last one: it switches."""
    body = {"model": "ranks", "query": "a cat", "documents": ["a dog", "a cat sat", "no"]}
    answers = [hotseat.post(path, body).json() for path in ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking")]
    assert all(sorted(each["index"] for each in answer["results"]) == [0, 1, 2] for answer in answers)
    assert hotseat.post("/rerank", {"query": "a", "documents": ["b"]}).status == 200
    assert hotseat.post("/v1/chat/completions", body).code == "unsupported"
