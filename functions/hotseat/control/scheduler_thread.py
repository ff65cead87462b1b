"""The switcher of one Workspace: one thread, which owns the switching machine and everything that it commands."""

import contextlib
import logging
import threading
from collections.abc import Callable
from enum import Enum
from queue import Empty, SimpleQueue
from types import MappingProxyType

from hotseat.core.events import Emit
from hotseat.core.messages import (
    CacheObserved,
    Fetch,
    InstanceFailed,
    InstanceMeasured,
    InstanceParked,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    Park,
    Residency,
    Start,
    Stop,
    Wake,
)
from hotseat.core.policy.api import Policy
from hotseat.core.ports import Runtime
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.instance import format_story
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import (
    CachesObserved,
    ConfigChanged,
    DemandReported,
    ModelStatus,
    Publish,
    SchedulerCommand,
    SchedulerStimulus,
    ShutdownOrdered,
    Tick,
)
from hotseat.core.scheduler.stats import StatsByModel

log = logging.getLogger(__name__)

MAX_CONSECUTIVE_FAILURES = 3  # steps that fail in a row
HEARTBEAT = 1.0  # seconds between looks at demand where nothing was said
SOON = 0.05  # seconds within which demand is looked at that has changed without urgency


_TELLING = (
    InstanceReady | InstanceReleased | InstanceParked | InstanceMeasured | ConfigChanged
)  # after which more may be known


class _DemandPoll(Enum):
    """A look at demand that is asked for."""

    NOW = 1
    LATER = 2


class _Order:
    """An order that somebody waits for; `outcome` is None until it is settled, and asked on the switcher's thread only."""

    def __init__(self, stimulus: SchedulerStimulus, outcome: Callable[[], ModelStatus | None]) -> None:
        self.stimulus = stimulus
        self.outcome = outcome
        self.taken = False  # the machine has it
        self.result: ModelStatus | None = None
        self.over = threading.Event()

    def see(self, stimulus: SchedulerStimulus) -> bool:
        """Look after a step, which this stimulus was for; whether it is over."""
        self.taken = self.taken or stimulus is self.stimulus
        if self.taken:
            self.result = self.outcome()
            if self.result is not None:
                self.over.set()
        return self.over.is_set()


def _nothing() -> None:
    """Stand for nobody who looks after every step."""


def _noop(_lessons: StatsByModel) -> None:
    """Stand for nobody who keeps them."""


