"""The options of `hotseat simulate` as one case: which models, which load, and a run under each policy."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hotseat.cli.simulate_cast import WRONG, Cast, Times, check_names, documented, made_up
from hotseat.control.workspace_controller import load_policy
from hotseat.core.policy.api import NOTHING, Policy
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.simulation.naive import NAME as NAIVE
from hotseat.simulation.naive import Naive
from hotseat.simulation.results import Recording
from hotseat.simulation.trace import BadTrace, Trace, read
from hotseat.simulation.workload import SHAPES, UNWEIGHTED, Impatience, SimRequest, WorkloadPlan
from hotseat.simulation.world import World

REQUESTS = 10_000  # how many come where nothing is said …
REQUESTS_AT_ONCE = 40
DAY = 86_400.0  # … or for how many seconds
# What the first option says, the others would say again.
_EXCLUDES = {
    "trace": ("models", "load", "requests", "duration", "shape", "service_spread"),
    "files": ("models", "gpus", "max_wait", "min_residency", "drain_timeout"),
    "given": ("models",),
    "duration": ("requests",),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """The options, by their names; times in seconds."""

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
        """Refuse options that do not go together. Raises click.UsageError."""
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
            raise click.UsageError(f"--shape alternate comes at once, and excludes {flags[min(wrong)]}", ctx)
        if self.patience == 0 or (self.patience is None and "retry_after" in typed):
            raise click.UsageError("--retry-after needs a --patience above 0s", ctx)
        weighted = [name for name, said in self.given.items() if "weight" in said]
        if weighted and (self.trace or self.shape in UNWEIGHTED):
            has = "--trace" if self.trace else f"--shape {self.shape}"
            raise click.UsageError(f"--model {weighted[0]}: {has} has shares of its own, so weight has no meaning", ctx)

    def log(self) -> Trace | None:
        """Read the request log, where there is one."""
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

    def cast(self, log: Trace | None) -> Cast:
        """Gather the models."""
        common = Times(1.0, self.load_time, self.stop_time, self.service_time, self.slots)
        if self.files:
            cast = documented(self.files, self.workspace, common, self.given)
            if log and (strange := [name for name in log.models if name not in cast.engines]):
                raise click.UsageError(f"{self.trace} asks for {', '.join(strange)}, which the documents do not have")
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
            cast = made_up(times, terms, self.gpus)
        _check_sizes(cast)
        return cast

    def asked(self, cast: Cast, log: Trace | None) -> Callable[[], Iterable[SimRequest]]:
        """Give what makes the load, again and again the same."""
        if log:
            return lambda: log.asked
        if self.shape == "hot-cold" and len(cast.parts) == 1:
            raise click.UsageError("--shape hot-cold needs --models 2 or more")
        if self.shape != "alternate" and not any(part.seats for part in cast.parts):
            raise click.UsageError("no model takes a GPU, so --load has no meaning")
        requests, duration = self.requests, self.duration
        if requests is None and duration is None:
            duration = DAY if self.shape == "day" else None
            requests = None if duration else REQUESTS_AT_ONCE if self.shape == "alternate" else REQUESTS
        gpus, spread = cast.gpus, self.service_spread
        plan = WorkloadPlan(cast.parts, self.load, gpus, requests, duration, spread, self.seed)
        return lambda: SHAPES[self.shape](plan)

    def player(self, name: str, cast: Cast) -> Callable[[Iterable[SimRequest]], Recording]:
        """Set up a run under a policy, or under none. Raises click.UsageError where there is no such policy."""
        if name == NAIVE:
            if self.patience is not None:
                raise click.UsageError("naive serves strictly by arrival and does not support --patience")
            return Naive(cast.engines, gpus=cast.gpus, load_spread=self.load_spread, seed=self.seed).run
        return World(
            _policy(name),
            cast.engines,
            capacity=cast.capacity,
            groups=cast.groups,
            routers=self.routers,
            load_spread=self.load_spread,
            seed=self.seed,
            impatience=None if self.patience is None else Impatience(self.patience, self.retry_after),
            **({} if cast.max_waiting is None else {"max_waiting": cast.max_waiting}),
        ).run


def _policy(name: str) -> Policy:
    try:
        return load_policy(name)
    except KeyError:
        there = ", ".join(sorted(entry_points(group="hotseat.policies").names))
        raise click.UsageError(f"there is no policy {name!r}; there is: {there}, and the baseline {NAIVE}") from None


def _check_sizes(cast: Cast) -> None:
    for name, engine in cast.engines.items():
        if not engine.terms.claim.fits_beside(NOTHING, cast.capacity):
            raise click.UsageError(f"{name} claims {engine.terms.claim.gpus} GPUs, and there are {cast.capacity.gpus}")
