"""GPUs and ports of one machine: which GPUs each Workspace gets, and Models that state the same port. Pure."""

import itertools
import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from hotseat.api.lifecycle import OnIdle
from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.control.scheduling_spec import capacity_of, groups_of, scheduling_spec_of
from hotseat.core.policy.api import NOTHING

log = logging.getLogger(__name__)


def assign_gpus(
    workspaces: Iterable[Workspace],
    before: Mapping[str, tuple[str, ...]],
    known: tuple[str, ...] | None,
    ids: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, tuple[str, ...]]:
    """Return the names of each Workspace's GPUs: those of capacity.devices, else those it had, else the first free ones.

    BEFORE are the GPUs that Workspaces had, also deleted ones. Such a GPU may still be in use, and its new Workspace has to wait
    for it. KNOWN are the machine's GPUs. None: they are not known, and numbers from 0 on are used. IDS are UUIDs by name, where
    known. If there are too few GPUs, the last Workspaces get fewer. If the machine has none, Workspaces without
    capacity.devices are missing in the result.
    """
    listed = list(workspaces)
    assigned: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    for workspace in listed:
        if stated := workspace.spec.capacity.devices:
            found = dict.fromkeys(_find(name, known, ids) for name in stated)
            assigned[workspace.name] = tuple(name for name in found if name is not None and name not in taken)
            taken.update(assigned[workspace.name])
    rest = [w for w in listed if w.name not in assigned] if known != () else []
    kept: dict[str, list[str]] = {}
    for workspace in rest:  # in order, because two may have had the same GPU, at different times
        had = [device for device in before.get(workspace.name, ()) if device not in taken]
        kept[workspace.name] = had[: workspace.spec.capacity.gpus]
        taken.update(kept[workspace.name])
    former = {device for devices in before.values() for device in devices}
    for workspace in rest:
        wanted = workspace.spec.capacity.gpus - len(kept[workspace.name])
        if known is None:
            free = (d for d in map(str, itertools.count()) if d not in taken)
        else:  # first those that no Workspace had
            free = (d for d in sorted(known, key=former.__contains__) if d not in taken)
        more = list(itertools.islice(free, wanted))
        taken.update(more)
        assigned[workspace.name] = (*kept[workspace.name], *more)
    for workspace in listed:
        if workspace.spec.capacity.counted and workspace.name in assigned:
            _warn_of_too_few(workspace, assigned[workspace.name], known or ())
    return assigned


def _find(name: str, known: tuple[str, ...] | None, ids: Mapping[str, str]) -> str | None:
    """Return the name of a GPU that a document gives by name, UUID or the beginning of one. None: the machine does not have it.

    MIG devices are not listed, and are accepted unchecked.
    """
    if known is None or name in known:
        return name
    matches = [number for number, uuid in ids.items() if uuid.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    return name if ids and name.startswith("MIG-") else None


def _warn_of_too_few(workspace: Workspace, gets: tuple[str, ...], known: tuple[str, ...]) -> None:
    if len(gets) < (gpus := workspace.spec.capacity.gpus):
        log.warning(
            "Workspace %s states %d GPUs (capacity.gpus), but of the GPUs on this machine (%s) it gets %s; Models that claim more "
            "are refused. To let Models share a GPU, set capacity.acceleratorMemory and resources.acceleratorMemory of each Model",
            workspace.name,
            gpus,
            ", ".join(known) or "none",
            ", ".join(gets) or "none",
        )


def port_conflicts(models: Iterable[Model], workspaces: Iterable[Workspace]) -> list[str]:
    """Return a message for each pair of Models that conflict. Models that are never resident together may share a port."""
    by_name = {workspace.name: workspace for workspace in workspaces}
    stating = [m for m in models if m.spec.port is not None and m.spec.engine != "external"]
    return [
        f"the Models {one.name} and {other.name} both set port {one.spec.port} and may be loaded at once: the second will fail "
        "with PortTaken. Remove port from one of them, or set another"
        for one, other in itertools.combinations(stating, 2)
        if one.spec.port == other.spec.port and _may_conflict(one, other, by_name)
    ]


def _may_conflict(one: Model, other: Model, by_name: Mapping[str, Workspace]) -> bool:
    if one.spec.workspace != other.spec.workspace or one.spec.workspace not in by_name:
        return True
    if OnIdle.PARK in (one.spec.lifecycle.release, other.spec.lifecycle.release):
        return True  # a parked engine keeps its port
    workspace = by_name[one.spec.workspace]
    groups = groups_of(workspace)
    if groups.must_leave(one.name, other.name) and groups.must_leave(other.name, one.name):
        return False
    first, second = (scheduling_spec_of(each, workspace).claim for each in (one, other))
    capacity = capacity_of(workspace, tuple(map(str, range(workspace.spec.capacity.gpus))))
    place = second.place(NOTHING, capacity)
    return place is not None and first.fits_beside(second.placed(place, capacity), capacity)
