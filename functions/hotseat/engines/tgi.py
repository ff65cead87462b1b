"""Engine tgi: `text-generation-launcher` of Text Generation Inference.

Flags: huggingface/text-generation-inference, docs/source/reference/launcher.md. Routes: router/src/server.rs.
"""

import shutil

from hotseat.api.model import Model
from hotseat.engines import repositories
from hotseat.engines.base import Container, EngineError, Launch, Placement

IMAGE = "ghcr.io/huggingface/text-generation-inference:3.3.5"
PROGRAM = "text-generation-launcher"
_OURS = ("--hostname", "--port", "-p", "--model-id", "--revision", "--shard-uds-path")


class Tgi:
    """Engine for models in the format of Hugging Face repositories."""

    name = "tgi"
    metrics_path = "/metrics"
    cannot_sleep = "text-generation-launcher has no request for sleep"

    def check(self, model: Model) -> list[str]:
        """Return what such engines check."""
        return repositories.check(model, _OURS)

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the command line for a machine with the program."""
        if not model.spec.command and shutil.which(PROGRAM) is None:
            raise EngineError(f"engine tgi needs {PROGRAM} on the PATH, or the program in command")
        # Two of them must not have one socket, nor one port for metrics. Hotseat has its own metrics.
        env = {"PROMETHEUS_PORT": "0"}
        return Launch((*(model.spec.command or (PROGRAM,)), *_arguments(model, placement)), env)

    def image(self, model: Model) -> str:  # noqa: ARG002
        """Return the image of TGI's project."""
        return IMAGE

    def container(self, model: Model, placement: Placement) -> Container:
        """Return the arguments for the image, whose own program prepares its libraries."""
        return Container(model.spec.command, _arguments(model, placement), hub_cache(placement))

    def health_path(self, model: Model) -> str:
        """Return the path of the health check. The port is closed while the model loads."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:
        """Whether hotseat must fetch the weights."""
        return repositories.fetches(model)


def hub_cache(placement: Placement) -> dict[str, str]:
    """Return where what the engine fetches itself is kept. The images of TGI and TEI name a directory that a pod cannot write."""
    return {} if placement.cache is None else {"HUGGINGFACE_HUB_CACHE": f"{placement.cache}/hf/hub"}


def _arguments(model: Model, placement: Placement) -> tuple[str, ...]:
    loaded, revision = repositories.weights(model, placement)
    argv = ["--model-id", loaded, *(("--revision", revision) if revision else ())]
    argv += ["--hostname", placement.host, "--port", str(placement.port)]
    argv += ["--shard-uds-path", f"/tmp/hotseat-tgi-{placement.port}"]  # noqa: S108 - its own default is one for all
    gpus = model.spec.resources.gpus
    if gpus > 1 and not any(arg.replace("_", "-").startswith(("--num-shard", "--sharded")) for arg in model.spec.args):
        argv += ["--num-shard", str(gpus)]
    return (*argv, *model.spec.args)
