"""The thread that runs the scheduler of one Workspace and carries out its commands."""

import contextlib
import logging
import threading
from collections.abc import Callable
from enum import Enum
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Any, TypeVar

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
    LimitPrompts,
    Park,
    PromptsRestored,
    PromptsSaved,
    Residency,
    RestorePrompts,
    SavePrompts,
    Start,
    Stop,
    Wait,
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

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_CONSECUTIVE_FAILURES = 3
HEARTBEAT = 1.0  # seconds; the longest time without a step
SOON = 0.05  # seconds between a change of demand that is not urgent and the step for it

NO_RESIDENCY = Residency()

# Stimuli after which the statistics of models may have changed.
_CHANGES_STATS = (
    InstanceReady
    | InstanceReleased
    | InstanceParked
    | InstanceMeasured
    | PromptsSaved
    | PromptsRestored
    | ConfigChanged
)


def _order(command: SchedulerCommand) -> int:
    """Return the place of a command among those of a step. A load or its check begins first, as a request waits for it.

    Stop comes last: routers that know of it end their requests with our error, not with a broken connection.
    """
    return 0 if isinstance(command, Start | Fetch) else 2 if isinstance(command, Stop) else 1


class SchedulerHost:
    """Receives what a SchedulerThread produces. The methods are called on that thread and must return at once."""

    def demand(self) -> DemandReported:
        """Return a snapshot of demand. Called only after `demand_changed`."""
        raise NotImplementedError

    def publish(self, residency: Residency) -> None:
        """Pass a new residency on to the routers."""

    def emit(self, epoch: int, emit: Emit) -> None:
        """Publish an event of the scheduler."""

    def stats_changed(self, stats: StatsByModel) -> None:
        """Handle changed statistics. STATS has all models."""

    def stepped(self) -> None:
        """Handle the end of a step."""

    def give_up(self) -> None:
        """Handle MAX_CONSECUTIVE_FAILURES failed steps in a row. Only a bug causes that, and only a restart helps."""


class _DemandPoll(Enum):
    """A request in the inbox to poll demand."""

    NOW = 1
    SOON = 2


class _PendingCommand:
    """A command whose caller waits. `outcome` returns None until the command has ended. It runs on the scheduler's thread only."""

    def __init__(self, stimulus: SchedulerStimulus, outcome: Callable[[], Any]) -> None:
        self.stimulus = stimulus
        self.outcome = outcome
        self.started = False  # the scheduler has made the step for `stimulus`
        self.result: Any = None
        self.done = threading.Event()

    def update(self, stimulus: SchedulerStimulus) -> bool:
        """Check the outcome after the step for STIMULUS. Return whether the command has ended."""
        self.started = self.started or stimulus is self.stimulus
        if self.started:
            self.result = self.outcome()
            if self.result is not None:
                self.done.set()
        return self.done.is_set()


