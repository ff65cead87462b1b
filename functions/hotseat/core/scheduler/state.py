"""The state of the scheduler: the models and capacity of a Workspace, and its instances. Pure."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hotseat.core.events import Emit
from hotseat.core.messages import InstanceState, Residency, Transition
from hotseat.core.policy.api import NOTHING, UNMEASURED_WAIT, Capacity, Claim
from hotseat.core.policy.groups import UNGROUPED, Groups
from hotseat.core.scheduler.instance import STORY, Instance, Instances, Trigger
from hotseat.core.scheduler.memory_usage import MemoryUsage, unchanged
from hotseat.core.scheduler.messages import ConfigChanged, SchedulingSpec


@dataclass(slots=True)
class SchedulerState:
    """What the documents say, and all instances that are not proven gone. `changed` says that routers have to be told."""

    workspace: str
    epoch: int = 0  # of the newest residency, or of a newer instance that was adopted
    residency: Residency = field(default_factory=Residency)  # the newest
    auto_max_wait: float = UNMEASURED_WAIT  # seconds: what `maxWait: Auto` stood for in the last decision
    specs: Mapping[str, SchedulingSpec] = field(default_factory=dict)  # with the claims that models turned out to need
    capacity: Capacity = field(default_factory=Capacity)
    groups: Groups = UNGROUPED
    instances: Instances = field(default_factory=Instances)
    memory: MemoryUsage = field(default_factory=MemoryUsage)
    changed: bool = False
    down: bool = False  # everything goes, and nothing is loaded any more
    illegal: Callable[[str], None] | None = None  # told of transitions that TRANSITIONS has not; None: they raise
    _gone: deque[Instance] = field(default_factory=lambda: deque(maxlen=STORY))  # the last ones, for their stories

    def apply_config(self, s: ConfigChanged) -> Mapping[str, SchedulingSpec]:
        """Take in the documents, with what is known of their models' memory; returns the terms that were in force before."""
        old, self.capacity, self.groups, self.changed = self.specs, s.capacity, s.groups, True
        self.specs = self.memory.raise_claims(s.models, s.capacity)
        return old

    @property
    def next_epoch(self) -> int:
        """Return the epoch of the residency that is published next."""
        return self.epoch + 1

    def max_wait(self, spec: SchedulingSpec) -> float:
        """Return the bound on waiting of a model, in seconds."""
        return self.auto_max_wait if spec.max_wait is None else spec.max_wait

    # Instances ----------------------------------------------------------------------------------------------------------

    def add(self, instance: Instance) -> None:
        """Know of one more."""
        self.instances[instance.id] = instance
        self.changed = True

    def remove(self, instance: Instance, now: float) -> None:
        """Forget one that is proven gone."""
        self.transition(instance, Trigger.RELEASED, now)
        del self.instances[instance.id]
        self._gone.append(instance)
        self.memory.seen.pop(instance.id, None)
        self.changed = True

    def transition(self, instance: Instance, trigger: Trigger, now: float, detail: str = "") -> None:
        """Let an instance enter the state that a trigger leads to; `detail` is for its story."""
        instance.transition(trigger, now, detail, illegal=self.illegal)
        self.changed = True

    def story(self, instance: str) -> tuple[Transition, ...]:
        """Return the last transitions of an instance that is there, or was lately, by its id; oldest first."""
        found = self.instances.get(instance) or next((h for h in self._gone if h.id == instance), None)
        return tuple(found.story) if found else ()

    def measure(self, instance: Instance, memory: int) -> list[Emit]:
        """Take in the bytes that an instance was seen to take: if they are more than it claims, its model claims them from now on."""
        told = self.memory.record(instance, memory, self.capacity, lasting=self.runs_current_spec(instance))
        self.specs = self.memory.raise_claims(self.specs, self.capacity)
        return told

    def runs_current_spec(self, instance: Instance) -> bool:
        """Whether it runs what its model's document says now: what is seen of another one tells nothing of it."""
        return unchanged(instance.spec, self.specs.get(instance.model))

    # Room -------------------------------------------------------------------------------------------------------------

    def is_served(self, model: str) -> bool:
        """Whether it is ready, or needs no seat of ours."""
        ready = any(h.state is InstanceState.READY for h in self.instances.of(model))
        return ready or bool(self.specs[model].external)

    def place(self, model: str, sleeper: Instance | None = None) -> tuple[str, ...] | None:
        """Find room for a model: on the GPUs that its engine slept on, where they are free; else on any. None: it may not start."""
        if not self.groups.can_join(model, (h.model for h in self.instances.values() if not h.asleep)):
            return None
        claim, held = self.specs[model].claim, self._held()
        own = claim.placed(sleeper.devices, self.capacity) if sleeper else claim
        devices = own.place(held, self.capacity)
        return devices if devices is not None or sleeper is None else claim.place(held, self.capacity)

    def _held(self) -> Claim:
        return sum((h.occupied(self.capacity) for h in self.instances.values()), NOTHING)
