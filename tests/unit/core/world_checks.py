"""A simulated world that does what the machines command, and holds each command against what is really there (see world.py)."""

import pickle
from collections.abc import Mapping
from math import ceil

from hotseat.core.admission import messages as intake
from hotseat.core.admission.machine import AdmissionMachine
from hotseat.core.admission.messages import AbortRequest, Dispatch, Limits, Queued, Reject, ReportDemand
from hotseat.core.events import EVENT_TYPES, Emit
from hotseat.core.messages import (
    CacheState,
    Fetch,
    InstanceReleased,
    InstanceState,
    LimitPrompts,
    Park,
    Residency,
    RestorePrompts,
    SavePrompts,
    Start,
    Stop,
    WaitReason,
    Wake,
)
from hotseat.core.policy.api import NOTHING
from hotseat.core.scheduler import messages as seats
from hotseat.core.scheduler.instance import DRAINING_STATES
from hotseat.core.scheduler.lifecycle import ROUTER_SYNC_TIMEOUT
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import Publish, Tick
from hotseat.core.scheduler.prompts import deadline
from tests.unit.core.world_state import (
    EXTERNAL,
    MODELS,
    TENANTS,
    WEIGHTS,
    Body,
    Request,
    WorldState,
    fit_together,
    with_stories,
)


