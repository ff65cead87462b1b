"""Memory of this machine and of engines: host memory, and samples of accelerator memory."""

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from hotseat.api.model import Model
from hotseat.coalesce import CoalescingWorker
from hotseat.core.messages import InstanceMeasured
from hotseat.core.ports import Observe
from hotseat.engines.base import Engine, TellsMemory
from hotseat.runtimes.engine_http import get
from hotseat.runtimes.local.gpus import MemoryBaseline, MemoryProof
from hotseat.runtimes.local.supervisor import descendants

log = logging.getLogger(__name__)


_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int:
    """Return the bytes of memory of this machine or container."""
    total: int = psutil.virtual_memory().total
    for limit in _LIMITS:
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # there is no limit, or it is `max`
            continue
    return total


def resident_memory(pids: Iterable[int]) -> int | None:
    """Return the resident bytes of these processes together, shared pages counted each time; None if unknown.

    Memory that an accelerator's driver pinned may be missing: not every driver counts it as the
    process's.
    """
    pages = [count for pid in pids if (count := _pages(pid)) is not None]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") if pages else None


def _pages(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # the process is gone, or this system has no /proc
        return None


INTERVAL = 10.0  # seconds between measurements
MIN_CHANGE = 16 * 1024 * 1024  # bytes by which a measurement must differ from the last one that was reported
REQUEST_TIMEOUT = 2.0  # seconds for an engine's response


@dataclass(slots=True)
class SampledEngine:
    """A ready engine: its instance, the pid of its process tree's root, and its URL."""

    instance: str
    epoch: int
    root: int
    address: str
    model: Model
    engine: Engine
    baseline: MemoryBaseline | None = None
    reported: int | None = None  # bytes; None before the first measurement
    headers: bytes = b""  # lines of the head of requests to it


class MemorySampler:
    """Reports InstanceMeasured for every engine that it has: at once, and then every INTERVAL seconds.

    The driver is queried if there is one, and the engine if its server reports memory (vLLM and
    llama.cpp do not). Its thread runs while there is an engine.
    """

    def __init__(self, observe: Observe, clock: Callable[[], float], accelerators: MemoryProof | None) -> None:
        self._observe = observe
        self._clock = clock
        self._accelerators = accelerators
        self._engines: dict[str, SampledEngine] = {}  # by instance
        self._due = 0.0  # when all engines are measured again
        self._worker = CoalescingWorker("memory sampler", self._sample)

    def add(self, engine: SampledEngine) -> None:
        """Measure an engine at once, and from now on. Do nothing if neither a driver nor the engine reports memory."""
        if self._accelerators is None and not isinstance(engine.engine, TellsMemory):
            return
        self._engines[engine.instance] = engine
        self._worker.mark()

    def remove(self, instance: str) -> None:
        """Measure an instance no more."""
        self._engines.pop(instance, None)

    def _sample(self) -> float | None:
        """Measure new engines, and all engines every INTERVAL seconds. Return the seconds until the next time."""
        engines = list(self._engines.values())
        if (now := time.monotonic()) < self._due:
            engines = [engine for engine in engines if engine.reported is None]
        else:
            self._due = now + INTERVAL
        for engine in engines:
            self._measure(engine)
        return self._due - time.monotonic() if self._engines else None

    def _measure(self, engine: SampledEngine) -> None:
        try:
            memory = max(self._driver_memory(engine.root), engine_memory(engine))
        except Exception:  # of any kind: the other engines are measured all the same
            log.exception("cannot measure %s", engine.instance)
            memory = 0
        if engine.baseline is not None:
            engine.baseline.update()
        first, before = engine.reported is None, engine.reported or 0
        engine.reported = before
        if memory and (first or abs(memory - before) >= MIN_CHANGE):
            engine.reported = memory
            self._observe(InstanceMeasured(self._clock(), engine.instance, engine.epoch, memory))

    def _driver_memory(self, root: int) -> int:
        """Return the bytes that the driver lists for the processes below `root`; 0 if it lists none."""
        try:
            devices = self._accelerators.snapshot().values() if self._accelerators else ()
        except OSError:
            return 0
        tree = set(descendants(root))
        return sum(memory for _, processes in devices for pid, memory in processes.items() if pid in tree)


def engine_memory(engine: SampledEngine) -> int:
    """Return the bytes that the engine itself reports; 0 if it reports none."""
    if not isinstance(engine.engine, TellsMemory):
        return 0
    try:
        headers = dict(line.split(": ", 1) for line in engine.headers.decode().splitlines())
        netloc, path = urlsplit(engine.address).netloc, engine.engine.memory_path(engine.model)
        response = get(netloc, path, REQUEST_TIMEOUT, headers)
        return 0 if response is None else engine.engine.read_memory(response[1]) or 0
    except ValueError:
        return 0
