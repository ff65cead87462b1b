"""Who should be resident: one pure function of what is wanted, what is there and what it costs.

A policy looks at a View and names the set of models that should hold the accelerator, and when it wants to look again. It
decides nothing about safety: the switching machine starts a model only when it fits beside every holder that is left.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Protocol

from hotseat.core.messages import SeatState

# A bound on waiting below what one round of switches costs cannot be met; honouring it all the same is what makes
# throughput collapse. The factor is the one that polling systems with switch-over times ask for at moderate load.
WIDEN = 1.5


@dataclass(frozen=True, slots=True)
class Claim:
    """An amount of accelerator: whole GPUs, and bytes of memory where they are counted."""

    gpus: int = 1
    memory: int = 0

    def __add__(self, other: "Claim") -> "Claim":
        return Claim(self.gpus + other.gpus, self.memory + other.memory)

    def __sub__(self, other: "Claim") -> "Claim":
        return Claim(self.gpus - other.gpus, self.memory - other.memory)

    def fits(self, capacity: "Capacity") -> bool:
        """Whether the capacity holds all of this."""
        return self.gpus <= capacity.gpus and (capacity.memory is None or self.memory <= capacity.memory)


NOTHING = Claim(0, 0)
ONE_GPU = Claim(1, 0)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a Workspace has to give; memory None: not counted."""

    gpus: int = 1
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model as a policy sees it. Times are seconds on the same clock as the View's `now`."""

    name: str
    claim: Claim = ONE_GPU
    priority: int = 0
    max_wait: float = 30.0
    min_residency: float = 0.0
    waiting: int = 0
    oldest: float = 0.0  # arrival of the oldest that waits, if any do
    in_flight: int = 0
    seat: SeatState | None = None  # None: holds nothing
    leaving: bool = False  # will be gone, whatever a policy says
    since: float = 0.0  # when it entered the state of its seat
    last_used: float = 0.0
    may_evict: bool = True  # False: takes a free seat only (a preload)
    switch_cost: float = 0.0  # seconds that its load and stop took before; 0: not known yet

    @property
    def idle(self) -> bool:
        """Nobody uses it and nobody waits for it."""
        return not self.waiting and not self.in_flight


@dataclass(frozen=True, slots=True)
class View:
    """All that a policy may know."""

    now: float
    capacity: Capacity
    models: tuple[ModelView, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What should be resident, when to look again (None: when something changes), and the bound on waiting in force."""

    resident: tuple[str, ...] = ()
    look_again: float | None = None
    effective_max_wait: float | None = None


class Policy(Protocol):
    """Decides who should be resident. Stateless, or deterministic in the Views it was shown."""

    def decide(self, view: View) -> Decision:
        """Name the models that should be resident."""


_STAYS = (SeatState.LOADING, SeatState.READY, SeatState.CLOSING, SeatState.DRAINING)


class Batch:
    """Serve what is resident while it has work, then the model whose waiter is oldest, within a bound on waiting.

    A waiter older than the bound closes the resident's batch: what the resident held is still served, later requests wait
    for its next turn. A switch that has been decided is not taken back while somebody still waits for it.
    """

    def decide(self, view: View) -> Decision:
        """See the class."""
        kept = {m.name: m for m in view.models if m.seat in _STAYS and not m.leaving}
        chosen: dict[str, ModelView] = {}
        wanting = [m for m in view.models if m.waiting and m.name not in kept]
        widened = WIDEN * sum(m.switch_cost for m in view.models if m.waiting or (m.seat in _STAYS and m.in_flight))

        def bound(model: ModelView) -> float:
            return max(model.max_wait, widened)

        def order(model: ModelView) -> tuple[bool, bool, int, float, str]:
            overdue = view.now - model.oldest >= bound(model)
            return (not model.may_evict, not overdue, 0 if overdue else -model.priority, model.oldest, model.name)

        stuck = _sum(m.claim for m in view.models if m.seat is SeatState.UNPROVEN)
        look_again: float | None = None
        blocked = False
        for model in sorted(wanting, key=order):
            taken = stuck + _sum(m.claim for m in (*kept.values(), *chosen.values()))
            if (taken + model.claim).fits(view.capacity) and not (blocked and model.claim != NOTHING):
                chosen[model.name] = model
            elif model.may_evict and not blocked:
                victims, look_again = self._victims(view, kept, taken, model, model.oldest + bound(model))
                blocked = not victims  # whoever is first is served first: nobody overtakes by needing less
                if victims:
                    chosen[model.name] = model
                for victim in victims:
                    del kept[victim.name]
        bounds = [bound(m) for m in wanting]
        return Decision((*kept, *chosen), look_again, max(bounds, default=None))

    def _victims(
        self, view: View, kept: dict[str, ModelView], taken: Claim, model: ModelView, overdue_at: float
    ) -> tuple[list[ModelView], float | None]:
        """Fewest residents that make room; if none do, the time when there will be more to choose from."""
        free_at = {m.name: self._evictable_at(m, overdue_at) for m in kept.values() if m.claim != NOTHING}
        victims: list[ModelView] = []
        for victim in sorted((m for m in kept.values() if free_at.get(m.name, inf) <= view.now), key=_reluctance):
            victims.append(victim)
            if (taken - _sum(m.claim for m in victims) + model.claim).fits(view.capacity):
                return victims, None
        return [], min((at for at in free_at.values() if view.now < at < inf), default=None)

    def _evictable_at(self, resident: ModelView, overdue_at: float) -> float:
        """Time from which this resident may be taken off for a waiter that is overdue at `overdue_at`."""
        if resident.seat in (SeatState.CLOSING, SeatState.DRAINING):
            return 0.0  # decided already
        if resident.seat is SeatState.LOADING:
            return 0.0 if resident.idle else inf  # once ready it serves its batch first
        earliest = resident.since + resident.min_residency
        return earliest if resident.idle else max(earliest, overdue_at)


def _reluctance(model: ModelView) -> tuple[bool, bool, int, float, str]:
    """Sort key: who goes first. Those on their way out, the idle, the less important, the least recently used."""
    leaving = model.seat in (SeatState.CLOSING, SeatState.DRAINING)
    return (not leaving, not model.idle, model.priority, model.last_used, model.name)


def _sum(claims: Iterable[Claim]) -> Claim:
    return sum(claims, NOTHING)
