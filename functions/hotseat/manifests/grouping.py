"""What can be wrong between Models and what their Workspace says about who may be resident together."""

from collections.abc import Iterator, Mapping

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.manifests.entry import Entry
from hotseat.manifests.problems import Path, Problem, did_you_mean, plain, shown


def strangers(models: list[Entry], workspaces: list[Entry], homes: Mapping[int, str]) -> Iterator[Problem]:
    """Find members of groups and sets that are no Models of their Workspace."""
    owners = {entry.name: homes[id(entry)] for entry in models}
    others = {name: entry.name for entry in models for name in _texts(entry.get("spec", "names"))}
    for entry in workspaces:
        if not isinstance(entry.document, Workspace):
            continue  # what is wrong with itself comes first
        here = sorted(name for name, home in owners.items() if home == entry.name)
        for name, path in _members(entry):
            if owners.get(name) == entry.name:
                continue
            if name in owners:
                yield entry.problem(f"{name} belongs to the Workspace {owners[name]}", path)
            elif name in others:
                message = f"{plain(name)} is in spec.names of Model/{others[name]}; members are named by metadata.name"
                yield entry.problem(message, path, hint=f"write {others[name]}")
            else:
                allowed = ", ".join(here) or "none"
                hint = did_you_mean(name, here)
                yield entry.problem("no such Model", path, found=shown(name), allowed=allowed, hint=hint)


def ungrouped(models: list[Entry], workspaces: list[Entry], homes: Mapping[int, str]) -> Iterator[Problem]:
    """Find Models that nothing binds: their Workspace counts no capacity, and none of its groups or sets names them."""
    uncounted = {
        entry.name: entry
        for entry in workspaces
        if isinstance(entry.document, Workspace) and not entry.document.spec.capacity.counted
    }
    for entry in models:
        home = uncounted.get(homes[id(entry)])
        if home is None or not isinstance(entry.document, Model) or entry.document.spec.engine == "external":
            continue
        if entry.name not in {name for name, _ in _members(home)}:
            message = f"no group and no set of the Workspace {home.name} names it, and that counts no capacity"
            yield entry.problem(message, ("metadata", "name"), found=shown(entry.name))


def _members(workspace: Entry) -> Iterator[tuple[str, Path]]:
    groups = workspace.get("spec", "groups")
    for index, group in enumerate(groups if isinstance(groups, list) else ()):
        for position, name in enumerate(_texts(group.get("members") if isinstance(group, dict) else None)):
            yield name, ("spec", "groups", index, "members", position)
    sets = workspace.get("spec", "sets")
    for index, together in enumerate(sets if isinstance(sets, list) else ()):
        for position, name in enumerate(_texts(together)):
            yield name, ("spec", "sets", index, position)


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
