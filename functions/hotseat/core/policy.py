"""Who should be resident: one pure function of what is wanted, what is there and what it costs.

A policy looks at a View and names the set of models that should hold the accelerator, and when it wants to look again. It
decides nothing about safety: the switching machine starts a model only when it fits beside every holder that is left.
"""

from collections.abc import Callable, Iterable
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

    def fits_beside(self, held: "Claim", capacity: "Capacity") -> bool:
        """Whether the capacity holds this beside what is held. Of what it does not ask for, any shortage is no matter."""
        total = held + self
        gpus = not self.gpus or total.gpus <= capacity.gpus
        return gpus and (not self.memory or capacity.memory is None or total.memory <= capacity.memory)


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
    promised: bool = False  # a switch to it has been decided, and others make room for it
    ready_since: float = 0.0  # while ready or on its way out
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


_GOING = (SeatState.CLOSING, SeatState.DRAINING)
_STAYS = (SeatState.LOADING, SeatState.READY, *_GOING)


class Batch:
    """Serve what is resident while it has work, then the model whose waiter is oldest, within a bound on waiting.

    A waiter older than the bound closes the resident's batch: what the resident held is still served, later requests wait
    for its next turn. Once ready, a model keeps its seat for its minimum residency, used or not. A switch that has been
    decided is not taken back while somebody still waits for it, whoever else comes: otherwise a model would be stopped for
    one and then loaded again for another.
    """

    def decide(self, view: View) -> Decision:
        """See the class."""
        kept, held = _residents(view)
        wanting = _wanting(view)
        widened = WIDEN * sum(m.switch_cost for m in view.models if m.waiting or (m.name in kept and m.in_flight))
        bounds = {m.name: max(m.max_wait, widened) for m in wanting}
        due = {m.name: m.oldest + bounds[m.name] for m in wanting}

        def order(model: ModelView) -> tuple[bool, bool, bool, int, float, str]:
            overdue = due[model.name] <= view.now
            priority = 0 if overdue else -model.priority
            return (not model.may_evict, not model.promised, not overdue, priority, model.oldest, model.name)

        def free_at(resident: ModelView, waiter: ModelView) -> float:
            return _evictable_at(resident, due[waiter.name])

        resident, look_again = _seat(view, kept, held, sorted(wanting, key=order), free_at=free_at, alarms=due.values())
        return Decision(resident, look_again, max(bounds.values(), default=None))


class Fifo:
    """Serve strictly by the oldest request that waits, whatever that costs: no bound, no priorities, no batches beyond a turn.

    A resident whose own oldest is younger than another model's makes room at once: what it held is still served. As under
    Batch, minimum residency holds, and a decided switch is not taken back while somebody waits for it.
    """

    def decide(self, view: View) -> Decision:
        """See the class."""
        return _in_order(view, lambda _: 0)


class Priority:
    """Serve strictly by priority, among equals as Fifo does. A busy resident makes room for none of lower priority.

    So a model of low priority may wait for ever. Minimum residency and drains hold for the high ones, too.
    """

    def decide(self, view: View) -> Decision:
        """See the class."""
        return _in_order(view, lambda model: -model.priority)


def _in_order(view: View, rank: Callable[[ModelView], int]) -> Decision:
    """Decide by rank, the lowest first, then by age."""
    kept, held = _residents(view)

    def order(model: ModelView) -> tuple[bool, int, bool, float, str]:
        return (not model.may_evict, rank(model), not model.promised, model.oldest, model.name)

    def free_at(resident: ModelView, waiter: ModelView) -> float:
        mine = (rank(resident), resident.oldest if resident.waiting else inf)
        first = resident.seat not in _GOING and not resident.idle and mine <= (rank(waiter), waiter.oldest)
        return inf if first else _evictable_at(resident, -inf)

    resident, look_again = _seat(view, kept, held, sorted(_wanting(view), key=order), free_at=free_at)
    return Decision(resident, look_again)


def _residents(view: View) -> tuple[dict[str, ModelView], Claim]:
    """Those that may stay, by name, and what is taken beside what the capacity makes us shed at once."""
    kept = {m.name: m for m in view.models if m.seat in _STAYS and not m.leaving}
    held = sum((m.claim for m in (*kept.values(), *_stuck(view))), NOTHING)
    return kept, held - _shed(kept, held, view.capacity)


def _wanting(view: View) -> list[ModelView]:
    return [m for m in view.models if m.waiting and (m.seat is None or m.leaving)]


def _seat(
    view: View,
    kept: dict[str, ModelView],
    held: Claim,
    queue: list[ModelView],
    *,
    free_at: Callable[[ModelView, ModelView], float],
    alarms: Iterable[float] = (),
) -> tuple[tuple[str, ...], float | None]:
    """Give seats to a queue of models in its order; returns all that should be resident, and when to look again.

    `free_at(resident, waiter)`: from when the one may be taken off for the other. `alarms`: times at which the order changes.
    """
    chosen: list[str] = []
    look_again: float | None = None
    blocked = False  # whoever is first is served first: nobody overtakes by needing less
    for model in queue:
        fits = model.claim.fits_beside(held, view.capacity)
        victims: list[ModelView] = []
        if not fits and model.may_evict and not blocked:
            times = {m.name: free_at(m, model) for m in kept.values() if m.claim != NOTHING}
            victims = _fewest([m for m in kept.values() if times.get(m.name, inf) <= view.now], held, model, view)
            if not victims:
                blocked = True
                # More to take, or another first.
                look_again = min((at for at in (*times.values(), *alarms) if view.now < at < inf), default=None)
        if victims or (fits and not (blocked and model.claim != NOTHING)):
            chosen.append(model.name)
            held += model.claim
        for victim in victims:
            held -= victim.claim
            del kept[victim.name]
    return (*kept, *chosen), look_again


def _stuck(view: View) -> list[ModelView]:
    return [m for m in view.models if m.seat is SeatState.UNPROVEN]


def _shed(kept: dict[str, ModelView], held: Claim, capacity: Capacity) -> Claim:
    """Take off what a capacity that has shrunk does not hold; returns the claims of those."""
    shed = NOTHING
    for resident in sorted(kept.values(), key=_reluctance):
        if not resident.claim.fits_beside(held - shed - resident.claim, capacity):
            del kept[resident.name]
            shed += resident.claim
    return shed


def _evictable_at(resident: ModelView, due: float) -> float:
    """Time from which this resident may be taken off for a waiter whose bound ends at `due`."""
    if resident.seat in _GOING:
        return 0.0  # decided already
    if resident.seat is SeatState.LOADING:
        return 0.0 if resident.idle else inf  # once ready it serves its batch first
    earliest = resident.ready_since + resident.min_residency
    return earliest if resident.idle else max(earliest, due)


def _fewest(candidates: list[ModelView], held: Claim, model: ModelView, view: View) -> list[ModelView]:
    """Those of the candidates that have to go to make room for a model, or none where all of them would not do."""
    victims: list[ModelView] = []
    for candidate in sorted(candidates, key=_reluctance):
        victims.append(candidate)
        held -= candidate.claim
        if model.claim.fits_beside(held, view.capacity):
            break
    else:
        return []
    for victim in reversed(victims[:-1]):
        if model.claim.fits_beside(held + victim.claim, view.capacity):
            victims.remove(victim)
            held += victim.claim
    return victims


def _reluctance(model: ModelView) -> tuple[bool, bool, int, float, str]:
    """Sort key: who goes first. Those on their way out, the idle, the less important, the least recently used."""
    return (model.seat not in _GOING, not model.idle, model.priority, model.last_used, model.name)
