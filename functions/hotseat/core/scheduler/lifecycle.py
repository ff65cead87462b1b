"""How instances start, wake, drain, stop and park. Pure.

A switch is recorded, and once its model fits an engine is started, or woken. A model starts only
where it fits beside all instances that are not proven gone, and no earlier instance of it is left,
except replicas.

READY → QUIESCING (serves its batch) → DRAINING (finishes what is in flight) → RELEASING, maybe
after SAVING (prompts.py), or PARKING. Before the drain deadline an instance goes on from there only when every router has seen
that it quiesces and reports nothing in flight.
"""

from collections.abc import Collection
from dataclasses import dataclass

from hotseat.core.messages import InstanceState, Start, Stop, instance_id
from hotseat.core.policy.api import Decision
from hotseat.core.scheduler.instance import ACTIVE_STATES, DRAINING_STATES, SLEEP_STATES, Instance, Trigger
from hotseat.core.scheduler.parts import Parts

ROUTER_SYNC_TIMEOUT = 5.0  # seconds within which routers see that a model is ready, if they see it at all


@dataclass(frozen=True, slots=True)
class InstanceLifecycle:
    """Starts and stops instances."""

    parts: Parts

    # Leaving ----------------------------------------------------------------------------------------------------------

    def reconcile(self, instance: Instance, now: float, *, wanted: bool, cut_off: bool) -> None:
        """Let an instance leave, or keep it after all. `cut_off`: its queued requests are for its next turn."""
        if instance.state not in ACTIVE_STATES or (instance.state in SLEEP_STATES and not instance.leaving):
            return
        if instance.leaving or instance.park_ordered or not wanted or self._idle_timed_out(instance, now):
            if instance.state in (InstanceState.LOADING, InstanceState.RESTORING, *SLEEP_STATES):
                code = (instance.leaving or "abandoned").capitalize()
                message = f"the load of {instance.model} was cancelled after {now - instance.since:.1f} s"
                self.parts.effects.add(*self.parts.history.cancelled(instance.name, now, "load", code, message))
                self.stop(instance, now)
            elif instance.state is InstanceState.READY and (instance.leaving or self._routers_synced(instance, now)):
                self.parts.history.drain_started(instance.name, now)
                ordered = "park ordered" if instance.park_ordered else None
                why = instance.leaving or ordered or ("not wanted" if not wanted else "idle")
                self.parts.state.transition(
                    instance, Trigger.CUT_OFF if cut_off or instance.replica > 1 else Trigger.QUIESCE, now, why
                )
                instance.drain_since, instance.drain_epoch = now, self.parts.state.next_epoch
        elif instance.state in DRAINING_STATES:
            self.parts.history.drain_cancelled(instance.name)
            self.parts.state.transition(instance, Trigger.KEPT, now)

    def drain(self, instance: Instance, now: float, decision: Decision, queued: Collection[str]) -> None:
        """Advance a quiescing or draining instance as far as time and routers allow.

        `queued` are the models with queued requests.
        """
        demands = self.parts.demand.snapshots
        until, idle = instance.drain_until, self._idle_timed_out(instance, now)
        if idle or instance.name in decision.evicted_for_preference:
            # No model waits for its claim: a request that arrives now is served.
            until = max(until, instance.drain_since + ROUTER_SYNC_TIMEOUT)
        self.parts.effects.wake_at(until)
        owes = instance.replica == 1 and demands.quiescing(instance.model)
        served = demands.all_saw(instance.drain_epoch) and not owes
        drained = served and not demands.in_flight(instance.id)
        parks = drained and self.parts.sleep.may_park(instance, now, decision.resident, queued)
        if parks:
            self.parts.demand.reset_backoff(instance, now)
            self.parts.effects.add(*self.parts.sleep.park(instance, now))
            self.parts.effects.wake_at(now + instance.spec.stop_timeout)
        elif now >= until or (drained and parks is False):
            why = "unloaded" if instance.park_ordered else "idle" if idle else "evicted"
            if drained and self.parts.prompts.may_save(instance, now):
                self.parts.effects.add(*self.parts.prompts.save(instance, now, why))
                self.parts.effects.wake_at(now + instance.spec.prompt_timeout)
            else:
                self.stop(instance, now, why)
        elif served and instance.state is InstanceState.QUIESCING:
            self.parts.state.transition(instance, Trigger.BATCH_SERVED, now)

    def stop(self, instance: Instance, now: float, why: str = "evicted") -> None:
        """Stop an instance. `why` is the reason where none was given before."""
        self._release(instance, now, instance.leaving or why, Trigger.STOP, told=True)

    def fail(self, instance: Instance, now: float, reason: str, *, lives: bool) -> None:
        """Release an instance that has ended, or stop it where it still `lives`. `reason` is for its story."""
        self._release(instance, now, (lives and instance.leaving) or "failed", Trigger.FAILED, reason, told=lives)

    def _release(
        self, instance: Instance, now: float, why: str, trigger: Trigger, detail: str = "", *, told: bool
    ) -> None:
        """Let an instance leave the accelerator, by a Stop where it is `told` to.

        It holds its claim until proof that it is gone.
        """
        parts = self.parts
        if told and instance.state is InstanceState.DRAINING:
            parts.history.durations.record_drain(instance.model, now - instance.since)
        parts.demand.reset_backoff(instance, now)
        parts.history.stop_started(instance.name, now)
        instance.leaving, instance.stop_asked = why, now
        parts.state.transition(instance, trigger, now, detail or why)
        if told:
            parts.effects.add(Stop(instance.model, instance.id, instance.epoch, instance.spec.stop_timeout))

    def _routers_synced(self, instance: Instance, now: float) -> bool:
        """Whether routers have dispatched what was queued for a ready instance.

        Quiescing before would make its load useless.
        """
        if self.parts.demand.snapshots.all_saw(instance.ready_epoch):
            return True
        until = (instance.ready_since or 0.0) + ROUTER_SYNC_TIMEOUT
        self.parts.effects.wake_at(until)
        return now >= until

    def _idle_timed_out(self, instance: Instance, now: float) -> bool:
        """Whether the idle timeout of an instance has passed."""
        until = instance.idle_until
        if until is not None:
            until = max(until, self.parts.demand.retries_until(instance.model))
        if (
            until is None
            or not self.parts.demand.unused(instance)
            or self.parts.preferences.exempt_from_idle_timeout(instance)
        ):
            return False
        self.parts.effects.wake_at(until)
        return now >= until

    # Starting ---------------------------------------------------------------------------------------------------------

    def start_if_free(self, model: str, now: float, max_wait: float | None) -> None:
        """Record the switch to a model, and start the model if it fits beside all instances that are left.

        `max_wait` is the bound on waiting in force, in seconds, which is published with a start.
        """
        spec = self.parts.state.specs[model]
        asleep = self.parts.state.instances.sleeper(model)
        devices = self.parts.state.place(model, asleep)
        free = devices is not None
        gone = (
            ()
            if free
            else (
                *DRAINING_STATES,
                InstanceState.SAVING,
                InstanceState.PARKING,
                InstanceState.RELEASING,
                InstanceState.UNPROVEN,
            )
        )
        leaving = [h.name for h in self.parts.state.instances.values() if h.state in gone and not h.asleep]
        if not free and not leaving:
            return  # its victims have to begin their own turns first
        self._record_switch(model, now, leaving)
        if devices is None:
            return
        if asleep is None:
            self.parts.history.load_started(model, now)
            self._start(model, devices, now, max_wait)
        elif asleep.devices == devices:
            self.parts.effects.add(*self.parts.sleep.wake(asleep, spec, now))
            self.parts.effects.wake_at(now + spec.start_timeout)
        else:
            self.stop(asleep, now, "misplaced")  # its GPUs are taken, and it cannot move to others

    def add_replicas(self, now: float, max_wait: float | None) -> None:
        """Start replicas of models whose instances are all full. Only where no other model is pending."""
        parts = self.parts
        wanted, later = parts.replicas.wanted(parts.state.specs, parts.state.instances, parts.demand.snapshots, now)
        parts.effects.wake_at(*later)
        for name, number in wanted:
            devices = parts.state.place(name)
            if devices is not None and parts.availability.cached(name):
                self._start(name, devices, now, max_wait, replica=number)

    def _record_switch(self, model: str, now: float, leaving: list[str]) -> None:
        """Record a switch, with its reason and when it was first requested."""
        waiting, oldest = self.parts.demand.waiting(model)
        request, wanted = self.parts.availability.load_requests.get(model), self.parts.demand.wanted(model)
        times = (oldest if waiting else None, request.since if request else None, wanted)
        requested = min((since for since in times if since is not None), default=now)
        if waiting or wanted is not None:
            reason = "demand"
        else:
            reason = "ordered" if request else self.parts.preferences.reason(model, self.parts.state.specs[model], now)
        events = self.parts.history.decided(model, now, requested, leaving=leaving, waiting=waiting, reason=reason)
        self.parts.effects.add(*events)

    def _start(
        self, model: str, devices: tuple[str, ...], now: float, max_wait: float | None, *, replica: int = 1
    ) -> None:
        self.parts.availability.checks.pop(model, None)
        epoch, spec = self.parts.state.next_epoch, self.parts.state.specs[model]
        name = instance_id(self.parts.state.workspace, model, epoch)
        instance = Instance.begin(Trigger.STARTED, now, model=model, id=name, epoch=epoch, spec=spec)
        instance.devices, instance.replica = devices, replica
        self.parts.state.add(instance)
        self.parts.effects.add(Start(model, name, epoch, devices, spec.pods))
        self.parts.effects.wake_at(now + spec.start_timeout)
        self.parts.publish(now, max_wait)  # a start has an epoch of its own: it is part of the instance's identity
