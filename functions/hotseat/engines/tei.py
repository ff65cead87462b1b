"""Engine tei: `text-embeddings-router` of Text Embeddings Inference, for embeddings and reranking.

Flags: huggingface/text-embeddings-inference, docs/source/en/cli_arguments.md. Routes: router/src/http/server.rs.
"""

import shutil

from hotseat.api.model import Model
from hotseat.engines import repositories
from hotseat.engines.base import Container, EngineError, Launch, Placement
from hotseat.engines.tgi import hub_cache

_IMAGES = "ghcr.io/huggingface/text-embeddings-inference"
_VERSION = "1.6"
PROGRAM = "text-embeddings-router"
_OURS = ("--hostname", "--port", "-p", "--model-id", "--revision", "--uds-path")


class Tei:
    """Engine for models in the format of Hugging Face repositories."""

    name = "tei"
    metrics_path = "/metrics"
    cannot_sleep = "text-embeddings-router has no request for sleep"

    def check(self, model: Model) -> list[str]:
        """Return what such engines check."""
        return repositories.check(model, _OURS)

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the command line for a machine with the program."""
        if not model.spec.command and shutil.which(PROGRAM) is None:
            raise EngineError(f"engine tei needs {PROGRAM} on the PATH, or the program in command")
        # Two of them must not have one port for metrics. Hotseat has its own metrics.
        env = {"PROMETHEUS_PORT": "0"}
        return Launch((*(model.spec.command or (PROGRAM,)), *_arguments(model, placement)), env)

    def image(self, model: Model) -> str:
        """Return the image of TEI's project: that for A100 and A30, or for the CPU. Other GPUs have other images."""
        return f"{_IMAGES}:{_VERSION if model.spec.resources.gpus else f'cpu-{_VERSION}'}"

    def container(self, model: Model, placement: Placement) -> Container:
        """Return the arguments for the image."""
        return Container(model.spec.command, _arguments(model, placement), hub_cache(placement))

    def health_path(self, model: Model) -> str:
        """Return the path of the health check. The port is closed while the model loads."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:
        """Whether hotseat must fetch the weights."""
        return repositories.fetches(model)


def _arguments(model: Model, placement: Placement) -> tuple[str, ...]:
    loaded, revision = repositories.weights(model, placement)
    argv = ["--model-id", loaded, *(("--revision", revision) if revision else ())]
    argv += ["--hostname", placement.host, "--port", str(placement.port)]
    argv += ["--uds-path", f"/tmp/hotseat-tei-{placement.port}"]  # noqa: S108 - its own default is one for all
    return (*argv, *model.spec.args)
