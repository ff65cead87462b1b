"""A conversation with a real model that goes on after a switch: token by token as if there had been none.

Gemma 3 has layers with a sliding window, of which only the last part is kept, so this also tests those.
"""

from pathlib import Path
from typing import Any

import pytest
import requests

from . import tiny_models
from .conftest import Up
from .harness import Document, Hotseat, workspace
from .test_llamacpp import MODELS, weights

THINGS = " ".join(f"Number {number} is a boat with {number + 3} sails." for number in range(52))


def gemma(name: str, *args: str) -> Document:
    path = MODELS / weights.MODEL_NAME
    if not path.exists():
        weights.assemble(path)
    return llama(name, path, *args)


def llama(name: str, path: Path, *args: str) -> Document:
    spec: dict[str, Any] = {"engine": "llamacpp", "source": str(path), "args": ["-t", "1", "-c", "8192", *args]}
    spec |= {"lifecycle": {"startTimeout": "5m"}, "health": {"period": "0s"}}
    return {"apiVersion": "hotseat.dev/v1alpha1", "kind": "Model", "metadata": {"name": name}, "spec": spec}


class Talk:
    """A conversation with a model, at temperature 0."""

    def __init__(self, hotseat: Hotseat, model: str, topic: str = "") -> None:
        self.hotseat, self.model = hotseat, model
        self.messages = [{"role": "user", "content": f"{topic} {THINGS} Tell me about them."}]
        self.cached = self.processed = 0

    def turn(self, more: str = "") -> list[str]:
        """Let the model answer, after a further question; return the tokens of the answer."""
        if more:
            self.messages.append({"role": "user", "content": more})
        body = {"model": self.model, "messages": self.messages, "max_tokens": 12, "temperature": 0, "logprobs": True}
        # One thread has minutes for it beside other load.
        response = requests.post(f"{self.hotseat.url}/v1/chat/completions", json=body, timeout=600)
        assert response.status_code == 200, response.text
        answer = response.json()
        self.cached, self.processed = answer["timings"]["cache_n"], answer["timings"]["prompt_n"]
        tokens = [each["token"] for each in answer["choices"][0]["logprobs"]["content"]]
        self.messages.append({"role": "assistant", "content": "".join(tokens)})
        return tokens

    def again(self, model: str) -> "Talk":
        """The same conversation, with a model that has not heard of it."""
        talk = Talk(self.hotseat, model)
        talk.messages = [dict(message) for message in self.messages]
        return talk


def patient(**more: Any) -> Document:
    """A Workspace on a busy machine."""
    return workspace(promptCache={"timeout": "20s", **more})


def test_an_answer_after_a_switch_is_that_of_an_uninterrupted_conversation(up: Up) -> None:
    hotseat = up(patient(), gemma("a"), gemma("b"))  # the same model twice
    talk, uninterrupted = Talk(hotseat, "a"), Talk(hotseat, "b")
    first = talk.turn()
    whole = talk.processed
    assert whole > 600  # beyond the window of 512
    assert uninterrupted.turn() == first
    second = uninterrupted.turn("And then?")

    assert talk.turn("And then?") == second
    assert talk.cached > 0.9 * whole
    assert talk.processed < 0.1 * whole
    assert uninterrupted.turn("Go on.") == talk.again("b").turn("Go on.")
    assert uninterrupted.cached > 0.9 * whole
    hotseat.catch_up()
    assert not hotseat.events("model.prompts_dropped")
    saved = hotseat.events("model.prompts_saved", "a")[0]["data"]
    restored = hotseat.events("model.prompts_restored", "a")[0]["data"]
    assert (saved["tokens"], saved["bytes"]) == (restored["tokens"], restored["bytes"])
    assert saved["bytes"] > 1000 * whole
    metrics = hotseat.metrics()
    assert metrics["hotseat_prompt_cache_hits_total", "a"] == 1
    assert metrics["hotseat_prompt_cache_reused_tokens_total", "a"] == talk.cached > 0.9 * whole
    assert metrics["hotseat_prompt_cache_hits_total", "b"] == 1


def test_a_conversation_that_goes_on_elsewhere_is_answered_as_if_nothing_had_been_kept(up: Up) -> None:
    """One whose last message was edited: the window does not reach back to it."""
    hotseat = up(patient(), gemma("a"), gemma("b"))
    Talk(hotseat, "a").turn()
    edited = {"role": "user", "content": f"{THINGS[: len(THINGS) // 3]} What did I say?"}
    fresh, restored = Talk(hotseat, "b"), Talk(hotseat, "a")
    fresh.messages, restored.messages = [edited], [edited]
    assert fresh.turn() == restored.turn()
    assert hotseat.catch_up()
    assert hotseat.events("model.prompts_restored", "a")


@pytest.mark.parametrize("architecture", ["mamba", "lfm2"])
def test_a_recurrent_state_is_that_of_an_uninterrupted_conversation(up: Up, tmp_path: Path, architecture: str) -> None:
    """A state that cannot go back by some tokens. Of LFM2, one layer has attention."""
    path = tmp_path / "model.gguf"
    tiny_models.write(architecture, path)
    hotseat = up(patient(), llama("a", path), llama("b", path))
    talk, uninterrupted = Talk(hotseat, "a"), Talk(hotseat, "b")
    first = talk.turn()
    whole = talk.processed
    assert uninterrupted.turn() == first
    second = uninterrupted.turn("And then?")
    assert talk.turn("And then?") == second
    assert talk.cached > 0.9 * whole
    other = talk.again("a")
    other.messages[0]["content"] = str(other.messages[0]["content"]).replace("boat", "house").replace("sail", "door")
    answer = other.turn("Go on.")
    assert answer != talk.turn("Go on.")  # all that was read counts
    other.messages.pop()
    assert other.again("b").turn() == answer  # as if nothing had been kept
    hotseat.catch_up()
    assert not hotseat.events("model.prompts_dropped")


@pytest.mark.parametrize("slots", [(), ("--parallel", "2")])  # four that share a context, and two with one each
def test_each_conversation_finds_its_own_slot(up: Up, slots: tuple[str, ...]) -> None:
    hotseat = up(patient(), gemma("a", *slots), gemma("b"))
    talks = [Talk(hotseat, "a", topic) for topic in ("Harbours.", "Quite another matter, which is about ships:")]
    for talk in talks:
        talk.turn()
    Talk(hotseat, "b").turn()
    for talk in reversed(talks):
        talk.turn("And then?")
        assert talk.cached > talk.processed * 5
    hotseat.catch_up()
    assert not hotseat.events("model.prompts_dropped")


def test_a_model_that_cannot_is_left_out(up: Up) -> None:
    document = gemma("a")
    document["spec"]["args"] += ["--no-slots"]  # as --mmproj, for which there is no small file
    hotseat = up(patient(), document, gemma("b"))
    talk = Talk(hotseat, "a")
    talk.turn()
    Talk(hotseat, "b").turn()
    hotseat.catch_up()
    assert not hotseat.events("model.prompts_saved", "a")
