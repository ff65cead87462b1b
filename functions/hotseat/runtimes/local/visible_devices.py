"""The GPUs of this machine as engines see them: which there are, and the environment that shows an engine some of them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hotseat.api.model import Model
from hotseat.runtimes.local.nvml import MemoryProof

Environment = Mapping[str, str | None]  # None: the variable must not be there


@dataclass(frozen=True, slots=True)
class Vendor:
    """How a vendor's software is told which GPUs to use: the first variable; the others say the same in other words.

    `none` hides all of them; None where no value does. `traces` are paths, one of which is there where its driver is.
    """

    variables: tuple[str, ...]
    none: str | None
    traces: tuple[str, ...]


# AMD's runtimes read each of their variables, one after the other, and count in what the last one left: one has to do.
NVIDIA = Vendor(("CUDA_VISIBLE_DEVICES",), "", ("/proc/driver/nvidia/version",))
AMD = Vendor(
    ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "CUDA_VISIBLE_DEVICES"),
    "-1",
    ("/sys/class/kfd",),
)
INTEL = Vendor(("ZE_AFFINITY_MASK",), None, ("/sys/module/xe", "/sys/module/i915"))
_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # so that a number means what nvidia-smi means by it


@dataclass(frozen=True, slots=True)
class Gpus:
    """What there is. `names`: all that may be handed out, None where nobody can tell; `ids`: their UUIDs by number."""

    vendor: Vendor = NVIDIA
    names: tuple[str, ...] | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    variable: str = NVIDIA.variables[0]  # the one to set
    inherited: bool = False  # the names are those that hotseat itself was given

    def environment(self, model: Model, devices: tuple[str, ...]) -> Environment:
        """Make an engine see these GPUs only, or none if its Model has none. Empty where the Model says itself, or we cannot."""
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
        """Give what tells one of them from all others on this machine, None where nobody knows; `uuids` are those of all by number."""
        known = [uuid for uuid in uuids if uuid.startswith(device)]
        if device.isdigit():
            known = list(uuids[int(device) : int(device) + 1])
        return known[0] if len(known) == 1 else None

    def numbers(self, devices: tuple[str, ...]) -> tuple[int, ...] | None:
        """Give the driver's numbers of some of them; None where those are not known."""
        return tuple(int(each) for each in devices) if devices and all(each in self.ids for each in devices) else None


def overridden(vendor: Vendor, model: Model) -> list[str]:
    """List the variables with which a Model chooses its GPUs itself."""
    return [variable.name for variable in model.spec.env if variable.name in vendor.variables]


def find_gpus(
    accelerators: MemoryProof | None, environ: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> Gpus:
    """Look which vendor's GPUs there are, and which of them hotseat was given. Where nothing tells, as if they were NVIDIA's."""
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
