"""Prompt caches: saved before an engine stops, and restored once it has loaded again. Pure.

An instance goes (quiescing, draining) → SAVING → RELEASING, and LOADING → RESTORING → READY. Each of the
two takes at most `prompt_timeout` of its spec. What fails or is late is dropped: the instance stops,
or becomes ready, without it. The runtime keeps the caches, within the limit that it is told here.
"""

from dataclasses import dataclass, field

from hotseat.core.events import Emit
from hotseat.core.messages import (
    InstanceReady,
    InstanceState,
    LimitPrompts,
    PromptsRestored,
    PromptsSaved,
    RestorePrompts,
    SavePrompts,
)
from hotseat.core.scheduler.history import SwitchHistory
from hotseat.core.scheduler.instance import Instance, Trigger
from hotseat.core.scheduler.messages import SchedulerCommand
from hotseat.core.scheduler.sleep import SleepManager
from hotseat.core.scheduler.state import SchedulerState

NOT_AFTER_FAILURE = 300.0  # seconds for which prompts are neither saved nor restored after an engine ended meanwhile
PHASES = {InstanceState.SAVING: "save", InstanceState.RESTORING: "restore"}


@dataclass(slots=True)
class PromptCaches:
    """Which instances save and restore their prompts, and the limit for all that are kept."""

    state: SchedulerState
    history: SwitchHistory
    sleep: SleepManager
    limit: int = 0  # bytes, as the runtime was told
    _not_before: dict[str, float] = field(default_factory=dict)  # by model: until when it does neither

    def apply_config(self) -> None:
        """Forget what it costs where no prompts are kept any more."""
        for model, spec in self.state.specs.items():
            if not (spec.prompt_timeout and self.state.capacity.prompts):
                self.history.durations.forget_prompts(model)

    def update_limit(self) -> list[SchedulerCommand]:
        """Tell the runtime the limit if it has changed. In host memory, parked engines come first."""
        capacity = self.state.capacity
        limit = capacity.prompts
        if capacity.prompts_in_memory and capacity.host_memory is not None:
            limit = max(0, min(limit, capacity.host_memory - self.sleep.held))
        if limit == self.limit:
            return []
        self.limit = limit
        return [LimitPrompts(self.state.workspace, limit)]

    def may_save(self, instance: Instance, now: float) -> bool:
        """Whether a drained instance saves its prompts before it stops: it was used, and may be loaded again."""
        ready_since = instance.ready_since
        return (
            self._keeps(instance, now)
            and ready_since is not None
            and instance.dispatched >= ready_since
            and instance.leaving not in ("duplicate", "surplus")
            and self.can_use(instance)
        )

    def can_use(self, instance: Instance) -> bool:
        """Whether what an instance saves can be restored later: its document has not changed, and hotseat does not end."""
        kept = not self.state.down or instance.spec.prompts_at_exit
        return kept and self.state.runs_current_spec(instance)

    def save(self, instance: Instance, now: float, why: str) -> list[SchedulerCommand]:
        """Tell a drained instance to save its prompts. `why` is the reason for its stop where none was given before."""
        if instance.state is InstanceState.DRAINING:
            self.history.durations.record_drain(instance.model, now - instance.since)
        self.history.save_started(instance.name, now)
        instance.leaving = instance.leaving or why
        self.state.transition(instance, Trigger.SAVE, now, instance.leaving)
        return [SavePrompts(instance.model, instance.id, instance.epoch, instance.spec.prompt_timeout)]

    def may_restore(self, instance: Instance, s: InstanceReady) -> bool:
        """Whether an instance that has loaded restores the prompts that are kept for it."""
        loads = instance.state is InstanceState.LOADING and not instance.adopted_midway
        return loads and s.prompts > 0 and self._keeps(instance, s.now)

    def restore(self, instance: Instance, s: InstanceReady) -> list[SchedulerCommand]:
        """Tell an instance that has loaded to restore its prompts. Requests stay queued meanwhile."""
        instance.load_seconds, instance.address = s.now - instance.since, s.address
        self.history.restore_started(instance.name, s.now)
        self.state.transition(instance, Trigger.RESTORE, s.now)
        return [RestorePrompts(instance.model, instance.id, instance.epoch, instance.spec.prompt_timeout)]

    def record(self, instance: Instance, s: PromptsSaved | PromptsRestored) -> list[SchedulerCommand]:
        """Record that an instance has saved or restored its prompts."""
        phase, seconds = PHASES[instance.state], s.now - instance.since
        self.history.durations.record_prompts(instance.model, phase, seconds)
        self.history.prompts_moved(instance.name, phase, s.size)
        data = {"instance": instance.id, "seconds": round(seconds, 4), "tokens": s.tokens, "bytes": s.size}
        return [Emit(f"model.prompts_{phase}d", instance.model, data)]

    def drop_late(self, instance: Instance) -> list[SchedulerCommand]:
        """Record that an instance did not save or restore its prompts in time."""
        phase = PHASES[instance.state]
        message = f"not {phase}d within {instance.spec.prompt_timeout:g} s (promptCache.timeout of the Workspace)"
        return [dropped(instance, f"{phase.capitalize()}Timeout", message)]

    def drop_failed(self, instance: Instance, now: float, reason: str, message: str) -> list[SchedulerCommand]:
        """Record that the engine ended while it saved or restored. Its model does neither for some time."""
        phase = PHASES[instance.state]
        self._not_before[instance.model] = now + NOT_AFTER_FAILURE
        if phase == "restore":
            self.history.load_restarted(instance.model)
        return [dropped(instance, f"{phase.capitalize()}Failed", f"{reason}: {message}")]

    def _keeps(self, instance: Instance, now: float) -> bool:
        kept = instance.spec.prompt_timeout > 0 and self.limit > 0 and instance.replica == 1
        return kept and now >= self._not_before.get(instance.model, 0.0)


def deadline(instance: Instance) -> float | None:
    """Return the time by which an instance must have saved or restored. None: it does neither."""
    return instance.since + instance.spec.prompt_timeout if instance.state in PHASES else None


def dropped(instance: Instance, reason: str, message: str, *, tokens: int = 0, size: int = 0, model: str = "") -> Emit:
    """Return the event that prompts of an instance, or of another model that makes room for it, are not kept."""
    data = {"instance": instance.id, "reason": reason, "message": message, "tokens": tokens, "bytes": size}
    return Emit("model.prompts_dropped", model or instance.model, data)
