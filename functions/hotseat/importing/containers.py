"""Containers of known engines: which model a container serves, and the engine that serves it without one."""

import os.path
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from hotseat.api.types import Json
from hotseat.importing.commands import as_field
from hotseat.importing.writer import Note


@dataclass(frozen=True, slots=True)
class EngineContainer:
    """A container with an engine. `volumes`: folders of this machine (or named volumes), and where they are in the container.

    `secrets`: variables whose values are not known.
    """

    name: str
    image: str
    entrypoint: Sequence[str]
    command: Sequence[str]
    env: Mapping[str, str]
    secrets: tuple[str, ...]
    volumes: tuple[tuple[str, str], ...]
    port: int | None
    gpus: int
    device_ids: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """Return what is run, without the image's own entrypoint."""
        return [*self.entrypoint, *self.command]

    def host_path(self, path: str) -> str:
        """Return the path on this machine of a path in the container. Empty: it is in no folder of this machine."""
        for source, target in sorted(self.volumes, key=lambda it: -len(it[1])):
            inside = path == target or path.startswith(target.rstrip("/") + "/")
            if inside and source.startswith(("/", ".", "~")):
                return (
                    os.path.normpath(source + "/" + path[len(target) :])
                    if source[0] != "."
                    else f"{source.rstrip('/')}{path[len(target.rstrip('/')) :]}"
                )
        return ""


@dataclass(slots=True)
class Found:
    """The Models of a container, and notes. Without specs the notes say what to do."""

    specs: list[Json] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def engine_of_container(container: EngineContainer) -> Found | None:
    """Return the Models that a container serves. None: it is of no known engine."""
    image, words = container.image.lower(), " ".join(container.words).lower()
    for pattern, convert in _ENGINES:
        if re.search(pattern, image) or (not image and re.search(pattern, words)):
            return convert(container)
    if re.search(r"\bvllm (serve|\S+ --model)|vllm\.entrypoints", words):
        return _vllm(container)
    if "llama-server" in words:
        return _llamacpp(container)
    return None


class Arguments:
    """Arguments of a server: some flags are taken out, the rest stays."""

    def __init__(self, words: Sequence[str]) -> None:
        self.rest: list[str] = []
        self._words = list(words)

    def take(self, *flags: str) -> str:
        """Take out a flag with its value, by any of its names. Return the value, empty if there is none."""
        found = ""
        words, self._words = self._words, []
        following = iter(words)
        for word in following:
            flag, equals, value = word.partition("=")
            if flag in flags:
                found = value if equals else next(following, "")
            else:
                self._words.append(word)
        return found

    @property
    def words(self) -> list[str]:
        """Return what is left."""
        return self._words


PATHS = Note("changed", "image", "on this machine the engine is the program on the PATH; the image is for a cluster")


def _vllm(container: EngineContainer) -> Found:
    words = [
        word
        for word in container.words
        if word not in ("python", "python3", "-m", "vllm.entrypoints.openai.api_server", "vllm", "serve", "--")
    ]
    arguments = Arguments(words)
    for flag in ("--host", "--port"):
        arguments.take(flag)
    model = arguments.take("--model")
    served = arguments.take("--served-model-name")
    key = arguments.take("--api-key")
    rest = arguments.words
    if not model and rest and not rest[0].startswith("-"):
        model, rest = rest[0], rest[1:]
    notes = [PATHS]
    if key:
        notes.append(
            Note(
                "changed",
                "command",
                "--api-key is left out: only hotseat reaches the engine; clients need a key of hotseat (--api-key-file)",
            )
        )
    if not model:
        return Found(
            notes=[
                Note("no equivalent", container.name, "its command names no --model, so that the model is not known")
            ]
        )
    return Found([_spec(container, "vllm", model, served or model, rest)], [*notes, *_unmounted(container, model)])


def _llamacpp(container: EngineContainer) -> Found:
    words = [word for word in container.words if not word.endswith("llama-server")]
    arguments = Arguments(words)
    for flags in (("--host",), ("--port",)):
        arguments.take(*flags)
    file = arguments.take("-m", "--model") or container.env.get("LLAMA_ARG_MODEL", "")
    repository, inner = arguments.take("-hf", "-hfr", "--hf-repo"), arguments.take("-hff", "--hf-file")
    url = arguments.take("-mu", "--model-url")
    alias = arguments.take("-a", "--alias")
    key = arguments.take("--api-key")
    notes = [PATHS]
    if key:
        notes.append(
            Note(
                "changed",
                "command",
                "--api-key is left out: only hotseat reaches the engine; clients need a key of hotseat (--api-key-file)",
            )
        )
    if repository and not file:
        name, _, quant = repository.partition(":")
        model = f"hf://{name}/{inner}" if inner else f"hf://{name}"
        if quant and not inner:
            model = f"hf://{name}/*{quant}*.gguf"
            notes.append(Note("assumed", "-hf", f"{repository}: the file is the one that *{quant}*.gguf matches"))
    else:
        model = url or file
    if not model:
        return Found(
            notes=[
                Note("no equivalent", container.name, "its command names no -m or -hf, so that the model is not known")
            ]
        )
    spec = _spec(
        container,
        "llamacpp",
        model,
        alias or PurePosixPath(repository or model).name.partition(":")[0].removesuffix(".gguf"),
        arguments.words,
    )
    spec["env"] = [
        each for each in spec["env"] if each["name"] not in ("LLAMA_ARG_MODEL", "LLAMA_ARG_HOST", "LLAMA_ARG_PORT")
    ]
    return Found([spec], [*notes, *_unmounted(container, model)])


