"""Closed loops: clients that ask again after their answer, or after they gave up."""

from collections.abc import Mapping
from math import inf

from hotseat.core.batch import Batch
from hotseat.core.policy import Policy
from hotseat.core.seats import Terms
from hotseat.simulation.figures import Record
from hotseat.simulation.floor import Engine
from hotseat.simulation.load import Asked, Impatience
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
) -> Record:
    """So many clients of each model, until `seconds` are over. Models begin one second apart. Times are in seconds."""
    engines = {name: Engine(load, 0.1, terms=Terms(max_wait=max_wait, drain_timeout=1000.0)) for name in clients}
    it = World(policy or Batch(), engines, impatience=None if patience == inf else Impatience(patience, pause))
    finish, ask = it.floor._finish, it.floor._ask

    def ask_on(asked: Asked) -> None:
        if it.floor.now < seconds:
            ask(asked)

    def finish_and_ask(request: int) -> None:
        model = it.floor._given[request][0].model
        finish(request)
        at = it.floor.now + pause
        it.floor.at(at, it.floor.come, Asked(at, model, answer))

    it.floor._finish, it.floor._ask = finish_and_ask, ask_on
    first = [Asked(1.0 * place, name, answer) for place, name in enumerate(clients) for _ in range(clients[name])]
    return it.run(first)
