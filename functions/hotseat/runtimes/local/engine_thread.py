"""The thread that runs one engine, from its start until proof that it is gone, and the orders that callers hand to it."""

import logging
import os
import secrets
import select
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from hotseat.api.model import Model
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    InstanceFailed,
    InstanceParked,
    InstanceReady,
    InstanceReleased,
    InstanceUnproven,
    Park,
    SleepFailed,
    Start,
    Wake,
)
from hotseat.core.ports import Observe
from hotseat.engines.base import Engine, sleep_of
from hotseat.runtimes.local.engine_http import EngineRefused, HealthProbe
from hotseat.runtimes.local.exit_reason import READ_LINES, explain_exit, oom_kills, with_output
from hotseat.runtimes.local.health import Liveness
from hotseat.runtimes.local.launch import (
    HOST,
    CannotStart,
    LaunchPlan,
    PortReservations,
    WeightsMissing,
    make_plan,
    told,
)
from hotseat.runtimes.local.logs import Lines, ModelLog
from hotseat.runtimes.local.memory import resident_memory
from hotseat.runtimes.local.memory_sampler import MemorySampler, SampledEngine
from hotseat.runtimes.local.nvml import MemoryBaseline, MemoryProof, take_baseline
from hotseat.runtimes.local.orphans import (
    INSTANCE_VARIABLE,
    StateDir,
    find_processes,
    kill_all,
    session_members,
    wait_for_end,
)
from hotseat.runtimes.local.sleep_wake import SleepTransition
from hotseat.runtimes.local.supervisor import descendants
from hotseat.runtimes.local.supervisor_client import SupervisorPool, SupervisorProcess, read_ready
from hotseat.runtimes.local.visible_devices import Gpus, overridden


