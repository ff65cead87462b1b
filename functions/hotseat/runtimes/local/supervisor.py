"""Supervisor: the small process that stands between hotseat and one engine, and proves that nothing of the engine is left.

It runs by path (`python -I -S supervisor.py`), so it imports the standard library only. As a *subreaper* it becomes the parent of
every orphan below it, daemons with sessions of their own included: when waitpid() says that it has no child, the whole tree is gone.
One thread only, because PR_SET_PDEATHSIG is bound to the thread that forked.

stdin carries JSON lines from hotseat, and its end of file means that hotseat is dead:
    {"argv": […], "env": {…}, "stop_command": […]}   run the engine (once)
    {"stop": grace}                                  end it: stop command, SIGTERM, after `grace` seconds SIGKILL
stdout carries JSON lines to hotseat:
    {"pid": n} | {"failed": reason, "message": …}    it runs, or could not be run
    {"exited": code}                                 the engine's main process ended (negative: by that signal)
    {"empty": true}                                  nothing of the tree is left; the supervisor exits
stderr is the pipe that the engine's output goes to.
"""

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
EXIT_GRACE = 1.0  # seconds between SIGTERM and SIGKILL for what outlives the main process
STOP_COMMAND_TIMEOUT = 10.0  # seconds for a stop command where nobody stated a grace (the engine ended by itself)
STOP_COMMAND_LEAST = 1.0  # seconds that it gets even where the grace is shorter: nothing else reaches what it stops
REASONS = {errno.ENOENT: "CommandNotFound", errno.EACCES: "CommandNotExecutable"}


def find_prctl() -> Callable[..., int]:
    """Give prctl(2); elsewhere than on Linux nothing is done, and hotseat's own sweep has to do."""
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: 0


def processes() -> dict[int, list[bytes]]:
    """Every process that /proc shows: its state, parent, group, session …, the fields of proc_pid_stat(5) behind the name."""
    found = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():  # noqa: PTH112, PTH208 - pathlib costs its import
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                    found[int(entry)] = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it went away meanwhile
    return found


