"""Instances and their states: TRANSITIONS says what moves them, and only this module sets `state`. Pure.

docs/architecture.md draws the table. What a policy wants and what a runtime reports become triggers
in the modules beside this one; each calls `SchedulerState.transition`, which calls
`Instance.transition`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf

from hotseat.core.messages import InstanceState, Transition, replica_name
from hotseat.core.policy.api import NOTHING, Capacity, Claim
from hotseat.core.scheduler.messages import SchedulingSpec

DRAINING_STATES = (InstanceState.QUIESCING, InstanceState.DRAINING)  # may still be kept
REPLICA_IDLE_TIMEOUT = 30.0  # seconds after which an unused replica is stopped, idle timeout or not
SLEEP_STATES = (InstanceState.PARKING, InstanceState.PARKED, InstanceState.WAKING)  # see sleep.py
# Neither told to stop nor unproven.
ACTIVE_STATES = (
    InstanceState.LOADING,
    InstanceState.RESTORING,
    InstanceState.SAVING,
    InstanceState.READY,
    *DRAINING_STATES,
    *SLEEP_STATES,
)
STORY = 16  # transitions that an instance remembers


class IllegalTransition(AssertionError):
    """TRANSITIONS does not have a transition that was to be made: a bug of the caller."""


class Trigger(StrEnum):
    """A cause of a transition."""

    STARTED = "started"
    FOUND_LOADING = "found loading"
    FOUND_READY = "found ready"
    FOUND_RELEASING = "found releasing"
    READY = "ready"
    RESTORE = "restore"
    QUIESCE = "quiesce"
    CUT_OFF = "cut off"
    KEPT = "kept"
    BATCH_SERVED = "batch served"
    SAVE = "save"
    PARK = "park"
    PARKED = "parked"
    WAKE = "wake"
    STOP = "stop"
    FAILED = "failed"
    UNPROVEN = "unproven"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Edge:
    """A row of TRANSITIONS: the state that a trigger leads to, the states that it leads from, and its meaning.

    `to` None: the instance is gone. A source None: there was no instance.
    """

    to: InstanceState | None
    sources: tuple[InstanceState | None, ...]
    meaning: str


TRANSITIONS: Mapping[Trigger, Edge] = {
    Trigger.STARTED: Edge(InstanceState.LOADING, (None,), "The runtime is told to start an engine."),
    Trigger.FOUND_LOADING: Edge(
        InstanceState.LOADING, (None,), "An engine that an earlier run had started is found. It does not answer yet."
    ),
    Trigger.FOUND_READY: Edge(
        InstanceState.READY, (None,), "An engine that an earlier run had started is found, and answers."
    ),
    Trigger.FOUND_RELEASING: Edge(
        InstanceState.RELEASING, (None,), "An engine is found that an earlier run had told to stop."
    ),
    Trigger.READY: Edge(
        InstanceState.READY,
        (InstanceState.LOADING, InstanceState.RESTORING, InstanceState.WAKING),
        "The engine answers, and its prompt cache is restored as far as that is possible in time.",
    ),
    Trigger.RESTORE: Edge(
        InstanceState.RESTORING, (InstanceState.LOADING,), "The engine answers, and a prompt cache is kept for it."
    ),
    Trigger.QUIESCE: Edge(
        InstanceState.QUIESCING,
        (InstanceState.READY,),
        "The instance has to leave: for another model, idleness, an operator or a document. Requests queued now are still served.",
    ),
    Trigger.CUT_OFF: Edge(
        InstanceState.DRAINING,
        (InstanceState.READY,),
        "The instance has to leave at once: only requests in flight are still served.",
    ),
    Trigger.KEPT: Edge(InstanceState.READY, DRAINING_STATES, "The instance may stay after all."),
    Trigger.BATCH_SERVED: Edge(
        InstanceState.DRAINING,
        (InstanceState.QUIESCING,),
        "All routers have seen that it leaves, and the requests that were queued then are served.",
    ),
    Trigger.SAVE: Edge(
        InstanceState.SAVING,
        DRAINING_STATES,
        "Nothing is in flight, and its prompt cache is kept: it is told to save it.",
    ),
    Trigger.PARK: Edge(
        InstanceState.PARKING, DRAINING_STATES, "Nothing is in flight, and its Model parks: it is told to sleep."
    ),
    Trigger.PARKED: Edge(
        InstanceState.PARKED, (InstanceState.PARKING,), "Proof was seen that it is off the accelerator."
    ),
    Trigger.WAKE: Edge(
        InstanceState.WAKING, (InstanceState.PARKED,), "Its Model is wanted, and its accelerators are free."
    ),
    Trigger.STOP: Edge(
        InstanceState.RELEASING,
        (InstanceState.LOADING, InstanceState.RESTORING, *DRAINING_STATES, InstanceState.SAVING, *SLEEP_STATES),
        "Nothing is in flight, the drain deadline has passed, its prompts are saved, or a load is given up: it is told to stop.",
    ),
    Trigger.FAILED: Edge(
        InstanceState.RELEASING,
        ACTIVE_STATES,
        "The engine ended or hangs, or did not load, sleep or wake in time.",
    ),
    Trigger.UNPROVEN: Edge(
        InstanceState.UNPROVEN,
        (InstanceState.RELEASING,),
        "The instance should be gone, but the runtime cannot prove that it is.",
    ),
    Trigger.RELEASED: Edge(
        None, (InstanceState.RELEASING, InstanceState.UNPROVEN), "Proof was seen that nothing of it is left."
    ),
}


def format_story(story: Iterable[Transition]) -> str:
    """Return a story as one line of text, oldest transition first."""
    return "; ".join(map(str, story)) or "nothing"


@dataclass(slots=True)
class Instance:
    """One engine of a model, from its start until proof that it is gone."""

    model: str
    id: str
    epoch: int
    state: InstanceState
    since: float
    spec: SchedulingSpec
    address: str | None = None
    more: tuple[str, ...] = ()  # addresses of its further pods
    leaving: str | None = None  # why it will be stopped, whatever a policy says
    ready_since: float | None = None
    ready_epoch: int = 0  # routers that have seen it have dispatched their queued requests
    drain_since: float = 0.0  # when it was last told to leave
    dispatched: float = 0.0  # when a request was last dispatched to it
    drain_epoch: int = 0  # routers that have seen it dispatch no more than its batch
    last_used: float = 0.0
    keep_alive: float | None = None  # seconds, instead of its idle timeout, as a request said …
    keep_alive_at: float = -inf  # … that was dispatched then
    stop_asked: float | None = None
    pending_detail: str = ""  # what it waits for while it loads or is released, for a person
    unproven_detail: str = ""  # what is not proven gone, for a person
    devices: tuple[str, ...] = ()  # GPUs that it was assigned, where hotseat assigns them
    replica: int = 1  # 1: the primary of its model; see replicas.py
    park_ordered: bool = False  # an operator wants it parked
    turn: int = 0  # how often it was told to sleep or to wake
    asleep: bool = False  # proven off the accelerator
    parked_since: float | None = (
        None  # when it was told to sleep; None: it is awake, and its host memory does not count
    )
    memory: int | None = None  # bytes of host memory that were measured while it slept
    load_seconds: float = 0.0  # that it took until it answered, while it restores its prompt cache
    adopted_midway: bool = False  # it was found loading or stopping: its durations are not measured
    story: deque[Transition] = field(default_factory=lambda: deque(maxlen=STORY))  # its last transitions, oldest first

    @classmethod
    def begin(
        cls,
        trigger: Trigger,
        now: float,
        *,
        model: str,
        id: str,  # noqa: A002
        epoch: int,
        spec: SchedulingSpec,
    ) -> "Instance":
        """Return a new instance, in the state that the trigger leads to."""
        edge = TRANSITIONS[trigger]
        step = Transition(now, None, edge.to, trigger.value)
        if None not in edge.sources or edge.to is None:
            raise IllegalTransition(f"{id}: no instance begins by {step}")
        return cls(model, id, epoch, edge.to, now, spec, last_used=now, story=deque([step], STORY))

    def transition(
        self, trigger: Trigger, now: float, detail: str = "", *, illegal: Callable[[str], None] | None = None
    ) -> None:
        """Enter the state that the trigger leads to. The only way to change `state` and `since`.

        `detail` is added to the story. An edge that is not in TRANSITIONS is a bug: `illegal` is
        called with a message; without it, IllegalTransition is raised. The transition takes place
        all the same where `illegal` returns, because its cause has happened.
        """
        edge = TRANSITIONS[trigger]
        why = f"{trigger.value}: {detail}" if detail else trigger.value
        step = Transition(now, self.state, edge.to, why)
        if self.state not in edge.sources:
            message = f"{self.id}: no transition of an instance is {step}; before: {format_story(self.story)}"
            if illegal is None:
                raise IllegalTransition(message)
            illegal(message)
        self.story.append(step)
        if edge.to is not None:
            self.state, self.since = edge.to, now

    @property
    def name(self) -> str:
        """Return its name in decisions and switches. See replica_name."""
        return replica_name(self.model, self.replica)

    def occupied(self, capacity: Capacity) -> Claim:
        """Return its claim, on its devices. NOTHING while it is asleep."""
        return NOTHING if self.asleep else self.spec.claim.placed(self.devices, capacity)

    @property
    def can_stay(self) -> bool:
        """Whether it may stay resident: it was not told to leave."""
        return self.leaving is None and self.state in ACTIVE_STATES

    @property
    def parks(self) -> bool:
        """Whether it is parked, or will be because an operator wants that."""
        return self.park_ordered or self.state in (InstanceState.PARKING, InstanceState.PARKED)

    @property
    def drain_until(self) -> float:
        """Return the drain deadline, counted from the last request that was dispatched to it."""
        return max(self.drain_since, self.dispatched) + self.spec.drain_timeout

    @property
    def idle_until(self) -> float | None:
        """Return when its idle timeout ends, unless it is used before. None: never."""
        if self.replica > 1 and self.ready_since is not None:
            return self.last_used + min(self.spec.idle_timeout or REPLICA_IDLE_TIMEOUT, REPLICA_IDLE_TIMEOUT)
        timeout = self.spec.idle_timeout or inf if self.keep_alive is None else self.keep_alive
        if timeout == inf or self.ready_since is None:
            return None
        return max(self.last_used + timeout, self.ready_since + self.spec.min_residency)

    def set_keep_alive(self, seconds: float, at: float) -> None:
        """Apply what a request said that was dispatched then, unless a later one said something. Of two at once, the longer counts."""
        later = at > self.keep_alive_at
        if later or (at == self.keep_alive_at and self.keep_alive is not None and seconds > self.keep_alive):
            self.keep_alive, self.keep_alive_at = seconds, at

    def mark_leaving(self, why: str) -> None:
        """Let it leave as soon as it can, for this reason, unless it has one."""
        if self.state in ACTIVE_STATES:
            self.leaving = self.leaving or why

    def outdated_by(self, spec: SchedulingSpec | None) -> bool:
        """Whether it would stay, although the engine has to be restarted for this spec."""
        return spec is not None and self.can_stay and spec.fingerprint != self.spec.fingerprint

    def apply_spec(self, spec: SchedulingSpec | None) -> None:
        """Apply a new spec; None: its document is gone. If it needs a restart, the instance stays until that is possible."""
        if spec is None:
            self.mark_leaving("removed")
        elif spec.fingerprint == self.spec.fingerprint and self.state in ACTIVE_STATES:
            # It occupies what it was started with.
            self.spec = replace(spec, claim=self.spec.claim, pods=self.spec.pods)
            if self.leaving in ("removed", "changed"):
                self.leaving = None  # the document is again what it was started with


class Instances(dict[str, Instance]):
    """All instances that are not proven gone, by id, in order of arrival."""

    def of(self, model: str) -> list[Instance]:
        """Return all instances of a model."""
        return [each for each in self.values() if each.model == model]

    def primary(self, model: str) -> Instance | None:
        """Return the primary instance of a model: no replica, and one that can stay where several were adopted."""
        found: Instance | None = None
        for each in self.of(model):
            if each.replica == 1 and (found is None or each.can_stay):
                found = each
        return found

    def primaries(self) -> dict[str, Instance]:
        """Return the primary of each model that has one."""
        found: dict[str, Instance] = {}
        for each in self.values():
            if each.replica == 1 and (each.model not in found or each.can_stay):
                found[each.model] = each
        return found

    def present(self) -> set[str]:
        """Return the models and the names of all instances that are not parked."""
        return {
            name for each in self.values() if each.state is not InstanceState.PARKED for name in (each.model, each.name)
        }

    def parked_last(self) -> list[Instance]:
        """Return all instances, the parked ones last: others may claim their host memory first."""
        return sorted(self.values(), key=lambda each: each.state is InstanceState.PARKED)

    def sleeper(self, model: str) -> Instance | None:
        """Return the parked instance of a model, or None."""
        return next((each for each in self.of(model) if each.state is InstanceState.PARKED), None)