class EngineOrders:
    """What an instance is told, the newest of each kind: the only thing in it that other threads touch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = True
        self.fd, self._writer = os.pipe()  # readable once there is news
        os.set_blocking(self.fd, False)
        self.grace: float | None = None  # of its Stop
        self.turn: Park | Wake | None = None

    def give(self, order: Park | Wake) -> bool:
        """Order it to sleep, or to wake; False if the instance has ended."""
        with self._lock:
            if self._open:
                self.turn = order
                os.write(self._writer, b".")
            return self._open

    def stop(self, grace: float) -> bool:
        """Order the end, or shorten its grace; False if the instance has ended."""
        with self._lock:
            if self._open:
                self.grace = grace if self.grace is None else min(grace, self.grace)
                os.write(self._writer, b".")
            return self._open

    def close(self) -> None:
        """Take no more."""
        with self._lock:
            self._open = False
            os.close(self.fd)
            os.close(self._writer)
            self.fd = self._writer = -1  # the numbers are others' from now on


PROOF_TIME = 10.0  # seconds beyond all graces; what is not proven gone by then is reported as unproven
PROOF_PAUSE = 0.02  # seconds between looks at the driver, which cannot be awaited
UNPROVEN_PAUSE = 1.0  # seconds between looks once it is unproven
SWEEP_TIME = 2.0  # seconds for one attempt to kill what a dead supervisor left
DRAIN_CHUNKS = 16  # of output taken in before anything else gets its turn

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RuntimeContext:
    """What all instances of a runtime share."""

    observe: Observe
    clock: Callable[[], float]
    supervisors: SupervisorPool
    ports: PortReservations
    state: StateDir
    cache_dir: Path
    accelerators: MemoryProof | None
    marks: Mapping[str, str]  # environment of every engine, by which its leftovers are known
    ended: Callable[["EngineThread"], None]  # called just before InstanceReleased
    gpus: Gpus
    measuring: MemorySampler
    heard: Callable[[str], float]  # when bytes of an answer came from an address last, monotonic
    closing: threading.Event = field(default_factory=threading.Event)  # the runtime ends: wait for processes only


class EngineThread(threading.Thread):
    """Tells everything about one Start in order: maybe ready, maybe failed, maybe unproven, at last released."""

    def __init__(self, order: Start, model: Model, engine: Engine, output: ModelLog, around: RuntimeContext) -> None:
        super().__init__(name=f"instance-{order.instance}", daemon=True)
        self.order = order
        self.model = model
        self.orders = EngineOrders()
        self._engine = engine
        self._output = output
        self._around = around
        self._mark = f"{order.instance} {secrets.token_hex(8)}"  # in the environment of its processes
        self._supervisor: SupervisorProcess | None = None
        self._plan: LaunchPlan | None = None  # while it may be begun once more
        self._probe: HealthProbe | None = None
        self._turn: SleepTransition | None = None  # to sleep or to wake, while it goes on
        self._liveness: Liveness | None = None  # while it is ready
        self._turned = 0  # number of the last of those
        self._claim: MemoryBaseline | None = None
        self._lines = Lines()
        self._begin_of_output = output.position
        self._oom_kills = 0
        self._engine_pid = 0
        self._address, self._listens, self._health = "", (HOST, 0), ""
        self._told_grace: float | None = None  # what the supervisor knows of the Stop
        self._gone_since = 0.0  # monotonic: when its last process was proven gone
        self._prove_by: float | None = None  # monotonic, once it is to end
        self._ready = self._failed = self._unproven = self._empty = False

    def run(self) -> None:
        """Live, and whatever happens end with the proof."""
        try:
            with ExitStack() as stack:
                if self.orders.grace is None:
                    self._start(stack)
                self._live()
        except Exception as problem:
            log.exception("instance %s", self.order.instance)
            self._fail("InternalError", f"hotseat can no longer watch the engine: {problem!r}")
            if self._supervisor is not None:
                self._supervisor.close()  # it kills the tree then
        self._prove(self._processes_left)
        self._gone_since = time.monotonic()
        self._prove(self._memory_left)
        self._end()

    # Start ------------------------------------------------------------------------------------------------------------

    def _start(self, stack: ExitStack) -> None:
        """Hand the engine to a supervisor, or say why not."""
        try:
            with told():
                self._start_up(stack)
        except CannotStart as problem:
            if isinstance(problem, WeightsMissing):  # they vanished since it was looked last
                now, name = self._around.clock(), self.model.name
                self._around.observe(CacheObserved(now, name, CacheState.ABSENT))
            self._cannot_start(problem.reason, str(problem))

    def _start_up(self, stack: ExitStack) -> None:
        spec = self.model.spec
        port = stack.enter_context(self._around.ports.promise(spec.port, self.model.name))
        marks = {**self._around.marks, INSTANCE_VARIABLE: self._mark}
        gpus = self._around.gpus.environment(self.model, self.order.devices)
        plan = make_plan(self.model, self._engine, port, self._around.cache_dir, marks, gpus=gpus)
        if self.order.devices and (names := overridden(self._around.gpus.vendor, self.model)):
            self._warn(
                f"env sets {names[0]}, so hotseat does not set it to the assigned GPUs ({','.join(self.order.devices)})"
            )
        if plan.stop_command:
            self._around.state.remember(self.order.instance, plan.stop_command)
        if spec.resources.gpus:
            its_own = overridden(self._around.gpus.vendor, self.model)
            numbers = None if its_own else self._around.gpus.numbers(self.order.devices)
            self._claim = take_baseline(self._around.accelerators, numbers)
        self._oom_kills = oom_kills()
        self._plan = plan
        self._supervisor = self._launch(plan)
        self._address, self._listens, self._health = f"http://{HOST}:{port}", (HOST, port), plan.health_path
        self._probe = HealthProbe(self._listens, self._health, time.monotonic())

    def _launch(self, plan: LaunchPlan) -> SupervisorProcess:
        supervisor = self._around.supervisors.take()
        supervisor.launch(plan.argv, plan.env, plan.stop_command)
        return supervisor

    def _relaunched(self, dead: SupervisorProcess) -> bool:
        """Begin once more, and only once, if the supervisor (a spare one is an idle process) died before it started anything."""
        plan, self._plan = self._plan, None
        over = self._failed or self.orders.grace is not None  # and told, so that nothing may run any more
        if plan is None or self._engine_pid or over or self._processes_left():
            return False
        dead.close()
        try:
            with told():
                self._supervisor = self._launch(plan)
        except CannotStart as problem:
            self._cannot_start(problem.reason, str(problem))
            self._supervisor = None  # the dead one had nothing to run
        return True

    def _warn(self, message: str) -> None:
        log.warning("%s: %s", self.order.instance, message)
        self._output.write([f"--- {self.order.instance}: {message} ---"])

    def _cannot_start(self, reason: str, message: str) -> None:
        self._output.write([f"--- {self.order.instance} cannot start: {message} ---"])
        self._fail(reason, message)

    # Life -------------------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        """Serve all that happens, until the supervisor says that the tree is empty, or is dead itself."""
        while self._supervisor is not None and not self._empty:
            self._wait(self._supervisor)
            self._take_order(self._supervisor)
            messages = self._supervisor.messages()
            if messages is None:
                if self._relaunched(self._supervisor):
                    continue
                self._fail("SupervisorKilled", "the engine's supervisor process was killed, and the engine with it")
                return
            for message in messages:
                self._hear(message, self._supervisor)
            if self._engine_pid:
                self._take_output(self._supervisor)
            self._ask()
            self._check()
            self._go_on(self._supervisor)
            if not self._unproven and self._prove_by is not None and time.monotonic() >= self._prove_by:
                self._tell_unproven(f"processes are still running: {_listed(descendants(self._supervisor.pid))}")

    def _wait(self, supervisor: SupervisorProcess) -> None:
        poll = select.poll()
        for fd in (supervisor.status, self.orders.fd):
            poll.register(fd, select.POLLIN)
        if self._engine_pid:  # not before, so that the line which says so comes first
            poll.register(supervisor.log, select.POLLIN)
        times = [] if self._prove_by is None or self._unproven else [self._prove_by]
        for talk in (self._probe, self._turn, self._liveness):
            if talk is not None:
                times.append(talk.due)
                if (at := talk.fd) is not None:
                    poll.register(at, talk.events)
        until = min(times, default=inf)
        poll.poll(None if until == inf else max(0.0, until - time.monotonic()) * 1000)

    def _hear(self, message: dict[str, Any], supervisor: SupervisorProcess) -> None:
        """Act on what the supervisor says."""
        if "pid" in message:
            self._engine_pid = message["pid"]
            self._output.write([f"--- {self.order.instance} started, pid {self._engine_pid} ---"])
            self._begin_of_output = self._output.position
            self._around.supervisors.prepare()  # not before: its start would slow this one's
        elif "failed" in message:
            self._cannot_start(message["failed"], message["message"])
        elif "exited" in message:
            self._take_output(supervisor)
            if self._engine_pid:
                self._hear_exit(message["exited"])
        elif "empty" in message:
            self._empty = True

    def _hear_exit(self, code: int) -> None:
        """Say why the main process ended; others of the tree may live on."""
        self._output.write(self._lines.rest())
        self._give_up_talk()
        if self.orders.grace is None:  # else nobody asks why
            self._explain(code)
        self._output.write(
            [f"--- {self.order.instance} ended with {f'code {code}' if code >= 0 else f'signal {-code}'} ---"]
        )
        self._expect_end(0.0)

    def _explain(self, code: int) -> None:
        """Find out why it ended by itself, and tell."""
        oom_killed = oom_kills() != self._oom_kills
        _, output = self._output.read_after(self._begin_of_output, 0)
        reason, message = explain_exit(code, output[-READ_LINES:], ready=self._ready, oom_killed=oom_killed)
        self._fail(reason, message, exit_code=code if code >= 0 else 128 - code)

    def _take_output(self, supervisor: SupervisorProcess) -> None:
        for _ in range(DRAIN_CHUNKS):
            data = read_ready(supervisor.log)
            if not data:
                return
            self._output.write(self._lines.feed(data))

    def _take_order(self, supervisor: SupervisorProcess) -> None:
        """Pass a Stop on, and a shorter one again; begin to sleep, or to wake."""
        read_ready(self.orders.fd)
        grace, turn = self.orders.grace, self.orders.turn
        if turn is not None and turn.turn != self._turned and grace is None:
            self._turned = turn.turn
            self._begin_turn(turn, supervisor)
        if grace is None or grace == self._told_grace:
            return
        self._told_grace = grace
        supervisor.stop(grace)
        self._around.measuring.forget(self.order.instance)
        self._give_up_talk()
        self._note_processes(supervisor)
        if self._claim is not None:
            self._claim.look()
        self._expect_end(grace * (2 if self.model.spec.stop_command else 1))

    def _ask(self) -> None:
        """Go on asking whether the engine is ready."""
        if self._probe is None or self._supervisor is None or not self._probe.step(time.monotonic()):
            return
        self._give_up_talk()
        self._ready = True
        self._watch()
        if self._claim is not None:
            self._claim.look(loaded=True)  # first: from now on others may come
        self._around.observe(InstanceReady(self._around.clock(), self.order.instance, self.order.epoch, self._address))
        self._note_processes(self._supervisor)
        if self.model.spec.resources.gpus or self.model.spec.resources.accelerator_memory:
            watched = SampledEngine(
                self.order, self._supervisor.pid, self._address, self.model, self._engine, self._claim
            )
            self._around.measuring.watch(watched)

    def _watch(self) -> None:
        """Ask from now on whether it still answers, if its Model wants that."""
        health = self.model.spec.health
        if health.period:
            heard = partial(self._around.heard, self._address)
            self._liveness = Liveness(self._listens, self._health, health, heard, time.monotonic())

    def _check(self) -> None:
        """Tell once it has not answered for too long. It is stopped by order, so that nobody is sent to it meanwhile."""
        if self._liveness is None or not (why := self._liveness.step(time.monotonic())):
            return
        _, output = self._output.read_after(self._begin_of_output, 0)
        self._output.write([f"--- {self.order.instance}: {why} ---"])
        self._fail("Unhealthy", with_output(why, output), lives=True)

    def _begin_turn(self, order: Park | Wake, supervisor: SupervisorProcess) -> None:
        """Begin to have it sleep, or wake."""
        if not self._ready or self._failed:
            self._tell_balked(order, "it has failed" if self._failed else "it has not been ready yet")
            return
        self._give_up_talk()
        self._note_processes(supervisor)
        self._turn = SleepTransition(
            order, sleep_of(self._engine, self.model), self._listens, self._health, self._claim
        )

    def _go_on(self, supervisor: SupervisorProcess) -> None:
        """Go on with that, and tell what comes of it."""
        if self._turn is None:
            return
        order, instance, epoch = self._turn.order, self.order.instance, self.order.epoch
        try:
            if not self._turn.step(time.monotonic()):
                return
        except EngineRefused as problem:
            self._give_up_talk()
            self._tell_balked(order, str(problem))
            return
        self._give_up_talk()
        if isinstance(order, Park):
            memory = resident_memory(descendants(supervisor.pid))
            self._around.observe(InstanceParked(self._around.clock(), instance, epoch, order.turn, memory))
        else:
            self._watch()
            self._around.observe(InstanceReady(self._around.clock(), instance, epoch, self._address, order.turn))

    def _tell_balked(self, order: Park | Wake, why: str) -> None:
        self._around.observe(SleepFailed(self._around.clock(), self.order.instance, self.order.epoch, order.turn, why))

    # End --------------------------------------------------------------------------------------------------------------

    def _prove(self, look: Callable[[], str]) -> None:
        """Look until nothing remains; from the deadline on it is unproven, and looked at slowly."""
        while remains := _seen(look):
            self._expect_end(0.0)
            if time.monotonic() >= (self._prove_by or 0.0):
                self._tell_unproven(remains)
            time.sleep(UNPROVEN_PAUSE if self._unproven else PROOF_PAUSE)

    def _processes_left(self) -> str:
        """Kill what a dead supervisor left; say what is still there. Nothing to do where the supervisor gave the proof."""
        if self._supervisor is None or self._empty:
            return ""
        wait_for_end(
            [self._engine_pid] if self._engine_pid else [], SWEEP_TIME
        )  # the kernel kills it with its supervisor

        def find() -> list[int]:
            marked = find_processes(INSTANCE_VARIABLE, self._mark)
            return marked + (session_members(self._engine_pid) if self._engine_pid else [])

        left = kill_all(find, SWEEP_TIME)
        return f"processes could not be killed: {_listed(left)}" if left else ""

    def _memory_left(self) -> str:
        """Ask the driver, where there is one."""
        if self._claim is None or self._around.closing.is_set():
            return ""
        return self._claim.remains(time.monotonic() - self._gone_since)

    def _end(self) -> None:
        """Say that it is gone, then tidy up: whoever waits for the seat does not wait for that."""
        self._around.measuring.forget(self.order.instance)
        if self.model.spec.stop_command:
            self._around.state.forget(self.order.instance)
        self._around.ended(self)
        self.orders.close()
        self._around.observe(InstanceReleased(self._around.clock(), self.order.instance, self.order.epoch))
        self._give_up_talk()
        if self._supervisor is not None:
            self._take_output(self._supervisor)
            self._supervisor.close()
        self._output.write(self._lines.rest())

    def _expect_end(self, grace: float) -> None:
        """Set the time by which it must be proven gone; only ever shortened."""
        prove_by = time.monotonic() + grace + PROOF_TIME
        self._prove_by = prove_by if self._prove_by is None else min(prove_by, self._prove_by)

    def _note_processes(self, supervisor: SupervisorProcess) -> None:
        if self._claim is not None:
            self._claim.note_processes(supervisor.pid)

    def _give_up_talk(self) -> None:
        """Ask and order nothing more of it."""
        for talk in (self._probe, self._turn, self._liveness):
            if talk is not None:
                talk.close()
        self._probe = self._turn = self._liveness = None

    def _fail(self, reason: str, message: str, *, lives: bool = False, exit_code: int | None = None) -> None:
        """Tell that it ended by itself, or that it should: once, and not if it was told to end."""
        self._give_up_talk()
        if not self._failed and self.orders.grace is None:
            self._failed = True
            self._around.observe(
                InstanceFailed(
                    self._around.clock(), self.order.instance, self.order.epoch, reason, message, lives, exit_code
                )
            )

    def _tell_unproven(self, reason: str) -> None:
        if not self._unproven:
            self._unproven = True
            self._around.observe(InstanceUnproven(self._around.clock(), self.order.instance, self.order.epoch, reason))


def _seen(look: Callable[[], str]) -> str:
    """Give what a look says remains. One that fails proves nothing, and must not end the thread that owes the proof."""
    try:
        return look()
    except Exception as problem:
        return f"the remaining processes cannot be listed: {problem!r}"


def _listed(pids: list[int]) -> str:
    return ", ".join(map(str, sorted(pids))) or "unknown ones"
