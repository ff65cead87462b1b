"""What is really there in a simulated world, and what can be asked about it (see world.py)."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from hotseat.core.admission.machine import AdmissionMachine
from hotseat.core.messages import CacheState, Demand, Observation, Residency
from hotseat.core.policy.api import NOTHING, Capacity, Claim
from hotseat.core.policy.batch import Batch
from hotseat.core.policy.groups import UNGROUPED, Group, Groups
from hotseat.core.scheduler.instance import format_story
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.memory_usage import raised
from hotseat.core.scheduler.messages import SchedulingSpec

if TYPE_CHECKING:
    from hotseat.core.admission.messages import Limits

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
ALIVE = ("loading", "ready", "parking", "parked", "waking", "saving", "restoring")
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
    # By instance that it sees quiescing: the last request before that.
    batches: dict[str, int] = field(default_factory=dict)


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
    def told_of(world: "WorldState", *args: Any, **options: Any) -> Any:
        try:
            return act(world, *args, **options)
        except AssertionError as error:
            note = "\n".join(["The last transitions of each instance:", *world.stories()])
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise

    return told_of


class WorldState:
    """One Workspace: its instances (`bodies`), requests, routers, and messages on their way."""

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
        self.drain_since: dict[str, float] = {}
        self.park_orders: set[str] = set()  # models that an operator wants parked
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
        self.kept: set[str] = set()  # models of which prompts are kept
        self.prompt_limit = 0
        self.saves = self.restores = self.late_prompts = 0

    def stories(self) -> list[str]:
        """One line for each instance that the switching machine knows, or knew lately."""
        lines = [(body.instance, self.switching.parts.state.story(body.instance)) for body in self.bodies.values()]
        return [f"  {instance}: {format_story(story)}" for instance, story in lines if story]

    # Questions -------------------------------------------------------------------------------------------------------

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

    def claim(self, model: str) -> Claim:
        """What a model is known to take."""
        claim = self.terms[model].claim
        return raised(claim, self.grown[model], self.capacity) if model in self.grown else claim

    def hungry(self) -> set[str]:
        """Models that the switcher knows to be wanted, that could be loaded, and that have no engine that it knows of."""
        known = {name for name in self.terms if self.switching.parts.demand.waiting(name)[0] and self.loadable(name)}
        known -= {instance.model for instance in self.switching.instances.values()}
        ready = {
            name for name in known if self.switching.parts.availability.cached(name) and not self.terms[name].external
        }
        return {name for name in ready if self.switching.parts.availability.retry_at(name) <= self.now}

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

    def _bodies(self, *states: str) -> list[Body]:
        return [b for b in self.bodies.values() if b.state in states]

    def _held(self, bodies: Iterable[Body]) -> Claim:
        return sum((b.held.placed(b.devices, self.capacity) for b in bodies if b.held != NOTHING), NOTHING)

    def _batch(self, request: Request, instance: str) -> int:
        router = self.routers.get(request.router)
        return router.batches.get(instance, 0) if router else 0
