"""The Models and the load of a simulation, from the options of `hotseat simulate`, and a run of it under each policy."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hotseat.api.model import Model
from hotseat.api.units import Unreadable, parse_duration
from hotseat.api.workspace import Workspace
from hotseat.control.history_store import HistoryUnreadable, is_history, trace_lines
from hotseat.control.scheduling_spec import capacity_of, groups_of, limits_of, scheduling_spec_of
from hotseat.control.workspace_controller import load_policy
from hotseat.core.policy.api import NOTHING, Capacity, Claim, Policy
from hotseat.core.policy.groups import UNGROUPED, Groups
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.manifests.loading import Manifest, load
from hotseat.manifests.problems import ManifestErrors
from hotseat.simulation.naive import NAME as NAIVE
from hotseat.simulation.naive import Naive
from hotseat.simulation.results import Recording
from hotseat.simulation.simulator import SimulatedEngine
from hotseat.simulation.workload import (
    SHAPES,
    UNWEIGHTED,
    BadTrace,
    Impatience,
    SimRequest,
    Stream,
    Trace,
    WorkloadPlan,
    read,
)
from hotseat.simulation.world import World

WRONG = 2  # exit code
_PROMPTS = 1  # byte: there is room for all that is kept, as nothing in a simulation has a size
NEVER = 1e9  # seconds: loads of generated models do not time out


@dataclass(frozen=True, slots=True)
class Times:
    """Settings of a model, from options. Times are in seconds. None: the default of the documents or of the run."""

    weight: float = 1.0
    load_time: float = 10.0
    stop_time: float = 1.0
    service_time: float = 2.0
    slots: int = 8
    gpus: int | None = None
    priority: int | None = None
    max_wait: float | None = None
    min_residency: float | None = None
    prompt_share: float = 0.0
    save_time: float = 0.0
    restore_time: float = 0.0

    def engine(self, spec: SchedulingSpec, limit: int | None = None, max_waiting: int | None = None) -> SimulatedEngine:
        """Return the engine of a model."""
        spec = replace(spec, prompt_timeout=NEVER if self.prompt_share else 0.0)
        return SimulatedEngine(
            self.load_time,
            self.stop_time,
            self.slots,
            spec,
            limit,
            max_waiting,
            prompt_share=self.prompt_share,
            save=self.save_time,
            restore=self.restore_time,
        )


@dataclass(frozen=True, slots=True)
class ModelSet:
    """The models of a run with their engines, and their capacity."""

    engines: Mapping[str, SimulatedEngine]
    streams: tuple[Stream, ...]
    capacity: Capacity
    policy: str = "batch"
    max_waiting: int | None = None
    groups: Groups = UNGROUPED

    @property
    def gpus(self) -> int:
        """Return the number of GPUs. Without a limit, the number of models that groups allow at a time."""
        return self.groups.max_coresident(set(self.engines)) if self.capacity.gpus is None else self.capacity.gpus


def generated_models(models: Mapping[str, Times], spec: SchedulingSpec, gpus: int) -> ModelSet:
    """Return models without documents. `spec` has the defaults."""
    mine = {
        name: replace(
            spec,
            claim=Claim(1 if it.gpus is None else it.gpus),
            priority=it.priority or 0,
            max_wait=spec.max_wait if it.max_wait is None else it.max_wait,
            min_residency=spec.min_residency if it.min_residency is None else it.min_residency,
            start_timeout=NEVER,
        )
        for name, it in models.items()
    }
    engines = {name: it.engine(mine[name]) for name, it in models.items()}
    return ModelSet(engines, _streams(engines, models), Capacity(gpus, prompts=_PROMPTS, prompts_in_memory=False))


def documented_models(
    files: Sequence[Path], workspace: str | None, common: Times, own: Mapping[str, Mapping[str, Any]]
) -> ModelSet:
    """Return the Models of one Workspace of these documents. Times come from the options.

    Raise click.UsageError if the Workspace is ambiguous or has no Model to simulate.
    """
    try:
        manifest = load(files)
    except ManifestErrors as errors:
        click.echo(str(errors), err=True)
        raise click.exceptions.Exit(WRONG) from None
    workspace_ = _workspace(manifest, workspace)
    models = [it for it in manifest.models if it.spec.workspace == workspace_.name and it.spec.engine != "external"]
    if not models:
        raise click.UsageError(f"Workspace {workspace_.name} has no Model that hotseat loads (engine external)")
    check_names(own, [it.name for it in models], "documents")
    times = {it.name: replace(common, **own.get(it.name, {})) for it in models}
    engines = {it.name: _engine(it, workspace_, times[it.name]) for it in models}
    names = tuple(map(str, range(workspace_.spec.capacity.gpus)))  # as on one machine
    capacity, policy = (
        replace(capacity_of(workspace_, names), prompts=_PROMPTS, prompts_in_memory=False),
        workspace_.spec.policy.name,
    )
    return ModelSet(
        engines, _streams(engines, times), capacity, policy, workspace_.spec.queue.max_waiting, groups_of(workspace_)
    )


def _workspace(manifest: Manifest, name: str | None) -> Workspace:
    known = [it.name for it in manifest.workspaces]
    if name is None and len(known) == 1:
        return manifest.workspaces[0]
    for each in manifest.workspaces:
        if each.name == name:
            return each
    problem = (
        "the documents have several Workspaces; use --workspace"
        if name is None
        else f"Workspace {name!r} does not exist"
    )
    raise click.UsageError(f"{problem}; allowed: {', '.join(known)}")


def _engine(model: Model, workspace_: Workspace, times: Times) -> SimulatedEngine:
    found, limits = scheduling_spec_of(model, workspace_, ""), limits_of(model, workspace_)
    spec = replace(
        found,
        claim=found.claim if times.gpus is None else replace(found.claim, gpus=times.gpus),
        priority=found.priority if times.priority is None else times.priority,
        max_wait=found.max_wait if times.max_wait is None else times.max_wait,
        min_residency=found.min_residency if times.min_residency is None else times.min_residency,
    )
    return times.engine(spec, limits.concurrency, limits.max_waiting)


def _streams(engines: Mapping[str, SimulatedEngine], times: Mapping[str, Times]) -> tuple[Stream, ...]:
    return tuple(
        Stream(name, it.weight, it.service_time, engines[name].spec.priority, engines[name].spec.claim.gpus / it.slots)
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
            raise Unreadable(f"{'an integer' if kind is int else 'a number'} of at least {least:g}")
        return value

    return read


def _positive_duration(text: str) -> float:
    seconds = parse_duration(text)
    if not seconds:
        raise Unreadable("a duration above 0s")
    return seconds


_KEYS: Mapping[str, Callable[[str], float]] = {
    "weight": _amount(0.001),
    "load-time": parse_duration,
    "stop-time": parse_duration,
    "service-time": _positive_duration,
    "slots": _amount(1, int),
    "gpus": _amount(0, int),
    "priority": _amount(-1000, int),
    "max-wait": parse_duration,
    "min-residency": parse_duration,
}


def parse_model(text: str) -> tuple[str, dict[str, Any]]:
    """Read NAME[=KEY=VALUE,…]. Raise click.BadParameter if it is invalid."""
    name, _, rest = text.partition("=")
    if not name.strip():
        raise click.BadParameter(f"{text!r} has no model name; allowed: NAME or NAME=KEY=VALUE,…")
    said: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if key not in _KEYS:
            close = get_close_matches(key, _KEYS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise click.BadParameter(f"{name}: {key!r} is not a key; allowed: {', '.join(_KEYS)}{hint}")
        if not equals:
            raise click.BadParameter(f"{name}: {key} has no value; allowed: {key}=VALUE")
        try:
            said[key.replace("-", "_")] = _KEYS[key](value)
        except Unreadable as error:
            raise click.BadParameter(f"{name}: {key} is {value!r}, which is not {error}") from None
    return name, said


def parse_models(_ctx: click.Context, _param: click.Parameter, values: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read all --model options. Return the settings by name."""
    found: dict[str, dict[str, Any]] = {}
    for name, said in map(parse_model, values):
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        found[name] = said
    return found


