"""Accelerator memory as the driver reports it: the second half of the proof that an instance is gone."""

import importlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hotseat.runtimes.local.supervisor import descendants

TOLERANCE = 256 * 1024 * 1024  # bytes; what drivers keep for themselves varies a little
SHARED_WAIT = 60.0  # seconds to wait for memory of unknown owners, once every process of the tree is gone

log = logging.getLogger(__name__)

Snapshot = Mapping[int, tuple[int, Mapping[int, int]]]  # by GPU: bytes in use, and bytes by pid of each listed process


class MemoryProof(Protocol):
    """The accelerators of a machine."""

    def snapshot(self) -> Snapshot:
        """Return the memory in use of each accelerator. Raise OSError if the driver does not answer."""

    def uuids(self) -> tuple[str, ...]:
        """Return the UUIDs in the order of the driver's numbers; empty if the driver does not report them."""


class Nvml:
    """NVIDIA's management library. Raise OSError if it is not installed or finds no driver."""

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
        """Return the used bytes and the processes of each GPU."""
        try:
            return {
                index: (self._nvml.nvmlDeviceGetMemoryInfo(handle).used, self._processes(handle))
                for index, handle in enumerate(self._handles)
            }
        except self._nvml.NVMLError as problem:
            raise OSError(str(problem)) from problem

    def uuids(self) -> tuple[str, ...]:
        """Return the UUID of each GPU, in the form that CUDA_VISIBLE_DEVICES takes."""
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
        return {process.pid: process.usedGpuMemory or 0 for process in listed}  # None if the driver does not report it


def find_accelerators() -> MemoryProof | None:
    """Return the machine's accelerators; None if no driver reports their memory."""
    try:
        return Nvml()
    except OSError:
        return None


@dataclass(slots=True)
class MemoryBaseline:
    """The accelerator memory in use before an instance started, and what its process tree has added since.

    In containers, on WSL2 and for vGPUs the driver does not list processes, or not their bytes.
    There, only the difference that the process tree made counts: what was added while it loaded
    must be free after its end. Memory that others allocate or free in the meantime is not the
    instance's.
    """

    accelerators: MemoryProof
    before: Snapshot
    devices: frozenset[int] | None = None  # numbers of the GPUs that it was given; None: maybe any
    processes: set[int] = field(default_factory=set)
    listed: bool = False  # the driver has listed bytes of its processes
    ready: bool = False
    added: dict[int, int] = field(
        default_factory=dict
    )  # by GPU: bytes of unlisted processes that were added while it loaded
    last: dict[int, int] = field(default_factory=dict)  # by GPU: bytes of unlisted processes at the last update

    def add_processes(self, root: int) -> None:
        """Record the processes below `root` while they live: the proof looks for them afterwards."""
        self.processes.update(descendants(root))

    def update(self, *, loaded: bool = False) -> None:
        """Record the memory in use while the processes live. `loaded`: the instance has just become ready."""
        try:
            now = self._own_devices(self.accelerators.snapshot())
        except Exception:  # of any kind: one update fewer, and the caller has more to do
            log.debug("the driver cannot be queried", exc_info=True)
            return
        self.listed = self.listed or any(listed.get(pid) for _, listed in now.values() for pid in self.processes)
        for index, usage in now.items():
            self.last[index] = _unlisted(usage)
            if loaded:
                self.added[index] = max(0, self.last[index] - _unlisted(self.before.get(index, (0, {}))))
        self.ready = self.ready or loaded

    def held_memory(self) -> int | None:
        """Return the bytes that the driver lists for the instance's processes; None if it does not answer."""
        try:
            now = self.accelerators.snapshot()
        except OSError:
            return None
        return sum(listed.get(pid, 0) for _, listed in now.values() for pid in self.processes)

    def unreleased(self, waited: float = 0.0) -> str:
        """Return what is not free yet; empty if all is. `waited`: seconds since the last of its processes was gone."""
        try:
            now = self.accelerators.snapshot()
        except OSError as problem:
            return f"the driver does not answer: {problem}"
        for index, (_, listed) in now.items():
            if left := sorted(self.processes & listed.keys()):
                return f"GPU {index} still lists the processes {', '.join(map(str, left))}"
        # A driver that lists processes of others, and never listed one of ours, would list ours if
        # there were any: trust it.
        lists_others = not self.listed and any(memory for _, listed in now.values() for memory in listed.values())
        for index, usage in self._own_devices(now).items():
            # What other processes allocated meanwhile is theirs: another model may have come to
            # this GPU or left it.
            unlisted, before = _unlisted(usage), _unlisted(self.before.get(index, (0, {})))
            freed, added = self.last.get(index, before) - unlisted, self.added.get(index, 0)
            if unlisted - before <= TOLERANCE or (not lists_others and freed >= added - max(TOLERANCE, added // 4)):
                continue
            maybe_free = (
                not self.ready or freed >= TOLERANCE
            )  # if a ready instance freed nothing at all, it still has it
            if not lists_others and not self.listed and maybe_free and waited >= SHARED_WAIT:
                continue
            return (
                f"GPU {index} has {(unlisted - before) >> 20} MiB more in use than before, and the driver does not say by "
                f"which process; the GPU counts as free once no more than {TOLERANCE >> 20} MiB of them are left"
            )
        return ""

    def _own_devices(self, snapshot: Snapshot) -> Snapshot:
        return {index: usage for index, usage in snapshot.items() if self.devices is None or index in self.devices}


def take_baseline(accelerators: MemoryProof | None, devices: Collection[int] | None = None) -> MemoryBaseline | None:
    """Return the baseline of an instance that is about to start on these GPUs; None if no driver reports memory."""
    try:
        given = None if devices is None else frozenset(devices)
        return None if accelerators is None else MemoryBaseline(accelerators, accelerators.snapshot(), given)
    except OSError:
        return None


def _unlisted(usage: tuple[int, Mapping[int, int]]) -> int:
    """Return the bytes in use that the driver attributes to no process."""
    used, listed = usage
    return used - sum(listed.values())
