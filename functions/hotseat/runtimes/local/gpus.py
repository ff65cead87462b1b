"""GPUs of this machine: what the driver reports, what engines may see, and locks between processes."""

import contextlib
import fcntl
import importlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hotseat.api.model import Model
from hotseat.runtimes.local.gpu_figures import GpuFigures
from hotseat.runtimes.local.supervisor import descendants

log = logging.getLogger(__name__)


TOLERANCE = 256 * 1024 * 1024  # bytes; what drivers keep for themselves varies a little
SHARED_WAIT = 60.0  # seconds to wait for memory of unknown owners, once every process of the tree is gone


Snapshot = Mapping[int, tuple[int, Mapping[int, int]]]  # by GPU: bytes in use, and bytes by pid of each listed process


class MemoryProof(Protocol):
    """The accelerators of a machine."""

    def snapshot(self) -> Snapshot:
        """Return the memory in use of each accelerator. Raise OSError if the driver does not answer."""

    def uuids(self) -> tuple[str, ...]:
        """Return the UUIDs in the order of the driver's numbers; empty if the driver does not report them."""

    def figures(self) -> Sequence[GpuFigures]:
        """Return what each accelerator reports of itself."""


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

    def totals(self) -> dict[int, int]:
        """Return the bytes of memory of each GPU; empty if the driver does not answer."""
        try:
            return {
                index: self._nvml.nvmlDeviceGetMemoryInfo(handle).total for index, handle in enumerate(self._handles)
            }
        except self._nvml.NVMLError:
            return {}

    def uuids(self) -> tuple[str, ...]:
        """Return the UUID of each GPU, in the form that CUDA_VISIBLE_DEVICES takes."""
        try:
            names = [self._nvml.nvmlDeviceGetUUID(handle) for handle in self._handles]
        except self._nvml.NVMLError:
            return ()
        return tuple(map(_text, names))

    def figures(self) -> Sequence[GpuFigures]:
        """Return what each GPU reports of itself. A figure that it does not have, or that this driver does not report, is None."""
        return [self._figures(str(index), handle) for index, handle in enumerate(self._handles)]

    def _figures(self, number: str, handle: Any) -> GpuFigures:
        nvml = self._nvml

        def known(read: Callable[[], Any]) -> Any:
            try:
                return read()
            except (nvml.NVMLError, AttributeError):  # AttributeError: the library is older than the function
                return None

        uuid, name = known(lambda: nvml.nvmlDeviceGetUUID(handle)), known(lambda: nvml.nvmlDeviceGetName(handle))
        memory = known(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        busy = known(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)  # percent
        power = known(lambda: nvml.nvmlDeviceGetPowerUsage(handle))  # mW
        return GpuFigures(
            id=number,
            uuid=None if uuid is None else _text(uuid),
            name=None if name is None else _text(name),
            memory_used=None if memory is None else memory.used,
            memory_total=None if memory is None else memory.total,
            utilization=None if busy is None else busy / 100,
            temperature=known(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            power=None if power is None else power / 1000,
        )

    def _processes(self, handle: Any) -> dict[int, int]:
        listed = [
            *self._nvml.nvmlDeviceGetComputeRunningProcesses(handle),
            *self._nvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
        ]
        return {process.pid: process.usedGpuMemory or 0 for process in listed}  # None if the driver does not report it


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


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


Environment = Mapping[str, str | None]  # None: the variable must not be set


@dataclass(frozen=True, slots=True)
class Vendor:
    """How a vendor's software is told which GPUs to use.

    The first of `variables` selects GPUs; the others have the same meaning. `none`: the value that
    hides all GPUs; None: there is no such value. `traces`: paths, of which one exists if the
    vendor's driver is loaded.
    """

    variables: tuple[str, ...]
    none: str | None
    traces: tuple[str, ...]


# AMD's runtimes apply all of their variables, each to what the one before it selected, so only one
# may be set.
NVIDIA = Vendor(("CUDA_VISIBLE_DEVICES",), "", ("/proc/driver/nvidia/version",))
AMD = Vendor(
    ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "CUDA_VISIBLE_DEVICES"),
    "-1",
    ("/sys/class/kfd",),
)
INTEL = Vendor(("ZE_AFFINITY_MASK",), None, ("/sys/module/xe", "/sys/module/i915"))
_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # so that numbers are those of nvidia-smi


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of the machine. `names`: all that may be assigned; None: unknown. `ids`: their UUIDs by number."""

    vendor: Vendor = NVIDIA
    names: tuple[str, ...] | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    variable: str = NVIDIA.variables[0]  # the variable to set
    inherited: bool = False  # the names are from the environment of hotseat itself

    def environment(self, model: Model, devices: tuple[str, ...]) -> Environment:
        """Return the environment for an engine that may see these GPUs only, or none if its Model has none.

        It is empty if the Model chooses its GPUs itself, or if there are no GPUs to assign.
        """
        gpus = model.spec.resources.gpus
        if overridden(self.vendor, model) or (gpus and not devices):
            return {}
        cleared = dict.fromkeys(self.vendor.variables)
        if not gpus:
            return {} if self.vendor.none is None else {**cleared, self.variable: self.vendor.none}
        names = devices if self.inherited else tuple(self.ids.get(device, device) for device in devices)
        order = _ORDER if self.vendor is NVIDIA and not self.inherited else {}
        return {**cleared, **order, self.variable: ",".join(names)}

    def uuid(self, device: str, uuids: Sequence[str]) -> str | None:
        """Return the UUID of a GPU, given by its number or the beginning of its UUID; None if unknown.

        `uuids`: of all GPUs.
        """
        known = [uuid for uuid in uuids if uuid.startswith(device)]
        if device.isdigit():
            known = list(uuids[int(device) : int(device) + 1])
        return known[0] if len(known) == 1 else None

    def numbers(self, devices: tuple[str, ...]) -> tuple[int, ...] | None:
        """Return the driver's numbers of some GPUs; None if they are unknown."""
        return tuple(map(int, devices)) if devices and all(device in self.ids for device in devices) else None


def overridden(vendor: Vendor, model: Model) -> list[str]:
    """Return the variables with which a Model chooses its GPUs itself."""
    return [variable.name for variable in model.spec.env if variable.name in vendor.variables]


def find_gpus(
    accelerators: MemoryProof | None, environ: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> Gpus:
    """Return the GPUs that hotseat may use. NVIDIA is assumed if no driver is found."""
    vendor = NVIDIA
    if accelerators is None:
        found = (v for v in (NVIDIA, AMD, INTEL) if any((root / trace.lstrip("/")).exists() for trace in v.traces))
        vendor = next(found, NVIDIA)
    for variable in vendor.variables:
        if (given := environ.get(variable)) is not None:
            names = tuple(name for name in (part.strip() for part in given.split(",")) if name and name != "-1")
            return Gpus(vendor, names, {}, variable, inherited=True)
    uuids = accelerators.uuids() if accelerators else ()
    ids = {str(number): uuid for number, uuid in enumerate(uuids)}
    return Gpus(vendor, tuple(ids) if uuids else None, ids, vendor.variables[0])


# All are used: the first may be writable for root only, the second private to a service. A lock in
# one of them is enough.
FOLDERS = (Path("/run/lock"), Path("/tmp"))  # noqa: S108 - all users must share it
MAX_OWNER = 4096  # bytes of the text that names an owner


class GpuLocks:
    """The locks that this hotseat holds. `owner`: the text by which other hotseats name it.

    They are advisory: independent hotseats detect by them that they use the same GPU, which two may
    do on purpose.
    """

    def __init__(self, owner: str, folders: Sequence[Path] = FOLDERS) -> None:
        self._owner, self._folders = owner, folders
        self._held: dict[str, list[int]] = {}  # descriptors by UUID

    def hold(self, uuids: Iterable[str]) -> dict[str, str]:
        """Hold the locks of these GPUs and no others. Return the owners of GPUs that other hotseats hold, by UUID."""
        wanted = set(uuids)
        for uuid in self._held.keys() - wanted:
            self._release(self._held.pop(uuid))
        others = {}
        for uuid in sorted(wanted - self._held.keys()):
            descriptors, owner = self._acquire(uuid)
            if owner is None:
                self._held[uuid] = descriptors
            else:
                self._release(descriptors)
                others[uuid] = owner
        return others

    def close(self) -> None:
        """Release all locks."""
        self.hold(())

    def _acquire(self, uuid: str) -> tuple[list[int], str | None]:
        """Lock a GPU in each folder that can be used.

        Return the descriptors, and the owner if another hotseat has it.
        """
        descriptors: list[int] = []
        for folder in self._folders:
            with contextlib.suppress(OSError):  # there is no such folder, or it cannot be written
                descriptor = _open(folder / f"hotseat-{uuid}.lock")
                descriptors.append(descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    owner = os.pread(descriptor, MAX_OWNER, 0).decode(errors="replace").strip()
                    return descriptors, owner or "unknown"
                with contextlib.suppress(OSError):  # another user's file, opened for reading only
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{self._owner}\n".encode(), 0)
        return descriptors, None

    @staticmethod
    def _release(descriptors: Iterable[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)


def _open(path: Path) -> int:
    """Open a lock file, which another user may have created; then the kernel may refuse O_CREAT."""
    for flags in (os.O_RDWR, os.O_RDONLY):
        with contextlib.suppress(PermissionError, FileNotFoundError):
            return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o666)  # regardless of the umask: the next hotseat may be another user's
    return descriptor
