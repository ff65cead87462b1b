"""Checks between documents, and between a document and what is installed here."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from itertools import product
from typing import Protocol

from hotseat.api.lifecycle import OnIdle
from hotseat.api.model import PINNED, Model
from hotseat.api.units import format_bytes
from hotseat.api.wildcards import Wildcards
from hotseat.api.workspace import DEFAULT_WORKSPACE, Workspace
from hotseat.manifests import schedule_windows as windows
from hotseat.manifests.entries import Entry
from hotseat.manifests.name_checks import check_names
from hotseat.manifests.problems import Path, Problem, did_you_mean, plain, shown

ENGINES = "hotseat.engines"
POLICIES = "hotseat.policies"


class Checker(Protocol):
    """An engine, as far as checks need it."""

    def check(self, model: Model) -> list[str]:
        """Return the problems of a Model's fields for this engine."""


@dataclass(frozen=True)
class Plugins:
    """The installed plugins: constructors of engines by name, and the names of the policies."""

    engines: Mapping[str, Callable[[], Checker]]
    policies: frozenset[str]

    @classmethod
    def installed(cls) -> "Plugins":
        """Return the plugins that entry points declare. An engine is imported when a Model uses it."""
        engines = {point.name: partial(_create, point) for point in entry_points(group=ENGINES)}
        return cls(engines, frozenset(point.name for point in entry_points(group=POLICIES)))


def _create(point: EntryPoint) -> Checker:
    engine: Checker = point.load()()
    return engine


def check(entries: list[Entry], plugins: Plugins, *, complete: bool) -> Iterator[Problem]:
    """Yield problems across documents. If they are not `complete`, because some are unreadable, references are not checked."""
    workspaces = [entry for entry in entries if entry.kind == "Workspace"]
    models = [entry for entry in entries if entry.kind == "Model"]
    yield from _duplicate_workspaces(workspaces)
    yield from _duplicate_names(models)
    yield from _engines(models, plugins)
    yield from _policies(workspaces, plugins)
    workspace_names = {id(model): workspace_of(model, workspaces) for model in models}
    if complete:
        yield from _unknown_workspaces(models, workspaces, workspace_names)
        yield from _named_models(models, workspaces, workspace_names)
        yield from unknown_members(models, workspaces, workspace_names)
    yield from models_without_group(models, workspaces, workspace_names)
    yield from _oversized(models, workspaces, workspace_names)
    owners = {name: entry for entry in models for name, _ in _names(entry)}
    closed = not any(entry.get("spec", "peers") for entry in workspaces)  # models of peers are not known here
    yield from check_fallbacks(owners, complete=complete and closed)
    yield from check_names(workspaces, owners, complete=complete and closed)
    yield from _lifecycles(models)
    yield from _duplicate_gpus(workspaces)


def workspace_of(model: Entry, workspaces: list[Entry]) -> str:
    """Return the name of the Workspace of a Model: the stated one, the only one, or `default`."""
    stated = model.get("spec", "workspace")
    if isinstance(stated, str):
        return stated
    return workspaces[0].name if len(workspaces) == 1 else DEFAULT_WORKSPACE


def _duplicate_workspaces(workspaces: list[Entry]) -> Iterator[Problem]:
    first: dict[str, Entry] = {}
    for entry in workspaces:
        other = first.setdefault(entry.name, entry)
        if entry.name and other is not entry:
            path = ("metadata", "name")
            yield entry.problem(f"another Workspace has the name {entry.name}: {other.where(path)}", path)


def _duplicate_names(models: list[Entry]) -> Iterator[Problem]:
    """Yield names that occur twice, which would make routes ambiguous. `spec.names` may contain the Model's own name."""
    first: dict[str, tuple[Entry, Path]] = {}
    for entry in models:
        stated: set[str] = set()
        for name, path in _names(entry):
            other, other_path = first.setdefault(name, (entry, path))
            if other is not entry:
                yield entry.problem(
                    f"{other.label} has the name {plain(name)} already: {other.where(other_path)}", path
                )
            elif name in stated:
                yield entry.problem(f"this Model states {plain(name)} twice", path)
            if path[0] == "spec":
                stated.add(name)


def _duplicate_gpus(workspaces: list[Entry]) -> Iterator[Problem]:
    """Yield GPUs that two Workspaces list."""
    first: dict[str, Entry] = {}
    for entry in workspaces:
        if not isinstance(entry.document, Workspace):
            continue
        for index, device in enumerate(entry.document.spec.capacity.devices):
            other = first.setdefault(device, entry)
            if other is not entry:
                path = ("spec", "capacity", "devices", index)
                yield entry.problem(f"the GPU {device} belongs to the Workspace {other.name} already", path)


