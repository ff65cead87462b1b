"""Checks of Models against the groups and sets of their Workspace."""

from collections.abc import Iterator, Mapping

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.manifests.entry import Entry
from hotseat.manifests.problems import Path, Problem, did_you_mean, plain, shown


def unknown_members(
    models: list[Entry], workspaces: list[Entry], workspace_names: Mapping[int, str]
) -> Iterator[Problem]:
    """Yield members of groups and sets that are not Models of their Workspace."""
    owners = {entry.name: workspace_names[id(entry)] for entry in models}
    others = {name: entry.name for entry in models for name in _texts(entry.get("spec", "names"))}
    for entry in workspaces:
        if not isinstance(entry.document, Workspace):
            continue  # its own problems come first
        here = sorted(name for name, workspace in owners.items() if workspace == entry.name)
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


def models_without_group(
    models: list[Entry], workspaces: list[Entry], workspace_names: Mapping[int, str]
) -> Iterator[Problem]:
    """Yield Models that nothing limits: their Workspace counts no capacity, and no group or set of it contains them."""
    uncounted = {
        entry.name: entry
        for entry in workspaces
        if isinstance(entry.document, Workspace) and not entry.document.spec.capacity.counted
    }
    for entry in models:
        workspace = uncounted.get(workspace_names[id(entry)])
        if workspace is None or not isinstance(entry.document, Model) or entry.document.spec.engine == "external":
            continue
        if entry.name not in {name for name, _ in _members(workspace)}:
            message = f"no group and no set of the Workspace {workspace.name} names it, and that counts no capacity"
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
