"""Which GPUs of this machine each Workspace shares out. Pure."""

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
    """Give each Workspace the names of its GPUs: those that it states, else those it had, else the first that are free.

    `before`: what Workspaces had, those included that are on their way out. `known`: all there are; None: nobody can tell, so
    they are numbers from 0 on, and none is made up while one is to be given back. `ids`: their UUIDs, where they are known.
    What somebody had may still be in use: whoever gets it has to wait for that. A Workspace for which there are too few gets
    those that are left. Where there are none at all, one that states none is not in the answer: nothing is handed out to it.
    """
    listed = list(workspaces)
    given: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    for workspace in listed:
        if stated := workspace.spec.capacity.devices:
            found = dict.fromkeys(_find(name, known, ids) for name in stated)
            given[workspace.name] = tuple(name for name in found if name is not None and name not in taken)
            taken.update(given[workspace.name])
    rest = [w for w in listed if w.name not in given] if known != () else []
    kept: dict[str, list[str]] = {}
    for workspace in rest:  # one after the other: two may have had one GPU, each in its time
        had = [device for device in before.get(workspace.name, ()) if device not in taken]
        kept[workspace.name] = had[: workspace.spec.capacity.gpus]
        taken.update(kept[workspace.name])
    former = {device for devices in before.values() for device in devices}
    for workspace in rest:
        wanted = workspace.spec.capacity.gpus - len(kept[workspace.name])
        if known is None:
            free = (d for d in map(str, itertools.count()) if d not in taken)
        else:  # those first off which nothing is on its way
            free = (d for d in sorted(known, key=former.__contains__) if d not in taken)
        more = list(itertools.islice(free, wanted))
        taken.update(more)
        given[workspace.name] = (*kept[workspace.name], *more)
    for workspace in listed:
        if workspace.spec.capacity.counted and workspace.name in given:
            _warn_of_too_few(workspace, given[workspace.name], known or ())
    return given


def _find(name: str, known: tuple[str, ...] | None, ids: Mapping[str, str]) -> str | None:
    """Give a GPU that a document states the name by which it is known: a UUID, or the beginning of one, is a number. None: it is not there.

    Parts of GPUs (MIG) are listed by nobody: they are taken on trust.
    """
    if known is None or name in known:
        return name
    meant = [number for number, uuid in ids.items() if uuid.startswith(name)]
    if len(meant) == 1:
        return meant[0]
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