def check_names(given: Iterable[str], known: Sequence[str], where: str) -> None:
    """Raise click.UsageError if a name is not among `known`."""
    for name in given:
        if name not in known:
            raise click.UsageError(f"--model: {name!r} is not in the {where}; allowed: {', '.join(known)}")


REQUESTS = 10_000  # default number of requests
REQUESTS_AT_ONCE = 40  # the same, for --shape alternate
DAY = 86_400.0  # default duration in seconds, for --shape day
# Each option excludes the others.
_EXCLUDES = {
    "trace": ("models", "load", "requests", "duration", "shape", "service_spread"),
    "files": ("models", "gpus", "max_wait", "min_residency", "drain_timeout"),
    "given": ("models",),
    "duration": ("requests",),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """The options, by name. Times are in seconds."""

    models: int
    given: Mapping[str, Mapping[str, Any]]
    files: tuple[Path, ...]
    workspace: str | None
    trace: Path | None
    load: float
    requests: int | None
    duration: float | None
    shape: str
    gpus: int
    slots: int
    load_time: float
    stop_time: float
    service_time: float
    prompt_share: float
    save_time: float
    restore_time: float
    max_wait: float | None
    min_residency: float
    drain_timeout: float
    service_spread: float
    load_spread: float
    routers: int
    patience: float | None
    retry_after: float
    seed: int

    def check(self, ctx: click.Context) -> None:
        """Raise click.UsageError if options exclude each other."""
        source = ctx.get_parameter_source
        flags = {param.name: param.opts[-1] for param in ctx.command.params}
        typed = {name for name in flags if name and source(name) not in (ParameterSource.DEFAULT, None)}
        for name, others in _EXCLUDES.items():
            if name in typed and not (name == "given" and typed & {"files", "trace"}):
                for other in typed.intersection(others):
                    raise click.UsageError(f"{flags[name]} excludes {flags[other]}", ctx)
        if self.workspace and not self.files:
            raise click.UsageError("--workspace needs documents: add -f FILE", ctx)
        if not self.service_time:
            raise click.UsageError("--service-time must be above 0s", ctx)
        if self.duration == 0:
            raise click.UsageError("--duration must be above 0s", ctx)
        if self.shape == "alternate" and (wrong := typed & {"load", "duration"}):
            raise click.UsageError(
                f"--shape alternate sends all requests at once, and excludes {flags[min(wrong)]}", ctx
            )
        if self.patience == 0 or (self.patience is None and "retry_after" in typed):
            raise click.UsageError("--retry-after requires --patience above 0s", ctx)
        weighted = [name for name, said in self.given.items() if "weight" in said]
        if weighted and (self.trace or self.shape in UNWEIGHTED):
            has = "--trace" if self.trace else f"--shape {self.shape}"
            raise click.UsageError(
                f"--model {weighted[0]}: {has} defines the shares of models, so weight has no effect", ctx
            )

    def log(self) -> Trace | None:
        """Return the request log, if there is one."""
        if self.trace is None:
            return None
        try:
            if is_history(self.trace):
                return read(trace_lines(self.trace), str(self.trace), otherwise=self.service_time)
            with self.trace.open(encoding="utf-8", newline="") as lines:
                return read(lines, str(self.trace), otherwise=self.service_time)
        except BadTrace as error:
            click.echo(str(error), err=True)
            raise click.exceptions.Exit(WRONG) from None
        except (OSError, UnicodeDecodeError, HistoryUnreadable) as error:
            raise click.ClickException(f"{self.trace} cannot be read: {error}") from None

    def model_set(self, log: Trace | None) -> ModelSet:
        """Return the models. Raise click.UsageError if they cannot be simulated."""
        common = Times(
            1.0,
            self.load_time,
            self.stop_time,
            self.service_time,
            self.slots,
            prompt_share=self.prompt_share,
            save_time=self.save_time,
            restore_time=self.restore_time,
        )
        if self.files:
            model_set = documented_models(self.files, self.workspace, common, self.given)
            if log and (unknown := [name for name in log.models if name not in model_set.engines]):
                raise click.UsageError(f"{self.trace} requests {', '.join(unknown)}, which the documents do not have")
        else:
            if log:
                check_names(self.given, log.models, "trace")
                names: Iterable[str] = log.models
            else:
                names = self.given or [f"model-{number}" for number in range(1, self.models + 1)]
            times = {name: dataclasses.replace(common, **self.given.get(name, {})) for name in names}
            spec = SchedulingSpec(
                max_wait=self.max_wait, min_residency=self.min_residency, drain_timeout=self.drain_timeout
            )
            model_set = generated_models(times, spec, self.gpus)
        _check_sizes(model_set)
        return model_set

    def workload(self, model_set: ModelSet, log: Trace | None) -> Callable[[], Iterable[SimRequest]]:
        """Return a function that returns the workload, the same at each call."""
        if log:
            return lambda: log.requests
        if self.shape == "hot-cold" and len(model_set.streams) == 1:
            raise click.UsageError("--shape hot-cold needs --models 2 or more")
        if self.shape != "alternate" and not any(part.gpus for part in model_set.streams):
            raise click.UsageError("no model uses a GPU, so --load has no effect")
        requests, duration = self.requests, self.duration
        if requests is None and duration is None:
            duration = DAY if self.shape == "day" else None
            requests = None if duration else REQUESTS_AT_ONCE if self.shape == "alternate" else REQUESTS
        gpus, spread = model_set.gpus, self.service_spread
        plan = WorkloadPlan(model_set.streams, self.load, gpus, requests, duration, spread, self.seed)
        return lambda: SHAPES[self.shape](plan)

    def runner(self, name: str, model_set: ModelSet) -> Callable[[Iterable[SimRequest]], Recording]:
        """Return a function that runs a workload under a policy or the baseline. Raise click.UsageError if it does not exist."""
        if name == NAIVE:
            if self.patience is not None:
                raise click.UsageError("naive serves strictly by arrival and does not support --patience")
            return Naive(model_set.engines, gpus=model_set.gpus, load_spread=self.load_spread, seed=self.seed).run
        return World(
            _policy(name),
            model_set.engines,
            capacity=model_set.capacity,
            groups=model_set.groups,
            routers=self.routers,
            load_spread=self.load_spread,
            seed=self.seed,
            impatience=None if self.patience is None else Impatience(self.patience, self.retry_after),
            **({} if model_set.max_waiting is None else {"max_waiting": model_set.max_waiting}),
        ).run


def _policy(name: str) -> Policy:
    try:
        return load_policy(name)
    except KeyError:
        known = ", ".join(sorted(entry_points(group="hotseat.policies").names))
        raise click.UsageError(
            f"the policy {name!r} does not exist; allowed: {known}, and the baseline {NAIVE}"
        ) from None


def _check_sizes(model_set: ModelSet) -> None:
    for name, engine in model_set.engines.items():
        if not engine.spec.claim.fits_beside(NOTHING, model_set.capacity):
            raise click.UsageError(
                f"{name} claims {engine.spec.claim.gpus} GPUs, but there are {model_set.capacity.gpus}"
            )
