"""Embeddings and rankings of real models in the real server, by the clients of each API: the numbers are those that the engine itself gives.

The weights are by chance, so the order of documents means nothing. But it depends on all that the model reads.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
import requests

from . import tiny_models
from .conftest import Up
from .harness import Document, Hotseat, eventually
from .test_llamacpp_prompts import llama

TEXTS = ["a cat", "a dog", "something longer, which is about neither of them"]
RANKED = {"query": "a cat", "documents": TEXTS}


def tiny(name: str, folder: Path, architecture: str, capability: str) -> Document:
    tiny_models.write(architecture, folder / f"{name}.gguf")
    # One slot: texts that share a batch change the last digits of each other.
    document = llama(name, folder / f"{name}.gguf", "-c", "4096", "-np", "1")
    return document | {"spec": {**document["spec"], "capabilities": [capability]}}


@pytest.fixture(scope="module")
def hotseat(shared_up: Up, tmp_path_factory: pytest.TempPathFactory) -> Hotseat:
    folder = tmp_path_factory.mktemp("tiny")
    return shared_up(
        tiny("vectors", folder, "bert", "embedding"),
        tiny("ranks", folder, "bert-rank", "rerank"),
    )


@pytest.fixture
def client(hotseat: Hotseat) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{hotseat.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def direct(hotseat: Hotseat, model: str, path: str, body: dict[str, Any]) -> Any:
    """What the engine of a loaded model answers without hotseat."""
    return requests.post(f"http://{hotseat.address_of(model)}{path}", json=body, timeout=60).json()


def test_embeddings_by_the_client_of_openai(hotseat: Hotseat, client: openai.OpenAI) -> None:
    """Which asks for Base64 unless it is told otherwise."""
    answer = client.embeddings.create(model="vectors", input=TEXTS)
    own = direct(hotseat, "vectors", "/v1/embeddings", {"input": TEXTS})
    vectors = [each["embedding"] for each in own["data"]]
    assert [len(each.embedding) for each in answer.data] == [tiny_models.WIDTH] * 3
    for got, vector in zip(answer.data, vectors, strict=True):
        assert got.embedding == pytest.approx(vector, abs=1e-6)
        assert sum(number**2 for number in got.embedding) == pytest.approx(1, abs=1e-4)
    assert answer.usage.prompt_tokens == own["usage"]["prompt_tokens"] > len("".join(TEXTS))
    floats = client.embeddings.create(model="vectors", input=TEXTS[0], encoding_format="float")
    alone = direct(hotseat, "vectors", "/v1/embeddings", {"input": TEXTS[0]})
    assert floats.data[0].embedding == alone["data"][0]["embedding"]
    assert vectors[0] != pytest.approx(vectors[1], abs=0.01), "another text has another vector"


def test_embeddings_by_the_client_of_ollama(hotseat: Hotseat) -> None:
    with ollama.Client(host=hotseat.url, timeout=600) as client:
        answer = client.embed(model="vectors", input=TEXTS)
        old = client.embeddings(model="vectors:latest", prompt=TEXTS[1])
    own = direct(hotseat, "vectors", "/v1/embeddings", {"input": TEXTS})
    assert answer.embeddings == [pytest.approx(each["embedding"], abs=1e-6) for each in own["data"]]
    assert answer.prompt_eval_count == own["usage"]["prompt_tokens"]
    alone = direct(hotseat, "vectors", "/v1/embeddings", {"input": TEXTS[1]})
    assert old.embedding == alone["data"][0]["embedding"]


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
def test_embeddings_in_the_form_of_llamacpp(hotseat: Hotseat, path: str) -> None:
    answer = requests.post(hotseat.url + path, json={"model": "vectors", "content": TEXTS}, timeout=600)
    assert answer.status_code == 200
    assert [each["index"] for each in answer.json()] == [0, 1, 2]
    assert answer.json() == direct(hotseat, "vectors", path, {"content": TEXTS})


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/reranking", "/rerank", "/reranking"])
def test_documents_are_ranked(hotseat: Hotseat, path: str) -> None:
    answer = requests.post(hotseat.url + path, json={"model": "ranks", **RANKED}, timeout=600)
    assert answer.status_code == 200
    found, own = (each["results"] for each in (answer.json(), direct(hotseat, "ranks", path, RANKED)))
    assert found == own
    assert sorted(each["index"] for each in found) == [0, 1, 2]
    scores = [each["relevance_score"] for each in found]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3
    best = requests.post(hotseat.url + path, json={"model": "ranks", **RANKED, "top_n": 1}, timeout=600).json()
    assert [each["index"] for each in best["results"]] == [found[0]["index"]]


def test_tokens_of_both_are_listed(hotseat: Hotseat, client: openai.OpenAI) -> None:
    """After a switch to each of them."""
    embedded = client.embeddings.create(model="vectors", input="a cat")
    ranked = requests.post(f"{hotseat.url}/v1/rerank", json={"model": "ranks", **RANKED}, timeout=600).json()
    expected = [
        ("ranks", "rerank", ranked["usage"]["prompt_tokens"]),
        ("vectors", "embedding", embedded.usage.prompt_tokens),
    ]

    def listed() -> bool:
        rows = hotseat.get("/api/requests?limit=2").json()["requests"]
        return [(row["model"], row["route"], row["prompt_tokens"]) for row in rows] == expected

    eventually(listed)


def test_one_that_only_embeds_ranks_nothing(hotseat: Hotseat) -> None:
    answer = hotseat.post("/v1/rerank", {"model": "vectors", **RANKED})
    assert (answer.status, answer.code) == (400, "unsupported")
