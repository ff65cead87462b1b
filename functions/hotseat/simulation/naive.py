"""A plain proxy that switches on request: the baseline for comparisons of policies.

It has no batches, bounds or priorities. It is not a policy of the core, and no Workspace can choose it.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Mapping

from hotseat.simulation.results import Recording
from hotseat.simulation.simulator import SimulatedEngine, Simulator
from hotseat.simulation.workload import SimRequest

NAME = "naive"


class Naive:
    """Serve requests strictly in order of arrival: each change of the model is a switch.

    Consecutive requests for the same model share its slots. If several models fit, the least recently used
    one is evicted once it is idle.
    """

    def __init__(
        self, engines: Mapping[str, SimulatedEngine], *, gpus: int = 1, load_spread: float = 0.0, seed: int = 1
    ) -> None:
        self.simulator = Simulator(engines, gpus=gpus, load_spread=load_spread, seed=seed)
        self._queue: deque[tuple[int, SimRequest]] = deque()
        self._instances: dict[str, str] = {}  # models by instance, least recently used first
        self._ready: dict[str, int] = {}  # by instance: requests in flight
        self._serving: dict[int, str] = {}
        self._names = itertools.count(1)

    def run(self, load: Iterable[SimRequest]) -> Recording:
        """Run a workload, sorted by time, until no event is left."""
        return self.simulator.run(load, self._arrive)

    def _arrive(self, request: int, asked: SimRequest) -> None:
        if self._claim(asked.model) > self.simulator.gpus:
            self.simulator.refuse(request)
            return
        self._queue.append((request, asked))
        self._serve()

    def _serve(self) -> None:
        """Dispatch requests from the head of the queue while slots are free, else make room for the next one."""
        while self._queue:
            request, asked = self._queue[0]
            instance = next((instance for instance, model in self._instances.items() if model == asked.model), None)
            if instance is None:
                self._make_room(asked.model)
                return
            if self._ready.get(instance, self._slots(asked.model)) >= self._slots(asked.model):
                return  # it loads, stops, or is full
            self._queue.popleft()
            self._instances[instance] = self._instances.pop(instance)
            self._ready[instance] += 1
            self._serving[request] = instance
            self.simulator.dispatch(request, instance, self._finish)

    def _make_room(self, model: str) -> None:
        free = self.simulator.gpus - sum(map(self._claim, self._instances.values()))
        if self._claim(model) <= free:
            instance = f"{model}@{next(self._names)}"
            self._instances[instance] = model
            self.simulator.start(model, instance, self._get_ready)
        elif len(self._ready) == len(self._instances):  # else an instance is loading or stopping
            idle = next(
                (each for each, of in self._instances.items() if self._claim(of) and not self._ready[each]), None
            )
            if idle is not None:
                del self._ready[idle]
                self.simulator.stop(self._instances[idle], idle, self._release)

    def _get_ready(self, instance: str) -> None:
        self._ready[instance] = 0
        self.simulator.record_turn(self._instances[instance], self._queue[0][1].at)
        self._serve()

    def _release(self, instance: str) -> None:
        del self._instances[instance]
        self._serve()

    def _finish(self, request: int) -> None:
        self._ready[self._serving.pop(request)] -= 1
        self._serve()

    def _claim(self, model: str) -> int:
        return self.simulator.engines[model].spec.claim.gpus

    def _slots(self, model: str) -> int:
        return self.simulator.engines[model].slots
