"""Orphaned processes, which have no supervisor any more.

They are found by their environment, killed, and proven gone.
"""

import contextlib
import fcntl
import json
import logging
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from hotseat.private_files import make_directory, opener
from hotseat.runtimes.local.supervisor import processes, signal_process

INSTANCE_VARIABLE = "HOTSEAT_INSTANCE"  # in every engine: the instance, and a random number
STATE_VARIABLE = "HOTSEAT_ENGINE_OF"  # in every engine and supervisor: the state directory of its hotseat
SUPERVISOR_VARIABLE = "HOTSEAT_SUPERVISOR"  # in supervisors only: the pid of their hotseat
SUPERVISORS_TIME = 5.0  # seconds for the supervisors of a dead hotseat to kill their process trees
STOP_COMMAND_TIME = 10.0  # seconds for a stop command that a dead hotseat left
NO_PIDFD_PAUSE = 0.02  # seconds to wait for the end of a process if the system has no pidfd

log = logging.getLogger(__name__)


class StateDirInUse(RuntimeError):
    """Another hotseat runs with this state directory, so its engines are not orphans."""


class StateDir:
    """The directory by which a hotseat finds the engines of an earlier one.

    It has a lock and the stop commands of engines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def lock(self) -> None:
        """Lock the directory until this process ends or unlocks it. Raise StateDirInUse if another hotseat has it."""
        make_directory(self.path)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode() or "unknown"
            os.close(descriptor)
            raise StateDirInUse(
                f"another hotseat (pid {owner.strip()}) uses {self.path}; stop it, or choose another directory with --state-dir"
            ) from None
        if (running := self._running_owner()) is not None:
            os.close(descriptor)
            raise StateDirInUse(
                f"another hotseat (pid {running}) uses {self.path}, although its lock file was deleted; stop it, or choose "
                "another state directory"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    def owner(self) -> int | None:
        """Return the pid of the hotseat that has the lock, also while it is ending; None if there is none."""
        with contextlib.suppress(OSError, ValueError), (self.path / "lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read(32))
        return None

    def unlock(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def save_stop_command(self, instance: str, stop_command: Sequence[str]) -> None:
        """Save the command that stops an instance if this hotseat dies. Raise OSError if it cannot be written."""
        make_directory(self.path)  # the directory may have been deleted while hotseat runs
        with open(self._stop_file(instance), "w", opener=opener) as file:
            file.write(json.dumps(list(stop_command)))

    def check(self) -> None:
        """Raise OSError if a stop command could not be saved now."""
        make_directory(self.path)
        with tempfile.TemporaryFile(dir=self.path) as draft:
            draft.write(b"[]")
            draft.flush()

    def delete_stop_command(self, instance: str) -> None:
        """Delete the stop command of an instance that is gone."""
        with contextlib.suppress(OSError):  # then the command runs once more, at the next start
            self._stop_file(instance).unlink(missing_ok=True)

    def clean_up(self) -> list[int]:
        """Kill what an earlier hotseat left; return the processes that could not be killed. The lock must be held."""
        wait_for_end(find_processes(STATE_VARIABLE, str(self.path), SUPERVISOR_VARIABLE), SUPERVISORS_TIME)
        left = kill_all(lambda: find_processes(STATE_VARIABLE, str(self.path)), SUPERVISORS_TIME)
        for file in self.path.glob("*.stop.json"):
            _run_stop_command(file)
            file.unlink()
        return left

    def _running_owner(self) -> int | None:
        """Return the pid of another hotseat with supervisors for this directory, whose lock may be deleted."""
        found = find_processes(STATE_VARIABLE, str(self.path), SUPERVISOR_VARIABLE)
        known = processes() if found else {}
        for pid in found:
            parent = int(known[pid][1]) if pid in known else 0
            with contextlib.suppress(OSError):
                if parent != os.getpid() and f"{SUPERVISOR_VARIABLE}={parent}".encode() in _environ(pid):
                    return parent
        return None

    def _stop_file(self, instance: str) -> Path:
        return self.path / f"{quote(instance, safe='@')}.stop.json"


def find_processes(variable: str, value: str, also: str = "") -> list[int]:
    """Return the processes with this variable in their environment, except this one.

    `also`: a variable that must be set too.
    """
    wanted, companion = f"{variable}={value}".encode(), f"{also}=".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = _environ(int(process.name))
        except OSError:  # gone, or another user's
            continue
        if wanted in variables and (not also or any(entry.startswith(companion) for entry in variables)):
            found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def _environ(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def session_members(session: int) -> list[int]:
    """Return the running processes of a session, also those that overwrote their environment (as setproctitle does)."""
    number = str(session).encode()
    return [pid for pid, (state, _, _, found, *_) in processes().items() if found == number and state != b"Z"]


def kill_all(find: Callable[[], list[int]], time_limit: float) -> list[int]:
    """Kill the processes that `find` returns until it returns none, for `time_limit` seconds; return the rest."""
    end = time.monotonic() + time_limit
    while (left := find()) and time.monotonic() < end:
        for pid in left:
            signal_process(pid, signal.SIGKILL)
        wait_for_end(left, end - time.monotonic())
    return left


def wait_for_end(pids: Sequence[int], time_limit: float) -> None:
    """Wait until all processes have ended, for at most `time_limit` seconds.

    They need not be our children. An empty /proc/PID/environ is no proof of the end: it empties
    before the process closes its accelerator.
    """
    end = time.monotonic() + time_limit
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        except (AttributeError, OSError):
            time.sleep(NO_PIDFD_PAUSE)
            continue
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(max(0.0, end - time.monotonic()) * 1000)
        finally:
            os.close(descriptor)


def _run_stop_command(file: Path) -> None:
    try:
        command = json.loads(file.read_text())
        subprocess.run(command, timeout=STOP_COMMAND_TIME, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        log.warning("the stop command in %s failed; most likely nothing was left to stop", file, exc_info=True)
