"""Finds Models of one machine that set the same port and may be loaded at once. On a cluster each pod has its own ports. Pure."""

import itertools
from collections.abc import Iterable, Mapping

from hotseat.api.model import Model, OnIdle
from hotseat.api.workspace import Workspace
from hotseat.control.scheduling_spec import capacity_of, groups_of, scheduling_spec_of
from hotseat.core.policy.api import NOTHING


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
