"""From the options of `hotseat simulate` to its models, its workload, and a run for each policy."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hotseat.cli.simulate_cast import WRONG, ModelSet, Times, check_names, documented_models, generated_models
from hotseat.control.workspace_controller import load_policy
from hotseat.core.policy.api import NOTHING, Policy
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.simulation.naive import NAME as NAIVE
from hotseat.simulation.naive import Naive
from hotseat.simulation.results import Recording
from hotseat.simulation.trace import BadTrace, Trace, read
from hotseat.simulation.workload import SHAPES, UNWEIGHTED, Impatience, SimRequest, WorkloadPlan
from hotseat.simulation.world import World

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
            with self.trace.open(encoding="utf-8", newline="") as lines:
                return read(lines, str(self.trace), otherwise=self.service_time)
        except BadTrace as error:
            click.echo(str(error), err=True)
            raise click.exceptions.Exit(WRONG) from None
        except (OSError, UnicodeDecodeError) as error:
            raise click.ClickException(f"{self.trace} cannot be read: {error}") from None

    def model_set(self, log: Trace | None) -> ModelSet:
        """Return the models. Raise click.UsageError if they cannot be simulated."""
        common = Times(1.0, self.load_time, self.stop_time, self.service_time, self.slots)
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
            terms = SchedulingSpec(
                max_wait=self.max_wait, min_residency=self.min_residency, drain_timeout=self.drain_timeout
            )
            model_set = generated_models(times, terms, self.gpus)
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
        if not engine.terms.claim.fits_beside(NOTHING, model_set.capacity):
            raise click.UsageError(
                f"{name} claims {engine.terms.claim.gpus} GPUs, but there are {model_set.capacity.gpus}"
            )
