"""Closed loops: clients that ask again after their answer, or after they gave up."""

from collections.abc import Mapping
from math import inf

from hotseat.core.policy.api import Policy
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.simulation.results import Recording
from hotseat.simulation.simulator import SimulatedEngine
from hotseat.simulation.workload import Impatience, SimRequest
from hotseat.simulation.world import World


def closed_loop(
    clients: Mapping[str, int],
    *,
    load: float,
    seconds: float,
    answer: float = 0.05,
    pause: float = 0.0,
    patience: float = inf,
    max_wait: float | None = None,
    policy: Policy | None = None,
) -> Recording:
    """So many clients of each model, until `seconds` are over. Models begin one second apart. Times are in seconds."""
    engines = {
        name: SimulatedEngine(load, 0.1, spec=SchedulingSpec(max_wait=max_wait, drain_timeout=1000.0))
        for name in clients
    }
    it = World(policy or Batch(), engines, impatience=None if patience == inf else Impatience(patience, pause))
    finish, ask = it.simulator._finish, it.simulator._enqueue

    def ask_on(asked: SimRequest) -> None:
        if it.simulator.now < seconds:
            ask(asked)

    def finish_and_ask(request: int) -> None:
        model = it.simulator._dispatched[request][0].model
        finish(request)
        at = it.simulator.now + pause
        it.simulator.at(at, it.simulator.submit, SimRequest(at, model, answer))

    it.simulator._finish, it.simulator._enqueue = finish_and_ask, ask_on
    first = [SimRequest(1.0 * place, name, answer) for place, name in enumerate(clients) for _ in range(clients[name])]
    return it.run(first)
