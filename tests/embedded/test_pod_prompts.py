"""Prompt caches of a pod without a cluster: an engine as the entry point of its container starts it, and the switcher's requests."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.core.messages import PromptsDropped, PromptsRestored, PromptsSaved, RestorePrompts, SavePrompts
from hotseat.kube.constants import ClusterSettings
from hotseat.kube.objects import deployment_of
from hotseat.runtimes.kubernetes.pod_prompts import PromptFiles, pod_prompts, transfer

from .test_llamacpp import MODELS, weights

SETTINGS = ClusterSettings("hotseat:1", "llm", keep_prompts=3600.0)
LONG = " ".join(f"Number {number} is a boat with {number + 3} sails." for number in range(30))
PATIENCE = 240.0  # seconds for an engine beside other load


class Pod:
    """One pod whose engine is asked at its own port."""

    def __init__(self, files: PromptFiles, model: Model, template: Json) -> None:
        self._files, self._model, self._template = files, model, template
        self._url = f"http://127.0.0.1:{model.spec.port}"

    def await_ready(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, "it has ended"
            assert time.monotonic() < until, "it is not ready"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self._url}/health", timeout=5):
                return
            time.sleep(0.05)

    def cached(self, talk: list[Json], said: str) -> int:
        """Ask the engine the next question of a conversation; return how many tokens of the prompt it had."""
        talk.append({"role": "user", "content": said})
        body = {"model": "m", "messages": talk, "max_tokens": 4, "temperature": 0}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            found = json.load(answer)
        talk.append(found["choices"][0]["message"])
        return int(found["timings"]["cache_n"] if "timings" in found else cached_tokens(found))

    def save(self) -> PromptsSaved:
        return self._transfer(SavePrompts("m", "w/m@1", 1, PATIENCE))

    def restore(self) -> PromptsRestored:
        return self._transfer(RestorePrompts("m", "w/m@1", 1, PATIENCE))

    def _transfer(self, command: SavePrompts | RestorePrompts) -> Any:
        done, seen = threading.Event(), []
        prompts = pod_prompts(self._files, self._model, self._template)
        assert prompts is not None
        transfer(command, prompts, self._url, lambda it: (seen.extend(it.observations(0.0)), done.set()))
        assert done.wait(PATIENCE)
        *dropped, answer = seen
        self.dropped = [each.reason for each in dropped if isinstance(each, PromptsDropped)]
        return answer


class Pods:
    """The pods of one Model after another, which share a claim."""

    def __init__(self, folder: Path) -> None:
        self.claim, self.files = folder, PromptFiles()
        self.files.set_limit("default", 2**30)

    @contextlib.contextmanager
    def run(self, model: Model) -> Iterator[Pod]:
        """Start the engine in a pod, and wait until it is ready."""
        made = deployment_of(model, SETTINGS, "uid-1")
        assert made is not None
        template = made["spec"]["template"]
        template["metadata"]["uid"] = str(time.monotonic())
        (container,) = template["spec"]["containers"]
        own = {each["name"]: each["value"] for each in container["env"]} | {"HOTSEAT_CACHE_DIR": str(self.claim)}
        command = [sys.executable, *container["command"][1:]]
        with subprocess.Popen(command, env={**os.environ, **own}, stdout=subprocess.DEVNULL) as process:
            pod = Pod(self.files, model, template)
            try:
                pod.await_ready(process)
                yield pod
            finally:
                process.terminate()


def cached_tokens(answer: Json) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


def model(engine: str, *args: str) -> Model:
    spec: dict[str, Any] = {"engine": engine, "args": [*args], "cache": {"existingClaim": "c"}, "port": free_port()}
    if engine == "llamacpp":
        path = MODELS / weights.MODEL_NAME
        if not path.exists():
            weights.assemble(path)
        spec |= {"source": str(path), "args": ["-t", "1", "-c", "2048", "--parallel", "2", *args]}
    return Model.model_validate({"metadata": {"name": "m"}, "spec": spec})


@pytest.fixture
def pods(tmp_path: Path) -> Pods:
    return Pods(tmp_path)


@pytest.mark.parametrize(("engine", "args"), [("mock", ["--slots", "2"]), ("llamacpp", [])])
def test_the_next_pod_goes_on_where_the_last_one_was(pods: Pods, engine: str, args: list[str]) -> None:
    first, talk = model(engine, *args), list[Json]()
    with pods.run(first) as pod:
        assert pod.restore().size == 0, "no switcher knows that there is nothing yet"
        assert pod.cached(talk, LONG) == 0
        saved = pod.save()
        assert saved.tokens > 200
        assert pod.dropped == []
    with pods.run(first) as pod:
        restored = pod.restore()
        assert (restored.tokens, restored.size) == (saved.tokens, saved.size)
        assert pod.cached(talk, "And then?") > 0.9 * restored.tokens
        again = pod.save()
        assert again.tokens > saved.tokens
    pods.files = PromptFiles()  # of another switcher
    pods.files.set_limit("default", 2**30)
    with pods.run(first) as pod:
        assert pod.restore().tokens > 200
        assert pod.dropped == []
    other = model(engine, *args, *(["--tokens", "3"] if engine == "mock" else ["--cache-type-k", "q8_0"]))
    with pods.run(other) as pod:
        assert pod.restore().tokens == 0
        assert pod.dropped == ["Mismatch"]
        assert pod.cached([], LONG) == 0
