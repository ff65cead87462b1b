"""A simulated world around the two machines: routers, a runtime with a will of its own, a network that loses and reorders.

What really is (`Body`: what occupies an accelerator; `Request`: what a client waits for) is kept here, apart from what the
machines believe, and every command of theirs is held against it. Each action is a method that takes `pick`, a source of
choices: Hypothesis drives it, and so can a plain random generator.
"""

import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from math import ceil
from typing import Any, TypeVar

from hotseat.core.admission import messages as intake
from hotseat.core.admission.fair_queue import Sharing
from hotseat.core.admission.machine import AdmissionMachine
from hotseat.core.admission.messages import AbortRequest, Dispatch, Limits, Queued, Reject, ReportDemand
from hotseat.core.events import EVENT_TYPES, Emit
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    Fetch,
    InstanceAdopted,
    InstanceFailed,
    InstanceMeasured,
    InstanceParked,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    InstanceUnproven,
    Observation,
    Park,
    Residency,
    SleepFailed,
    Start,
    Stop,
    Wake,
)
from hotseat.core.policy.api import NOTHING, Capacity, Claim
from hotseat.core.policy.batch import Batch
from hotseat.core.policy.groups import UNGROUPED, Group, Groups
from hotseat.core.scheduler import messages as seats
from hotseat.core.scheduler.instance import Instance, told
from hotseat.core.scheduler.lifecycle import ROUTER_SYNC_TIMEOUT
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.memory_usage import raised
from hotseat.core.scheduler.messages import ConfigChanged, DemandReported, Publish, RouterLeft, SchedulingSpec, Tick

Act = TypeVar("Act", bound=Callable[..., Any])
Pick = Callable[[int], int]  # pick(n): one of 0 .. n-1

MODELS = ("a", "b", "c", "d", "e")
# GPUs, and memory of them
CLAIMS = (Claim(1), Claim(1), Claim(1, 4), Claim(1, 7), Claim(2, 4), Claim(3, 9), Claim(0, 0), Claim(0, 3))
DEVICES = ("gpu-a", "gpu-b", "gpu-c")
CAPACITIES = (
    Capacity(1), Capacity(1), Capacity(2), Capacity(3), Capacity(2, memory=8), Capacity(3, memory=10),  # sums, as on a cluster
    Capacity(1, host_memory=10), Capacity(2, host_memory=4), Capacity(1, host_memory=0),
    Capacity(1, devices=DEVICES[:1], host_memory=10), Capacity(2, devices=DEVICES[1:]),
    Capacity(3, devices=DEVICES, host_memory=10), Capacity(1, memory=8, devices=DEVICES[:1]),
    Capacity(2, memory=14, devices=DEVICES[:2], host_memory=20), Capacity(3, memory=30, devices=DEVICES),
    Capacity(None), Capacity(None, host_memory=10),
)  # fmt: skip
MEMORIES = (None, None, 0, 3, 7, 12)  # bytes of host memory that a Model states; None: it is measured
ALIVE = ("loading", "ready", "parking", "parked", "waking")
TENANTS = ("", "", "x", "y", "z")
WEIGHTS = {"x": 3.0, "y": 0.5}
GROUPINGS = (
    UNGROUPED,
    UNGROUPED,
    UNGROUPED,
    Groups((Group("all", frozenset("abcde")),)),
    Groups((Group("one", frozenset("ab")), Group("two", frozenset("cd"), swap=False))),
    Groups((Group("one", frozenset("ab"), exclusive=False), Group("two", frozenset("cde"), persistent=True))),
    Groups(
        (Group("one", frozenset("abc"), swap=False), Group("two", frozenset("e"), exclusive=False, persistent=True))
    ),
    Groups(sets=(frozenset("ab"), frozenset("bc"), frozenset("ac"), frozenset("d"))),
    Groups(sets=(frozenset("abc"), frozenset("ade"))),
)
EXTERNAL = SchedulingSpec(external="http://outside", fingerprint="outside")


