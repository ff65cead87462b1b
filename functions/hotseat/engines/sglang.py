"""Engine sglang: `python3 -m sglang.launch_server`.

Flags: sgl-project/sglang, docs/advanced_features/server_arguments.md. Routes: python/sglang/srt/entrypoints/http_server.py.
"""

import re
import shutil

from hotseat.api.lifecycle import OnIdle
from hotseat.api.model import Model
from hotseat.api.types import EngineCall
from hotseat.engines import repositories
from hotseat.engines.base import Container, EngineError, Launch, Placement, Sleep

IMAGE = "lmsysorg/sglang:v0.5.5"
_OURS = ("--host", "--port", "--model", "--model-path", "--served-model-name")
_PARALLEL = re.compile(r"--(tp|dp|pp)(-size)?\b|--(tensor-parallel|data-parallel|pipeline-parallel)-size\b")
# Without the second flag, what is woken has the memory of its weights, but not their values.
_SLEEPS = ("--enable-memory-saver", "--enable-weights-cpu-backup")


class Sglang:
    """Engine for models in the format of Hugging Face repositories."""

    name = "sglang"
    metrics_path = "/metrics"  # with --enable-metrics, else it answers 404

    def check(self, model: Model) -> list[str]:
        """Return what such engines check."""
        return repositories.check(model, _OURS)

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the command line for a machine with SGLang."""
        program = model.spec.command[0] if model.spec.command else "python3"
        if shutil.which(program) is None:
            raise EngineError(
                f"engine sglang needs {program} on the PATH, with SGLang: pip install sglang, or name the program in command"
            )
        return Launch(_command_line(model, placement))

    def image(self, model: Model) -> str:  # noqa: ARG002
        """Return the image of SGLang's project."""
        return IMAGE

    def container(self, model: Model, placement: Placement) -> Container:
        """Return the command line for an image with SGLang."""
        return Container(_command_line(model, placement))

    def health_path(self, model: Model) -> str:
        """Return the path of the health check, which answers 503 until the server has warmed up."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:
        """Whether hotseat must fetch the weights."""
        return repositories.fetches(model)

    def sleep(self, model: Model) -> Sleep:  # noqa: ARG002
        """Return the requests for sleep. They need a body. The radix cache is discarded."""
        sleep = EngineCall(path="/release_memory_occupation", body="{}")
        wake = EngineCall(path="/resume_memory_occupation", body="{}")
        return Sleep((sleep,), (wake,), None, keeps_prompts=False)


def _command_line(model: Model, placement: Placement) -> tuple[str, ...]:
    """Return the command line. `command` replaces the program; `args` come last, so that they take precedence."""
    spec = model.spec
    loaded, revision = repositories.weights(model, placement)
    argv = [*(spec.command or ("python3", "-m", "sglang.launch_server")), "--model-path", loaded]
    argv += ["--revision", revision] if revision else []
    argv += ["--host", placement.host, "--port", str(placement.port), "--served-model-name", model.engine_model_name]
    if spec.resources.gpus > 1 and not any(_PARALLEL.match(arg.replace("_", "-")) for arg in spec.args):
        argv += ["--tp-size", str(spec.resources.gpus)]
    if spec.lifecycle.release is OnIdle.PARK:
        argv += [flag for flag in _SLEEPS if flag not in spec.args]
    return (*argv, *spec.args)
