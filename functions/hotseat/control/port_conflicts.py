"""Models of one machine that state the same port and may be loaded at once. On a cluster each has a network of its own. Pure."""

import itertools
from collections.abc import Iterable, Mapping

from hotseat.api.model import Model, OnIdle
from hotseat.api.workspace import Workspace
from hotseat.control.scheduling_spec import capacity_of, groups_of, scheduling_spec_of
from hotseat.core.policy.api import NOTHING


def port_clashes(models: Iterable[Model], workspaces: Iterable[Workspace]) -> list[str]:
    """Say for each two such Models what will happen. Those that take turns on one place are free to share a port."""
    homes = {workspace.name: workspace for workspace in workspaces}
    stating = [m for m in models if m.spec.port is not None and m.spec.engine != "external"]
    return [
        f"the Models {one.name} and {other.name} both set port {one.spec.port} and may be loaded at once: the second will fail "
        "with PortTaken. Remove port from one of them, or set another"
        for one, other in itertools.combinations(stating, 2)
        if one.spec.port == other.spec.port and _may_meet(one, other, homes)
    ]


def _may_meet(one: Model, other: Model, homes: Mapping[str, Workspace]) -> bool:
    if one.spec.workspace != other.spec.workspace or one.spec.workspace not in homes:
        return True
    if OnIdle.PARK in (one.spec.lifecycle.release, other.spec.lifecycle.release):
        return True  # a parked one keeps its port
    home = homes[one.spec.workspace]
    groups = groups_of(home)
    if groups.must_leave(one.name, other.name) and groups.must_leave(other.name, one.name):
        return False
    first, second = (scheduling_spec_of(each, home).claim for each in (one, other))
    capacity = capacity_of(home, tuple(map(str, range(home.spec.capacity.gpus))))
    place = second.place(NOTHING, capacity)
    return place is not None and first.fits_beside(second.placed(place, capacity), capacity)
