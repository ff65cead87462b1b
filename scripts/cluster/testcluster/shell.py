"""Running commands and processes."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from testcluster.settings import BIN, KUBECONFIG, STATE


def sh(*command: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], check=check, text=True, **options)


def output(*command: object, **options: Any) -> str:
    return str(sh(*command, stdout=subprocess.PIPE, **options).stdout).strip()


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def kubectl(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return sh(BIN / "kubectl", "--kubeconfig", KUBECONFIG, *arguments, **options)


def write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def start(name: str, *command: object) -> None:
    """Start one component in a session of its own; its pid and log lie under the state folder."""
    with (STATE / "logs" / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    (STATE / "pids" / name).write_text(str(process.pid))


def alive(name: str) -> bool:
    pid = STATE / "pids" / name
    return pid.exists() and pathlib.Path(f"/proc/{pid.read_text()}/cmdline").exists()


def stop(name: str) -> None:
    if not alive(name):
        return
    pid = int((STATE / "pids" / name).read_text())
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        for _ in range(50):
            if not alive(name):
                return
            time.sleep(0.1)


def wait_for(what: str, ready: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} was not ready within {seconds:.0f} s: see {STATE}/logs")
        time.sleep(0.2)
