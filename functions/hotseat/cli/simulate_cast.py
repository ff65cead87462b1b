"""Which models a simulation has: made-up ones, those of `--model`, those of documents, and those of a request log."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from hotseat.api.model import Model
from hotseat.api.units import Unreadable, parse_duration
from hotseat.api.workspace import Workspace
from hotseat.control.scheduling_spec import capacity_of, groups_of, limits_of, scheduling_spec_of
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.policy.groups import UNGROUPED, Groups
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.manifests.loading import Manifest, load
from hotseat.manifests.problems import ManifestErrors
from hotseat.simulation.simulator import SimulatedEngine
from hotseat.simulation.workload import Stream

WRONG = 2  # exit code
NEVER = 1e9  # seconds: made-up loads do not fail for taking long


@dataclass(frozen=True, slots=True)
class Times:
    """What one `--model` says, and the options that stand for all; times in seconds. None: whatever holds otherwise."""

    weight: float = 1.0
    load_time: float = 10.0
    stop_time: float = 1.0
    service_time: float = 2.0
    slots: int = 8
    gpus: int | None = None
    priority: int | None = None
    max_wait: float | None = None
    min_residency: float | None = None


@dataclass(frozen=True, slots=True)
class Cast:
    """All models of a run with their engines, and what they share."""

    engines: Mapping[str, SimulatedEngine]
    parts: tuple[Stream, ...]
    capacity: Capacity
    policy: str = "batch"
    max_waiting: int | None = None
    groups: Groups = UNGROUPED

    @property
    def gpus(self) -> int:
        """How many there are; where none are counted, how many models groups let be there at a time."""
        return self.groups.max_coresident(set(self.engines)) if self.capacity.gpus is None else self.capacity.gpus


def made_up(models: Mapping[str, Times], terms: SchedulingSpec, gpus: int) -> Cast:
    """Models that no document describes; `terms` hold for those that say nothing else."""
    mine = {
        name: replace(
            terms,
            claim=Claim(1 if it.gpus is None else it.gpus),
            priority=it.priority or 0,
            max_wait=terms.max_wait if it.max_wait is None else it.max_wait,
            min_residency=terms.min_residency if it.min_residency is None else it.min_residency,
            start_timeout=NEVER,
        )
        for name, it in models.items()
    }
    engines = {name: SimulatedEngine(it.load_time, it.stop_time, it.slots, mine[name]) for name, it in models.items()}
    return Cast(engines, _parts(engines, models), Capacity(gpus))


def documented(
    files: Sequence[Path], workspace: str | None, common: Times, own: Mapping[str, Mapping[str, Any]]
) -> Cast:
    """Models of one Workspace of these documents, as they would be scheduled; how long anything takes is not in documents."""
    try:
        manifest = load(files)
    except ManifestErrors as errors:
        click.echo(str(errors), err=True)
        raise click.exceptions.Exit(WRONG) from None
    home = _home(manifest, workspace)
    models = [it for it in manifest.models if it.spec.workspace == home.name and it.spec.engine != "external"]
    if not models:
        raise click.UsageError(f"the workspace {home.name} has no model that takes turns")
    check_names(own, [it.name for it in models], "documents")
    times = {it.name: replace(common, **own.get(it.name, {})) for it in models}
    engines = {it.name: _engine(it, home, times[it.name]) for it in models}
    names = tuple(map(str, range(home.spec.capacity.gpus)))  # as on one machine
    capacity, policy = capacity_of(home, names), home.spec.policy.name
    return Cast(engines, _parts(engines, times), capacity, policy, home.spec.queue.max_waiting, groups_of(home))


def _home(manifest: Manifest, name: str | None) -> Workspace:
    there = [it.name for it in manifest.workspaces]
    if name is None and len(there) == 1:
        return manifest.workspaces[0]
    for each in manifest.workspaces:
        if each.name == name:
            return each
    said = "say which with --workspace" if name is None else f"there is no workspace {name!r}"
    raise click.UsageError(f"{said}; there is: {', '.join(there)}")


def _engine(model: Model, home: Workspace, times: Times) -> SimulatedEngine:
    found, limits = scheduling_spec_of(model, home, ""), limits_of(model, home)
    terms = replace(
        found,
        claim=found.claim if times.gpus is None else replace(found.claim, gpus=times.gpus),
        priority=found.priority if times.priority is None else times.priority,
        max_wait=found.max_wait if times.max_wait is None else times.max_wait,
        min_residency=found.min_residency if times.min_residency is None else times.min_residency,
    )
    return SimulatedEngine(times.load_time, times.stop_time, times.slots, terms, limits.concurrency, limits.max_waiting)


def _parts(engines: Mapping[str, SimulatedEngine], times: Mapping[str, Times]) -> tuple[Stream, ...]:
    return tuple(
        Stream(
            name, it.weight, it.service_time, engines[name].terms.priority, engines[name].terms.claim.gpus / it.slots
        )
        for name, it in times.items()
    )


# --model --------------------------------------------------------------------------------------------------------------


def _amount(least: float, kind: type[int] | type[float] = float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value < NEVER:
            raise Unreadable(f"a {'whole ' if kind is int else ''}number of at least {least:g}")
        return value

    return read


def _some_time(text: str) -> float:
    seconds = parse_duration(text)
    if not seconds:
        raise Unreadable("a duration above 0s: an answer takes some time")
    return seconds


_KEYS: Mapping[str, Callable[[str], float]] = {
    "weight": _amount(0.001),
    "load-time": parse_duration,
    "stop-time": parse_duration,
    "service-time": _some_time,
    "slots": _amount(1, int),
    "gpus": _amount(0, int),
    "priority": _amount(-1000, int),
    "max-wait": parse_duration,
    "min-residency": parse_duration,
}


def parse_model(text: str) -> tuple[str, dict[str, Any]]:
    """Read NAME[=KEY=VALUE,…]. Raises click.BadParameter."""
    name, _, rest = text.partition("=")
    if not name.strip():
        raise click.BadParameter(f"{text!r} names no model; allowed: NAME or NAME=KEY=VALUE,…")
    said: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if key not in _KEYS:
            close = get_close_matches(key, _KEYS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise click.BadParameter(f"{name}: {key!r} is no key; allowed: {', '.join(_KEYS)}{hint}")
        if not equals:
            raise click.BadParameter(f"{name}: {key} has no value; allowed: {key}=VALUE")
        try:
            said[key.replace("-", "_")] = _KEYS[key](value)
        except Unreadable as error:
            raise click.BadParameter(f"{name}: {key} is {value!r}, which is not {error}") from None
    return name, said


def parse_models(_ctx: click.Context, _param: click.Parameter, values: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read every --model, by name."""
    found: dict[str, dict[str, Any]] = {}
    for name, said in map(parse_model, values):
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        found[name] = said
    return found


def check_names(given: Iterable[str], there: Sequence[str], where: str) -> None:
    """Refuse what is said about models that are not there."""
    for name in given:
        if name not in there:
            raise click.UsageError(f"--model: there is no {name!r} in the {where}; there is: {', '.join(there)}")