def descendants(root: int) -> list[int]:
    """All processes below `root`, zombies included."""
    children: dict[int, list[int]] = {}
    for pid, fields in processes().items():
        children.setdefault(int(fields[1]), []).append(pid)
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def signal_process(pid: int, number: int) -> None:
    """Send a signal to one process, or with a negative pid to a group; no matter if it is gone or not ours."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


class Supervisor:
    """One engine: RUNNING → (COMMAND →) TERM → KILL, or LINGER once the main process is gone; empty at any time."""

    def __init__(self, wakeup: int) -> None:
        self.wakeup = wakeup
        self.prctl = find_prctl()
        self.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.phase = "RUNNING"
        self.deadline: float | None = None  # of the phase, monotonic
        self.grace = STOP_COMMAND_TIMEOUT
        self.main = 0  # pid of the engine while it lives
        self.helper = 0  # pid of the stop command while it runs
        self.stop_command: list[str] = []
        self.env: dict[str, str] = {}
        self.launched = False
        self.listening = True

    def run(self) -> None:
        """Wait for orders, deaths and deadlines until the tree is empty."""
        received = b""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self.wakeup, select.POLLIN)
        while True:
            left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            ready = {fd for fd, _ in poll.poll(None if left is None else left * 1000 + 1)}
            if 0 in ready:
                data = os.read(0, 65536)
                *lines, received = (received + data).split(b"\n")
                for line in lines:
                    self.order(json.loads(line))
                if not data:
                    poll.unregister(0)
                    self.listening = False
                    self.enter("KILL")
            if self.wakeup in ready:
                os.read(self.wakeup, 4096)
            if self.reap() or not (self.launched or self.listening):
                return
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.next_phase()
            elif self.phase == "KILL" and ready:
                self.kill_all()  # again at each death: what a process forked just before it was killed has come to us since

    def order(self, order: dict) -> None:  # type: ignore[type-arg]
        """Do what hotseat says."""
        if "argv" in order:
            self.launch(order)
        elif "stop" in order:
            self.stop(order["stop"])

    def launch(self, order: dict) -> None:  # type: ignore[type-arg]
        """Start the engine and say whether it runs; the tree counts from now on."""
        self.env = order["env"]
        self.launched = True
        self.main, error = self.spawn(order["argv"])
        if error:
            message = f"{order['argv'][0]}: {os.strerror(error)}"
            say({"failed": REASONS.get(error, "CannotStart"), "message": message})
        else:
            self.stop_command = order["stop_command"]
            say({"pid": self.main})

    def spawn(self, argv: list[str]) -> tuple[int, int]:
        """Fork and exec in a session of its own; the pid, and errno if there was no exec."""
        supervisor = os.getpid()
        reader, writer = os.pipe()  # closes at exec: its end of file says that exec worked
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                self.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != supervisor:  # it died before the line above
                    os._exit(127)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(2, 1)
                os.execvpe(argv[0], argv, self.env)  # noqa: S606 - no shell is the point
            except OSError as problem:
                os.write(writer, str(problem.errno).encode())
            finally:
                os._exit(127)
        os.close(writer)
        error = int(os.read(reader, 16) or 0)
        os.close(reader)
        return pid, error

    def stop(self, grace: float) -> None:
        """End the engine; a later order with a shorter grace shortens what is under way."""
        self.grace = min(self.grace, grace) if self.phase in ("COMMAND", "TERM") else grace
        if self.phase == "RUNNING" and self.stop_command:
            self.enter("COMMAND")
        elif grace <= 0:
            self.enter("KILL")
        elif self.phase == "RUNNING":
            self.enter("TERM")
        elif self.deadline is not None:
            self.deadline = min(self.deadline, time.monotonic() + grace)

    def enter(self, phase: str) -> None:
        """Begin a phase: its signal, its deadline."""
        if self.phase == "KILL":
            return
        self.phase = phase
        if phase == "KILL":
            self.deadline = None
            self.kill_all()
            return
        times = {
            "COMMAND": max(self.grace, STOP_COMMAND_LEAST),
            "TERM": self.grace,
            "LINGER": min(self.grace, EXIT_GRACE),
        }
        self.deadline = time.monotonic() + times[phase]
        if phase == "COMMAND":
            command, self.stop_command = self.stop_command, []
            self.helper, error = self.spawn(command)
            if error:
                os.write(2, f"stop command: {command[0]}: {os.strerror(error)}\n".encode())
        elif phase == "TERM" and self.main:
            signal_process(-self.main, signal.SIGTERM)
        elif phase == "LINGER":
            for pid in descendants(os.getpid()):
                signal_process(pid, signal.SIGTERM)

    def next_phase(self) -> None:
        """Go on from a phase whose time is over, or whose business is done."""
        if self.phase == "COMMAND" and self.main:
            self.enter("TERM")
        elif self.phase == "COMMAND":
            self.enter("LINGER")
        else:
            self.enter("KILL")

    def reap(self) -> bool:
        """Take in the dead; True when the tree is empty."""
        while self.launched:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                say({"empty": True})
                return True
            if pid == 0:
                return False
            if pid == self.main:
                self.main = 0
                say({"exited": os.waitstatus_to_exitcode(status)})
                if self.phase in ("RUNNING", "TERM"):
                    self.left_behind()
            elif pid == self.helper:
                self.helper = 0
                if self.phase == "COMMAND":
                    self.next_phase()
        return False

    def left_behind(self) -> None:
        """End what may remain now that the main process is gone, with what the stop command is for."""
        if self.stop_command:
            self.enter("COMMAND")
            return
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return  # nothing remains, the usual case: no need to look through /proc
        self.enter("LINGER")

    def kill_all(self) -> None:
        """SIGKILL to the engine's group at once, then to whatever else is below."""
        if self.main:
            signal_process(-self.main, signal.SIGKILL)
        for pid in descendants(os.getpid()):
            signal_process(pid, signal.SIGKILL)


def say(message: dict) -> None:  # type: ignore[type-arg]
    """Tell hotseat, if it still lives."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


def main() -> None:
    """Be a supervisor."""
    # A service manager signals every process, but supervisors end with hotseat, not before it. The handlers do nothing; SIG_IGN
    # would be the engine's too (and Python's for the last two are), while handlers go at exec.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, lambda *_: None)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    Supervisor(reader).run()
    os._exit(0)  # the interpreter's own end would only cost time


if __name__ == "__main__":
    main()
