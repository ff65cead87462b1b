"""What the accelerator's driver knows: the second half of the proof that a seat is free."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hotseat.runtimes.local.keeper import descendants

TOLERANCE = 256 * 1024 * 1024  # bytes: what drivers keep for themselves moves a little

Snapshot = Mapping[int, tuple[int, Mapping[int, int]]]


class Accelerators(Protocol):
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


def find_accelerators() -> Accelerators | None:
    """Give the machine's accelerators, None where nothing can be known about them."""
    try:
        return Nvml()
    except OSError:
        return None


@dataclass(slots=True)
class Claim:
    """What one holder has on the accelerators, told from what there was before it."""

    accelerators: Accelerators
    before: Snapshot
    processes: set[int] = field(default_factory=set)

    def note_processes(self, root: int) -> None:
        """Remember the holder's processes, while they live: they are looked for afterwards."""
        self.processes.update(descendants(root))

    def holds(self) -> int | None:
        """Bytes that the holder's processes have now, as far as the driver lists them; None where it does not answer."""
        try:
            now = self.accelerators.snapshot()
        except OSError:
            return None
        return sum(listed.get(pid, 0) for _, listed in now.values() for pid in self.processes)

    def remains(self) -> str:
        """Say what is not yet given back; empty when all is."""
        try:
            now = self.accelerators.snapshot()
        except OSError as problem:
            return f"the driver does not answer: {problem}"
        for index, (_, listed) in now.items():
            if left := sorted(self.processes & listed.keys()):
                return f"GPU {index} still lists the processes {', '.join(map(str, left))}"
        for index, (used, listed) in now.items():
            used_before, listed_before = self.before.get(index, (0, {}))
            # What other processes took meanwhile is theirs: another model may have come to this GPU or left it.
            extra = (used - sum(listed.values())) - (used_before - sum(listed_before.values()))
            if extra > TOLERANCE:
                return f"GPU {index} has {extra >> 20} MiB more in use than before"
        return ""


def make_claim(accelerators: Accelerators | None) -> Claim | None:
    """Take the state before a holder starts; None where nothing is known about accelerators."""
    try:
        return None if accelerators is None else Claim(accelerators, accelerators.snapshot())
    except OSError:
        return None