@dataclass
class Body:
    """What occupies an accelerator: a process tree, a pod."""

    model: str
    instance: str
    epoch: int
    claim: Claim
    fingerprint: str
    devices: tuple[str, ...] = ()
    state: str = "loading"  # one of ALIVE, dead (ended by itself, not yet reaped), stuck, gone
    told: bool = False  # to stop
    forced: bool = False  # to stop, after its drain deadline
    news: deque[Observation] = field(default_factory=deque)  # on their way to the switcher, in order
    told_news: list[Observation] = field(default_factory=list)  # those that arrived
    turn: int = 0
    asleep: bool = False  # off the accelerator
    sleeps: bool = False  # from the order to sleep until it serves again: its host memory counts
    stated: int | None = None  # of that memory
    measured: int = 0  # of it, as far as the switcher has been told

    @property
    def held(self) -> Claim:
        """What it occupies of the accelerator."""
        return NOTHING if self.asleep or self.state == "gone" else self.claim

    @property
    def memory(self) -> int:
        """Host memory that it holds as a sleeper."""
        if not self.sleeps or self.state == "gone":
            return 0
        return self.measured if self.stated is None else self.stated

    @property
    def address(self) -> str:
        return f"http://{self.instance}"

    def share(self, capacity: Capacity) -> int:
        """What it takes of each of its devices: a whole one where it claims no memory, or none is counted."""
        whole = not self.claim.memory or capacity.memory is None
        return capacity.each if whole else -(-self.claim.memory // self.claim.gpus)


@dataclass
class Request:
    model: str
    router: str
    instance: str | None = None
    end: str | None = None
    cut: bool = False
    served: bool = False
    held: bool = False
    tenant: str = ""
    priority: int = 0
    size: int = 0
    # By tenant: its turns while this request was the next one of its own tenant.
    passed: Counter[str] = field(default_factory=Counter)


@dataclass
class Router:
    machine: AdmissionMachine
    inbox: deque[Residency] = field(default_factory=deque)
    batches: dict[str, int] = field(
        default_factory=dict
    )  # by instance that it sees closing: the last request before that


def fit_together(bodies: list[Body], capacity: Capacity) -> bool:
    """Whether these may be there side by side, counted device by device where there are devices."""
    if capacity.memory is not None and sum(b.claim.memory for b in bodies) > capacity.memory:
        return False
    if not capacity.devices:
        return capacity.gpus is None or sum(b.claim.gpus for b in bodies) <= capacity.gpus
    if any(len(set(b.devices)) != b.claim.gpus for b in bodies):
        return False
    taken = {device: 0 for body in bodies for device in body.devices}
    for body in bodies:
        for device in body.devices:
            taken[device] += body.share(capacity)
    return all(device in capacity.devices and amount <= capacity.each for device, amount in taken.items())


def with_stories(act: Act) -> Act:
    """Have a failed assertion print how each instance came to its state."""

    @wraps(act)
    def told_of(world: "World", *args: Any, **options: Any) -> Any:
        try:
            return act(world, *args, **options)
        except AssertionError as error:
            note = "\n".join(["The last transitions of each instance:", *world.stories()])
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise

    return told_of


class World:
    """One Workspace."""

    def __init__(self) -> None:
        self.now = 100.0
        self.switching = Scheduler("w", Batch())
        self.capacity = Capacity(1)
        self.grown: dict[str, int] = {}  # by model: the most memory that the switcher was told of, beyond its claim
        self.groups = UNGROUPED
        self.terms: dict[str, SchedulingSpec] = {}
        self.limits: dict[str, Limits] = {}
        self.sharers = 1  # routers that share what follows
        self.most = 40  # that may wait
        self.most_of_tenant: int | None = None
        self.most_bytes: int | None = None
        self.ageing = 0.0
        self.cached: dict[str, CacheState] = {}
        self.fetching: set[str] = set()
        self.bodies: dict[str, Body] = {}
        self.before_change: set[str] = set()  # instances from before the capacity changed last
        self.closing_since: dict[str, float] = {}
        self.routers: dict[str, Router] = {}
        self.crashed: list[str] = []  # routers whose end the switcher does not know yet
        self.gone: list[tuple[str, str]] = []  # clients that left: their routers and models
        self.left: set[str] = set()
        self.mail: list[Demand] = []
        self.old_mail: deque[Demand] = deque(maxlen=20)
        self.old_news: deque[Residency] = deque(maxlen=20)
        self.requests: dict[int, Request] = {}
        self.ended: dict[str, int] = {}
        self.count = 0
        self.down = False
        self.starts = self.replicas = self.outgrown = self.parks = self.wakes = 0
        self.pins: set[str] = set()  # what people pinned, as far as the machine took it
        self.unpins: set[str] = set()  # what they unpinned although its document pins it
        self.left_for_preferences = 0

    def stories(self) -> list[str]:
        """One line for each instance that the switching machine knows, or knew lately."""
        lines = [(body.instance, self.switching.scheduler_state.story(body.instance)) for body in self.bodies.values()]
        return [f"  {instance}: {told(story)}" for instance, story in lines if story]

    # The machines ------------------------------------------------------------------------------------------------------

    @with_stories
    def tell(self, stimulus: seats.SchedulerStimulus) -> None:
        """Let the switcher hear something and do what it says."""
        before = {h.id: h.state for h in self.switching.instances.values()}
        commands = self.switching.step(stimulus)
        self.hold_against_preferences(before)
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
                case Fetch(model):
                    assert model in self.terms
                    self.fetching.add(model)
                case Publish(residency):
                    self.publish(residency)
                case Emit(kind, _, data):
                    assert kind in EVENT_TYPES
                    assert set(data) == set(EVENT_TYPES[kind].data), (kind, data)
                    self.outgrown += kind == "model.outgrown"
        assert self.switching.wake_at is None or self.switching.wake_at > self.now

    def hold_against_preferences(self, before: Mapping[str, InstanceState]) -> None:
        """Where nobody waits for a seat, who makes room does so for a wish: nobody may be using it."""
        machine, queue = self.switching, self.switching.queue()
        roomy = self.roomy()
        asleep = (InstanceState.PARKING, InstanceState.PARKED)
        seated = {h.model for h in machine.instances.values() if h.staying and h.state not in asleep}
        wanted = {model for model in machine.scheduler_state.terms if machine.demand_state.wanted(model) is not None}
        asked = {*queue, *machine.availability.orders, *wanted} - seated
        for instance in machine.instances.values():
            if (
                instance.state is InstanceState.CLOSING
                and before.get(instance.id) is InstanceState.READY
                and not instance.leaving
            ):
                assert not self.pinned(instance.model) or not roomy, f"{instance} is pinned"
                if not asked and roomy:
                    self.left_for_preferences += instance.model not in self.idle_ones
                    assert instance.model not in queue, f"{instance} makes room for a wish, and is used: {queue}"

    def roomy(self) -> bool:
        """Whether the capacity holds all that the switcher knows of."""
        claims = [h.occupied(self.capacity) for h in self.switching.instances.values()]
        held = sum(claims, NOTHING)
        return all(claim.fits_beside(held - claim, self.capacity) for claim in claims)

    @property
    def idle_ones(self) -> set[str]:
        return {name for name, terms in self.terms.items() if terms.idle_timeout}

    @property
    def _pinned_by_documents(self) -> set[str]:
        return {name for name, terms in self.terms.items() if terms.pinned}

    def pinned(self, model: str) -> bool:
        terms = self.terms.get(model, SchedulingSpec())
        return model in self.pins or ((terms.pinned or terms.kept) and model not in self.unpins)

    def start(self, order: Start) -> None:
        terms = self.terms[order.model]
        assert terms.external is None
        assert not self.down
        assert self.cached[order.model] is CacheState.CACHED
        left = [b for b in self.bodies.values() if b.state != "gone"]
        if mates := [b for b in left if b.model == order.model]:
            assert len(mates) < terms.replicas, f"{order} beside {mates}"
            busy = ("loading", "stuck", "parking", "parked", "waking")
            heard = [b for b in mates if not b.news]  # what is on its way to the switcher it cannot go by
            assert not [b for b in heard if b.told or b.state in busy], f"{order} beside {mates}"
            assert not self.hungry(), f"{order} while {self.hungry()} wait for a seat"
            assert not [b for b in left if b.told], f"{order} while others make room"
            self.replicas += 1
        assert order.instance not in self.bodies
        known = self.switching.scheduler_state.terms[order.model]  # it may not have heard of a new document yet
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

    def hungry(self) -> set[str]:
        """Models that the switcher knows to be wanted, that could be loaded, and that have no engine that it knows of."""
        known = {name for name in self.terms if self.switching.demand_state.waiting(name)[0] and self.loadable(name)}
        known -= {instance.model for instance in self.switching.instances.values()}
        ready = {name for name in known if self.switching.availability.cached(name) and not self.terms[name].external}
        return {name for name in ready if self.switching.availability.retry_at(name) <= self.now}

    def claim(self, model: str) -> Claim:
        """What a model is known to take."""
        claim = self.terms[model].claim
        return raised(claim, self.grown[model], self.capacity) if model in self.grown else claim

    def park(self, order: Park) -> None:
        body = self._told_to_turn(order)
        assert self.terms[order.model].park
        if self.pinned(order.model):
            assert not self.roomy(), f"{order} for another, and it is pinned"
        self._assert_drained(order)
        self.closing_since.pop(order.instance, None)
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

    def _told_to_turn(self, order: Park | Wake) -> Body:
        body = self.bodies[order.instance]
        assert (body.model, body.epoch, body.turn + 1) == (order.model, order.epoch, order.turn)
        assert not body.told
        assert not self.down
        body.turn = order.turn
        return body

    def _assert_drained(self, order: Stop | Park) -> None:
        busy = {n: r.machine.in_flight(order.instance) for n, r in self.routers.items()}
        assert not any(busy.values()), f"{order} while in flight: {busy}"
        owed = [i for i, r in self.requests.items() if r.instance is None and i <= self._batch(r, order.instance)]
        assert not [i for i in owed if self.requests[i].model == order.model], f"{order} still owes {owed}"

    def unwanted(self, residents: set[str], comer: str) -> set[str]:
        """Those beside which a model must not be started, told without the core's own words for it."""
        if self.groups.sets:
            named = set().union(*self.groups.sets)
            together = (residents & named) | {comer}
            return (
                set() if comer not in named or any(together <= each for each in self.groups.sets) else residents & named
            )
        homes = {member: group for group in self.groups.groups for member in group.members}
        mine, found = homes.get(comer), set()
        for resident in residents & homes.keys() if mine else ():
            theirs = homes[resident]
            if theirs.name == mine.name and mine.swap:
                found.add(resident)
            if theirs.name != mine.name and mine.exclusive and not theirs.persistent:
                found.add(resident)
        return found

    def check_persistence(self, body: Body) -> None:
        """A model of a persistent group makes room for its own group at most, unless the capacity has shrunk; its replicas, for any."""
        home = next((g for g in self.groups.groups if g.persistent and body.model in g.members), None)
        instance = self.switching.instances[body.instance]
        if home and instance.leaving == "evicted" and instance.replica == 1 and body.instance not in self.before_change:
            machine = self.switching
            asked = {
                m
                for m in home.members
                if machine.demand_state.waiting(m)[0] or machine.demand_state.wanted(m) is not None
            }
            asked |= machine.availability.orders.keys()
            asked |= {m for m in home.members if machine.demand_state.abandonment.retries(m, self.now)[0]}
            asked |= {
                m for m, terms in machine.scheduler_state.terms.items() if machine.preferences.wish(m, terms, self.now)
            }
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
        terms = self.switching.instances[order.instance].terms
        gentle = (
            self.switching.instances[order.instance].leaving == "idle"
            or order.model in self.switching.decision.obliging
        )
        drain = max(terms.drain_timeout, ROUTER_SYNC_TIMEOUT) if gentle else terms.drain_timeout
        deadline = self.closing_since.get(order.instance, self.now) + drain
        body.forced = body.forced or self.now >= deadline
        if not body.forced:
            self._assert_drained(order)
        if body.state == "gone" and not body.news:
            body.news.append(InstanceReleased(self.now, body.instance, body.epoch))

    def _batch(self, request: Request, instance: str) -> int:
        router = self.routers.get(request.router)
        return router.batches.get(instance, 0) if router else 0

    def publish(self, residency: Residency) -> None:
        assert not self.old_news or residency.epoch > self.old_news[-1].epoch
        self.old_news.append(residency)
        for resident in residency.residents:
            if resident.state in (InstanceState.CLOSING, InstanceState.DRAINING):  # which may come at once
                self.closing_since.setdefault(resident.instance, self.now)
            elif resident.state is InstanceState.READY:
                self.closing_since.pop(resident.instance, None)
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
        assert command.request <= batches.get(body.instance, command.request), "it came after the batch was closed"
        if body.forced:
            return  # it was stopped after its deadline, and this router cannot have heard of it
        # One that is dead is fair as long as the news of it has not come round.
        assert body.state in ("ready", "dead", "stuck", "gone"), f"dispatched to {body}"
        assert not body.told, f"dispatched to {body}, which was told to stop"
        known = self.switching.instances.get(body.instance)
        unaware = known is not None and self.routers[request.router].machine.residency.epoch < known.closing_epoch
        if known is not None and known.state is InstanceState.DRAINING and unaware:
            return  # it drains without closing before; it is not stopped before this router has seen that
        if known is not None and known.state in (InstanceState.LOADING, InstanceState.DRAINING):
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

    # Invariants --------------------------------------------------------------------------------------------------------

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

    def _held(self, bodies: Iterable[Body]) -> Claim:
        return sum((b.held.placed(b.devices, self.capacity) for b in bodies if b.held != NOTHING), NOTHING)

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

    # Actions: requests --------------------------------------------------------------------------------------------------

    def arrive(self, pick: Pick) -> None:
        if not self.routers:
            return
        name = sorted(self.routers)[pick(len(self.routers))]
        model = (*MODELS, "external", MODELS[0], MODELS[1])[pick(8)]
        patience = (None, None, None, 0.0, 1.0, 30.0)[pick(6)]
        self.submit(name, model, priority=(0, 0, 5)[pick(3)], tenant=TENANTS[pick(5)], patience=patience)

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
        self, router: str, model: str, priority: int = 0, tenant: str = "", patience: float | None = None
    ) -> Request:
        self.count += 1
        request = self.requests[self.count] = Request(
            model, router, tenant=tenant, priority=priority, size=self.count % 7
        )
        deadline = None if patience is None else self.now + patience
        self.at(
            router,
            intake.RequestArrived(
                self.now, self.count, model, priority, tenant=tenant, deadline=deadline, size=request.size
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

    def _is_wanted(self, router: str, model: str) -> None:
        machine = self.routers[router].machine
        there = any(r.model == model and r.state is InstanceState.READY for r in machine.residency.residents)
        refusal = machine.residency.refusals.get(model)
        # A back-off after a crash is waited out.
        refused = refusal and (refusal.retry_at or 0.0) > self.now and not refusal.waits
        against = model not in self.terms or self.down or refused
        assert (model in machine._wants) == (not there and not against)

    # Actions: the network -----------------------------------------------------------------------------------------------

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
            closing = [r.instance for r in residency.residents if r.state is InstanceState.CLOSING]
            router.batches = {instance: router.batches.get(instance, self.count) for instance in closing}
        self.at(name, intake.ResidencySeen(self.now, residency))

    def repeat_residency(self, pick: Pick) -> None:
        if not self.routers or not self.old_news:
            return
        machine = self.routers[sorted(self.routers)[pick(len(self.routers))]].machine
        old = [r for r in self.old_news if r.epoch <= machine.residency.epoch]
        if old:
            self.changes_nothing(machine, intake.ResidencySeen(self.now, old[pick(len(old))]))

    # Actions: the runtime -----------------------------------------------------------------------------------------------

    def _bodies(self, *states: str) -> list[Body]:
        return [b for b in self.bodies.values() if b.state in states]

    def become_ready(self, pick: Pick) -> None:
        bodies = [b for b in self._bodies("loading") if not b.told]
        if bodies:
            self._ready(bodies[pick(len(bodies))])
            self._maybe_tell(pick)

    def _ready(self, body: Body) -> None:
        body.state = "ready"
        body.sleeps = False
        body.news.append(InstanceReady(self.now, body.instance, body.epoch, body.address, body.turn))

    def turn(self, pick: Pick) -> None:
        """What was told to sleep or to wake does so, or does not."""
        bodies = [b for b in self._bodies("parking", "waking") if not b.told]
        if bodies:
            body = bodies[pick(len(bodies))]
            if pick(4) == 0:
                body.state = "ready"
                body.news.append(SleepFailed(self.now, body.instance, body.epoch, body.turn, "it was told to fail"))
            else:
                self._turned(body, (0, 3, 8, None)[pick(4)])
            self._maybe_tell(pick)

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
        bodies = [b for b in self._bodies("ready", "parking") if not b.told and not b.news]
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

    # Actions: people ----------------------------------------------------------------------------------------------------

    def order_load(self, pick: Pick) -> None:
        self.tell(seats.LoadOrdered(self.now, (*MODELS, "external", "unheard-of")[pick(7)]))

    def order_unload(self, pick: Pick) -> None:
        self.tell(seats.UnloadOrdered(self.now, (*MODELS, "external", "unheard-of")[pick(7)]))

    def order_pin(self, pick: Pick) -> None:
        model = (*MODELS, "external", "unheard-of")[pick(7)]
        self.tell(seats.PinOrdered(self.now, model))
        # It is not, where it could never be loaded beside those that are; its schedule may pin it all the same.
        if (
            model in self.switching.preferences.pinned
            and model in self.switching.preferences._pins | self._pinned_by_documents
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
        assert model not in self.switching.preferences.pinned

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

    # Actions: time, and what comes and goes -----------------------------------------------------------------------------

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
        for body in self._bodies("parking", "parked", "waking"):
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
        self.closing_since.pop(body.instance, None)
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

    # A fair world -------------------------------------------------------------------------------------------------------

    def run_fairly(self, seconds: float) -> None:
        """Everything arrives, loads, stops and finishes, until nothing moves or the time is over."""
        end = self.now + seconds
        for _ in range(2000):
            if self._move():
                continue
            self.tell(Tick(self.now))
            if self.mail or any(r.inbox for r in self.routers.values()) or any(b.news for b in self.bodies.values()):
                continue
            wake = self.switching.wake_at
            if wake is None or wake > end:
                self.now = end
                self.tell(Tick(self.now))
                return
            self.now = wake
            self.tell(Tick(self.now))
        raise AssertionError("it does not come to rest")

    def _move(self) -> bool:  # noqa: C901 — one paragraph for each thing that can move
        """Let everything that can happen now happen once; returns whether there was anything."""
        moved = False
        while self.crashed:
            self._say_goodbye(self.crashed.pop())
        for name, router in self.routers.items():
            while router.inbox:
                moved = True
                self._take_in(name)
        for model in sorted(self.fetching):
            moved = True
            self._fetched(model, CacheState.CACHED)
        for body in list(self.bodies.values()):
            if body.state == "dead" or (body.told and body.state in ALIVE):
                self._gone(body)
            elif body.state in ("parking", "waking"):
                self._turned(body, 3)
            elif body.state == "loading" and not body.told:
                self._ready(body)
            while body.news:
                moved = True
                self._tell_news(body)
        for id_ in [i for i, r in self.requests.items() if r.instance is not None]:
            moved = True
            self.finish_one(id_)
        mail, self.mail = self.mail, []
        for demand in mail:
            moved = True
            self._hand_over(demand)
        return moved

    def loadable(self, model: str) -> bool:
        """Whether a request for it has to be served in a fair world, as it is."""
        stuck = self._bodies("stuck")
        held, claim = self._held(stuck), self.claim(model)
        mine = any(b.model == model for b in stuck)
        return self.terms[model].external is not None or (
            claim.fits_beside(NOTHING, self.capacity)
            and claim.fits_beside(held, self.capacity)
            and not mine
            and not self.unwanted({b.model for b in stuck if not b.asleep}, model)
        )

    def crowded_out(self, model: str, end: str | None) -> bool:
        """Whether it was rightly refused because others stay for good."""
        others = [g for g in self.groups.groups if g.persistent and model not in g.members]
        stay = [self.terms[m].claim for g in others for m in g.members & self.terms.keys()]
        held = sum([*stay, *(b.held for b in self._bodies("stuck"))], NOTHING)
        whole = Capacity(self.capacity.gpus, self.capacity.memory)
        return end == "no_room" and not self.claim(model).fits_beside(held, whole)

    @with_stories
    def all_ends_well(self) -> None:
        """In a fair world every request ends, and every model that can be loaded is, for those who ask."""
        if not self.routers:
            self.join(lambda _: 0)
        self.sign_of_life(lambda _: 0)
        self.run_fairly(1000.0)  # past every deadline and back-off
        self.check()
        assert not self.requests, f"never ended: {self.requests}"
        for model in MODELS:  # else some may find no room, ever
            if self.pinned(model):
                self._unpin(model)
        self.run_fairly(200.0)
        wanted = {model for router in self.routers.values() for model in router.machine._wants.snapshot()}
        left = [model for model in wanted if self.loadable(model) and not self.crowded_out(model, "no_room")]
        assert not left, f"never loaded: {wanted}"
        if self.down:
            assert not [b for b in self.bodies.values() if b.state not in ("gone", "stuck")]
            return
        asked = {model: self.submit(router, model) for _ in range(2) for model in self.terms for router in self.routers}
        started, there = self.now, {b.model for b in self._bodies("ready")}
        self.run_fairly(200.0)
        self.check()
        assert not self.requests, f"never ended: {self.requests}"
        sleeping = sum(b.memory for b in self.bodies.values())
        stuck = sum(b.memory for b in self._bodies("stuck"))
        budget = self.capacity.host_memory
        assert budget is None or sleeping <= max(budget, stuck), f"{sleeping} bytes of host memory, of {budget}"
        for model, request in asked.items():
            states = {b.state for b in self.bodies.values() if b.model == model}
            if "stuck" in states and ("ready" in states or self.terms[model].replicas > 1):
                continue  # served as long as another of its instances is there
            if self.crowded_out(model, request.end) or (request.served and model in there):
                continue
            if request.served != self.loadable(model) and request.end != "queue_full":
                raise AssertionError(f"{model} asked for at {started}: {request}")


ACTIONS: Mapping[str, int] = {  # with how often they come beside each other
    "divert": 2, "want": 1, "arrive": 12, "crowd": 3, "finish": 6, "leave": 3, "retry": 3, "expire": 1, "deliver_demand": 14,
    "lose_demand": 1, "sign_of_life": 1, "repeat_demand": 1, "deliver_residency": 14, "repeat_residency": 1,
    "become_ready": 8, "turn": 8, "measure": 4, "fail": 2, "hang": 1, "release": 8,
    "settle": 2, "observe": 4, "repeat_observation": 1, "stale_observation": 2, "fetch": 3, "order_load": 1,
    "order_unload": 1, "order_pin": 1, "order_unpin": 1, "open_window": 2, "change": 2, "tick": 8, "calm": 3, "join": 1, "part": 1,
    "miss": 1, "restart_switcher": 1,
}  # fmt: skip


def _terms(claim: Claim, pick: Pick) -> SchedulingSpec:
    """What an engine has to be restarted for."""
    park, memory = pick(2) == 0, MEMORIES[pick(len(MEMORIES))]
    mark = f"{claim.gpus}/{claim.memory}/{park}/{memory}/{pick(2)}"
    return SchedulingSpec(claim, fingerprint=mark, park=park, host_memory=memory)


def begin(pick: Pick) -> World:
    """A world with some models, one or more routers, and nothing loaded."""
    world = World()
    terms, limits = {"external": EXTERNAL}, {}
    world.groups = GROUPINGS[pick(len(GROUPINGS))]
    for name in MODELS[: 2 + pick(4)]:
        claim = CLAIMS[pick(len(CLAIMS))]
        replicas = (1, 2, 3)[pick(3)]
        limits[name] = Limits((0, 1, 2)[replicas - 1])
        terms[name] = replace(_terms(claim, pick), start_timeout=20.0, drain_timeout=20.3, replicas=replicas)
    world.apply(terms, limits, CAPACITIES[pick(len(CAPACITIES))], cache_first=False)
    for _ in range(1 + pick(2)):
        world.join(pick)
    return world