def _names(entry: Entry) -> Iterator[tuple[str, Path]]:
    if entry.name:
        yield entry.name, ("metadata", "name")
    names = entry.get("spec", "names")
    for index, name in enumerate(names if isinstance(names, list) else ()):
        if isinstance(name, str):
            yield name, ("spec", "names", index)
    adapters = entry.get("spec", "loras")
    adapted: list[str] = []
    for index, adapter in enumerate(adapters if isinstance(adapters, list) else ()):
        if isinstance(adapter, dict) and isinstance(adapter.get("name"), str):
            adapted.append(adapter["name"])
            yield adapter["name"], ("spec", "loras", index, "name")
    by_name = entry.get("spec", "filters", "byName")
    for name in by_name if isinstance(by_name, dict) else ():
        if isinstance(name, str) and name not in (*_texts(names), *adapted):
            yield name, ("spec", "filters", "byName", name)


def _engines(models: list[Entry], plugins: Plugins) -> Iterator[Problem]:
    """Check that engines are installed, and let each check its Models."""
    loaded: dict[str, Checker | Exception] = {}
    for entry in models:
        name = entry.get("spec", "engine")
        if not isinstance(name, str):
            continue
        if name not in plugins.engines:
            yield _unknown(entry, ("spec", "engine"), name, plugins.engines, "no such engine is installed")
            continue
        if name not in loaded:
            loaded[name] = _load(plugins.engines[name])
        yield from _check_with(entry, name, loaded[name])


def _load(load: Callable[[], Checker]) -> Checker | Exception:
    try:
        return load()
    except Exception as error:  # a plugin can raise anything
        return error


def _check_with(entry: Entry, name: str, engine: Checker | Exception) -> Iterator[Problem]:
    if isinstance(engine, Exception):
        yield entry.problem(f"the engine {name} cannot be loaded: {engine!r}", ("spec", "engine"))
    elif isinstance(entry.document, Model):
        try:
            problems = engine.check(entry.document)
        except Exception as error:  # a plugin can raise anything
            problems = [f"the engine {name} failed to check this: {error!r}"]
        for problem in problems:
            yield entry.problem(problem, ("spec",), at_key=True)
        yield from _parking(entry, entry.document, engine)


def _parking(entry: Entry, model: Model, engine: Checker) -> Iterator[Problem]:
    """Yield Models that use lifecycle.release Park with an engine that cannot sleep."""
    lifecycle = model.spec.lifecycle
    if lifecycle.release is OnIdle.PARK and not lifecycle.sleep and not hasattr(engine, "sleep"):
        why = getattr(engine, "cannot_sleep", "it has no requests for sleep")
        message = f"engine {model.spec.engine} cannot sleep: {why}"
        hint = "use Stop, or set the requests for sleep and wake in lifecycle.sleep and lifecycle.wake"
        yield entry.problem(message, ("spec", "lifecycle", "release"), found="Park", hint=hint)


def _policies(workspaces: list[Entry], plugins: Plugins) -> Iterator[Problem]:
    for entry in workspaces:
        name = entry.get("spec", "policy", "name")
        if isinstance(name, str) and name not in plugins.policies:
            yield _unknown(entry, ("spec", "policy", "name"), name, plugins.policies, "no such policy is installed")


def _unknown_workspaces(
    models: list[Entry], workspaces: list[Entry], workspace_names: Mapping[int, str]
) -> Iterator[Problem]:
    names = [entry.name for entry in workspaces] or [DEFAULT_WORKSPACE]
    for entry in models:
        name = workspace_names[id(entry)]
        if name in names or not all(names):  # the unreadable name of a Workspace could be this one
            continue
        stated = entry.get("spec", "workspace") is not None
        message = (
            "no such Workspace"
            if stated
            else "is required, because there are several Workspaces and none is called default"
        )
        path = ("spec", "workspace")
        if stated:
            yield _unknown(entry, path, name, names, message)
        else:
            yield entry.problem(message, path, allowed=", ".join(sorted(names)))


def _named_models(
    models: list[Entry], workspaces: list[Entry], workspace_names: Mapping[int, str]
) -> Iterator[Problem]:
    """Yield defaultModel and activeModel that are not Models of their Workspace, and activeModel that cannot be loaded."""
    owners = {name: workspace_names[id(entry)] for entry in models for name, _ in _names(entry)}
    external = {name for entry in models if entry.get("spec", "engine") == "external" for name, _ in _names(entry)}
    for entry, path in product(workspaces, (("spec", "defaultModel"), ("spec", "activeModel"))):
        wanted = entry.get(*path)
        if path[1] == "activeModel" and isinstance(wanted, str) and wanted in external:
            here = [name for name, of in owners.items() if of == entry.name and name not in external]
            yield _unknown(entry, path, wanted, here, "cannot be loaded by hotseat: its engine is external")
            continue
        if not isinstance(wanted, str) or owners.get(wanted) == entry.name:
            continue
        if wanted in owners:
            yield entry.problem(f"{wanted} belongs to the Workspace {owners[wanted]}", path)
        else:
            here = [name for name, workspace in owners.items() if workspace == entry.name]
            yield _unknown(entry, path, wanted, here, "no Model has this name")


