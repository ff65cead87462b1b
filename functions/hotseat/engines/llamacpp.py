"""Engine llamacpp: `llama-server` from the PATH, else the same server from the wheel `xllamacpp`."""

import glob
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from hotseat.api.model import Api, Capability, Model
from hotseat.engines.base import Container, EngineError, Launch, Placement, is_remote
from hotseat.engines.llamacpp_slots import LlamaCppSlots

_FIRST_OF_SPLIT = re.compile(r"-0*1-of-\d+\.gguf$")
_OURS = ("-m", "--model", "--host", "--port")
# Flags that name another model than source does.
_OTHER_MODELS = (
    "-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "-hff", "--hf-file", "-dr", "--docker-repo",
)  # fmt: skip
# Flags of the server's own router (ggml-org/llama.cpp, tools/server/README.md), which runs only if it is started without a model.
_ROUTER = ("--models-dir", "--models-preset", "--models-max", "--models-autoload", "--no-models-autoload")
# Flags with which slots are not saved, with the reasons.
_UNSAVED = {
    "--no-slots": "its slots are not reported",
    "--slot-save-path": "its slots are saved by someone else",
    "--lora": "a request can change its scale, which a saved slot does not have",
    "--lora-scaled": "a request can change its scale, which a saved slot does not have",
    **dict.fromkeys(
        ("--mmproj", "-mm", "--mmproj-url", "-mmu"), "most versions of llama-server do not save slots if there is one"
    ),
}
# Without the first, llama-server clears idle slots when another request begins, and keeps them in its own memory, from which
# they cannot be saved. These are variables, because versions that do not know a flag would not start.
_SAVED_ENV = {"LLAMA_ARG_CACHE_IDLE_SLOTS": "0", "LLAMA_ARG_ENDPOINT_METRICS": "1"}