def _ollama(container: EngineContainer) -> Found:
    pulled = re.findall(r"ollama (?:pull|run) ([\w./:-]+)", " ".join(container.words))
    text = "its models are not in the Compose file: list them with hotseat import ollama http://HOST:11434"
    if not pulled:
        return Found(notes=[Note("no equivalent", container.name, text)])
    notes = [
        Note("changed", "command", "Ollama runs its models by llama.cpp; here llama-server does"),
        Note("assumed", "models", f"those that its command pulls; others: {text}"),
    ]
    specs = [
        {
            "label": name.removesuffix(":latest"),
            "engine": "llamacpp",
            "source": f"ollama://{name}",
            "names": [name.removesuffix(":latest")],
            "capabilities": ["embedding"] if "embed" in name else [],
        }
        for name in dict.fromkeys(pulled)
    ]
    return Found(specs, notes)


def _spec(container: EngineContainer, engine: str, model: str, name: str, args: Sequence[str]) -> Json:
    source = container.host_path(model) or (
        model if "://" in model or model.startswith(("/", ".")) else f"hf://{model}"
    )
    paths = [container.host_path(word) or word for word in args]
    return {
        "label": name,
        "engine": engine,
        "source": source,
        "names": [name],
        "engineModelName": name,
        "image": container.image,
        "args": [re.sub(r"\$\{env\.([A-Za-z0-9_]+)\}", r"${env:\1}", word) for word in paths],
        "env": [{"name": key, "value": value} for key, value in container.env.items() if not _of_container(key)],
        "lifecycle": {"startTimeout": "15m"},
    }


def _of_container(variable: str) -> bool:
    return variable in (
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "CUDA_VISIBLE_DEVICES",
        "HF_HOME",
        "OLLAMA_HOST",
    )


def _unmounted(container: EngineContainer, model: str) -> list[Note]:
    if not model.startswith("/") or container.host_path(model):
        return []
    return [
        Note(
            "assumed",
            "source",
            f"{model} is a path in the container, and in no folder of this machine that is mounted there",
        )
    ]


# Default port, path of the health check, and flag of the model, of servers that are run in their containers.
_SERVERS: Mapping[str, tuple[int, str, tuple[str, ...]]] = {
    r"text-generation-inference": (80, "/health", ("--model-id",)),
    r"text-embeddings-inference": (80, "/health", ("--model-id",)),
    r"sglang": (30000, "/health", ("--model-path", "--model")),
    r"infinity": (7997, "/health", ("--model-id",)),
    r"speaches|faster-whisper-server": (8000, "/health", ()),
    r"whisper": (9000, "/health", ()),
    r"kokoro|openedai-speech|xtts|piper": (8880, "/health", ()),
    r"tabbyapi": (5000, "/health", ()),
    r"localai": (8080, "/readyz", ()),
    r"lmdeploy": (23333, "/health", ()),
    r"tensorrt-llm|triton|nim/": (8000, "/v1/health/ready", ()),
    r"comfyui": (8188, "/", ()),
}
_CAPABILITIES = {
    r"text-embeddings-inference|infinity": ["embedding", "rerank"],
    r"whisper|speaches": ["transcription"],
    r"kokoro|openedai-speech|xtts|piper": ["speech"],
    r"comfyui": ["image"],
}


def _container(pattern: str) -> Callable[[EngineContainer], Found]:
    """Return the converter of a server that is run in its container, by docker run."""
    default_port, health, flags = _SERVERS[pattern]

    def convert(container: EngineContainer) -> Found:
        port = container.port or default_port
        words = container.words
        model = Arguments(words).take(*flags) or container.env.get("MODEL_ID", "")
        name = f"hotseat-{container.name}"
        devices = f"device={','.join(container.device_ids)}" if container.device_ids else "all"
        command = ["docker", "run", "--rm", "--init", "--name", name, "-p", f"127.0.0.1:${{PORT}}:{port}"]
        command += ["--gpus", devices] if container.gpus else []
        for source, target in container.volumes:
            command += ["-v", f"{source}:{target}"]
        for key, value in container.env.items():
            command += ["-e", f"{key}={value}"]
        for key in container.secrets:
            command += ["-e", key]
        command += ["--entrypoint", container.entrypoint[0]] if container.entrypoint else []
        command += [container.image, *container.entrypoint[1:], *container.command]
        shown = model or container.name
        served = next((found for each, found in _CAPABILITIES.items() if re.search(each, container.image.lower())), [])
        spec: Json = {
            "label": shown,
            "engine": "custom",
            "command": [as_field(word) for word in command],
            "stopCommand": ["docker", "stop", name],
            "names": [shown],
            "engineModelName": shown,
            "health": {} if health == "/health" else {"path": health},
            "capabilities": served,
            "lifecycle": {"startTimeout": "15m"},
        }
        notes = [Note("changed", "image", "docker run runs it, without Compose")]
        notes.append(Note("assumed", "ports", f"it listens on {port}, and answers GET {health} once it is ready"))
        return Found([spec], notes)

    return convert


_ENGINES: tuple[tuple[str, Callable[[EngineContainer], Found]], ...] = (
    (r"vllm/vllm|/vllm|vllm-openai|vllm-cpu", _vllm),
    (r"llama\.cpp|llama-server|llama-cpp", _llamacpp),
    (r"ollama/ollama|/ollama\b", _ollama),
    *((pattern, _container(pattern)) for pattern in _SERVERS),
)
