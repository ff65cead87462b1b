"""Assigns the GPUs of this machine to Workspaces. Pure."""

import itertools
import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from hotseat.api.workspace import Workspace

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
