"""The GPUs of this machine, and the environment that makes an engine see some of them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hotseat.api.model import Model
from hotseat.runtimes.local.nvml import MemoryProof

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
