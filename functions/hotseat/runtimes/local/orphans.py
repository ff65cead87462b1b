"""Processes that no supervisor answers for any more: found by what stands in their environment, killed, and seen to be gone."""

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

from hotseat.runtimes.local.supervisor import processes, signal_process

INSTANCE_VARIABLE = "HOTSEAT_INSTANCE"  # in every engine: the instance, and a number that no other instance has
STATE_VARIABLE = "HOTSEAT_ENGINE_OF"  # in every engine and supervisor: the state directory of its hotseat
SUPERVISOR_VARIABLE = "HOTSEAT_SUPERVISOR"  # in supervisors only: the pid of their hotseat
SUPERVISORS_TIME = 5.0  # seconds that the supervisors of a dead hotseat get to finish what they do anyway
STOP_COMMAND_TIME = 10.0  # seconds for a stop command that a dead hotseat left
NO_PIDFD_PAUSE = 0.02  # seconds between looks where the system cannot tell of a process's end

log = logging.getLogger(__name__)


class StateDirInUse(RuntimeError):
    """Another hotseat runs with this state directory: its engines must not be taken for leftovers."""


class StateDir:
    """The directory by which one hotseat after another knows its engines: a lock, and the stop commands of what may run."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    def lock(self) -> None:
        """Take the directory for this process until it ends or unlocks. StateDirInUse if another has it."""
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode() or "unknown"
            os.close(descriptor)
            raise StateDirInUse(
                f"another hotseat (pid {owner.strip()}) uses {self.path}; stop it, or choose another directory with --state-dir"
            ) from None
        if (living := self._living_owner()) is not None:
            os.close(descriptor)
            raise StateDirInUse(
                f"another hotseat (pid {living}) uses {self.path}, although its lock file was deleted; stop it, or choose "
                "another state directory"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    def owner(self) -> int | None:
        """Pid of the hotseat that has the directory, also one that is still ending; None if none has."""
        with contextlib.suppress(OSError, ValueError), (self.path / "lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read(32))
        return None

    def unlock(self) -> None:
        """Let another take it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remember(self, instance: str, stop_command: Sequence[str]) -> None:
        """Note what must be run if this hotseat dies before `forget`. OSError: it cannot be noted."""
        self.path.mkdir(parents=True, exist_ok=True)  # those who tidy up may have taken it for rubbish
        self._note(instance).write_text(json.dumps(list(stop_command)))

    def check(self) -> None:
        """See whether `remember` could write. OSError: it could not."""
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.path) as draft:
            draft.write(b"[]")
            draft.flush()

    def forget(self, instance: str) -> None:
        """Drop the note: the instance is gone."""
        with contextlib.suppress(OSError):  # at worst its command runs once more, at the next start
            self._note(instance).unlink(missing_ok=True)

    def take_down(self) -> list[int]:
        """End whatever an earlier hotseat left; the processes that could not be ended. The lock must be held."""
        wait_for_end(find_processes(STATE_VARIABLE, str(self.path), SUPERVISOR_VARIABLE), SUPERVISORS_TIME)
        left = kill_all(lambda: find_processes(STATE_VARIABLE, str(self.path)), SUPERVISORS_TIME)
        for note in self.path.glob("*.stop.json"):
            _run_stop_command(note)
            note.unlink()
        return left

    def _living_owner(self) -> int | None:
        """Find another hotseat whose supervisors for this directory are still its children: its lock may have been tidied away."""
        found = find_processes(STATE_VARIABLE, str(self.path), SUPERVISOR_VARIABLE)
        known = processes() if found else {}
        for pid in found:
            parent = int(known[pid][1]) if pid in known else 0
            with contextlib.suppress(OSError):
                if parent != os.getpid() and f"{SUPERVISOR_VARIABLE}={parent}".encode() in _environ(pid):
                    return parent
        return None

    def _note(self, instance: str) -> Path:
        return self.path / f"{quote(instance, safe='@')}.stop.json"


def find_processes(variable: str, value: str, also: str = "") -> list[int]:
    """Living processes with this in their environment, but not ourselves; `also` is a variable that must be there too."""
    wanted, companion = f"{variable}={value}".encode(), f"{also}=".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = _environ(int(process.name))
        except OSError:  # gone, or somebody else's
            continue
        if wanted in variables and (not also or any(entry.startswith(companion) for entry in variables)):
            found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def _environ(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def session_members(session: int) -> list[int]:
    """Living processes of a session: an engine's, by its pid, also those that overwrote their environment (setproctitle does)."""
    number = str(session).encode()
    return [pid for pid, (state, _, _, found, *_) in processes().items() if found == number and state != b"Z"]


def kill_all(find: Callable[[], list[int]], time_limit: float) -> list[int]:
    """SIGKILL what `find` finds until it finds nothing; what it still found when the time was over."""
    end = time.monotonic() + time_limit
    while (left := find()) and time.monotonic() < end:
        for pid in left:
            signal_process(pid, signal.SIGKILL)
        wait_for_end(left, end - time.monotonic())
    return left


def wait_for_end(pids: Sequence[int], time_limit: float) -> None:
    """Wait until all of them ended, or the time is over. They need not be our children.

    Seeing nothing in /proc/PID/environ is not the end: it empties before the process closes its accelerator.
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


def _run_stop_command(note: Path) -> None:
    try:
        command = json.loads(note.read_text())
        subprocess.run(command, timeout=STOP_COMMAND_TIME, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        log.warning("the stop command in %s failed; most likely nothing was left to stop", note, exc_info=True)