def _oversized(models: list[Entry], workspaces: list[Entry], workspace_names: Mapping[int, str]) -> Iterator[Problem]:
    """Yield Models that exceed the capacity of their Workspace. External Models use none of it."""
    capacities = {
        entry.name: entry.document.spec.capacity for entry in workspaces if isinstance(entry.document, Workspace)
    }
    for entry in models:
        capacity = capacities.get(
            workspace_names[id(entry)], None if workspaces else Workspace.model_fields["spec"].default.capacity
        )
        if (
            capacity is None
            or not capacity.counted
            or not isinstance(entry.document, Model)
            or entry.document.spec.engine == "external"
        ):
            continue
        wanted, where = entry.document.spec.resources, f"the Workspace {workspace_names[id(entry)]} has"
        if wanted.gpus > capacity.gpus:
            message = f"can never fit: {where} {capacity.gpus}"
            yield entry.problem(message, ("spec", "resources", "gpus"), found=str(wanted.gpus))
        memory, limit = wanted.accelerator_memory, capacity.accelerator_memory
        if memory is not None and limit is not None and memory > limit:
            message = f"can never fit: {where} {format_bytes(limit)}"
            yield entry.problem(message, ("spec", "resources", "acceleratorMemory"), found=format_bytes(memory))
        elif memory and limit is not None and memory * capacity.gpus > limit * (count := wanted.gpus) > 0:
            each = f"{format_bytes(limit // capacity.gpus)} on each of its {capacity.gpus} GPUs"
            message = f"can never fit on {count}: {where} {each}"
            yield entry.problem(message, ("spec", "resources", "acceleratorMemory"), found=format_bytes(memory))


def _lifecycles(models: list[Entry]) -> Iterator[Problem]:
    """Yield invalid windows of schedules, and invalid values of the pin annotation."""
    for entry in models:
        if not isinstance(entry.document, Model):
            continue
        for index, window in enumerate(entry.document.spec.lifecycle.schedule):
            path: Path = ("spec", "lifecycle", "schedule", index)
            found = {"start": window.start, "timeZone": window.time_zone}
            for field, message in windows.problems(window):
                yield entry.problem(message, (*path, field), found=shown(found[field]))
        pinned = entry.document.metadata.annotations.get(PINNED)
        if pinned not in (None, "true", "false"):
            path = ("metadata", "annotations", PINNED)
            yield entry.problem("is not allowed", path, found=shown(pinned), allowed='"true" or "false", in quotes')


def _unknown(entry: Entry, path: Path, name: str, allowed: Iterable[str], message: str) -> Problem:
    choices = sorted(allowed)
    more = ", ".join(choices) or "none"
    return entry.problem(message, path, found=shown(name), allowed=more, hint=did_you_mean(name, choices))


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


_PATH = ("spec", "fallback", "model")


def check_fallbacks(owners: Mapping[str, Entry], *, complete: bool) -> Iterator[Problem]:
    """Yield problems of fallbacks. `owners` has the Models by all their names. If not `complete`, there may be others."""
    reported: set[int] = set()  # Models of cycles that are reported
    wildcards = Wildcards(owners)
    for entry in _once(owners):
        wanted = entry.get(*_PATH)
        if not isinstance(wanted, str):
            continue
        if wanted not in owners:
            if complete and wildcards.find(wanted) is None:
                more = ", ".join(sorted(owners))
                hint = did_you_mean(wanted, owners)
                yield entry.problem("no Model has this name", _PATH, found=shown(wanted), allowed=more, hint=hint)
            continue
        cycle = _cycle(entry, owners)
        if cycle and not reported & {id(each) for each in cycle}:
            reported |= {id(each) for each in cycle}
            names = " -> ".join(each.name for each in (*cycle, entry))
            message = f"the fallbacks form a cycle: {names}" if len(cycle) > 1 else "a Model cannot be its own fallback"
            yield entry.problem(message, _PATH, found=shown(wanted))


def _cycle(start: Entry, owners: Mapping[str, Entry]) -> list[Entry]:
    """Return the cycle of fallbacks that contains a Model, or an empty list."""
    chain: list[Entry] = []
    entry: Entry | None = start
    while entry is not None and not any(each is entry for each in chain):
        chain.append(entry)
        wanted = entry.get(*_PATH)
        entry = owners.get(wanted) if isinstance(wanted, str) else None
    return chain if entry is start else []


def _once(owners: Mapping[str, Entry]) -> list[Entry]:
    return list({id(entry): entry for entry in owners.values()}.values())
