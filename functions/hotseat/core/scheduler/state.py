"""The seats of one Workspace: who may have one and on what terms, how much there is, and who holds what of it. Pure."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hotseat.core.events import Emit
from hotseat.core.messages import InstanceState, Transition
from hotseat.core.policy.api import NOTHING, Capacity, Claim
from hotseat.core.policy.groups import UNGROUPED, Groups
from hotseat.core.scheduler.instance import STORY, Instance, Instances, Trigger
from hotseat.core.scheduler.memory_usage import MemoryUsage, unchanged
from hotseat.core.scheduler.messages import ConfigChanged, SchedulingSpec


@dataclass(slots=True)
class SchedulerState:
    """What the documents say, and all holders that are not proven gone. `changed` says that routers have to be told."""

    workspace: str
    terms: Mapping[str, SchedulingSpec] = field(default_factory=dict)  # with the claims that models turned out to need
    capacity: Capacity = field(default_factory=Capacity)
    groups: Groups = UNGROUPED
    holders: Instances = field(default_factory=Instances)
    memory: MemoryUsage = field(default_factory=MemoryUsage)
    changed: bool = False
    down: bool = False  # everything goes, and nothing is loaded any more
    illegal: Callable[[str], None] | None = None  # told of transitions that TRANSITIONS has not; None: they raise
    _gone: deque[Instance] = field(default_factory=lambda: deque(maxlen=STORY))  # the last ones, for their stories

    def follow(self, s: ConfigChanged) -> Mapping[str, SchedulingSpec]:
        """Take in the documents, with what is known of their models' memory; returns the terms that were in force before."""
        old, self.capacity, self.groups, self.changed = self.terms, s.capacity, s.groups, True
        self.terms = self.memory.learnt(s.models, s.capacity)
        return old

    # Holders ----------------------------------------------------------------------------------------------------------

    def add(self, holder: Instance) -> None:
        """Know of one more."""
        self.holders[holder.id] = holder
        self.changed = True

    def remove(self, holder: Instance, now: float) -> None:
        """Forget one that is proven gone."""
        self.go(holder, Trigger.RELEASED, now)
        del self.holders[holder.id]
        self._gone.append(holder)
        self.memory.seen.pop(holder.id, None)
        self.changed = True

    def go(self, holder: Instance, trigger: Trigger, now: float, detail: str = "") -> None:
        """Let a holder enter the state that a trigger leads to; `detail` is for its story."""
        holder.transition(trigger, now, detail, illegal=self.illegal)
        self.changed = True

    def story(self, holder: str) -> tuple[Transition, ...]:
        """Return the last transitions of a holder that is there, or was lately, by its id; oldest first."""
        found = self.holders.get(holder) or next((h for h in self._gone if h.id == holder), None)
        return tuple(found.story) if found else ()

    def measure(self, holder: Instance, memory: int) -> list[Emit]:
        """Take in the bytes that a holder was seen to take: if they are more than it claims, its model claims them from now on."""
        told = self.memory.note(holder, memory, self.capacity, lasting=self.is_of_today(holder))
        self.terms = self.memory.learnt(self.terms, self.capacity)
        return told

    def is_of_today(self, holder: Instance) -> bool:
        """Whether it runs what its model's document says now: what is seen of another one tells nothing of it."""
        return unchanged(holder.terms, self.terms.get(holder.model))

    # Room -------------------------------------------------------------------------------------------------------------

    def serves(self, model: str) -> bool:
        """Whether it is ready, or needs no seat of ours."""
        ready = any(h.state is InstanceState.READY for h in self.holders.of(model))
        return ready or bool(self.terms[model].external)

    def place(self, model: str, sleeper: Instance | None = None) -> tuple[str, ...] | None:
        """Find room for a model: on the GPUs that its engine slept on, where they are free; else on any. None: it may not start."""
        if not self.groups.allows(model, (h.model for h in self.holders.values() if not h.asleep)):
            return None
        claim, held = self.terms[model].claim, self._held()
        own = claim.placed(sleeper.devices, self.capacity) if sleeper else claim
        devices = own.place(held, self.capacity)
        return devices if devices is not None or sleeper is None else claim.place(held, self.capacity)

    def _held(self) -> Claim:
        return sum((h.occupied(self.capacity) for h in self.holders.values()), NOTHING)
