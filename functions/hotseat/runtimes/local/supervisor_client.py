"""Client side of supervisors (see supervisor.py). A spare one hides the start time of Python."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SUPERVISOR = Path(__file__).with_name("supervisor.py")
CHUNK = 65536

log = logging.getLogger(__name__)


class SupervisorProcess:
    """A running supervisor.

    `status` and `log` are pipes to read without blocking. Closing the control pipe kills the
    process tree.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=dict(env),
            start_new_session=True,
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr  # noqa: S101, PT018 - for mypy: PIPE gives them
        self._control = self._process.stdin
        self._pipes = (self._process.stdout, self._process.stderr)
        self.status, self.log = (pipe.fileno() for pipe in self._pipes)
        self._unread = b""
        for fd in (self.status, self.log):
            os.set_blocking(fd, False)

    @property
    def pid(self) -> int:
        """Process id of the supervisor, the root of the engine's tree."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the supervisor still runs."""
        return self._process.poll() is None

    def launch(self, argv: Sequence[str], env: Mapping[str, str], stop_command: Sequence[str]) -> None:
        """Start the engine. The result comes as a message, or as the end of file if the supervisor is dead."""
        self._send({"argv": list(argv), "env": dict(env), "stop_command": list(stop_command)})

    def stop(self, grace: float) -> None:
        """Stop the engine; do nothing if the supervisor is gone. `grace`: seconds."""
        self._send({"stop": grace})

    def messages(self) -> list[dict[str, Any]] | None:
        """Return the messages since the last call; None at the end of file: the supervisor is dead."""
        lines: list[bytes] = []
        while (data := read_ready(self.status)) is not None:
            if not data:
                return None if not lines else [json.loads(line) for line in lines]
            *complete, self._unread = (self._unread + data).split(b"\n")
            lines += complete
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close the pipes, which kills the process tree, and wait for the supervisor, which ends at once."""
        self.status = self.log = -1  # the numbers may be reused from now on
        self._control.close()
        for pipe in self._pipes:
            pipe.close()
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:  # it waits for a process that cannot be killed, and will end with it
            with contextlib.suppress(RuntimeError):  # no thread can be started: a zombie stays, which is harmless
                threading.Thread(target=self._process.wait, daemon=True, name="supervisor-reaper").start()

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):  # the supervisor is dead, as `messages` will report
            while data:
                data = data[os.write(self._control.fileno(), data) :]


class SupervisorPool:
    """Supervisors, of which one is started ahead."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._lock = threading.Lock()
        self._spare: SupervisorProcess | None = None
        self._closed = False

    def prepare(self) -> None:
        """Start a spare supervisor, if there is none."""
        with self._lock:
            if self._spare is None and not self._closed:
                try:
                    self._spare = SupervisorProcess(self._env)
                except OSError as problem:  # no memory or descriptors: running engines are not affected
                    log.warning("cannot start a spare supervisor: %s", problem)

    def take(self) -> SupervisorProcess:
        """Return a running supervisor: the spare one, or a new one. The caller closes it."""
        with self._lock:
            supervisor, self._spare = self._spare, None
        if supervisor is not None and supervisor.alive():
            return supervisor
        if supervisor is not None:
            supervisor.close()
        return SupervisorProcess(self._env)

    def close(self) -> None:
        """End the spare supervisor, and start no other."""
        with self._lock:
            supervisor, self._spare, self._closed = self._spare, None, True
        if supervisor is not None:
            supervisor.close()


def read_ready(fd: int) -> bytes | None:
    """Return the bytes that can be read now; None: none yet, empty: end of file, or a closed fd (-1)."""
    if fd < 0:
        return b""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
