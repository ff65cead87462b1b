"""Checks of names that Workspaces add to those of Models: virtual models and profiles."""

from collections.abc import Iterator, Mapping

from hotseat.api.virtual_models import Strategy, VirtualModel
from hotseat.api.workspace import Workspace, WorkspaceSpec
from hotseat.manifests.entries import Entry
from hotseat.manifests.problems import Path, Problem, did_you_mean, plain, shown


def check_names(workspaces: list[Entry], owners: Mapping[str, Entry], *, complete: bool) -> Iterator[Problem]:
    """Yield problems of names. `owners` has the Models by all their names. If not `complete`, there may be others."""
    valid = [(entry, entry.document.spec) for entry in workspaces if isinstance(entry.document, Workspace)]
    first: dict[str, tuple[Entry, Path]] = {}
    for entry, spec in valid:
        for index, virtual in enumerate(spec.virtual_models):
            path: Path = ("spec", "virtualModels", index)
            yield from _taken(entry, (*path, "name"), virtual.name, owners, first)
            yield from _members(entry, path, virtual, owners if complete else None)
    if complete:
        known = {**dict.fromkeys(first), **owners}
        for entry, spec in valid:
            yield from _targets(entry, spec, known)


def _taken(
    entry: Entry, path: Path, name: str, owners: Mapping[str, Entry], first: dict[str, tuple[Entry, Path]]
) -> Iterator[Problem]:
    other, other_path = first.setdefault(name, (entry, path))
    if name in owners:
        yield entry.problem(f"{owners[name].label} has the name {plain(name)} already", path)
    elif other is not entry or other_path != path:
        yield entry.problem(f"another virtual model has the name {plain(name)}: {other.where(other_path)}", path)


def _members(entry: Entry, path: Path, virtual: VirtualModel, owners: Mapping[str, Entry] | None) -> Iterator[Problem]:
    for position, member in enumerate(virtual.members):
        its = (*path, "members", position)
        spills = virtual.strategy is Strategy.SPILLOVER and position < len(virtual.members) - 1
        if spills and member.max_requests is None:
            yield entry.problem("has no maxRequests, so the members after it would get no requests", its)
        if owners is not None:
            yield from _unknown(entry, (*its, "model"), member.model, owners)


def _targets(entry: Entry, spec: WorkspaceSpec, known: Mapping[str, object]) -> Iterator[Problem]:
    for profile, pins in spec.profiles.items():
        for name, target in pins.items():
            if target:
                yield from _unknown(entry, ("spec", "profiles", profile, name), target, known)


def _unknown(entry: Entry, path: Path, name: str, known: Mapping[str, object]) -> Iterator[Problem]:
    if name not in known:
        allowed, hint = ", ".join(sorted(known)) or "none", did_you_mean(name, known)
        yield entry.problem("no Model has this name", path, found=shown(name), allowed=allowed, hint=hint)