class CheckedWorld(WorldState):
    """Sends stimuli to the machines, and asserts that what they command is right."""

    # The machines ----------------------------------------------------------------------------------------------------

    @with_stories
    def tell(self, stimulus: seats.SchedulerStimulus) -> None:  # noqa: C901 — one arm a command
        """Let the switcher hear something and do what it says."""
        before = {h.id: h.state for h in self.switching.instances.values()}
        commands = self.switching.step(stimulus)
        self.hold_against_preferences(before)
        self.hold_waits_against_instances(stimulus.now)
        for command in commands:
            match command:
                case Start():
                    self.start(command)
                case Stop():
                    self.stop(command)
                case Park():
                    self.park(command)
                case Wake():
                    self.wake(command)
                case SavePrompts():
                    self.save(command)
                case RestorePrompts():
                    self.restore(command)
                case LimitPrompts():
                    self.prompt_limit = command.size
                case Fetch(model):
                    assert model in self.terms
                    self.fetching.add(model)
                case Publish(residency):
                    self.publish(residency)
                case Emit(kind, _, data):
                    assert kind in EVENT_TYPES
                    assert set(data) == set(EVENT_TYPES[kind].data), (kind, data)
                    self.outgrown += kind == "model.outgrown"
                    self.late_prompts += kind == "model.prompts_dropped" and data["reason"].endswith("Timeout")
        late = [h for h in self.switching.instances.values() if (deadline(h) or self.now + 1) <= self.now]
        assert not late, f"{late} should not save or restore any longer"
        assert self.switching.wake_at is None or self.switching.wake_at > self.now

    def hold_waits_against_instances(self, now: float) -> None:
        """Every model with queued requests has a reason to wait, which is true of its instances and those of others."""
        queue = self.switching.queue()
        waits = self.switching.wait_report(queue).waits()
        assert {model for model, (waiting, _, _) in queue.items() if waiting} <= waits.keys()
        for model, wait in waits.items():
            states = {h.state for h in self.switching.instances.of(model)}
            others = {h.state for h in self.switching.instances.values() if h.model != model}
            assert wait.message
            assert wait.expected is None or wait.expected >= now, wait
            assert model not in wait.behind or wait.reason is WaitReason.UNPROVEN, (model, wait)
            match wait.reason:
                case WaitReason.LOADING:
                    assert states & {InstanceState.LOADING, InstanceState.RESTORING}, (model, wait)
                case WaitReason.WAKING:
                    assert InstanceState.WAKING in states, (model, wait)
                case WaitReason.DRAINING:
                    assert others & {InstanceState.READY, *DRAINING_STATES}, (model, wait)
                case WaitReason.RELEASING:
                    assert (states | others) - {InstanceState.READY, InstanceState.PARKED}, (model, wait)
                case WaitReason.CONCURRENCY:
                    assert InstanceState.READY in states or self.terms[model].external, (model, wait)
                case WaitReason.UNPROVEN:
                    assert InstanceState.UNPROVEN in states | others, (model, wait)

    def hold_against_preferences(self, before: Mapping[str, InstanceState]) -> None:
        """Where nobody waits for a seat, who makes room does so for a wish: nobody may be using it."""
        machine, queue = self.switching, self.switching.queue()
        roomy = self.roomy()
        asleep = (InstanceState.PARKING, InstanceState.PARKED)
        seated = {h.model for h in machine.instances.values() if h.can_stay and h.state not in asleep}
        wanted = {model for model in machine.parts.state.specs if machine.parts.demand.wanted(model) is not None}
        asked = {*queue, *machine.parts.availability.load_requests, *wanted} - seated
        for instance in machine.instances.values():
            if (
                instance.state is InstanceState.QUIESCING
                and before.get(instance.id) is InstanceState.READY
                and not instance.leaving
                and not instance.park_ordered
            ):
                assert not self.pinned(instance.model) or not roomy, f"{instance} is pinned"
                if not asked and roomy:
                    self.left_for_preferences += instance.model not in self.idle_ones
                    assert instance.model not in queue, f"{instance} makes room for a wish, and is used: {queue}"

    def start(self, order: Start) -> None:
        terms = self.terms[order.model]
        assert terms.external is None
        assert not self.down
        assert self.cached[order.model] is CacheState.CACHED
        left = [b for b in self.bodies.values() if b.state != "gone"]
        if mates := [b for b in left if b.model == order.model]:
            assert len(mates) < terms.replicas, f"{order} beside {mates}"
            busy = ("loading", "stuck", "parking", "parked", "waking", "saving", "restoring")
            heard = [b for b in mates if not b.news]  # what is on its way to the switcher it cannot go by
            assert not [b for b in heard if b.told or b.state in busy], f"{order} beside {mates}"
            assert not self.hungry(), f"{order} while {self.hungry()} wait for a seat"
            assert not [b for b in left if b.told], f"{order} while others make room"
            self.replicas += 1
        assert order.instance not in self.bodies
        known = self.switching.parts.state.specs[order.model]  # it may not have heard of a new document yet
        claim = self.claim(order.model) if known.fingerprint == terms.fingerprint else known.claim
        body = Body(
            order.model,
            order.instance,
            order.epoch,
            claim,
            fingerprint=terms.fingerprint,
            devices=order.devices,
            stated=terms.host_memory,
        )
        self.assert_fits(body)
        self.bodies[order.instance] = body
        self.starts += 1

    def assert_fits(self, body: Body) -> None:
        """Before it takes up its place: there is room for it, on its devices where there are some."""
        awake = {b.model for b in self.bodies.values() if b.state != "gone" and not b.asleep and b.model != body.model}
        unwanted = self.unwanted(awake, body.model)
        assert not unwanted, f"{body} beside {unwanted}, which must leave for it"
        left = [b for b in self.bodies.values() if b.held != NOTHING and b is not body]
        claim, devices = body.claim, body.devices
        if claim.gpus and self.capacity.devices:
            # Elsewhere there may be too many for a capacity that has shrunk.
            assert not [b for b in left if b.claim.gpus and not b.devices], f"{body} beside one that may be anywhere"
            here = [b for b in left if {*b.devices} & {*devices}]
            taken = {
                device: sum(b.share(self.capacity) for b in [*here, body] if device in b.devices) for device in devices
            }
            assert len(taken) == claim.gpus, body
            assert taken.keys() <= {*self.capacity.devices}, body
            assert max(taken.values()) <= self.capacity.each, f"{body} does not fit beside {here}"
        else:
            held = sum((b.claim for b in left), NOTHING)
            assert claim.fits_beside(held, self.capacity), f"{body} does not fit beside {left}"

    def park(self, order: Park) -> None:
        body = self._told_to_turn(order)
        assert self.terms[order.model].park or self.terms[order.model].can_park
        if self.pinned(order.model) and order.model not in self.park_orders:
            assert not self.roomy(), f"{order} for another, and it is pinned"
        self.park_orders.discard(order.model)
        self._assert_drained(order)
        self.drain_since.pop(order.instance, None)
        body.sleeps = True
        held = sum(b.memory for b in self.bodies.values())
        budget = self.capacity.host_memory
        assert budget is None or held <= budget, f"{order}: {held} bytes of host memory, of {budget}"
        if body.state == "ready":
            body.state = "parking"
        self.parks += 1

    def wake(self, order: Wake) -> None:
        body = self._told_to_turn(order)
        assert body.state not in ("loading", "ready", "parking", "waking")
        if body.state == "parked":
            self.assert_fits(body)
            body.state, body.asleep = "waking", False
        self.before_change.discard(body.instance)
        self.wakes += 1

    def save(self, order: SavePrompts) -> None:
        body = self._told_of_prompts(order)
        self._assert_drained(order)
        if body.state == "ready":
            body.state = "saving"
        self.saves += 1

    def restore(self, order: RestorePrompts) -> None:
        body = self._told_of_prompts(order)
        assert order.model in self.kept
        assert not [r for r in self.requests.values() if r.instance == order.instance], "it has requests already"
        if body.state == "ready":
            body.state = "restoring"
        self.restores += 1

    def _told_of_prompts(self, order: SavePrompts | RestorePrompts) -> Body:
        body = self.bodies[order.instance]
        assert (body.model, body.epoch) == (order.model, order.epoch)
        assert not body.told
        assert order.timeout == self.switching.instances[order.instance].spec.prompt_timeout > 0
        assert self.prompt_limit > 0
        return body

    def _told_to_turn(self, order: Park | Wake) -> Body:
        body = self.bodies[order.instance]
        assert (body.model, body.epoch, body.turn + 1) == (order.model, order.epoch, order.turn)
        assert not body.told
        assert not self.down
        body.turn = order.turn
        return body

    def _assert_drained(self, order: Stop | Park | SavePrompts) -> None:
        busy = {n: r.machine.in_flight(order.instance) for n, r in self.routers.items()}
        assert not any(busy.values()), f"{order} while in flight: {busy}"
        owed = [i for i, r in self.requests.items() if r.instance is None and i <= self._batch(r, order.instance)]
        assert not [i for i in owed if self.requests[i].model == order.model], f"{order} still owes {owed}"

    def check_persistence(self, body: Body) -> None:
        """A model of a persistent group makes room for its own group at most, unless the capacity has shrunk; its replicas, for any."""
        home = next((g for g in self.groups.groups if g.persistent and body.model in g.members), None)
        instance = self.switching.instances[body.instance]
        if home and instance.leaving == "evicted" and instance.replica == 1 and body.instance not in self.before_change:
            machine = self.switching
            parts = machine.parts
            asked = {m for m in home.members if parts.demand.waiting(m)[0] or parts.demand.wanted(m) is not None}
            asked |= parts.availability.load_requests.keys()
            asked |= {m for m in home.members if parts.demand.abandonment.retries(m, self.now)[0]}
            asked |= {m for m, spec in parts.state.specs.items() if parts.preferences.preference_of(m, spec, self.now)}
            assert asked & home.members - {body.model}, f"{body} has left for another group"

    def stop(self, order: Stop) -> None:
        body = self.bodies[order.instance]
        assert (body.model, body.epoch) == (order.model, order.epoch)
        assert not body.told, "told to stop twice"
        self.check_persistence(body)
        body.told = True
        instance = self.switching.instances[order.instance]
        if self.pinned(order.model) and instance.replica == 1 and instance.leaving in ("evicted", "idle"):
            assert not self.roomy(), f"{order} for another, and it is pinned"
        terms = self.switching.instances[order.instance].spec
        gentle = (
            self.switching.instances[order.instance].leaving == "idle"
            or order.model in self.switching.decision.evicted_for_preference
        )
        drain = max(terms.drain_timeout, ROUTER_SYNC_TIMEOUT) if gentle else terms.drain_timeout
        deadline = self.drain_since.get(order.instance, self.now) + drain
        body.forced = body.forced or self.now >= deadline
        if not body.forced:
            self._assert_drained(order)
        if body.state == "gone" and not body.news:
            body.news.append(InstanceReleased(self.now, body.instance, body.epoch))

    def publish(self, residency: Residency) -> None:
        assert not self.old_news or residency.epoch > self.old_news[-1].epoch
        self.old_news.append(residency)
        for resident in residency.residents:
            if resident.state in (InstanceState.QUIESCING, InstanceState.DRAINING):  # which may come at once
                self.drain_since.setdefault(resident.instance, self.now)
            elif resident.state is InstanceState.READY:
                self.drain_since.pop(resident.instance, None)
        for router in self.routers.values():
            router.inbox.append(residency)

    @with_stories
    def at(self, name: str, stimulus: intake.AdmissionStimulus) -> None:
        """Let a router hear something and do what it says."""
        cut: list[int] = []
        for command in self.routers[name].machine.step(stimulus):
            match command:
                case Dispatch():
                    self.dispatch(command)
                case Queued(id_):
                    assert self.requests[id_].instance is None
                    assert self.requests[id_].end is None
                    self.requests[id_].held = True
                    self.check_quotas(name, self.requests[id_])
                case Reject(id_, _, code):
                    assert self.requests[id_].instance is None, "rejected after its dispatch"
                    self.end(id_, code)
                case AbortRequest(id_):
                    request = self.requests[id_]
                    assert request.instance is not None
                    assert not request.cut
                    request.cut = True
                    cut.append(id_)
                case ReportDemand():
                    self.mail.append(self.routers[name].machine.demand())
        for id_ in cut:
            self.finish_one(id_)

    def dispatch(self, command: Dispatch) -> None:
        request = self.requests[command.request]
        assert request.end is None
        assert request.instance is None, "dispatched twice"
        if request.held:
            self.check_turn(command.request, command.instance)
        request.instance = command.instance
        request.served = True
        if command.address == EXTERNAL.external:
            return
        body = self.bodies[command.instance]
        assert body.model == request.model
        assert body.address == command.address
        batches = self.routers[request.router].batches
        assert command.request <= batches.get(body.instance, command.request), "it came after the instance quiesced"
        if body.forced:
            return  # it was stopped after its deadline, and this router cannot have heard of it
        # One that is dead is fair as long as the news of it has not come round.
        assert body.state in ("ready", "restoring", "dead", "stuck", "gone"), f"dispatched to {body}"
        assert not body.told, f"dispatched to {body}, which was told to stop"
        known = self.switching.instances.get(body.instance)
        unaware = known is not None and self.routers[request.router].machine.residency.epoch < known.drain_epoch
        if known is not None and known.state is InstanceState.DRAINING and unaware:
            return  # it drains without quiescing before; it is not stopped before this router has seen that
        unready = (InstanceState.LOADING, InstanceState.RESTORING, InstanceState.DRAINING, InstanceState.SAVING)
        if known is not None and known.state in unready:
            raise AssertionError(f"dispatched to an instance that is {known.state}")

    def check_turn(self, id_: int, instance: str) -> None:
        """No other tenant of this priority has been passed over for more than one round, as far as its requests may go there."""
        request, stride = self.requests[id_], {t: 1 / WEIGHTS.get(t, 1.0) for t in TENANTS}
        last = self.routers[request.router].batches.get(instance, self.count)
        heads: dict[str, Request] = {}
        for other_id, other in self.requests.items():
            same = (other.router, other.model, other.priority) == (request.router, request.model, request.priority)
            if same and other.held and other.instance is None and other_id <= last:
                heads.setdefault(other.tenant, other)
        assert heads[request.tenant] is request, "its tenant has an older one"
        for tenant, head in heads.items():
            if tenant != request.tenant:
                head.passed[request.tenant] += 1
                assert head.passed[request.tenant] <= ceil(stride[tenant] / stride[request.tenant]) + 1, (
                    f"{head} was passed over"
                )

    def check_quotas(self, router: str, request: Request) -> None:
        """None waits beyond what may."""
        mine = [r for r in self.requests.values() if r.router == router and r.held and r.instance is None]
        of_model = self.limits.get(request.model, Limits()).max_waiting
        for bound, held in (
            (self.most, len(mine)),
            (of_model, sum(r.model == request.model for r in mine)),
            (self.most_of_tenant, sum(r.tenant == request.tenant for r in mine)),
            (self.most_bytes, sum(r.size for r in mine) if len(mine) > 1 else 0),
        ):
            assert bound is None or held <= ceil(bound / self.sharers)
        assert self.most_bytes is None or request.size <= self.most_bytes, "also if it waits alone"

    def end(self, id_: int, how: str) -> None:
        request = self.requests.pop(id_)
        assert request.end is None
        request.end = how
        self.ended[how] = self.ended.get(how, 0) + 1

    def finish_one(self, id_: int) -> None:
        router = self.requests[id_].router
        self.end(id_, "finished")
        self.at(router, intake.RequestFinished(self.now, id_))

    # Invariants ------------------------------------------------------------------------------------------------------

    @with_stories
    def check(self) -> None:
        left = [b for b in self.bodies.values() if b.held != NOTHING]
        if not fit_together(left, self.capacity):
            # Only what was there before the capacity shrank or a model grew, and what asks for nothing of which there is
            # too little.
            late = [b for b in left if b.instance not in self.before_change]
            before = self._held(b for b in left if b.instance in self.before_change)
            for body in late:
                claim = body.claim.placed(body.devices, self.capacity)
                assert claim.fits_beside(before, self.capacity), f"{left} on {self.capacity}"
        for name, router in self.routers.items():
            mine = {i: r for i, r in self.requests.items() if r.router == name}
            assert router.machine._requests.keys() == mine.keys()
            assert router.machine.waiting() == sum(r.instance is None for r in mine.values())
            assert router.machine.waiting_bytes() == sum(r.size for r in mine.values() if r.instance is None)
            for instance in {r.instance for r in mine.values()} - {None}:
                assert router.machine.in_flight(instance) == sum(r.instance == instance for r in mine.values())
            for model in MODELS:
                places = [router.machine.position(i) for i, r in mine.items() if r.model == model and not r.instance]
                assert sorted(places) == list(range(1, len(places) + 1))
            waiting = router.machine.waiting_by_model()
            assert sum(w.count for w in waiting.values()) == sum(
                sum(w.tenants.values()) or w.count for w in waiting.values()
            )

    def changes_nothing(
        self, machine: Scheduler | AdmissionMachine, stimulus: seats.SchedulerStimulus | intake.AdmissionStimulus
    ) -> None:
        if machine is self.switching:
            for _ in range(3):  # one that loads may let another load beside it, and a third be told of that
                self.tell(Tick(self.now))
        before = pickle.dumps(machine)
        assert machine.step(stimulus) == []
        after = pickle.dumps(machine)
        assert after == before, f"{stimulus} has changed something"

    def _is_wanted(self, router: str, model: str) -> None:
        machine = self.routers[router].machine
        there = any(r.model == model and r.state is InstanceState.READY for r in machine.residency.residents)
        refusal = machine.residency.refusals.get(model)
        # A back-off after a crash is waited out.
        refused = refusal and (refusal.retry_at or 0.0) > self.now and not refusal.waits
        against = model not in self.terms or self.down or refused
        assert (model in machine._prewarm) == (not there and not against)
