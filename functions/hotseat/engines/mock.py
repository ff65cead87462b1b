"""Engine mock, for tests and dry runs: it answers like OpenAI's API, loads nothing, and fails on request.

`python -m hotseat.engines.mock_server --help` lists the `args` of a Model.
"""

import json
import sys
from pathlib import Path

from hotseat.api.lifecycle import OnIdle
from hotseat.api.model import Model
from hotseat.api.types import EngineCall
from hotseat.api.units import parse_quantity
from hotseat.engines.base import Launch, Placement, Sleep
from hotseat.engines.llamacpp_slots import LlamaCppSlots
from hotseat.engines.mock_server import KEY_VARIABLE, options_problem

_ROOT = Path(__file__).parents[2]  # the directory with the package


class Mock(LlamaCppSlots):
    """Engine without a model."""

    name = "mock"
    metrics_path = "/metrics"
    key_variable = KEY_VARIABLE

    def check(self, model: Model) -> list[str]:
        """Return what is wrong with the args."""
        problem = options_problem(["--name", model.name, "--port", "0", *model.spec.args])
        return [f"args: {problem}"] if problem else []

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the command. It runs without `site`, which would be a third of its start time."""
        argv = [sys.executable, "-S", "-P", "-m", "hotseat.engines.mock_server"]
        argv += ["--name", model.name, "--host", placement.host, "--port", str(placement.port)]
        argv += ["--sleep"] if model.spec.lifecycle.release is OnIdle.PARK else []
        argv += ["--slot-save-path", placement.prompts] if placement.prompts is not None else []
        argv += ["--gpus", str(model.spec.resources.gpus), *model.spec.args]
        return Launch(tuple(argv), {"PYTHONPATH": str(_ROOT)})

    def health_path(self, model: Model) -> str:
        """Return the path of the health check, which answers 503 while the mock loads."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:  # noqa: ARG002
        """Return False: the mock needs no weights, even if the Model has a source."""
        return False

    def memory_path(self, model: Model) -> str:  # noqa: ARG002
        """Return the path that reports the option --memory, or the value that a request has set since."""
        return "/stats"

    def read_memory(self, body: bytes) -> int | None:
        """Return the bytes in a response of that path."""
        return int(parse_quantity(str(json.loads(body).get("memory", 0))))

    def sleep(self, model: Model) -> Sleep:
        """Return the requests for sleep, which are those of vLLM."""
        kept = "--sleep-clears-slots" not in model.spec.args
        return Sleep((EngineCall(path="/sleep?level=1"),), (EngineCall(path="/wake_up"),), "/is_sleeping", kept)

    def cannot_save_prompts(self, model: Model) -> str:
        """Return that it has no slots, or an empty string."""
        slots = any(arg.partition("=")[0] == "--slots" for arg in model.spec.args)
        return "" if slots else "args has no --slots"

    def prompt_identity(self, model: Model, weights: str | None, *, in_pod: bool = False) -> str:  # noqa: ARG002
        """Return what its caches depend on."""
        return json.dumps([model.name, model.spec.args])