class SchedulerThread:
    """Runs the machine. All stimuli go through one queue, so the machine needs no lock; readers get finished snapshots.

    `turned` is called after every step, `learned` when something new is known of models, with all that is.
    `epoch` is the last one of an earlier run, `remembered` what that had learned.
    `give_up` is called when step after step fails, which only a bug does: better to start afresh than to let requests hang.
    """

    def __init__(
        self,
        workspace: str,
        policy: Policy,
        runtime: Runtime,
        clock: Callable[[], float],
        *,
        demand: Callable[[], DemandReported],
        publish: Callable[[Residency], None],
        emit: Callable[[str, int, Emit], None],
        give_up: Callable[[], None],
        turned: Callable[[], None] = _nothing,
        learned: Callable[[StatsByModel], None] = _noop,
        epoch: int = 0,
        remembered: StatsByModel = MappingProxyType({}),
    ) -> None:
        self.workspace = workspace
        self._machine = Scheduler(workspace, policy, epoch, remembered=remembered)
        self._machine.parts.state.illegal = self._note_illegal
        self._runtime = runtime
        self._clock = clock
        self._demand = demand
        self._publish = publish
        self._emit = emit
        self._give_up = give_up
        self._turned, self._learned = turned, learned
        self._inbox: SimpleQueue[SchedulerStimulus | _DemandPoll] = SimpleQueue()
        self._put_back: SchedulerStimulus | _DemandPoll | None = None  # taken out of the inbox before its turn
        self._asked = threading.Event()  # a look at demand is in the inbox already
        self._stale = False  # demand has changed without urgency, and the thread knows or is being told
        self._look_at: float | None = None  # when it looks at that
        self._changed = threading.Condition()
        self._orders: list[_Order] = []
        self._stopped = self._retiring = False
        self._ended = False
        self._caught_up = threading.Event()  # there was nothing more to be told about, once
        self._status: tuple[ModelStatus, ...] = ()
        self._switches: tuple[Switch, ...] = ()
        self._queue: dict[str, tuple[int, float, int]] = {}
        self._memory: dict[str, int] = {}
        self._lessons = remembered
        self._thread = threading.Thread(target=self._run, name=f"switcher-{workspace}", daemon=True)

    def start(self) -> None:
        """Begin to run."""
        self._thread.start()

    def wait_caught_up(self, timeout: float) -> bool:
        """After `start`: wait until it has taken in all that it was told before; False if that takes longer."""
        return self._caught_up.wait(timeout)

    # Stimuli, from any thread -----------------------------------------------------------------------------------------

    def tell(self, stimulus: SchedulerStimulus) -> None:
        """Hand over an observation or an order."""
        self._inbox.put(stimulus)

    def demand_changed(self, urgent: bool) -> None:
        """Look at demand: now, or soon. Many calls in a row cost one look."""
        if not urgent:
            if not self._stale:
                self._stale = True
                self._inbox.put(_DemandPoll.LATER)
        elif not self._asked.is_set():
            self._asked.set()
            self._inbox.put(_DemandPoll.NOW)

    def follow(self, policy: Policy) -> None:
        """Follow another policy from the next step on."""
        self._machine.policy = policy

    def order(
        self, stimulus: SchedulerStimulus, outcome: Callable[[], ModelStatus | None], timeout: float | None
    ) -> ModelStatus | None:
        """Give an order and wait: what `outcome` gives first, of all steps from the order's own on; None if that comes too late.

        It is asked at every step on the switcher's thread, so that nothing passes unseen.
        """
        order = _Order(stimulus, outcome)
        with self._changed:
            if self._ended:
                return None
            self._orders.append(order)
        self.tell(stimulus)
        order.over.wait(timeout)
        with self._changed:
            if order in self._orders:
                self._orders.remove(order)
        return order.result

    def shut_down(self) -> None:
        """Begin to take everything off the accelerator."""
        self.tell(ShutdownOrdered(self._clock()))

    def stop(self, timeout: float) -> bool:
        """After `shut_down`: wait until nothing is left, then end the thread. False if that took longer than `timeout` seconds."""
        emptied = self.wait_for(lambda: not self._machine.instances, timeout)
        self._stopped = True
        self._inbox.put(_DemandPoll.NOW)
        self._thread.join(timeout=5)
        return emptied

    def retire(self) -> None:
        """Its Workspace is gone: end the thread once the documents have left it no model and nothing is left of any."""
        self._retiring = True
        self.demand_changed(urgent=True)

    def recall(self) -> bool:
        """Its Workspace is back: stay. False: too late, the thread has ended."""
        with self._changed:
            self._retiring = False
            return not self._ended

    # Reading, from any thread -----------------------------------------------------------------------------------------

    def status(self) -> tuple[ModelStatus, ...]:
        """State of every model after the last step."""
        return self._status

    def switches(self) -> tuple[Switch, ...]:
        """Switches that are known after the last step, oldest first."""
        return self._switches

    def is_ordered(self, model: str) -> bool:
        """Whether somebody ordered it, and it is neither ready yet nor failed nor unloaded since."""
        return model in self._machine.parts.availability.load_requests

    def instances(self, model: str) -> dict[str, InstanceState]:
        """Instances of a model and their states. For an order's outcome: on the switcher's thread."""
        return {h.id: h.state for h in self._machine.instances.of(model)}

    def queue(self) -> dict[str, tuple[int, float, int]]:
        """By model: how many wait at all routers, since when, and how many requests are in flight. As of now, more or less."""
        return self._queue

    def memory(self) -> dict[str, int]:
        """By model: bytes of accelerator memory that its largest engine was seen to take; those that nobody can see are left out."""
        return self._memory

    def lessons(self) -> StatsByModel:
        """By model: what was learned of it, to begin the next run with. Before the first documents, what was remembered."""
        return self._lessons

    @property
    def ended(self) -> bool:
        """Whether it runs no longer."""
        return self._ended

    @property
    def effective_max_wait(self) -> float | None:
        """Bound on waiting in force, while somebody waits."""
        return self._machine.effective_max_wait

    def wait_for(self, true: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until a condition holds after some step; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(true, timeout)

    # The thread -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._is_over():
            try:
                self._turn()
                failures = 0
            except Exception:
                log.exception("scheduler of %s: a step failed", self.workspace)
                failures += 1
                if failures == MAX_CONSECUTIVE_FAILURES:
                    self._give_up()
        with self._changed:
            for order in self._orders:
                order.over.set()

    def _is_over(self) -> bool:
        with self._changed:
            self._ended = self._stopped or (self._retiring and not self._status and not self._machine.instances)
            return self._ended

    def _turn(self) -> None:
        stimulus = self._next()
        commands = self._machine.step(stimulus)
        before = self._lessons
        with self._changed:  # first: who is answered because of what follows finds it told everywhere
            if isinstance(stimulus, _TELLING):  # before the rest: who writes that down meanwhile has this, too
                self._lessons = self._machine.lessons()
            self._status, self._switches = tuple(self._machine.status()), self._machine.switches
            self._queue = self._machine.queue()
            self._memory = self._machine.memory()
        # Routers hear of a stop first: what is cut ends with our error then, not with a broken connection.
        for command in sorted(commands, key=lambda each: isinstance(each, Stop)):
            try:
                self._carry_out(command)
            except Exception:  # the others matter no less: a Publish lost would leave routers with what is not true
                log.exception("scheduler of %s: %s failed", self.workspace, command)
        with self._changed:
            self._orders = [order for order in self._orders if not order.see(stimulus)]
            self._changed.notify_all()
        if self._inbox.empty() and self._put_back is None:
            self._caught_up.set()
        self._turned()
        if self._lessons != before:
            self._learned(self._lessons)

    def _next(self) -> SchedulerStimulus:
        """Wait for what comes first: a stimulus, demand to look at, or the machine's own time."""
        while True:
            times = [t for t in (self._machine.wake_at, self._look_at) if t is not None]
            timeout = max(0.0, min([HEARTBEAT, *(t - self._clock() for t in times)]))
            try:
                stimulus, self._put_back = self._put_back or self._inbox.get(timeout=timeout), None
            except Empty:
                due = self._look_at is not None and self._look_at <= self._clock()
                return self._look() if due else Tick(self._clock())
            if stimulus is _DemandPoll.NOW:
                return self._look()
            if isinstance(stimulus, CacheObserved):
                return self._with_those_behind(stimulus)
            if stimulus is not _DemandPoll.LATER:
                return stimulus
            self._look_at = self._clock() + SOON

    def _with_those_behind(self, first: CacheObserved) -> SchedulerStimulus:
        """Take what else is told of weights by now: at the start, and when documents change, that is a word for each Model."""
        states = [first]
        with contextlib.suppress(Empty):
            while isinstance(following := self._inbox.get_nowait(), CacheObserved):
                states.append(following)
            self._put_back = following
        return first if len(states) == 1 else CachesObserved(states[-1].now, tuple(states))

    def _look(self) -> SchedulerStimulus:
        self._asked.clear()  # both before it looks: what changes from now on is asked for again
        self._stale = False
        self._look_at = None
        return self._demand()

    def _carry_out(self, command: SchedulerCommand) -> None:
        match command:
            case Publish():
                self._publish(command.residency)
            case Emit():
                if instance := command.type == "model.failed" and command.data["instance"]:
                    story = format_story(self._machine.parts.state.story(instance))
                    log.info("%s failed (%s); its last transitions: %s", instance, command.data["reason"], story)
                self._emit(self.workspace, self._machine.epoch, command)
            case Start():
                self._start(command)
            case Stop():
                self._runtime.stop(command)
            case Park():
                self._runtime.park(command)
            case Wake():
                self._runtime.wake(command)
            case Fetch():
                self._runtime.fetch(command)

    def _note_illegal(self, message: str) -> None:
        """Log a bug of the machine; what has happened has happened, so it goes on."""
        log.error("switcher of %s: %s", self.workspace, message)

    def _start(self, order: Start) -> None:
        try:
            self._runtime.start(order)
        except ValueError as error:  # the documents have changed meanwhile: nothing was started
            now = self._clock()
            self.tell(InstanceFailed(now, order.instance, order.epoch, "CannotStart", str(error)))
            self.tell(InstanceReleased(now, order.instance, order.epoch))