class LlamaCpp(LlamaCppSlots):
    """Engine for GGUF files."""

    name = "llamacpp"
    metrics_path = "/metrics"  # with --metrics, else it answers 501
    apis = frozenset({Api.OPENAI, Api.ANTHROPIC})
    key_variable = "LLAMA_API_KEY"
    # --sleep-idle-seconds uses the server's own clock, and any request ends the sleep by a full load. A proxy in front of it that
    # unloads on request can be used by lifecycle.sleep.
    cannot_sleep = "llama-server has no request for sleep"

    def check(self, model: Model) -> list[str]:
        """Return a missing source, and args that hotseat sets itself."""
        problems = (
            []
            if model.spec.source
            else ["engine llamacpp needs source: a .gguf file, hf://org/repo/file.gguf or https://…"]
        )
        flags = {arg.partition("=")[0] for arg in model.spec.args}
        problems += [f"args has {flag}, which hotseat sets itself" for flag in sorted(flags.intersection(_OURS))]
        problems += [
            f"args has {flag}, which names a model: use source" for flag in sorted(flags.intersection(_OTHER_MODELS))
        ]
        problems += [
            f"args has {flag}, of llama-server's own router, which does not run: hotseat chooses what is loaded"
            for flag in sorted(flags.intersection(_ROUTER))
        ]
        return problems

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the command line. `command` replaces the program; `args` come last, so that they take precedence."""
        if placement.weights is None:
            raise EngineError(f"{model.name}: engine llamacpp needs weights, but it has no source")
        argv = [*(model.spec.command or _program())]
        argv += ["--model", str(gguf(Path(placement.weights))), *_common(model, placement)]
        if placement.prompts is None:
            return Launch((*argv, *model.spec.args))
        return Launch((*argv, "--slot-save-path", placement.prompts, *model.spec.args), _SAVED_ENV)

    def image(self, model: Model) -> None:  # noqa: ARG002
        """Return None: hotseat's own image has llama-server."""
        return

    def container(self, model: Model, placement: Placement) -> Container:
        """Return the arguments for an image with llama-server. Without a command, the image's program is used."""
        return Container(
            model.spec.command, (*_weights(model, placement), *_common(model, placement), *model.spec.args)
        )

    def health_path(self, model: Model) -> str:
        """Return the path of the health check, which answers 503 while the model loads."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:
        """Whether the source is remote."""
        return is_remote(model.spec.source)

    # Prompt caches ----------------------------------------------------------------------------------------------------

    def cannot_save_prompts(self, model: Model) -> str:
        """Return why slots cannot be saved, or an empty string."""
        spec = model.spec
        if spec.command:
            return "command is set, and its program may not have the directory for saved prompts"
        if {Capability.EMBEDDING, Capability.RERANK} & {*spec.capabilities}:
            return "it serves embeddings or reranking, which have no conversations"
        flags = [arg.partition("=")[0] for arg in spec.args]
        return next((f"args has {flag}: {_UNSAVED[flag]}" for flag in flags if flag in _UNSAVED), "")

    def prompt_identity(self, model: Model, weights: str | None, *, in_pod: bool = False) -> str:
        """Return the args and the variables of llama-server, and what identifies the program, the weights and other files."""
        program = _program()
        version = _file(Path(program[0]), in_pod) if len(program) == 1 else importlib.metadata.version("xllamacpp")
        files = [_file(part, in_pod) for part in _parts(gguf(Path(weights)))] if weights else []
        own = {each.name: each.value for each in model.spec.env}
        variables = {name: value for name, value in os.environ.items() if name.startswith("LLAMA_")} | own
        variables.pop(self.key_variable, None)  # another key changes nothing of what is saved
        files += [_file(path, in_pod) for path in _named((*model.spec.args, *variables.values()))]
        return json.dumps([version, files, model.spec.args, sorted(variables.items())])


def _common(model: Model, placement: Placement) -> list[str]:
    """Return the flags for the address, the name and the kind of requests."""
    flags = ["--host", placement.host, "--port", str(placement.port), "--alias", model.engine_model_name]
    if Capability.EMBEDDING in model.spec.capabilities:
        flags.append("--embeddings")
    if Capability.RERANK in model.spec.capabilities:
        flags.append("--reranking")
    return flags


def _weights(model: Model, placement: Placement) -> list[str]:
    """Return the flags for the file, or for the download by llama.cpp itself."""
    source = model.spec.source or ""
    if placement.weights:
        return ["--model", placement.weights]
    if source.startswith(("https://", "http://")):
        return ["--model-url", source.partition("#")[0]]
    if match := re.fullmatch(r"hf://([^/@]+/[^/@]+)/([^@]+\.gguf)", source):
        return ["--hf-repo", match[1], "--hf-file", match[2]]
    raise EngineError(
        f"source is {source}: llama.cpp can fetch only hf://org/repo/file.gguf and https:// itself; use cache.fetchBy: Job"
    )


def _file(path: Path, in_pod: bool) -> str:
    """Return what identifies a version of a file without reading it. Who replaces it can keep all but the time of the change."""
    status = path.resolve().stat()
    changed = 0 if in_pod else status.st_ctime_ns
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {changed}"


def _named(values: Iterable[str]) -> list[Path]:
    """Return the files that are named in args or variables, such as FILE, --control-vector=FILE and FILE:0.5,FILE."""
    words = (word for value in values for word in {value, *re.split("[=,:]", value)})
    return sorted({Path(word) for word in words if os.path.isfile(word)})  # noqa: PTH113 - a Path refuses long words


def _parts(file: Path) -> list[Path]:
    """Return the files of a model of which this is the first or only one."""
    first = _FIRST_OF_SPLIT.search(file.name)
    if first is None:
        return [file]
    count = first[0].rpartition("-of-")[2]
    return sorted(file.parent.glob(f"{glob.escape(file.name[: first.start()])}-*-of-{count}"))


def gguf(weights: Path) -> Path:
    """Return the file to load: the path itself, or the only model in that directory (the first file if it is split)."""
    if not weights.is_dir():
        if not weights.is_file():
            raise EngineError(f"{weights} does not exist")
        return weights
    found = sorted(weights.rglob("*.gguf"))
    first = [path for path in found if _FIRST_OF_SPLIT.search(path.name)]
    for candidates in (found, first):
        if len(candidates) == 1:
            return candidates[0]
    names = ", ".join(str(path.relative_to(weights)) for path in found[:10])
    raise EngineError(f"{weights} holds {len(found)} .gguf files{f' ({names})' if names else ''}: name one in source")


def _program() -> tuple[str, ...]:
    binary = shutil.which("llama-server")
    if binary is not None:
        return (binary,)
    if importlib.util.find_spec("xllamacpp") is None:
        raise EngineError("engine llamacpp needs llama-server on the PATH, or: pip install 'hotseat[llamacpp]'")
    return (sys.executable, "-P", "-m", "hotseat.engines.llamacpp_wheel")
