"""Engine vllm: `vllm serve`, with the typed settings of a Model as its flags."""

import json
import re
import shutil
from collections.abc import Iterator

from hotseat.api.lifecycle import OnIdle
from hotseat.api.model import Api, Model
from hotseat.api.types import EngineCall
from hotseat.api.vllm import ToolCallParser
from hotseat.engines import repositories
from hotseat.engines.base import Container, EngineError, Launch, Placement, Sleep

IMAGE = "vllm/vllm-openai:v0.11.0"  # for Models without an image; its program is `vllm` on the PATH

_OURS = ("--host", "--port", "--model", "--served-model-name")
_ADAPTERS = ("--lora-modules",)
_PARALLEL = re.compile(r"--(tensor|pipeline|data)-parallel-size\b|-[tpd]p\b")
_SLEEPS = "--enable-sleep-mode"


class Vllm:
    """Engine for models in the format of Hugging Face repositories."""

    name = "vllm"
    metrics_path = "/metrics"
    key_variable = "VLLM_API_KEY"
    apis = frozenset({Api.OPENAI, Api.ANTHROPIC})

    def check(self, model: Model) -> list[str]:
        """Return what such engines check, missing GPUs, and names of LoRA adapters that would be ambiguous."""
        spec = model.spec
        problems = repositories.check(model, (*_OURS, *(_ADAPTERS if spec.loras else ())))
        parts = spec.vllm.tensor_parallel_size if spec.vllm else None
        if parts and 0 < spec.resources.gpus < parts:
            problems.append(f"vllm.tensorParallelSize is {parts}, but resources.gpus is {spec.resources.gpus}")
        if spec.loras and spec.lifecycle.release is OnIdle.PARK and spec.vllm and spec.vllm.sleep_level == 2:  # noqa: PLR2004
            # vllm-project/vllm#39934: reload_weights fails if LoRA is enabled, at least up to 0.17.
            problems.append("vllm.sleepLevel is 2, from which vLLM does not wake with LoRA adapters: use 1")
        base = (model.name, model.engine_model_name)
        problems += [
            f"loras[{index}].name is {each.name}, which is the name of the base model: use another"
            for index, each in enumerate(spec.loras)
            if each.name in base
        ]
        return problems

    def image(self, model: Model) -> str:  # noqa: ARG002
        """Return the image of vLLM's project."""
        return IMAGE

    def container(self, model: Model, placement: Placement) -> Container:
        """Return the command line for an image with vLLM."""
        return Container(command_line(model, placement))

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
        """Whether hotseat must fetch the weights."""
        return repositories.fetches(model)

    def sleep(self, model: Model) -> Sleep:
        """Return the requests for sleep.

        From level 2, vLLM wakes without weights, and must load them before its KV cache
        (vllm-project/vllm, docs/features/sleep_mode.md). Each level discards that cache; a connector has a copy.
        vLLM forgets its prefix cache when it falls asleep. Some versions did not after level 2, and answered from
        blocks that had been discarded, so hotseat has it reset once more (vllm/entrypoints/serve/dev/cache/api_router.py).
        """
        level = (model.spec.vllm and model.spec.vllm.sleep_level) or 1
        wake: tuple[EngineCall, ...] = (EngineCall(path="/wake_up"),)
        if level > 1:
            reload = EngineCall(path="/collective_rpc", body='{"method": "reload_weights"}')
            wake = (
                EngineCall(path="/wake_up?tags=weights"),
                reload,
                EngineCall(path="/wake_up?tags=kv_cache"),
                EngineCall(path="/reset_prefix_cache"),
            )
        kept = model.spec.vllm is not None and model.spec.vllm.kv_connector is not None
        return Sleep((EngineCall(path=f"/sleep?level={level}"),), wake, "/is_sleeping", kept)


def command_line(model: Model, placement: Placement) -> tuple[str, ...]:
    """Return the command line for a machine or an image with `vllm`.

    `command` replaces `vllm serve`; `args` come last, so that they take precedence.
    """
    argv = [*(model.spec.command or ("vllm", "serve")), *_weights(model, placement)]
    argv += ["--host", placement.host, "--port", str(placement.port)]
    argv += ["--served-model-name", model.engine_model_name]
    return (*argv, *_settings(model), *_adapters(model, placement), *model.spec.args)


def _weights(model: Model, placement: Placement) -> tuple[str, ...]:
    loaded, revision = repositories.weights(model, placement)
    return (loaded, "--revision", revision) if revision else (loaded,)


def _adapters(model: Model, placement: Placement) -> Iterator[str]:
    """Yield the flags of the LoRA adapters (vllm-project/vllm, docs/features/lora.md).

    As JSON, because NAME=PATH can be neither with a comma nor with another equals sign.
    """
    if model.spec.loras:
        yield from ("--enable-lora", "--lora-modules")
        for each, path in zip(model.spec.loras, placement.adapters, strict=True):
            yield json.dumps({"name": each.name, "path": path})


def _settings(model: Model) -> Iterator[str]:
    """Yield the flags of the typed settings. An unset setting has no flag, so that vLLM's own default applies."""
    settings = model.spec.vllm
    values = (
        settings.model_dump(mode="json", exclude_none=True, exclude={"sleep_level", "kv_connector"}) if settings else {}
    )
    if values.get("tool_call_parser") == ToolCallParser.INTERNLM2:
        values["tool_call_parser"] = ToolCallParser.INTERNLM.value  # vLLM knows no other name of it
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
