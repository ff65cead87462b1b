"""The state of the scheduler: the models and capacity of a Workspace, and its instances. Pure."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hotseat.core.events import Emit
from hotseat.core.messages import InstanceState, Residency, Transition
from hotseat.core.policy.api import NOTHING, UNMEASURED_WAIT, Capacity, Claim
from hotseat.core.policy.groups import UNGROUPED, Groups
from hotseat.core.scheduler.instance import DRAINING_STATES, STORY, Instance, Instances, Trigger
from hotseat.core.scheduler.memory_usage import MemoryUsage, unchanged
from hotseat.core.scheduler.messages import ConfigChanged, SchedulingSpec


@dataclass(slots=True)
class SchedulerState:
    """Models, capacity, and all instances that are not proven gone. `changed`: a residency has to be published."""

    workspace: str
    epoch: int = 0  # of the newest residency, or of a newer instance that was adopted
    residency: Residency = field(default_factory=Residency)  # the newest
    auto_max_wait: float = UNMEASURED_WAIT  # seconds: what `maxWait: Auto` stood for in the last decision
    specs: Mapping[str, SchedulingSpec] = field(default_factory=dict)  # with claims raised to what was measured
    capacity: Capacity = field(default_factory=Capacity)
    groups: Groups = UNGROUPED
    instances: Instances = field(default_factory=Instances)
    memory: MemoryUsage = field(default_factory=MemoryUsage)
    changed: bool = False
    down: bool = False  # shutting down: nothing is loaded any more
    illegal: Callable[[str], None] | None = None  # called with a transition that is not in TRANSITIONS; None: it raises
    _gone: deque[Instance] = field(default_factory=lambda: deque(maxlen=STORY))  # recent instances, for their stories

    def apply_config(self, s: ConfigChanged) -> Mapping[str, SchedulingSpec]:
        """Apply new specs, with claims raised to what was measured. Return the specs before."""
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

    # Instances --------------------------------------------------------------------------------------------------------

    def add(self, instance: Instance) -> None:
        """Add an instance."""
        self.instances[instance.id] = instance
        self.changed = True

    def remove(self, instance: Instance, now: float) -> None:
        """Remove an instance that is proven gone."""
        self.transition(instance, Trigger.RELEASED, now)
        del self.instances[instance.id]
        self._gone.append(instance)
        self.memory.seen.pop(instance.id, None)
        self.changed = True

    def transition(self, instance: Instance, trigger: Trigger, now: float, detail: str = "") -> None:
        """Let an instance enter the state that a trigger leads to. `detail` is added to its story."""
        instance.transition(trigger, now, detail, illegal=self.illegal)
        self.changed = True

    def set_endpoints(self, instance: Instance, addresses: tuple[str, ...]) -> None:
        """Record where an instance with several pods answers, unless it does not answer (any more)."""
        if instance.state in (InstanceState.READY, *DRAINING_STATES):
            instance.address, instance.more = addresses[0], addresses[1:]
            self.changed = True

    def story(self, instance: str) -> tuple[Transition, ...]:
        """Return the last transitions of a present or recent instance, oldest first."""
        found = self.instances.get(instance) or next((h for h in self._gone if h.id == instance), None)
        return tuple(found.story) if found else ()

    def measure(self, instance: Instance, memory: int) -> list[Emit]:
        """Record the bytes that an instance takes. If it claims less, its model claims them from now on."""
        events = self.memory.record(instance, memory, self.capacity, lasting=self.runs_current_spec(instance))
        self.specs = self.memory.raise_claims(self.specs, self.capacity)
        return events

    def runs_current_spec(self, instance: Instance) -> bool:
        """Whether an instance runs the current spec of its model."""
        return unchanged(instance.spec, self.specs.get(instance.model))

    # Capacity ---------------------------------------------------------------------------------------------------------

    def is_served(self, model: str) -> bool:
        """Whether a model is ready, or external."""
        ready = any(h.state is InstanceState.READY for h in self.instances.of(model))
        return ready or bool(self.specs[model].external)

    def place(self, model: str, sleeper: Instance | None = None) -> tuple[str, ...] | None:
        """Return the GPUs for a model. None: it does not fit.

        They are those that its engine slept on, where they are free, else any.
        """
        if not self.groups.can_join(model, (h.model for h in self.instances.values() if not h.asleep)):
            return None
        claim, held = self.specs[model].claim, self._held()
        own = claim.placed(sleeper.devices, self.capacity) if sleeper else claim
        devices = own.place(held, self.capacity)
        return devices if devices is not None or sleeper is None else claim.place(held, self.capacity)

    def _held(self) -> Claim:
        return sum((h.occupied(self.capacity) for h in self.instances.values()), NOTHING)
