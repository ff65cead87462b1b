"""Supervisor: the small process between hotseat and one engine.

It proves that nothing of the engine is left. It runs by path (`python -I -S supervisor.py`), so it
imports the standard library only. As a *subreaper* it becomes the parent of every orphan below it,
also of daemons with their own sessions: if waitpid() reports no child, the whole process tree is
gone. It has one thread, because PR_SET_PDEATHSIG is bound to the thread that forked.

stdin carries JSON lines from hotseat. Its end of file means that hotseat is dead:
    {"argv": […], "env": {…}, "stop_command": […]}   start the engine (once)
    {"stop": grace}                                  stop it: stop command, SIGTERM, after `grace` seconds (lifecycle.stopTimeout) SIGKILL
stdout carries JSON lines to hotseat:
    {"pid": n} | {"failed": reason, "message": …}    the engine was started, or could not be started
    {"exited": code}                                 the engine's main process ended (negative: by that signal)
    {"empty": true}                                  nothing of the process tree is left; the supervisor exits
stderr is the pipe for the engine's output.
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
EXIT_GRACE = 1.0  # seconds between SIGTERM and SIGKILL for processes that outlive the main process
STOP_COMMAND_TIMEOUT = 10.0  # seconds for a stop command without a grace (the engine ended by itself)
STOP_COMMAND_MIN = 1.0  # seconds for a stop command even if the grace is shorter: nothing else reaches what it stops
REASONS = {errno.ENOENT: "CommandNotFound", errno.EACCES: "CommandNotExecutable"}


def find_prctl() -> Callable[..., int]:
    """Return prctl(2); on other systems than Linux a no-op, so that only hotseat's search for orphans remains."""
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: 0


def processes() -> dict[int, list[bytes]]:
    """Return the fields of proc_pid_stat(5) after the name (state, parent, group, session …) by pid."""
    found = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():  # noqa: PTH112, PTH208 - pathlib costs its import
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                    found[int(entry)] = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # the process has ended meanwhile
    return found


def descendants(root: int) -> list[int]:
    """Return all processes below `root`, zombies included."""
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
    """Send a signal to a process, or with a negative pid to a group. Ignore processes that are gone or not ours."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


class Supervisor:
    """One engine, in phases: RUNNING → (COMMAND →) TERM → KILL, or LINGER once the main process is gone.

    The process tree may become empty in any phase.
    """

    def __init__(self, wakeup: int) -> None:
        self.wakeup = wakeup
        self.prctl = find_prctl()
        self.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.phase = "RUNNING"
        self.deadline: float | None = None  # of the phase, monotonic seconds
        self.grace = STOP_COMMAND_TIMEOUT
        self.main = 0  # pid of the engine while it runs
        self.stop_pid = 0  # pid of the stop command while it runs
        self.stop_command: list[str] = []
        self.env: dict[str, str] = {}
        self.launched = False
        self.listening = True

    def run(self) -> None:
        """Handle messages, exits and deadlines until the process tree is empty."""
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
                    self.handle(json.loads(line))
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
                self.kill_all()  # again at each exit: children that were forked just before a kill are below us only now

    def handle(self, message: dict) -> None:  # type: ignore[type-arg]
        """Handle a message from hotseat."""
        if "argv" in message:
            self.launch(message)
        elif "stop" in message:
            self.stop(message["stop"])

    def launch(self, message: dict) -> None:  # type: ignore[type-arg]
        """Start the engine and report whether it runs. From now on an empty process tree ends the supervisor."""
        self.env = message["env"]
        self.launched = True
        self.main, error = self.spawn(message["argv"])
        if error:
            problem = f"{message['argv'][0]}: {os.strerror(error)}"
            send({"failed": REASONS.get(error, "CannotStart"), "message": problem})
        else:
            self.stop_command = message["stop_command"]
            send({"pid": self.main})

    def spawn(self, argv: list[str]) -> tuple[int, int]:
        """Fork and exec in a new session. Return the pid, and errno if exec failed (else 0)."""
        supervisor = os.getpid()
        reader, writer = os.pipe()  # closed by exec, so that its end of file means that exec worked
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                self.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != supervisor:  # the supervisor died before the line above
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
        """Stop the engine; a later call with a shorter grace shortens the phase."""
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
        """Enter a phase: send its signal and set its deadline."""
        if self.phase == "KILL":
            return
        self.phase = phase
        if phase == "KILL":
            self.deadline = None
            self.kill_all()
            return
        times = {
            "COMMAND": max(self.grace, STOP_COMMAND_MIN),
            "TERM": self.grace,
            "LINGER": min(self.grace, EXIT_GRACE),
        }
        self.deadline = time.monotonic() + times[phase]
        if phase == "COMMAND":
            command, self.stop_command = self.stop_command, []
            self.stop_pid, error = self.spawn(command)
            if error:
                os.write(2, f"stop command: {command[0]}: {os.strerror(error)}\n".encode())
        elif phase == "TERM" and self.main:
            signal_process(-self.main, signal.SIGTERM)
        elif phase == "LINGER":
            for pid in descendants(os.getpid()):
                signal_process(pid, signal.SIGTERM)

    def next_phase(self) -> None:
        """Enter the phase after the current one, whose deadline has passed or whose command has ended."""
        if self.phase == "COMMAND" and self.main:
            self.enter("TERM")
        elif self.phase == "COMMAND":
            self.enter("LINGER")
        else:
            self.enter("KILL")

    def reap(self) -> bool:
        """Wait for processes that have ended; return True if the process tree is empty."""
        while self.launched:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                send({"empty": True})
                return True
            if pid == 0:
                return False
            if pid == self.main:
                self.main = 0
                send({"exited": os.waitstatus_to_exitcode(status)})
                if self.phase in ("RUNNING", "TERM"):
                    self.end_rest()
            elif pid == self.stop_pid:
                self.stop_pid = 0
                if self.phase == "COMMAND":
                    self.next_phase()
        return False

    def end_rest(self) -> None:
        """End what remains after the main process, by the stop command or by SIGTERM."""
        if self.stop_command:
            self.enter("COMMAND")
            return
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return  # nothing remains, as usual: reading all of /proc is not necessary
        self.enter("LINGER")

    def kill_all(self) -> None:
        """Send SIGKILL to the engine's process group at once, then to all other processes below."""
        if self.main:
            signal_process(-self.main, signal.SIGKILL)
        for pid in descendants(os.getpid()):
            signal_process(pid, signal.SIGKILL)


def send(message: dict) -> None:  # type: ignore[type-arg]
    """Send a message to hotseat, if it still runs."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


def main() -> None:
    """Run as a supervisor."""
    # A service manager signals every process, but supervisors end with hotseat, not before it. The
    # handlers do nothing. They are not SIG_IGN, which the engine would inherit (as it would
    # Python's own for the last two), while exec resets handlers.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, lambda *_: None)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    Supervisor(reader).run()
    os._exit(0)  # the interpreter's own shutdown would only cost time


if __name__ == "__main__":
    main()
