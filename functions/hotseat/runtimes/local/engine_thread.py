"""The thread that runs one engine, from its start until proof that it is gone, and the mailbox for its commands."""

import logging
import os
import secrets
import select
import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
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
    RestorePrompts,
    SavePrompts,
    SleepFailed,
    Start,
    Wake,
)
from hotseat.core.ports import Observe
from hotseat.engines.base import Engine, sleep_of
from hotseat.runtimes.engine_http import EngineRefused, HealthProbe
from hotseat.runtimes.local.exits import READ_LINES, explain_exit, oom_kills, with_output
from hotseat.runtimes.local.gpus import Gpus, MemoryBaseline, MemoryProof, overridden, take_baseline
from hotseat.runtimes.local.health import Liveness
from hotseat.runtimes.local.instance_prompts import InstancePrompts, instance_prompts
from hotseat.runtimes.local.launch import (
    HOST,
    CannotStart,
    LaunchPlan,
    PortReservations,
    WeightsMissing,
    make_plan,
    weights_of,
    wrap_os_errors,
)
from hotseat.runtimes.local.logs import Lines, ModelLog
from hotseat.runtimes.local.memory import MemorySampler, SampledEngine, resident_memory
from hotseat.runtimes.local.orphans import (
    INSTANCE_VARIABLE,
    StateDir,
    find_processes,
    kill_all,
    session_members,
    wait_for_end,
)
from hotseat.runtimes.local.prompt_store import PromptStore
from hotseat.runtimes.local.sleep_wake import SleepTransition
from hotseat.runtimes.local.supervisor import descendants
from hotseat.runtimes.local.supervisor_client import SupervisorPool, SupervisorProcess, read_ready
from hotseat.runtimes.prompt_transfer import PromptTransfer

log = logging.getLogger(__name__)

GIVE_WAY = 0.005  # seconds; see CommandMailbox.give_way


