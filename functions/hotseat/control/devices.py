"""Which GPUs of this machine each Workspace shares out. Pure."""

import itertools
import logging
from collections.abc import Iterable, Mapping

from hotseat.core.documents import Workspace

log = logging.getLogger(__name__)


def hand_out(
    workspaces: Iterable[Workspace], before: Mapping[str, tuple[str, ...]], known: tuple[str, ...] | None
) -> dict[str, tuple[str, ...]]:
    """Give each Workspace the names of its GPUs: those that it states, else those it had, else the first that are free.

    `before`: what Workspaces had, those included that are on their way out. `known`: all there are; None: nobody can tell, so
    they are numbers from 0 on, and none is made up while one is to be given back. What somebody had may still be in use:
    whoever gets it has to wait for that. A Workspace for which there are too few gets none: its models see what hotseat itself sees.
    """
    listed = list(workspaces)
    given = {w.name: w.spec.capacity.devices for w in listed if w.spec.capacity.devices}
    taken = {device for devices in given.values() for device in devices}
    rest = [w for w in listed if w.name not in given]
    kept = {w.name: [d for d in before.get(w.name, ()) if d not in taken][: w.spec.capacity.gpus] for w in rest}
    taken |= {device for devices in kept.values() for device in devices}
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
        if len(more) < wanted:
            given[workspace.name] = ()
            _say_too_few(workspace, len(known or ()))
    return given


def _say_too_few(workspace: Workspace, known: int) -> None:
    log.warning(
        "Workspace %s has capacity.gpus %d, but hotseat sees %d GPUs here: it hands out none, and every engine sees all; "
        "to let models share a GPU, state capacity.acceleratorMemory and what each Model claims of it",
        workspace.name,
        workspace.spec.capacity.gpus,
        known,
    )
