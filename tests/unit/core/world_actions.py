"""What may happen in a simulated world, each action a method that takes `pick` (see world.py)."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf

from hotseat.core.admission import messages as intake
from hotseat.core.admission.fair_queue import Sharing
from hotseat.core.admission.machine import AdmissionMachine
from hotseat.core.admission.messages import Limits
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    InstanceAdopted,
    InstanceFailed,
    InstanceMeasured,
    InstanceParked,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    InstanceUnproven,
    Observation,
    PromptsRestored,
    PromptsSaved,
    SleepFailed,
)
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler import messages as seats
from hotseat.core.scheduler.instance import Instance
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.memory_usage import raised
from hotseat.core.scheduler.messages import ConfigChanged, DemandReported, RouterLeft, SchedulingSpec, Tick
from tests.unit.core.world_checks import CheckedWorld
from tests.unit.core.world_state import (
    ALIVE,
    CAPACITIES,
    CLAIMS,
    GROUPINGS,
    MEMORIES,
    MODELS,
    TENANTS,
    WEIGHTS,
    Body,
    Pick,
    Request,
    Router,
)


def _terms(claim: Claim, pick: Pick) -> SchedulingSpec:
    """What an engine has to be restarted for."""
    park, memory = pick(2) == 0, MEMORIES[pick(len(MEMORIES))]
    weights = f"{pick(2)}"
    mark = f"{claim.gpus}/{claim.memory}/{park}/{memory}/{weights}"
    return SchedulingSpec(
        claim, fingerprint=mark, weights=weights, park=park, can_park=park or weights == "1", host_memory=memory
    )


class RandomActions(CheckedWorld):
    """Things that happen at random: to requests, the network, the runtime, documents, routers and the switcher."""

    # Actions: requests -----------------------------------------------------------------------------------------------

    def arrive(self, pick: Pick) -> None:
        if not self.routers:
            return
        name = sorted(self.routers)[pick(len(self.routers))]
        model = (*MODELS, "external", MODELS[0], MODELS[1])[pick(8)]
        patience = (None, None, None, 0.0, 1.0, 30.0)[pick(6)]
        stays = (*[None] * 9, 0.0, 5.0, inf)[pick(12)]
        priority, tenant = (0, 0, 5)[pick(3)], TENANTS[pick(5)]
        self.submit(name, model, priority=priority, tenant=tenant, patience=patience, keep_alive=stays)

    def refuse(self, pick: Pick) -> None:
        """A request comes that is not to be held: it is dispatched, queued where its model is full, or refused and its model wanted."""
        if not self.routers:
            return
        name = sorted(self.routers)[pick(len(self.routers))]
        machine, model = self.routers[name].machine, (*MODELS, "external")[pick(6)]
        request = self.submit(name, model, retry_after=(1.0, 30.0)[pick(2)])
        if request.end == "model_switching_in_progress":
            assert not request.held
            assert machine._retries.snapshot()[model] > self.now
            self._is_wanted(name, model)

    def crowd(self, pick: Pick) -> None:
        """Several come at once for a model that is ready, and the switcher hears of it when some have waited."""
        for name, router in sorted(self.routers.items()):
            ready = sorted({r.model for r in router.machine.residency.residents if r.state is InstanceState.READY})
            if ready:
                model = ready[pick(len(ready))]
                for _ in range(3):
                    self.submit(name, model)
                self.now += 1.1
                self._hand_over(router.machine.demand())
                return

    def submit(
        self,
        router: str,
        model: str,
        priority: int = 0,
        tenant: str = "",
        *,
        patience: float | None = None,
        retry_after: float | None = None,
        keep_alive: float | None = None,
    ) -> Request:
        self.count += 1
        request = self.requests[self.count] = Request(
            model, router, tenant=tenant, priority=priority, size=self.count % 7
        )
        deadline = None if patience is None else self.now + patience
        self.at(
            router,
            intake.RequestArrived(
                self.now,
                self.count,
                model,
                priority,
                tenant=tenant,
                deadline=deadline,
                size=request.size,
                retry_after=retry_after,
                keep_alive=keep_alive,
            ),
        )
        return request

    def _one(self, pick: Pick, waiting: bool) -> int | None:
        ids = [i for i, r in self.requests.items() if (r.instance is None) == waiting]
        return ids[pick(len(ids))] if ids else None

    def finish(self, pick: Pick) -> None:
        if (id_ := self._one(pick, waiting=False)) is not None:
            self.finish_one(id_)

    def leave(self, pick: Pick) -> None:
        if (id_ := self._one(pick, waiting=pick(4) > 0)) is not None:
            router, model = self.requests[id_].router, self.requests[id_].model
            self.end(id_, "left")
            self.at(router, intake.ClientDisconnected(self.now, id_))
            self.gone.append((router, model))

    def retry(self, pick: Pick) -> None:
        """A client that left asks again, the switcher having heard of its departure or not."""
        if pick(2):
            self.deliver_demand(pick)
        if self.gone:
            router, model = self.gone.pop(pick(len(self.gone)))
            self.now += (0.0, 0.1, 2.0)[pick(3)]
            if router in self.routers:
                self.submit(router, model)

    def expire(self, pick: Pick) -> None:
        if (id_ := self._one(pick, waiting=pick(8) > 0)) is not None:
            dispatched = self.requests[id_].instance is not None
            self.at(self.requests[id_].router, intake.WaitTimedOut(self.now, id_))
            assert (id_ in self.requests) == dispatched

    def divert(self, pick: Pick) -> None:
        """Another model answers a request that waits; its own stays wanted until it is there, or something speaks against it."""
        if (id_ := self._one(pick, waiting=pick(8) > 0)) is None:
            return
        request = self.requests[id_]
        if dispatched := request.instance is not None:
            self.changes_nothing(self.routers[request.router].machine, intake.ServedByFallback(self.now, id_))
        else:
            self.end(id_, "diverted")
            self.at(request.router, intake.ServedByFallback(self.now, id_))
            self._is_wanted(request.router, request.model)
        assert (id_ in self.requests) == dispatched

    def want(self, pick: Pick) -> None:
        """A fallback shall come that no request waits for."""
        if self.routers:
            name = sorted(self.routers)[pick(len(self.routers))]
            model = (*MODELS, "external", "unheard-of")[pick(7)]
            self.at(name, intake.PrewarmRequested(self.now, model))
            self._is_wanted(name, model)

    # Actions: the network --------------------------------------------------------------------------------------------

    def deliver_demand(self, pick: Pick) -> None:
        if self.mail:
            self._hand_over(self.mail.pop(pick(len(self.mail)) if pick(3) == 0 else 0))

    def _hand_over(self, demand: Demand) -> None:
        self.old_mail.append(demand)
        self.tell(DemandReported(self.now, demand))

    def lose_demand(self, pick: Pick) -> None:
        if self.mail:
            self.mail.pop(pick(len(self.mail)))

    def sign_of_life(self, _: Pick) -> None:
        for router in self.routers.values():
            self.mail.append(router.machine.demand())

    def repeat_demand(self, pick: Pick) -> None:
        if self.old_mail:
            self.changes_nothing(self.switching, DemandReported(self.now, self.old_mail[pick(len(self.old_mail))]))

    def deliver_residency(self, pick: Pick) -> None:
        waiting = [n for n, r in sorted(self.routers.items()) if r.inbox]
        if waiting:
            self._take_in(waiting[pick(len(waiting))], skip=pick(4) == 0)

    def _take_in(self, name: str, *, skip: bool = False) -> None:
        inbox = self.routers[name].inbox
        while skip and len(inbox) > 1:
            inbox.popleft()
        residency = inbox.popleft()
        router = self.routers[name]
        if residency.epoch > router.machine.residency.epoch:
            quiescing = [r.instance for r in residency.residents if r.state is InstanceState.QUIESCING]
            router.batches = {instance: router.batches.get(instance, self.count) for instance in quiescing}
        self.at(name, intake.ResidencySeen(self.now, residency))

    def repeat_residency(self, pick: Pick) -> None:
        if not self.routers or not self.old_news:
            return
        machine = self.routers[sorted(self.routers)[pick(len(self.routers))]].machine
        old = [r for r in self.old_news if r.epoch <= machine.residency.epoch]
        if old:
            self.changes_nothing(machine, intake.ResidencySeen(self.now, old[pick(len(old))]))

    # Actions: the runtime --------------------------------------------------------------------------------------------

    def become_ready(self, pick: Pick) -> None:
        bodies = [b for b in self._bodies("loading") if not b.told]
        if bodies:
            self._ready(bodies[pick(len(bodies))])
            self._maybe_tell(pick)

    def _ready(self, body: Body) -> None:
        body.state = "ready"
        body.sleeps = False
        prompts = 10 if body.model in self.kept else 0
        body.news.append(InstanceReady(self.now, body.instance, body.epoch, body.address, body.turn, prompts))

    def turn(self, pick: Pick) -> None:
        """What was told to sleep, to wake, to save or to restore does so, or does not."""
        bodies = [b for b in self._bodies("parking", "waking", "saving", "restoring") if not b.told]
        if bodies:
            body = bodies[pick(len(bodies))]
            if body.state in ("saving", "restoring"):
                self._moved(body)
            elif pick(4) == 0:
                body.state = "ready"
                body.news.append(SleepFailed(self.now, body.instance, body.epoch, body.turn, "it was told to fail"))
            else:
                self._turned(body, (0, 3, 8, None)[pick(4)])
            self._maybe_tell(pick)

    def _moved(self, body: Body) -> None:
        """It has saved or restored its prompts."""
        done = PromptsSaved if body.state == "saving" else PromptsRestored
        if body.state == "saving":
            self.kept.add(body.model)
        body.state = "ready"
        body.news.append(done(self.now, body.instance, body.epoch, 1, 10))

    def _turned(self, body: Body, memory: int | None) -> None:
        if body.state == "waking":
            self._ready(body)
        else:
            body.state, body.asleep = "parked", True
            body.news.append(InstanceParked(self.now, body.instance, body.epoch, body.turn, memory))

    def measure(self, pick: Pick) -> None:
        """A ready engine is seen to take some memory, maybe more than it claims."""
        bodies = [b for b in self._bodies("ready") if b.claim.memory]
        if bodies:
            body = bodies[pick(len(bodies))]
            memory = body.claim.memory + (-1, 0, 1, 3)[pick(4)]
            if body.instance in self.switching.instances and memory > body.claim.memory:
                self.before_change = set(self.bodies)
                body.claim = raised(body.claim, memory, self.capacity)
                self.grown[body.model] = max(memory, self.grown.get(body.model, 0))
            self.tell(InstanceMeasured(self.now, body.instance, body.epoch, memory))

    def fail(self, pick: Pick) -> None:
        """An engine ends by itself, while loading or later."""
        bodies = [b for b in self._bodies(*ALIVE) if not b.told]
        if bodies:
            body = bodies[pick(len(bodies))]
            body.state = "dead"
            if pick(4):
                body.news.append(InstanceFailed(self.now, body.instance, body.epoch, "Exited", "exit code 1"))
            if pick(2):
                self._gone(body)
            self._maybe_tell(pick)

    def hang(self, pick: Pick) -> None:
        """An engine that was ready answers no longer: it is given up while its processes live, whatever it was told meanwhile."""
        bodies = [b for b in self._bodies("ready", "parking", "saving", "restoring") if not b.told and not b.news]
        if bodies:
            body = bodies[pick(len(bodies))]
            body.forced = True
            body.news.append(
                InstanceFailed(self.now, body.instance, body.epoch, "Unhealthy", "it does not answer", lives=True)
            )
            self._maybe_tell(pick)

    def release(self, pick: Pick) -> None:
        """What was told to stop, or is dead, is proven gone, or cannot be."""
        bodies = [b for b in self.bodies.values() if b.state == "dead" or (b.told and b.state in ALIVE)]
        if bodies:
            body = bodies[pick(len(bodies))]
            if pick(5):
                self._gone(body)
            else:
                body.state = "stuck"
                body.news.append(InstanceUnproven(self.now, body.instance, body.epoch, "it does not go"))
            self._maybe_tell(pick)

    def settle(self, pick: Pick) -> None:
        """A person has settled what could not be proven."""
        if bodies := self._bodies("stuck"):
            self._gone(bodies[pick(len(bodies))])
            self._maybe_tell(pick)

    def _gone(self, body: Body) -> None:
        body.state = "gone"
        body.news.append(InstanceReleased(self.now, body.instance, body.epoch))

    def _maybe_tell(self, pick: Pick) -> None:
        if pick(4):
            self.observe(pick)

    def observe(self, pick: Pick) -> None:
        bodies = [b for b in self.bodies.values() if b.news]
        if bodies:
            self._tell_news(bodies[pick(len(bodies))])

    def _tell_news(self, body: Body) -> None:
        news = replace(body.news.popleft(), now=self.now)
        body.told_news.append(news)
        if isinstance(news, InstanceParked) and news.memory is not None:
            body.measured = news.memory
        self.tell(news)

    def repeat_observation(self, pick: Pick) -> None:
        """What was told already, of instances that are there or long gone."""
        told = [o for b in self.bodies.values() for o in b.told_news]
        if told:
            self.changes_nothing(self.switching, replace(told[pick(len(told))], now=self.now))

    def stale_observation(self, pick: Pick) -> None:
        """About an instance that is there, but of another epoch."""
        if instances := list(self.switching.instances.values()):
            instance = instances[pick(len(instances))]
            if instance.turn and pick(2):
                self.stale_turn(instance, pick)
                return
            epoch = instance.epoch + (-1, 1)[pick(2)]
            kinds: tuple[Observation, ...] = (
                InstanceReady(self.now, instance.id, epoch, "http://stale"),
                InstanceFailed(self.now, instance.id, epoch, "Exited", ""),
                InstanceReleased(self.now, instance.id, epoch),
                InstanceUnproven(self.now, instance.id, epoch, ""),
                InstanceParked(self.now, instance.id, epoch, instance.turn),
                SleepFailed(self.now, instance.id, epoch, instance.turn, ""),
                InstanceAdopted(self.now, instance.model, instance.id, epoch, "http://stale"),
                InstanceMeasured(self.now, instance.id, epoch, 10**12),
            )
            self.changes_nothing(self.switching, kinds[pick(len(kinds))])

    def stale_turn(self, instance: Instance, pick: Pick) -> None:
        """About an order to sleep or to wake that is not the last one."""
        turn = instance.turn + (-1, 1)[pick(2)]
        kinds: tuple[Observation, ...] = (
            InstanceReady(self.now, instance.id, instance.epoch, "http://stale", turn),
            InstanceParked(self.now, instance.id, instance.epoch, turn),
            SleepFailed(self.now, instance.id, instance.epoch, turn, ""),
        )
        self.changes_nothing(self.switching, kinds[pick(len(kinds))])

    def fetch(self, pick: Pick) -> None:
        if self.fetching:
            model = sorted(self.fetching)[pick(len(self.fetching))]
            self._fetched(
                model, (CacheState.CACHED, CacheState.CACHED, CacheState.FETCHING, CacheState.FAILED)[pick(4)]
            )

    def _fetched(self, model: str, state: CacheState) -> None:
        if state is not CacheState.FETCHING:
            self.fetching.discard(model)
        self.cached[model] = state
        self.tell(CacheObserved(self.now, model, state, "the disk is full" if state is CacheState.FAILED else ""))

    # Actions: people -------------------------------------------------------------------------------------------------

    def order_load(self, pick: Pick) -> None:
        self.tell(seats.LoadOrdered(self.now, (*MODELS, "external", "unheard-of")[pick(7)]))

    def order_fetch(self, pick: Pick) -> None:
        self.tell(seats.FetchOrdered(self.now, (*MODELS, "external", "unheard-of")[pick(7)]))

    def order_unload(self, pick: Pick) -> None:
        self.tell(seats.UnloadOrdered(self.now, (*MODELS, "external", "unheard-of")[pick(7)]))

    def order_park(self, pick: Pick) -> None:
        model = (*MODELS, "external", "unheard-of")[pick(7)]
        self.park_orders.add(model)
        self.tell(seats.ParkOrdered(self.now, model))

    def order_pin(self, pick: Pick) -> None:
        model = (*MODELS, "external", "unheard-of")[pick(7)]
        self.tell(seats.PinOrdered(self.now, model))
        # It is not, where it could never be loaded beside those that are; its schedule may pin it all the same.
        if (
            model in self.switching.parts.preferences.pinned
            and model in self.switching.parts.preferences._pins | self._pinned_by_documents
        ):
            if not self.terms[model].pinned:
                self.pins.add(model)
            self.unpins.discard(model)

    def order_unpin(self, pick: Pick) -> None:
        self._unpin((*MODELS, "external", "unheard-of")[pick(7)])

    def _unpin(self, model: str) -> None:
        self.pins.discard(model)
        if self.pinned(model):
            self.unpins.add(model)
        self.tell(seats.UnpinOrdered(self.now, model))
        assert model not in self.switching.parts.preferences.pinned

    def open_window(self, pick: Pick) -> None:
        """A window of a schedule opens or closes, or an annotation comes or goes."""
        name = MODELS[pick(len(MODELS))]
        if name in self.terms:
            kind = pick(6)
            preferences = {"wanted": kind in (1, 2, 3), "kept": kind == 2, "pinned": kind == 4}
            self._tell_terms({**self.terms, name: replace(self.terms[name], **preferences)})

    def _tell_terms(self, terms: Mapping[str, SchedulingSpec]) -> None:
        self.terms = dict(terms)
        self._follow_terms()
        self.tell(ConfigChanged(self.now, self.terms, self.capacity, self.groups))

    def _follow_terms(self) -> None:
        self.pins = {m for m in self.pins if m in self.terms and not self.terms[m].pinned}
        self.unpins = {m for m in self.unpins if m in self.terms and (self.terms[m].pinned or self.terms[m].kept)}

    def change(self, pick: Pick) -> None:
        """Somebody edits a document."""
        terms, limits, capacity = dict(self.terms), dict(self.limits), self.capacity
        self.most, self.most_of_tenant = (40, 40, 40, 6)[pick(4)], (None, None, None, 4)[pick(4)]
        self.most_bytes = None if self.most == 40 else 12
        self.ageing = (0.0, 1.0, 30.0)[pick(3)]
        kind = pick(9)
        name = MODELS[pick(len(MODELS))]
        if kind == 0:
            terms.pop(name, None)
        elif kind == 1:
            capacity = CAPACITIES[pick(len(CAPACITIES))]
        elif kind == 8:
            self.groups = GROUPINGS[pick(len(GROUPINGS))]
        else:
            if kind == 2 or name not in terms:
                claim = CLAIMS[pick(len(CLAIMS))]
                terms[name] = replace(_terms(claim, pick), preload=pick(4) == 0)
            terms[name] = replace(
                terms[name],
                priority=(0, 0, 5)[pick(3)],
                max_wait=(30.0, 3.0, 0.0)[pick(3)],
                min_residency=(0.0, 0.0, 3.3)[pick(3)],
                idle_timeout=(0.0, 0.0, 7.1)[pick(3)],
                drain_timeout=(20.3, 2.0, 0.0)[pick(3)],
                start_timeout=20.0,
                return_after=(0.0, 0.0, 0.0, 4.3)[pick(4)],
                replicas=(1, 1, 2, 3)[pick(4)],
                stop_timeout=(10.0, 1.0)[pick(2)],
            )
            limits[name] = Limits((0, 1, 1, 2)[pick(4)], (None, None, 2)[pick(3)])
        self.apply(terms, limits, capacity, cache_first=pick(2) == 0)

    def apply(
        self,
        terms: Mapping[str, SchedulingSpec],
        limits: Mapping[str, Limits],
        capacity: Capacity,
        *,
        cache_first: bool,
    ) -> None:
        old = self.terms
        changed = [n for n, t in terms.items() if n not in old or old[n].fingerprint != t.fingerprint]
        if capacity != self.capacity:
            self.before_change = {b.instance for b in self.bodies.values()}
        self.terms, self.limits, self.capacity = dict(terms), dict(limits), capacity
        self._follow_terms()
        for name in {*changed, *(old.keys() - terms.keys())}:
            self.grown.pop(name, None)
        self.fetching &= self.terms.keys()
        if cache_first:
            self._tell_cache(changed)
        self.tell(ConfigChanged(self.now, self.terms, capacity, self.groups))
        if not cache_first:
            self._tell_cache(changed)
        self._tell_limits()

    def _tell_limits(self) -> None:
        self.sharers = len(self.routers)
        for name in self.routers:
            self.at(name, self._limits())

    def _limits(self) -> intake.LimitsChanged:
        return intake.LimitsChanged(
            self.now,
            {n: self.limits.get(n, Limits()) for n in self.terms},
            max_waiting=self.most,
            max_waiting_per_tenant=self.most_of_tenant,
            max_waiting_bytes=self.most_bytes,
            sharing=Sharing(self.ageing, WEIGHTS),
            routers=self.sharers,
        )

    def _tell_cache(self, models: list[str]) -> None:
        for model in models:
            if model != "external":
                self.fetching.discard(model)
                self.cached[model] = CacheState.CACHED if model != "e" else CacheState.ABSENT
                self.tell(CacheObserved(self.now, model, self.cached[model]))

    # Actions: time, and what comes and goes --------------------------------------------------------------------------

    def tick(self, pick: Pick) -> None:
        wake = self.switching.wake_at
        self.now = wake if wake is not None and pick(3) else self.now + (0.01, 0.5, 3.0, 31.0)[pick(4)]
        self.tell(Tick(self.now))

    def calm(self, _: Pick) -> None:
        """For a while all goes as it should, so that there is something to disturb."""
        if self.routers:
            self.sign_of_life(lambda _: 0)
            self.run_fairly(3.0)

    def join(self, _: Pick) -> None:
        """A router comes: it is enrolled before it hears who holds the accelerator."""
        if len(self.routers) < 3 and not self.down:
            name = f"r{len(self.routers) + len(self.left) + len(self.crashed)}"
            router = self.routers[name] = Router(AdmissionMachine(name))
            self._tell_limits()
            self._hand_over(router.machine.demand())
            if self.old_news:
                router.inbox.append(self.switching.residency)

    def part(self, pick: Pick) -> None:
        """A router goes: in good order, or not."""
        if len(self.routers) < 2:
            return
        name = sorted(self.routers)[pick(len(self.routers))]
        if pick(2):
            self.at(name, intake.RouterClosed(self.now))
            for id_ in [i for i, r in self.requests.items() if r.router == name]:
                self.finish_one(id_)
            self._say_goodbye(name)
        else:
            self.crashed.append(name)
            for id_ in [i for i, r in self.requests.items() if r.router == name]:
                self.end(id_, "lost with its router")
            del self.routers[name]

    def miss(self, pick: Pick) -> None:
        """Somebody notices that a router is gone."""
        if self.crashed:
            self._say_goodbye(self.crashed.pop(pick(len(self.crashed))))

    def _say_goodbye(self, name: str) -> None:
        self.routers.pop(name, None)
        self.left.add(name)
        self.tell(RouterLeft(self.now, name))

    def restart_switcher(self, _: Pick) -> None:
        """Another switcher takes over: it knows the epoch and the routers, and adopts what runs as the documents say."""
        described = {(name, terms.fingerprint) for name, terms in self.terms.items()}
        asleep = any(b.sleeps for b in self.bodies.values() if b.state != "gone")  # no home of those adopts anything
        if self.down or asleep or any((b.model, b.fingerprint) not in described for b in self._bodies("stuck")):
            return  # adoption goes by the documents; what a changed one occupies, or a sleeper does not, it would not know
        self.switching = Scheduler("w", Batch(), epoch=self.switching.epoch)
        self.pins, self.unpins = set(), set()  # what it is not told again
        self.fetching.clear()
        self.grown.clear()  # it is not remembered
        for name in list(self.crashed):
            self.crashed.remove(name)
            self.left.add(name)
        self.mail = [d for d in self.mail if d.router in self.routers]
        self.old_mail.clear()
        for router in self.routers.values():
            self._hand_over(router.machine.demand())
        for body in self.bodies.values():
            body.told_news.clear()
            body.news.clear()
        self.tell(ConfigChanged(self.now, self.terms, self.capacity, self.groups))
        for body in self._bodies("parking", "parked", "waking", "saving", "restoring"):
            body.state, body.forced = "gone", True  # no runtime adopts them
        for body in self._bodies("loading", "ready", "dead", "stuck"):
            self._adopt(body, described=(body.model, body.fingerprint) in described)
        for model, state in self.cached.items():
            if model in self.terms:
                self.cached[model] = CacheState.ABSENT if state is CacheState.FETCHING else state
                self.tell(CacheObserved(self.now, model, self.cached[model]))

    def _adopt(self, body: Body, *, described: bool) -> None:
        if not described:
            body.state, body.forced = "gone", True  # a runtime adopts nothing that no document describes
            return
        body.claim = self.terms[body.model].claim  # what it has grown to will be seen again
        address = body.address if body.state == "ready" and not body.told else None
        body.forced |= body.state in ("dead", "stuck")  # routers may not know yet
        body.told = False  # it is told again, if need be
        body.turn, body.sleeps, body.asleep = 0, False, False
        self.drain_since.pop(body.instance, None)
        if body.state == "stuck":
            body.news.append(InstanceUnproven(self.now, body.instance, body.epoch, "it does not go"))
        elif address is None:
            body.state = "loading"
        self.tell(InstanceAdopted(self.now, body.model, body.instance, body.epoch, address, devices=body.devices))

    def shut_down(self, _: Pick) -> None:
        if not self.down:
            self.down = True
            for name in self.routers:
                self.at(name, intake.RouterClosed(self.now))
            self.tell(seats.ShutdownOrdered(self.now))
