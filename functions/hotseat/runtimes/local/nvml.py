"""What the accelerator's driver knows: the second half of the proof that a seat is free."""

import importlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hotseat.runtimes.local.supervisor import descendants

TOLERANCE = 256 * 1024 * 1024  # bytes: what drivers keep for themselves moves a little
SHARED_WAIT = 60.0  # seconds for memory of which nobody can tell whose it is, once every process of the tree is gone

log = logging.getLogger(__name__)

Snapshot = Mapping[int, tuple[int, Mapping[int, int]]]


class MemoryProof(Protocol):
    """A machine's accelerators."""

    def snapshot(self) -> Snapshot:
        """Each one's used bytes, and the bytes of each process that it lists. OSError when the driver does not answer."""

    def uuids(self) -> tuple[str, ...]:
        """Names by which each can be told from all others, in their order; none where the driver does not tell."""


class Nvml:
    """NVIDIA's library; OSError if it is not installed or finds no driver."""

    def __init__(self) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            self._handles = [
                self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(self._nvml.nvmlDeviceGetCount())
            ]
        except ImportError as problem:
            raise OSError("nvidia-ml-py is not installed") from problem
        except self._nvml.NVMLError as problem:
            raise OSError(str(problem)) from problem

    def snapshot(self) -> Snapshot:
        """Each GPU's used bytes and processes."""
        try:
            return {
                index: (self._nvml.nvmlDeviceGetMemoryInfo(handle).used, self._processes(handle))
                for index, handle in enumerate(self._handles)
            }
        except self._nvml.NVMLError as problem:
            raise OSError(str(problem)) from problem

    def uuids(self) -> tuple[str, ...]:
        """Each GPU's UUID, as CUDA_VISIBLE_DEVICES takes it."""
        try:
            names = [self._nvml.nvmlDeviceGetUUID(handle) for handle in self._handles]
        except self._nvml.NVMLError:
            return ()
        return tuple(name.decode() if isinstance(name, bytes) else name for name in names)

    def _processes(self, handle: Any) -> dict[int, int]:
        listed = [
            *self._nvml.nvmlDeviceGetComputeRunningProcesses(handle),
            *self._nvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
        ]
        return {process.pid: process.usedGpuMemory or 0 for process in listed}  # None where the driver does not tell


def find_accelerators() -> MemoryProof | None:
    """Give the machine's accelerators, None where nothing can be known about them."""
    try:
        return Nvml()
    except OSError:
        return None


@dataclass(slots=True)
class MemoryBaseline:
    """What one instance has on the accelerators, told from what there was before it.

    Inside containers, on WSL2 and for vGPUs the driver does not list processes, or not their bytes. There only the difference
    counts that the tree made: what came while it loaded, and goes when it ends. What others take and give back beside that is theirs.
    """

    accelerators: MemoryProof
    before: Snapshot
    devices: frozenset[int] | None = None  # those that it was given; None: maybe any
    processes: set[int] = field(default_factory=set)
    listed: bool = False  # the driver has told bytes of its processes
    ready: bool = False
    came: dict[int, int] = field(default_factory=dict)  # by GPU: bytes of no listed process that came while it loaded
    last: dict[int, int] = field(default_factory=dict)  # by GPU: bytes of no listed process at the last look

    def note_processes(self, root: int) -> None:
        """Remember the instance's processes, while they live: they are looked for afterwards."""
        self.processes.update(descendants(root))

    def look(self, *, loaded: bool = False) -> None:
        """Note what is in use while its processes live; `loaded`: it has just become ready."""
        try:
            now = self._mine(self.accelerators.snapshot())
        except Exception:  # of whatever kind: it is a look the fewer, and its caller has more to do
            log.debug("the driver cannot be queried", exc_info=True)
            return
        self.listed = self.listed or any(each.get(pid) for _, each in now.values() for pid in self.processes)
        for index, figures in now.items():
            self.last[index] = _unlisted(figures)
            if loaded:
                self.came[index] = max(0, self.last[index] - _unlisted(self.before.get(index, (0, {}))))
        self.ready = self.ready or loaded

    def holds(self) -> int | None:
        """Bytes that the instance's processes have now, as far as the driver lists them; None where it does not answer."""
        try:
            now = self.accelerators.snapshot()
        except OSError:
            return None
        return sum(listed.get(pid, 0) for _, listed in now.values() for pid in self.processes)

    def remains(self, waited: float = 0.0) -> str:
        """Say what is not yet given back; empty when all is. `waited`: seconds since the last of its processes was gone."""
        try:
            now = self.accelerators.snapshot()
        except OSError as problem:
            return f"the driver does not answer: {problem}"
        for index, (_, listed) in now.items():
            if left := sorted(self.processes & listed.keys()):
                return f"GPU {index} still lists the processes {', '.join(map(str, left))}"
        # A driver that lists others' processes, and never one of ours, would list ours if there were any: it is taken at its word.
        tells = not self.listed and any(memory for _, listed in now.values() for memory in listed.values())
        for index, figures in self._mine(now).items():
            # What other processes took meanwhile is theirs: another model may have come to this GPU or left it.
            unlisted, before = _unlisted(figures), _unlisted(self.before.get(index, (0, {})))
            back, came = self.last.get(index, before) - unlisted, self.came.get(index, 0)
            if unlisted - before <= TOLERANCE or (not tells and back >= came - max(TOLERANCE, came // 4)):
                continue
            gone = not self.ready or back >= TOLERANCE  # where nothing at all came back, it is somewhere still
            if not tells and not self.listed and gone and waited >= SHARED_WAIT:
                continue
            return (
                f"GPU {index} has {(unlisted - before) >> 20} MiB more in use than before, and the driver does not say by "
                f"which process; the GPU counts as free once no more than {TOLERANCE >> 20} MiB of them are left"
            )
        return ""

    def _mine(self, snapshot: Snapshot) -> Snapshot:
        return {index: each for index, each in snapshot.items() if self.devices is None or index in self.devices}


def take_baseline(accelerators: MemoryProof | None, devices: Collection[int] | None = None) -> MemoryBaseline | None:
    """Take the state before an instance starts that is given these GPUs; None where nothing is known about accelerators."""
    try:
        given = None if devices is None else frozenset(devices)
        return None if accelerators is None else MemoryBaseline(accelerators, accelerators.snapshot(), given)
    except OSError:
        return None


def _unlisted(figures: tuple[int, Mapping[int, int]]) -> int:
    """Bytes in use of which the driver does not say whose they are."""
    used, listed = figures
    return used - sum(listed.values())
