"""How instances come onto the accelerator and leave it: which are started, woken, drained, stopped and put to sleep. Pure.

A switch is noted, and once there is room an engine is started, or woken. A model starts only where it fits beside all that is not
proven gone, and no earlier instance of it is left, but for replicas.

READY → QUIESCING (serves the batch that routers held) → DRAINING (what is in flight may finish) → RELEASING, or PARKING. Before the
drain deadline an instance goes on from there only when every router has seen that it quiesces and reports nothing in flight.
"""

from collections.abc import Collection
from dataclasses import dataclass

from hotseat.core.messages import InstanceState, Start, Stop, instance_id
from hotseat.core.policy.api import Decision
from hotseat.core.scheduler.instance import ACTIVE_STATES, DRAINING_STATES, SLEEP_STATES, Instance, Trigger
from hotseat.core.scheduler.parts import Parts

ROUTER_SYNC_TIMEOUT = 5.0  # seconds within which routers hear that a model is ready, if they hear at all


@dataclass(frozen=True, slots=True)
class InstanceLifecycle:
    """Brings instances onto the accelerator, and takes them off."""

    parts: Parts

    # How they leave ---------------------------------------------------------------------------------------------------

    def reconcile(self, instance: Instance, now: float, *, wanted: bool, cut_off: bool) -> None:
        """Start taking it off, or keep it after all. `cut_off`: what waits for it is not of this turn."""
        if instance.state not in ACTIVE_STATES or (instance.state in SLEEP_STATES and not instance.leaving):
            return
        if instance.leaving or not wanted or self._idle_timed_out(instance, now):
            if instance.state in (InstanceState.LOADING, *SLEEP_STATES):
                code = (instance.leaving or "abandoned").capitalize()
                message = f"the load of {instance.model} was cancelled after {now - instance.since:.1f} s"
                self.parts.effects.add(*self.parts.history.cancelled(instance.name, now, "load", code, message))
                self.stop(instance, now)
            elif instance.state is InstanceState.READY and (instance.leaving or self._routers_synced(instance, now)):
                self.parts.history.drain_started(instance.name, now)
                why = instance.leaving or ("not wanted" if not wanted else "idle")
                self.parts.state.transition(
                    instance, Trigger.CUT_OFF if cut_off or instance.replica > 1 else Trigger.QUIESCE, now, why
                )
                instance.drain_since, instance.drain_epoch = now, self.parts.state.next_epoch
        elif instance.state in DRAINING_STATES:
            self.parts.history.drain_cancelled(instance.name)
            self.parts.state.transition(instance, Trigger.KEPT, now)

    def drain(self, instance: Instance, now: float, decision: Decision, waited_for: Collection[str]) -> None:
        """Move one that is quiescing or draining on as far as time and what routers have seen allow.

        `waited_for` are models that requests wait for.
        """
        demands = self.parts.demand.snapshots
        until, idle = instance.drain_until, self._idle_timed_out(instance, now)
        if (
            idle or instance.name in decision.evicted_for_preference
        ):  # nobody waits for its seat: a request that comes now is served
            until = max(until, instance.drain_since + ROUTER_SYNC_TIMEOUT)
        self.parts.effects.wake_at(until)
        owes = instance.replica == 1 and demands.quiescing(instance.model)
        served = demands.all_saw(instance.drain_epoch) and not owes
        drained = served and not demands.in_flight(instance.id)
        parks = drained and self.parts.sleep.may_park(instance, now, decision.resident, waited_for)
        if parks:
            self.parts.demand.reset_backoff(instance, now)
            self.parts.effects.add(*self.parts.sleep.park(instance, now))
            self.parts.effects.wake_at(now + instance.spec.stop_timeout)
        elif now >= until or (drained and parks is False):
            self.stop(instance, now, "idle" if idle else "evicted")
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
        """Let an instance leave the accelerator, by a Stop where it is `told` to. Its claim is kept until proof that it is gone."""
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
        """Whether its turn has begun: before what waited for it has been sent, quiescing would make the load futile."""
        if self.parts.demand.snapshots.all_saw(instance.ready_epoch):
            return True
        until = (instance.ready_since or 0.0) + ROUTER_SYNC_TIMEOUT
        self.parts.effects.wake_at(until)
        return now >= until

    def _idle_timed_out(self, instance: Instance, now: float) -> bool:
        """Whether nobody has used it for its idle timeout."""
        until = instance.idle_until
        if (
            until is None
            or not self.parts.demand.unused(instance)
            or self.parts.preferences.exempt_from_idle_timeout(instance)
        ):
            return False
        self.parts.effects.wake_at(until)
        return now >= until

    # How they come ----------------------------------------------------------------------------------------------------

    def start_if_free(self, model: str, now: float, max_wait: float | None) -> None:
        """Note that it is next, and start it if everything that is left leaves room for it.

        `max_wait` is the bound on waiting in force, in seconds, which is published with a start.
        """
        spec = self.parts.state.specs[model]
        asleep = self.parts.state.instances.sleeper(model)
        devices = self.parts.state.place(model, asleep)
        free = devices is not None
        gone = (
            () if free else (*DRAINING_STATES, InstanceState.PARKING, InstanceState.RELEASING, InstanceState.UNPROVEN)
        )
        leaving = [h.name for h in self.parts.state.instances.values() if h.state in gone and not h.asleep]
        if not free and not leaving:
            return  # whoever is to make room has to begin its own turn first
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
            self.stop(asleep, now, "misplaced")  # its GPUs are others' now, and it can go to no other ones

    def add_replicas(self, now: float, max_wait: float | None) -> None:
        """Start more engines of models whose own are all full. Only where nobody else waits for a seat."""
        parts = self.parts
        wanted, later = parts.replicas.wanted(parts.state.specs, parts.state.instances, parts.demand.snapshots, now)
        parts.effects.wake_at(*later)
        for name, number in wanted:
            devices = parts.state.place(name)
            if devices is not None and parts.availability.cached(name):
                self._start(name, devices, now, max_wait, replica=number)

    def _record_switch(self, model: str, now: float, leaving: list[str]) -> None:
        """Note the switch, with who asked for it and since when."""
        waiting, oldest = self.parts.demand.waiting(model)
        order, wanted = self.parts.availability.load_requests.get(model), self.parts.demand.wanted(model)
        asked = (oldest if waiting else None, order.since if order else None, wanted)
        requested = min((since for since in asked if since is not None), default=now)
        if waiting or wanted is not None:
            reason = "demand"
        else:
            reason = "ordered" if order else self.parts.preferences.reason(model, self.parts.state.specs[model], now)
        noted = self.parts.history.decided(model, now, requested, leaving=leaving, waiting=waiting, reason=reason)
        self.parts.effects.add(*noted)

    def _start(
        self, model: str, devices: tuple[str, ...], now: float, max_wait: float | None, *, replica: int = 1
    ) -> None:
        self.parts.availability.checks.pop(model, None)
        epoch, spec = self.parts.state.next_epoch, self.parts.state.specs[model]
        name = instance_id(self.parts.state.workspace, model, epoch)
        instance = Instance.begin(Trigger.STARTED, now, model=model, id=name, epoch=epoch, spec=spec)
        instance.devices, instance.replica = devices, replica
        self.parts.state.add(instance)
        self.parts.effects.add(Start(model, name, epoch, devices))
        self.parts.effects.wake_at(now + spec.start_timeout)
        self.parts.publish(now, max_wait)  # an epoch of its own: it is the instance's identity