class SchedulerThread:
    """Runs a Scheduler. All stimuli go through one queue, so the scheduler needs no lock. Readers get snapshots.

    `residency` is the newest residency; at first, what an earlier run left. Its epoch is continued.
    `stats` are the statistics of an earlier run.
    """

    def __init__(
        self,
        workspace: str,
        policy: Policy,
        runtime: Runtime,
        clock: Callable[[], float],
        host: SchedulerHost,
        *,
        residency: Residency = NO_RESIDENCY,
        stats: StatsByModel = MappingProxyType({}),
    ) -> None:
        self.workspace = workspace
        self.residency = residency
        self._machine = Scheduler(workspace, policy, residency.epoch, remembered=stats)
        self._machine.parts.state.illegal = self._log_illegal
        self._runtime = runtime
        self._clock = clock
        self._host = host
        self._inbox: SimpleQueue[SchedulerStimulus | _DemandPoll] = SimpleQueue()
        self._put_back: SchedulerStimulus | _DemandPoll | None = None  # taken out of the inbox too early
        self._poll_requested = threading.Event()  # a _DemandPoll.NOW is in the inbox
        self._poll_soon = False  # a _DemandPoll.SOON is in the inbox, or `_poll_at` is set
        self._poll_at: float | None = None  # when demand is polled
        self._changed = threading.Condition()
        self._pending_commands: list[_PendingCommand] = []
        self._stopped = self._retiring = False
        self._ended = False
        self._caught_up = threading.Event()  # the inbox has been empty once
        self._status: tuple[ModelStatus, ...] = ()
        self._switches: tuple[Switch, ...] = ()
        self._queue: dict[str, tuple[int, float, int]] = {}
        self._wait_report = self._machine.wait_report(self._queue)
        self._busy_pods: dict[str, int] = {}
        self._memory: dict[str, int] = {}
        self._stats = stats
        self._thread = threading.Thread(target=self._run, name=f"scheduler-{workspace}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wait_caught_up(self, timeout: float) -> bool:
        """After `start`, wait until all stimuli sent before have been handled. Return False after TIMEOUT seconds."""
        return self._caught_up.wait(timeout)

    # Stimuli, from any thread -----------------------------------------------------------------------------------------

    def send(self, stimulus: SchedulerStimulus) -> None:
        """Queue a stimulus."""
        self._inbox.put(stimulus)

    def demand_changed(self, urgent: bool) -> None:
        """Poll demand now, or within SOON seconds. Calls in quick succession cause one poll."""
        if not urgent:
            if not self._poll_soon:
                self._poll_soon = True
                self._inbox.put(_DemandPoll.SOON)
        elif not self._poll_requested.is_set():
            self._poll_requested.set()
            self._inbox.put(_DemandPoll.NOW)

    @property
    def poll_pending(self) -> bool:
        """Whether demand is about to be polled."""
        return self._poll_requested.is_set()

    def set_policy(self, policy: Policy) -> None:
        """Use another policy from the next step on."""
        self._machine.policy = policy

    def execute(self, stimulus: SchedulerStimulus, outcome: Callable[[], T | None], timeout: float | None) -> T | None:
        """Send a command and wait for its outcome. Return None after TIMEOUT seconds.

        OUTCOME is called on the scheduler's thread after every step from the command's own on. The first result that is not
        None is returned.
        """
        command = _PendingCommand(stimulus, outcome)
        with self._changed:
            if self._ended:
                return None
            self._pending_commands.append(command)
        self.send(stimulus)
        command.done.wait(timeout)
        with self._changed:
            if command in self._pending_commands:
                self._pending_commands.remove(command)
        result: T | None = command.result
        return result

    def wait_handled(self, timeout: float) -> bool:
        """Wait until all stimuli that were sent before have been handled. Return False after TIMEOUT seconds, or at the end."""
        return self.execute(Tick(self._clock()), lambda: True, timeout) is not None

    def submit(self, stimulus: SchedulerStimulus, outcome: Callable[[], ModelStatus | None]) -> None:
        """Send a command and do not wait. OUTCOME is called as by `execute`, until it returns a result."""
        with self._changed:
            if not self._ended:
                self._pending_commands.append(_PendingCommand(stimulus, outcome))
        self.send(stimulus)

    def shut_down(self) -> None:
        """Begin to stop all instances."""
        self.send(ShutdownOrdered(self._clock()))

    def stop(self, timeout: float) -> bool:
        """After `shut_down`, wait until no instance is left, then end the thread. Return False if TIMEOUT seconds pass first."""
        emptied = self.wait_for(lambda: not self._machine.instances, timeout)
        self._stopped = True
        self.send(Tick(self._clock()))
        self._thread.join(timeout=5)
        return emptied

    def retire(self) -> None:
        """End the thread once no model and no instance is left, because the Workspace has been deleted."""
        self._retiring = True
        self.demand_changed(urgent=True)

    def recall(self) -> bool:
        """Undo `retire`, because the Workspace exists again. Return False if the thread has ended."""
        with self._changed:
            self._retiring = False
            return not self._ended

    # Reading, from any thread -----------------------------------------------------------------------------------------

    def status(self) -> tuple[ModelStatus, ...]:
        """Return the state of every model after the last step."""
        return self._status

    def switches(self) -> tuple[Switch, ...]:
        """Return the known switches after the last step, oldest first."""
        return self._switches

    def has_load_request(self, model: str) -> bool:
        """Whether MODEL has a load request that has not ended: by being ready, a failure or an unload."""
        return model in self._machine.parts.availability.load_requests

    def instances(self, model: str) -> dict[str, InstanceState]:
        """Return the states of MODEL's instances by id. Call it on the scheduler's thread, in an `outcome`."""
        return {h.id: h.state for h in self._machine.instances.of(model)}

    def queue(self) -> dict[str, tuple[int, float, int]]:
        """Return by model: queued requests at all routers, arrival time of the oldest, requests in flight."""
        return self._queue

    def waits(self, shown: Callable[[str], str] = str) -> dict[str, Wait]:
        """Return by model why its requests wait, as of the last step. SHOWN returns the name of a model for people."""
        return self._wait_report.waits(shown)

    def demand_of(self, model: str) -> tuple[int, int]:
        """Return the requests of MODEL that are queued or in flight, and how many of its pods must stay because of those in flight."""
        waiting, _, in_flight = self._queue.get(model, (0, 0.0, 0))
        return waiting + in_flight, self._busy_pods.get(model, 0)

    def memory(self) -> dict[str, int]:
        """Return by model the measured accelerator memory of its largest instance, in bytes. Models without one are missing."""
        return self._memory

    def stats(self) -> StatsByModel:
        """Return the statistics by model, for the next run. Before the first configuration: those of the earlier run."""
        return self._stats

    @property
    def ended(self) -> bool:
        """Whether the thread has ended."""
        return self._ended

    @property
    def effective_max_wait(self) -> float | None:
        """The bound on waiting in force, in seconds. None while no request is queued."""
        return self._machine.effective_max_wait

    def wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until CONDITION holds after a step. Return False after TIMEOUT seconds."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    # The thread -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._update_ended():
            try:
                self._step()
                failures = 0
            except Exception:
                log.exception("scheduler of %s: a step failed", self.workspace)
                failures += 1
                if failures == MAX_CONSECUTIVE_FAILURES:
                    self._host.give_up()
        with self._changed:
            for command in self._pending_commands:
                command.done.set()

    def _update_ended(self) -> bool:
        with self._changed:
            self._ended = self._stopped or (self._retiring and not self._status and not self._machine.instances)
            return self._ended

    def _step(self) -> None:
        stimulus = self._next()
        commands = self._machine.step(stimulus)
        stats_before = self._stats
        with self._changed:  # before the commands: callers that a command answers must find the new state
            if isinstance(stimulus, _CHANGES_STATS):  # before the rest: a status written meanwhile has it, too
                self._stats = self._machine.stats()
            self._status, self._switches = tuple(self._machine.status()), self._machine.switches
            self._queue = self._machine.queue()
            self._wait_report = self._machine.wait_report(self._queue)
            self._busy_pods = self._machine.busy_pods()
            self._memory = self._machine.memory()
        for command in sorted(commands, key=_order):
            try:
                self._carry_out(command)
            except (
                Exception
            ):  # the other commands are carried out: without a Publish, routers would act on an old residency
                log.exception("scheduler of %s: %s failed", self.workspace, command)
        with self._changed:
            self._pending_commands = [each for each in self._pending_commands if not each.update(stimulus)]
            self._changed.notify_all()
        if self._inbox.empty() and self._put_back is None:
            self._caught_up.set()
        self._host.stepped()
        if self._stats != stats_before:
            self._host.stats_changed(self._stats)

    def _next(self) -> SchedulerStimulus:
        """Wait for the next stimulus: from the inbox, a snapshot of demand, or a Tick."""
        while True:
            times = [t for t in (self._machine.wake_at, self._poll_at) if t is not None]
            timeout = max(0.0, min([HEARTBEAT, *(t - self._clock() for t in times)]))
            try:
                stimulus, self._put_back = self._put_back or self._inbox.get(timeout=timeout), None
            except Empty:
                due = self._poll_at is not None and self._poll_at <= self._clock()
                return self._poll_demand() if due else Tick(self._clock())
            if stimulus is _DemandPoll.NOW:
                return self._poll_demand()
            if isinstance(stimulus, CacheObserved):
                return self._batch(stimulus)
            if stimulus is not _DemandPoll.SOON:
                return stimulus
            self._poll_at = self._clock() + SOON

    def _batch(self, first: CacheObserved) -> SchedulerStimulus:
        """Take the CacheObserved that follow FIRST in the inbox. At the start and after a reload there is one for each Model."""
        states = [first]
        with contextlib.suppress(Empty):
            while isinstance(following := self._inbox.get_nowait(), CacheObserved):
                states.append(following)
            self._put_back = following
        return first if len(states) == 1 else CachesObserved(states[-1].now, tuple(states))

    def _poll_demand(self) -> SchedulerStimulus:
        self._poll_requested.clear()  # before the poll: a change from now on is polled again
        self._poll_soon = False
        self._poll_at = None
        return self._host.demand()

    def _carry_out(self, command: SchedulerCommand) -> None:
        match command:
            case Publish():
                self.residency = command.residency
                self._host.publish(command.residency)
            case Emit():
                if instance := command.type == "model.failed" and command.data["instance"]:
                    story = format_story(self._machine.parts.state.story(instance))
                    log.info("%s failed (%s); its last transitions: %s", instance, command.data["reason"], story)
                self._host.emit(self._machine.epoch, command)
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
            case SavePrompts() | RestorePrompts() | LimitPrompts():
                self._runtime.handle_prompts(command)

    def _log_illegal(self, message: str) -> None:
        """Log an illegal transition, a bug. The scheduler goes on, because what caused it has happened."""
        log.error("scheduler of %s: %s", self.workspace, message)

    def _start(self, start: Start) -> None:
        try:
            self._runtime.start(start)
        except ValueError as error:  # the documents have changed meanwhile, and nothing was started
            now = self._clock()
            self.send(InstanceFailed(now, start.instance, start.epoch, "CannotStart", str(error)))
            self.send(InstanceReleased(now, start.instance, start.epoch))
