"""Engine llamacpp: `llama-server` from the PATH, else the same server from the wheel `xllamacpp`."""

import importlib.util
import re
import shutil
import sys
from pathlib import Path

from hotseat.api.model import Capability, Model
from hotseat.engines.base import EngineError, Launch, Placement, is_remote

_FIRST_OF_SPLIT = re.compile(r"-0*1-of-\d+\.gguf$")
_OURS = ("-m", "--model", "--host", "--port")


class LlamaCpp:
    """Engine for GGUF files."""

    name = "llamacpp"
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
        taken = sorted({flag for arg in model.spec.args if (flag := arg.partition("=")[0]) in _OURS})
        problems += [f"args has {flag}, which hotseat sets itself" for flag in taken]
        return problems

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the command line. `command` replaces the program; `args` come last, so that they take precedence."""
        if placement.weights is None:
            raise EngineError(f"{model.name}: engine llamacpp needs weights, but it has no source")
        argv = [*(model.spec.command or _program())]
        argv += ["--model", str(gguf(Path(placement.weights)))]
        argv += ["--host", placement.host, "--port", str(placement.port)]
        argv += ["--alias", model.engine_model_name]
        if Capability.EMBEDDING in model.spec.capabilities:
            argv.append("--embeddings")
        if Capability.RERANK in model.spec.capabilities:
            argv.append("--reranking")
        return Launch((*argv, *model.spec.args))

    def health_path(self, model: Model) -> str:
        """Return the path of the health check, which answers 503 while the model loads."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:
        """Whether the source is remote."""
        return is_remote(model.spec.source)


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