class CommandMailbox:
    """The newest commands to an instance. It is the only part of an EngineThread that other threads use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = True
        self.fd, self._writer = os.pipe()  # readable once there is a new command
        os.set_blocking(self.fd, False)
        self.grace: float | None = None  # seconds, of its Stop; None: it was not stopped
        self.transition: Park | Wake | None = None
        self._passed_on = threading.Event()  # the supervisor knows of the Start, and of the newest Stop
        self.transfer: SavePrompts | RestorePrompts | None = None

    def put(self, command: Park | Wake | SavePrompts | RestorePrompts) -> bool:
        """Leave a command; return False if the instance has ended."""
        with self._lock:
            if self._open:
                if isinstance(command, Park | Wake):
                    self.transition = command
                else:
                    self.transfer = command
                os.write(self._writer, b".")
            return self._open

    def stop(self, grace: float) -> bool:
        """Leave a Stop, or shorten its grace; return False if the instance has ended."""
        with self._lock:
            if self._open:
                self.grace = grace if self.grace is None else min(grace, self.grace)
                self._passed_on.clear()
                os.write(self._writer, b".")
            return self._open

    def give_way(self) -> None:
        """Let the instance pass a Start or Stop on to its supervisor, before the caller's next work competes with it for the interpreter.

        A switch waits for that. It takes some tenths of a millisecond, and is awaited for a few milliseconds at most.
        """
        self._passed_on.wait(GIVE_WAY)

    def passed_on(self) -> None:
        """Note that there is nothing to give way to."""
        self._passed_on.set()

    def close(self) -> None:
        """Accept no more commands."""
        with self._lock:
            self._open = False
            os.close(self.fd)
            os.close(self._writer)
            self.fd = self._writer = -1  # the numbers may be reused from now on


BUSY_GRACE = (
    0.5  # seconds that an engine has to end if it still saves or restores: it might not notice before it is done
)
PROOF_TIME = 10.0  # seconds beyond all graces; an instance that is not proven gone by then is reported as unproven
PROOF_PAUSE = 0.02  # seconds between queries of the driver, which cannot be polled
UNPROVEN_PAUSE = 1.0  # seconds between queries once the instance is unproven
SWEEP_TIME = 2.0  # seconds for one attempt to kill the processes that a dead supervisor left
MAX_OUTPUT_CHUNKS = 16  # chunks of output that are read before anything else is handled


@dataclass(frozen=True, slots=True)
class RuntimeContext:
    """What all instances of a runtime share.

    `marks`: environment of every engine, by which orphaned processes are found. `on_end`: called
    just before InstanceReleased. `last_received`: when bytes of a response came from an address
    last, in monotonic seconds. `closing`: the runtime ends, and waits for processes only, not for
    accelerator memory.
    """

    observe: Observe
    clock: Callable[[], float]
    supervisors: SupervisorPool
    ports: PortReservations
    state_dir: StateDir
    cache_dir: Path
    accelerators: MemoryProof | None
    marks: Mapping[str, str]
    on_end: Callable[["EngineThread"], None]
    gpus: Gpus
    sampler: MemorySampler
    last_received: Callable[[str], float]
    prompts: PromptStore
    secret_variables: Callable[[], AbstractSet[str]] = frozenset  # of all documents: environment variables with secrets
    closing: threading.Event = field(default_factory=threading.Event)


class EngineThread(threading.Thread):
    """Runs the engine of one Start.

    It reports in order: maybe ready, maybe failed, maybe unproven, at last released.
    """

    def __init__(self, command: Start, model: Model, engine: Engine, output: ModelLog, context: RuntimeContext) -> None:
        super().__init__(name=f"instance-{command.instance}", daemon=True)
        self.instance = command.instance
        self._epoch = command.epoch
        self._devices = command.devices
        self.model = model
        self.mailbox = CommandMailbox()
        self._engine = engine
        self._output = output
        self._context = context
        self._process_mark = f"{command.instance} {secrets.token_hex(8)}"  # in the environment of its processes
        self._supervisor: SupervisorProcess | None = None
        self._plan: LaunchPlan | None = None  # while the engine may be launched once more
        self._probe: HealthProbe | None = None  # while it loads
        self._transition: SleepTransition | None = None  # while it falls asleep or wakes
        self._liveness: Liveness | None = None  # while it is ready
        self._prompts: InstancePrompts | None = None  # None: they are not kept
        self._transfer: PromptTransfer | None = None  # while it saves or restores prompts
        self._last_transfer: SavePrompts | RestorePrompts | None = None
        self._busy = False  # it was not done when a save was given up
        self._last_turn = 0  # `turn` of the last transition
        self._baseline: MemoryBaseline | None = None
        self._lines = Lines()
        self._output_start = output.position
        self._oom_kills = 0
        self._engine_pid = 0
        self._address, self._endpoint, self._health_path = "", (HOST, 0), ""
        self._headers = b""  # that hotseat adds to its own requests too
        self._sent_grace: float | None = None  # seconds of grace that the supervisor knows
        self._gone_since = 0.0  # monotonic seconds: when its last process was proven gone
        self._proof_deadline: float | None = None  # monotonic seconds; None: it was not stopped and has not ended
        self._ready = self._failed = self._unproven = self._empty = False

    def run(self) -> None:
        """Run the engine, and whatever happens end with the proof that it is gone."""
        try:
            with ExitStack() as stack:
                if self.mailbox.grace is None:
                    self._start(stack)
                    self.mailbox.passed_on()
                self._supervise()
        except Exception as problem:
            log.exception("cannot watch the engine of %s any longer", self.instance)
            self._fail("InternalError", f"hotseat can no longer watch the engine: {problem!r}")
            if self._supervisor is not None:
                self._supervisor.close()  # which makes it kill the process tree
        self._prove(self._processes_left)
        self._gone_since = time.monotonic()
        self._prove(self._memory_left)
        self._release()

    # Start ------------------------------------------------------------------------------------------------------------

    def _start(self, stack: ExitStack) -> None:
        """Hand the engine to a supervisor, or report why that failed."""
        try:
            with wrap_os_errors():
                self._launch_engine(stack)
        except CannotStart as problem:
            if isinstance(problem, WeightsMissing):  # they were deleted since the last check
                now, name = self._context.clock(), self.model.name
                self._context.observe(CacheObserved(now, name, CacheState.ABSENT))
            self._cannot_start(problem.reason, str(problem))

    def _launch_engine(self, stack: ExitStack) -> None:
        spec = self.model.spec
        port = stack.enter_context(self._context.ports.reserve(spec.port, self.model.name))
        marks = {**self._context.marks, INSTANCE_VARIABLE: self._process_mark}
        gpus = self._context.gpus.environment(self.model, self._devices)
        cache_dir, weights = self._context.cache_dir, weights_of(self.model, self._engine, self._context.cache_dir)
        self._prompts = instance_prompts(self._context.prompts, self.model, self._engine, weights, self._epoch)
        if self._prompts is not None and (unfit := self._prompts.report_unfit(self._context.clock(), self.instance)):
            self._context.observe(unfit)
        prompts = None if self._prompts is None else str(self._prompts.directory)
        hidden = self._context.secret_variables()
        plan = make_plan(self.model, self._engine, port, cache_dir, marks, gpus=gpus, prompts=prompts, hidden=hidden)
        self._headers = plan.headers
        if self._devices and (names := overridden(self._context.gpus.vendor, self.model)):
            self._warn(
                f"env sets {names[0]}, so hotseat does not set it to the assigned GPUs ({','.join(self._devices)})"
            )
        if plan.stop_command:
            self._context.state_dir.save_stop_command(self.instance, plan.stop_command)
        if spec.resources.gpus:
            chosen_by_model = overridden(self._context.gpus.vendor, self.model)
            numbers = None if chosen_by_model else self._context.gpus.numbers(self._devices)
            self._baseline = take_baseline(self._context.accelerators, numbers)
        self._plan = plan
        self._supervisor = self._hand_to_supervisor(plan)
        self._oom_kills = oom_kills()  # only now, as a request waits: to start the engine takes longer than this
        self._address, self._endpoint, self._health_path = f"http://{HOST}:{port}", (HOST, port), plan.health_path
        self._probe = HealthProbe(self._endpoint, self._health_path, time.monotonic(), self._headers)

    def _hand_to_supervisor(self, plan: LaunchPlan) -> SupervisorProcess:
        supervisor = self._context.supervisors.take()
        supervisor.launch(plan.argv, plan.env, plan.stop_command)
        return supervisor

    def _relaunch(self, dead: SupervisorProcess) -> bool:
        """Launch again, at most once, if the supervisor died before it started the engine.

        Return False if it is too late. A spare supervisor is an idle process, which the kernel may
        kill for memory.
        """
        plan, self._plan = self._plan, None
        ended = self._failed or self.mailbox.grace is not None  # reported already, so nothing may run any more
        if plan is None or self._engine_pid or ended or self._processes_left():
            return False
        dead.close()
        try:
            with wrap_os_errors():
                self._supervisor = self._hand_to_supervisor(plan)
        except CannotStart as problem:
            self._cannot_start(problem.reason, str(problem))
            self._supervisor = None  # the dead supervisor ran nothing
        return True

    def _warn(self, message: str) -> None:
        log.warning("%s: %s", self.instance, message)
        self._output.write([f"--- {self.instance}: {message} ---"])

    def _cannot_start(self, reason: str, message: str) -> None:
        self._output.write([f"--- {self.instance} cannot start: {message} ---"])
        self._fail(reason, message)

    # Life -------------------------------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        """Handle all that happens, until the process tree is empty or the supervisor is dead."""
        while self._supervisor is not None and not self._empty:
            self._wait(self._supervisor)
            self._handle_commands(self._supervisor)
            messages = self._supervisor.messages()
            if messages is None:
                if self._relaunch(self._supervisor):
                    continue
                self._fail("SupervisorKilled", "the engine's supervisor process was killed, and the engine with it")
                return
            for message in messages:
                self._handle_message(message, self._supervisor)
            if self._engine_pid:
                self._read_output(self._supervisor)
            self._step_probe()
            self._step_liveness()
            self._step_transition(self._supervisor)
            self._step_transfer()
            if not self._unproven and self._proof_deadline is not None and time.monotonic() >= self._proof_deadline:
                self._report_unproven(f"processes are still running: {_listed(descendants(self._supervisor.pid))}")

    def _wait(self, supervisor: SupervisorProcess) -> None:
        poll = select.poll()
        for fd in (supervisor.status, self.mailbox.fd):
            poll.register(fd, select.POLLIN)
        if self._engine_pid:  # not before, so that the log line about the start comes first
            poll.register(supervisor.log, select.POLLIN)
        times = [] if self._proof_deadline is None or self._unproven else [self._proof_deadline]
        for request in (self._probe, self._transition, self._liveness, self._transfer):
            if request is not None:
                times.append(request.due)
                if (at := request.fd) is not None:
                    poll.register(at, request.events)
        until = min(times, default=inf)
        poll.poll(None if until == inf else max(0.0, until - time.monotonic()) * 1000)

    def _handle_message(self, message: dict[str, Any], supervisor: SupervisorProcess) -> None:
        """Handle a message of the supervisor."""
        if "pid" in message:
            self._engine_pid = message["pid"]
            self._output.write([f"--- {self.instance} started, pid {self._engine_pid} ---"])
            self._output_start = self._output.position
            self._context.supervisors.prepare()  # not before: its start would slow down this engine's
        elif "failed" in message:
            self._cannot_start(message["failed"], message["message"])
        elif "exited" in message:
            self._read_output(supervisor)
            if self._engine_pid:
                self._handle_exit(message["exited"])
        elif "empty" in message:
            self._empty = True

    def _handle_exit(self, code: int) -> None:
        """Handle the exit of the main process; other processes of the tree may live on."""
        self._output.write(self._lines.rest())
        self._close_requests()
        if self.mailbox.grace is None:  # not after a Stop, for which no reason is reported
            self._report_exit(code)
        self._output.write([f"--- {self.instance} ended with {f'code {code}' if code >= 0 else f'signal {-code}'} ---"])
        self._limit_proof(0.0)

    def _report_exit(self, code: int) -> None:
        """Report why the engine ended by itself."""
        oom_killed = oom_kills() != self._oom_kills
        _, output = self._output.read_after(self._output_start, 0)
        reason, message = explain_exit(code, output[-READ_LINES:], ready=self._ready, oom_killed=oom_killed)
        self._fail(reason, message, exit_code=code if code >= 0 else 128 - code)

    def _read_output(self, supervisor: SupervisorProcess) -> None:
        for _ in range(MAX_OUTPUT_CHUNKS):
            data = read_ready(supervisor.log)
            if not data:
                return
            self._output.write(self._lines.feed(data))

    def _handle_commands(self, supervisor: SupervisorProcess) -> None:
        """Send a Stop to the supervisor, again if its grace was shortened, or begin a Park or a Wake."""
        read_ready(self.mailbox.fd)
        grace, command = self.mailbox.grace, self.mailbox.transition
        if command is not None and command.turn != self._last_turn and grace is None:
            self._last_turn = command.turn
            self._begin_transition(command, supervisor)
        transfer = self.mailbox.transfer
        if transfer is not None and transfer is not self._last_transfer and grace is None:
            self._last_transfer = transfer
            now = time.monotonic()
            self._transfer = PromptTransfer(transfer, self._prompts, self._endpoint, now, headers=self._headers)
        if grace is not None and (self._busy or self._transfer is not None) and not self.model.spec.stop_command:
            self._busy, grace = True, min(grace, BUSY_GRACE)  # nothing is in flight on it
        if grace is None or grace == self._sent_grace:
            self.mailbox.passed_on()
            return
        self._sent_grace = grace
        supervisor.stop(grace)
        self.mailbox.passed_on()
        self._context.sampler.remove(self.instance)
        self._close_requests()
        self._record_processes(supervisor)
        if self._baseline is not None:
            self._baseline.update()
        self._limit_proof(grace * (2 if self.model.spec.stop_command else 1))

    def _step_probe(self) -> None:
        """Continue the probe, and report the engine once it is ready."""
        if self._probe is None or self._supervisor is None or not self._probe.step(time.monotonic()):
            return
        self._close_requests()
        self._ready = True
        self._start_liveness()
        if self._baseline is not None:
            self._baseline.update(loaded=True)  # first: from now on other models may be loaded
        kept = 0 if self._prompts is None else self._prompts.kept
        now = self._context.clock()
        self._context.observe(InstanceReady(now, self.instance, self._epoch, self._address, prompts=kept))
        self._record_processes(self._supervisor)
        if self.model.spec.resources.gpus or self.model.spec.resources.accelerator_memory:
            engine = SampledEngine(
                self.instance,
                self._epoch,
                self._supervisor.pid,
                self._address,
                self.model,
                self._engine,
                self._baseline,
                headers=self._headers,
            )
            self._context.sampler.add(engine)

    def _start_liveness(self) -> None:
        """Check from now on that the engine answers, if its Model has a health.period."""
        health = self.model.spec.health
        if health.period:
            last_received = partial(self._context.last_received, self._address)
            path, now, headers = self._health_path, time.monotonic(), self._headers
            self._liveness = Liveness(self._endpoint, path, health, last_received, now, headers=headers)

    def _step_liveness(self) -> None:
        """Continue the liveness check, and report a failure.

        The engine runs on until a Stop, so that routers know first.
        """
        if self._liveness is None or not (why := self._liveness.step(time.monotonic())):
            return
        _, output = self._output.read_after(self._output_start, 0)
        self._output.write([f"--- {self.instance}: {why} ---"])
        self._fail("Unhealthy", with_output(why, output), lives=True)

    def _begin_transition(self, command: Park | Wake, supervisor: SupervisorProcess) -> None:
        """Begin to carry out a Park or a Wake."""
        if not self._ready or self._failed:
            self._report_sleep_failed(command, "it has failed" if self._failed else "it has not been ready yet")
            return
        self._close_requests()
        self._record_processes(supervisor)
        requests, path, headers = sleep_of(self._engine, self.model), self._health_path, self._headers
        self._transition = SleepTransition(command, requests, self._endpoint, path, self._baseline, headers=headers)

    def _step_transition(self, supervisor: SupervisorProcess) -> None:
        """Continue the transition, and report its result."""
        if self._transition is None:
            return
        command, instance, epoch = self._transition.command, self.instance, self._epoch
        try:
            if not self._transition.step(time.monotonic()):
                return
        except EngineRefused as problem:
            self._close_requests()
            self._report_sleep_failed(command, str(problem))
            return
        self._close_requests()
        if isinstance(command, Park):
            memory, sleep = resident_memory(descendants(supervisor.pid)), sleep_of(self._engine, self.model)
            kept = None if sleep is None else sleep.keeps_prompts
            self._context.observe(InstanceParked(self._context.clock(), instance, epoch, command.turn, memory, kept))
        else:
            self._start_liveness()
            self._context.observe(InstanceReady(self._context.clock(), instance, epoch, self._address, command.turn))

    def _step_transfer(self) -> None:
        """Continue to save or restore prompts, and report the result."""
        if self._transfer is None or not self._transfer.step(time.monotonic()):
            return
        for observation in self._transfer.observations(self._context.clock()):
            self._context.observe(observation)
        self._busy = self._transfer.cut_off and isinstance(self._transfer.command, SavePrompts)
        self._transfer = None

    def _report_sleep_failed(self, command: Park | Wake, why: str) -> None:
        self._context.observe(SleepFailed(self._context.clock(), self.instance, self._epoch, command.turn, why))

    # End --------------------------------------------------------------------------------------------------------------

    def _prove(self, find_remains: Callable[[], str]) -> None:
        """Repeat until nothing remains. After the deadline, report the instance as unproven and repeat slowly."""
        while remains := _find(find_remains):
            self._limit_proof(0.0)
            if time.monotonic() >= (self._proof_deadline or 0.0):
                self._report_unproven(remains)
            time.sleep(UNPROVEN_PAUSE if self._unproven else PROOF_PAUSE)

    def _processes_left(self) -> str:
        """Kill the processes that a dead supervisor left, and return which remain.

        A living supervisor proves it itself.
        """
        if self._supervisor is None or self._empty:
            return ""
        # The kernel kills the engine with its supervisor.
        wait_for_end([self._engine_pid] if self._engine_pid else [], SWEEP_TIME)

        def find() -> list[int]:
            marked = find_processes(INSTANCE_VARIABLE, self._process_mark)
            return marked + (session_members(self._engine_pid) if self._engine_pid else [])

        left = kill_all(find, SWEEP_TIME)
        return f"processes could not be killed: {_listed(left)}" if left else ""

    def _memory_left(self) -> str:
        """Return the accelerator memory that remains, if a driver reports it."""
        if self._baseline is None or self._context.closing.is_set():
            return ""
        return self._baseline.unreleased(time.monotonic() - self._gone_since)

    def _release(self) -> None:
        """Report that the instance is gone, then clean up: the next model need not wait for that."""
        self._context.sampler.remove(self.instance)
        if self.model.spec.stop_command:
            self._context.state_dir.delete_stop_command(self.instance)
        self._context.on_end(self)
        self.mailbox.close()
        self._context.observe(InstanceReleased(self._context.clock(), self.instance, self._epoch))
        self._close_requests()
        if self._supervisor is not None:
            self._read_output(self._supervisor)
            self._supervisor.close()
        self._output.write(self._lines.rest())
        if self._prompts is not None:
            self._prompts.sweep()

    def _limit_proof(self, grace: float) -> None:
        """Set the deadline for the proof that the instance is gone; a later call may only shorten it."""
        deadline = time.monotonic() + grace + PROOF_TIME
        self._proof_deadline = deadline if self._proof_deadline is None else min(deadline, self._proof_deadline)

    def _record_processes(self, supervisor: SupervisorProcess) -> None:
        if self._baseline is not None:
            self._baseline.add_processes(supervisor.pid)

    def _close_requests(self) -> None:
        """Abandon all requests to the engine."""
        for request in (self._probe, self._transition, self._liveness, self._transfer):
            if request is not None:
                request.close()
        self._probe = self._transition = self._liveness = self._transfer = None

    def _fail(self, reason: str, message: str, *, lives: bool = False, exit_code: int | None = None) -> None:
        """Report, once, that the engine ended by itself or (`lives`) must be stopped; not after a Stop."""
        if self._transfer is not None and self.mailbox.grace is None:
            self._transfer.fail()
        self._close_requests()
        if not self._failed and self.mailbox.grace is None:
            self._failed = True
            self._context.observe(
                InstanceFailed(self._context.clock(), self.instance, self._epoch, reason, message, lives, exit_code)
            )

    def _report_unproven(self, reason: str) -> None:
        if not self._unproven:
            self._unproven = True
            self._context.observe(InstanceUnproven(self._context.clock(), self.instance, self._epoch, reason))


def _find(find_remains: Callable[[], str]) -> str:
    """Return what remains. A failure proves nothing, and must not end the thread that owes the proof."""
    try:
        return find_remains()
    except Exception as problem:
        return f"the remaining processes cannot be listed: {problem!r}"


def _listed(pids: list[int]) -> str:
    return ", ".join(map(str, sorted(pids))) or "unknown ones"
