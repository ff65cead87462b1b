"""What a plain proxy does that switches on request: the baseline that policies are held against.

It knows no batches, no bounds and no priorities, so it is no policy of the core and cannot be chosen for a Workspace.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Mapping

from hotseat.simulation.results import Recording
from hotseat.simulation.simulator import SimulatedEngine, Simulator
from hotseat.simulation.workload import SimRequest

NAME = "naive"


class Naive:
    """Serve strictly in order of arrival: nobody overtakes, and each change of the model is a switch.

    Neighbours for the same model share its slots. Where several models fit, the one that was used longest ago makes room, once
    it has nothing to do.
    """

    def __init__(
        self, engines: Mapping[str, SimulatedEngine], *, gpus: int = 1, load_spread: float = 0.0, seed: int = 1
    ) -> None:
        self.floor = Simulator(engines, gpus=gpus, load_spread=load_spread, seed=seed)
        self._line: deque[tuple[int, SimRequest]] = deque()
        self._held: dict[str, str] = {}  # models by instance, the one used longest ago first
        self._ready: dict[str, int] = {}  # by instance: requests that it answers
        self._served: dict[int, str] = {}
        self._names = itertools.count(1)

    def run(self, load: Iterable[SimRequest]) -> Recording:
        """Let a load come, in the order of its times, and go on until nothing more happens."""
        return self.floor.play(load, self._arrive)

    def _arrive(self, request: int, asked: SimRequest) -> None:
        if self._claim(asked.model) > self.floor.gpus:
            self.floor.refuse(request)
            return
        self._line.append((request, asked))
        self._serve()

    def _serve(self) -> None:
        """Give away what is first, as long as there is a slot for it; else see to it that there will be one."""
        while self._line:
            request, asked = self._line[0]
            instance = next((instance for instance, model in self._held.items() if model == asked.model), None)
            if instance is None:
                self._make_handle(asked.model)
                return
            if self._ready.get(instance, self._slots(asked.model)) >= self._slots(asked.model):
                return  # it loads, it leaves, or it is full
            self._line.popleft()
            self._held[instance] = self._held.pop(instance)
            self._ready[instance] += 1
            self._served[request] = instance
            self.floor.give(request, instance, self._finish)

    def _make_handle(self, model: str) -> None:
        free = self.floor.gpus - sum(map(self._claim, self._held.values()))
        if self._claim(model) <= free:
            instance = f"{model}@{next(self._names)}"
            self._held[instance] = model
            self.floor.start(model, instance, self._get_ready)
        elif len(self._ready) == len(self._held):  # else somebody is on the way out, or in
            idle = next((it for it, held in self._held.items() if self._claim(held) and not self._ready[it]), None)
            if idle is not None:
                del self._ready[idle]
                self.floor.stop(self._held[idle], idle, self._release)

    def _get_ready(self, instance: str) -> None:
        self._ready[instance] = 0
        self.floor.take_turn(self._held[instance], self._line[0][1].at)
        self._serve()

    def _release(self, instance: str) -> None:
        del self._held[instance]
        self._serve()

    def _finish(self, request: int) -> None:
        self._ready[self._served.pop(request)] -= 1
        self._serve()

    def _claim(self, model: str) -> int:
        return self.floor.engines[model].terms.claim.gpus

    def _slots(self, model: str) -> int:
        return self.floor.engines[model].slots
