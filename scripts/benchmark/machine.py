"""The machine: tools that must be there, its cores, what it is, and the helpers in C that are compiled on it."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hotseat

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / ".cache" / "benchmark"
PACKAGES = {"nginx": "nginx", "wrk": "wrk", "gcc": "gcc libc6-dev", "taskset": "util-linux"}  # of Debian, by command


class Missing(Exception):
    """Something that must be installed is not; the message says how."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Core of the proxy that is measured, and core of the engine and the load beside it."""

    proxy: int
    load: int

    @property
    def shared(self) -> bool:
        """Whether there is just one core for both."""
        return self.proxy == self.load


def find_cores() -> Cores:
    """Choose two of the cores that we may use, or one twice."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[-1])


def find_tool(name: str) -> str:
    """Path of a program; many a PATH lacks the sbin folders, where Debian puts nginx."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        raise Missing(name)
    return path


def check_tools() -> None:
    """Raise Missing with one command that installs all that is not there."""
    missing = []
    for name, package in PACKAGES.items():
        try:
            find_tool(name)
        except Missing:
            missing.append(package)
    if missing:
        raise Missing(f"not installed here; on Debian: apt-get install {' '.join(missing)}")


def compile_helper(name: str) -> Path:
    """Compile NAME.c where its binary is older, and give the binary."""
    source, binary = HERE / f"{name}.c", BUILD / name
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        fresh = BUILD / f"{name}.{os.getpid()}"
        subprocess.run([find_tool("gcc"), "-O2", "-Wall", "-o", fresh, source], check=True)
        fresh.rename(binary)
    return binary


def describe(extra_versions: Iterable[str] = ()) -> dict[str, Any]:
    """Say what the figures were measured on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 2),
        "versions": [
            f"hotseat {hotseat.__version__}{_commit()}",
            f"Python {platform.python_version()}",
            _first_line(find_tool("nginx"), "-v"),
            _first_line(find_tool("wrk"), "-v"),
            *extra_versions,
        ],
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, "-C", str(HERE), "describe", "--always", "--dirty"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    return f" ({described.stdout.strip()})" if described.returncode == 0 else ""


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).partition("\n")[0].strip()


if sys.platform != "linux":
    raise SystemExit("scripts/bench needs Linux: it pins processes to cores and reads /proc")
