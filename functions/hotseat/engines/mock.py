"""An engine for tests and dry runs: it answers like OpenAI's API, loads nothing, and can be told to fail.

`python -m hotseat.engines.mock_server --help` lists what a Model's `args` may say.
"""

import json
import sys
from pathlib import Path

from hotseat.api.model import Model, OnIdle
from hotseat.api.types import EngineCall
from hotseat.api.units import parse_quantity
from hotseat.engines.base import Launch, Placement, Sleep
from hotseat.engines.mock_server import options_problem

_ROOT = Path(__file__).parents[2]  # what holds the package


class Mock:
    """Engine that only pretends."""

    name = "mock"

    def check(self, model: Model) -> list[str]:
        """Read the args as the mock itself will."""
        problem = options_problem(["--name", model.name, "--port", "0", *model.spec.args])
        return [f"args: {problem}"] if problem else []

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Start it without `site`, which is a third of its start time; the standard library is all it needs."""
        argv = [sys.executable, "-S", "-P", "-m", "hotseat.engines.mock_server"]
        argv += ["--name", model.name, "--host", placement.host, "--port", str(placement.port)]
        argv += ["--sleep"] if model.spec.lifecycle.release is OnIdle.PARK else []
        argv += ["--gpus", str(model.spec.resources.gpus), *model.spec.args]
        return Launch(tuple(argv), {"PYTHONPATH": str(_ROOT)})

    def health_path(self, model: Model) -> str:
        """Path that answers 503 while it pretends to load."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:  # noqa: ARG002
        """Tell that it needs no weights, whatever the source says."""
        return False

    def memory_path(self, model: Model) -> str:  # noqa: ARG002
        """Path that tells what it pretends to take: its option --memory, or what a request has set since."""
        return "/stats"

    def read_memory(self, body: bytes) -> int | None:
        """Find it among the other figures."""
        return int(parse_quantity(str(json.loads(body).get("memory", 0))))

    def sleep(self, model: Model) -> Sleep:  # noqa: ARG002
        """Say how it pretends to sleep: as vLLM does."""
        return Sleep((EngineCall(path="/sleep?level=1"),), (EngineCall(path="/wake_up"),), "/is_sleeping")
