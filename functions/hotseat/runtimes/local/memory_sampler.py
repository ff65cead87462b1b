"""Looks at what ready engines take of the accelerators' memory: once they are ready, and then every few seconds.

The driver is asked where it answers, and the engine itself where it tells; nothing can be awaited here. vLLM and llama.cpp do
not tell bytes, so for them it takes the driver.
"""

import http.client
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from hotseat.api.model import Model
from hotseat.coalesce import CoalescingWorker
from hotseat.core.messages import InstanceMeasured, Start
from hotseat.core.ports import Observe
from hotseat.engines.base import Engine, TellsMemory
from hotseat.runtimes.local.nvml import MemoryBaseline, MemoryProof
from hotseat.runtimes.local.supervisor import descendants

PAUSE = 10.0  # seconds between looks
STEP = 16 * 1024 * 1024  # bytes that a figure has to move to be told again
ASK_TIME = 2.0  # seconds for an engine's answer

log = logging.getLogger(__name__)


@dataclass(slots=True)
class SampledEngine:
    """A ready engine: its order, the root of its process tree, where it answers."""

    order: Start
    root: int
    address: str
    model: Model
    engine: Engine
    claim: MemoryBaseline | None = None
    told: int | None = None


class MemorySampler:
    """Tells InstanceMeasured of every engine that it watches, from a thread that runs while there is one."""

    def __init__(self, observe: Observe, clock: Callable[[], float], accelerators: MemoryProof | None) -> None:
        self._observe = observe
        self._clock = clock
        self._accelerators = accelerators
        self._watched: dict[str, SampledEngine] = {}  # by instance
        self._due = 0.0  # when all engines are sampled again
        self._worker = CoalescingWorker("memory sampler", self._sample)

    def watch(self, each: SampledEngine) -> None:
        """Look at it at once, and from now on; nothing where neither a driver nor the engine tells."""
        if self._accelerators is None and not isinstance(each.engine, TellsMemory):
            return
        self._watched[each.order.instance] = each
        self._worker.mark()

    def forget(self, instance: str) -> None:
        """Look at it no more."""
        self._watched.pop(instance, None)

    def _sample(self) -> float | None:
        """Sample new engines, and all engines every PAUSE seconds. Return the seconds until the next time."""
        watched = list(self._watched.values())
        if (now := time.monotonic()) < self._due:
            watched = [each for each in watched if each.told is None]
        else:
            self._due = now + PAUSE
        for each in watched:
            self._look(each)
        return self._due - time.monotonic() if self._watched else None

    def _look(self, each: SampledEngine) -> None:
        try:
            memory = max(self._driver_says(each.root), engine_says(each))
        except Exception:  # whatever it is, the others are looked at all the same
            log.exception("cannot measure %s", each.order.instance)
            memory = 0
        if each.claim is not None:
            each.claim.look()
        first, before = each.told is None, each.told or 0
        each.told = before
        if memory and (first or abs(memory - before) >= STEP):
            each.told = memory
            self._observe(InstanceMeasured(self._clock(), each.order.instance, each.order.epoch, memory))

    def _driver_says(self, root: int) -> int:
        """Sum up what the driver lists for the processes of a tree; 0 where it does not tell."""
        try:
            listed = self._accelerators.snapshot().values() if self._accelerators else ()
        except OSError:
            return 0
        tree = set(descendants(root))
        return sum(memory for _, processes in listed for pid, memory in processes.items() if pid in tree)


def engine_says(each: SampledEngine) -> int:
    """Ask the engine itself; 0 where it does not tell."""
    if not isinstance(each.engine, TellsMemory):
        return 0
    connection = http.client.HTTPConnection(urlsplit(each.address).netloc, timeout=ASK_TIME)
    try:
        connection.request("GET", each.engine.memory_path(each.model))
        return each.engine.read_memory(connection.getresponse().read()) or 0
    except (OSError, http.client.HTTPException, ValueError):
        return 0
    finally:
        connection.close()
