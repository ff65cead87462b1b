"""Engine vllm: `vllm serve`, with the typed settings of a Model as its flags."""

import json
import re
import shutil
from collections.abc import Iterator

from hotseat.api.model import Api, FetchBy, Model, OnIdle
from hotseat.api.types import EngineCall
from hotseat.engines.base import EngineError, Launch, Placement, Sleep, is_remote

IMAGE = "vllm/vllm-openai:v0.11.0"  # for Models without an image; its program is `vllm` on the PATH

_OURS = ("--host", "--port", "--model", "--served-model-name")
_PARALLEL = re.compile(r"--(tensor|pipeline|data)-parallel-size\b|-[tpd]p\b")
_HUB = "hf://"
_SLEEPS = "--enable-sleep-mode"


class Vllm:
    """Engine for models in the format of Hugging Face repositories."""

    name = "vllm"
    key_variable = "VLLM_API_KEY"
    apis = frozenset({Api.OPENAI, Api.ANTHROPIC})

    def check(self, model: Model) -> list[str]:
        """Return sources that vLLM cannot read, missing GPUs, and args that hotseat sets itself."""
        spec = model.spec
        problems = [] if spec.source else ["engine vllm needs source: hf://org/repo, or a folder with such a model"]
        if (spec.source or "").startswith("ollama://"):
            problems.append("source is ollama://…, which engine vllm cannot read; use hf://org/repo")
        if spec.cache.fetch_by is FetchBy.ENGINE and is_remote(spec.source) and not _is_repository(spec.source):
            problems.append(
                f"cache.fetchBy is Engine, but vllm fetches whole repositories only (hf://org/repo[@revision]), not {str(spec.source).partition(':')[0]}://"
            )
        flags = (arg.partition("=")[0].replace("_", "-") for arg in spec.args)
        problems += [f"args has {flag}, which hotseat sets itself" for flag in sorted(set(flags) & set(_OURS))]
        parts = spec.vllm.tensor_parallel_size if spec.vllm else None
        if parts and 0 < spec.resources.gpus < parts:
            problems.append(f"vllm.tensorParallelSize is {parts}, but resources.gpus is {spec.resources.gpus}")
        return problems

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the command line for a machine with vLLM."""
        if not model.spec.command and shutil.which("vllm") is None:
            raise EngineError("engine vllm needs vllm on the PATH: pip install vllm, or name the program in command")
        command = command_line(model, placement)
        if model.spec.lifecycle.release is not OnIdle.PARK:
            return Launch(command)
        # The requests for sleep exist in developer mode only, in which any client of the port may
        # send all developer requests.
        return Launch((*command, *(() if _SLEEPS in command else (_SLEEPS,))), {"VLLM_SERVER_DEV_MODE": "1"})

    def health_path(self, model: Model) -> str:
        """Return the path of the health check. The port is closed while the model loads."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:
        """Whether hotseat must fetch the weights: the source is remote, and cache.fetchBy is not Engine.

        vLLM could fetch a repository itself, but only while it holds the GPU and within the start
        timeout.
        """
        return is_remote(model.spec.source) and model.spec.cache.fetch_by is FetchBy.JOB

    def sleep(self, model: Model) -> Sleep:
        """Return the requests for sleep.

        From level 2, vLLM wakes without weights, and must load them before its KV cache. Each level discards
        that; a connector has a copy.
        """
        level = (model.spec.vllm and model.spec.vllm.sleep_level) or 1
        wake: tuple[EngineCall, ...] = (EngineCall(path="/wake_up"),)
        if level > 1:
            reload = EngineCall(path="/collective_rpc", body='{"method": "reload_weights"}')
            wake = (EngineCall(path="/wake_up?tags=weights"), reload, EngineCall(path="/wake_up?tags=kv_cache"))
        kept = model.spec.vllm is not None and model.spec.vllm.kv_connector is not None
        return Sleep((EngineCall(path=f"/sleep?level={level}"),), wake, "/is_sleeping", kept)


def command_line(model: Model, placement: Placement) -> tuple[str, ...]:
    """Return the command line for a machine or an image with `vllm`.

    `command` replaces `vllm serve`; `args` come last, so that they take precedence.
    """
    argv = [*(model.spec.command or ("vllm", "serve")), *_weights(model, placement)]
    argv += ["--host", placement.host, "--port", str(placement.port)]
    argv += ["--served-model-name", model.engine_model_name]
    return (*argv, *_settings(model), *model.spec.args)


def _weights(model: Model, placement: Placement) -> tuple[str, ...]:
    source = model.spec.source
    if placement.weights is not None:
        return (placement.weights,)
    if source is None:
        raise EngineError(f"{model.name}: engine vllm needs weights, but it has no source")
    if not source.startswith(_HUB):
        return (source.removeprefix("file://"),)
    repository, _, revision = source.removeprefix(_HUB).partition("@")
    return (repository.rstrip("/"), "--revision", revision) if revision else (repository.rstrip("/"),)


def _settings(model: Model) -> Iterator[str]:
    """Yield the flags of the typed settings. An unset setting has no flag, so that vLLM's own default applies."""
    settings = model.spec.vllm
    values = (
        settings.model_dump(mode="json", exclude_none=True, exclude={"sleep_level", "kv_connector"}) if settings else {}
    )
    gpus = model.spec.resources.gpus
    if gpus > 1 and not any(_PARALLEL.match(arg.replace("_", "-")) for arg in model.spec.args):
        values.setdefault("tensor_parallel_size", gpus)
    for name, value in values.items():
        flag = name.replace("_", "-")
        if value is True:
            yield f"--{flag}"
        elif value is False:
            yield from _off(flag)
        elif value != "":
            yield from (f"--{flag}", str(value))
    if settings and (connector := settings.kv_connector):
        transfer = {"kv_connector": connector.name, "kv_role": "kv_both"}
        more = {"kv_connector_extra_config": connector.extra_config} if connector.extra_config else {}
        yield from ("--kv-transfer-config", json.dumps(transfer | more))


def _off(flag: str) -> Iterator[str]:
    # Other flags are off by default, and some versions do not know their negation.
    if flag in ("enable-chunked-prefill", "enable-prefix-caching"):
        yield f"--no-{flag}"


def _is_repository(source: str | None) -> bool:
    return re.fullmatch(r"hf://[^/@]+/[^/@]+/?(@[^/]+)?", source or "") is not None
