"""`hotseat simulate`: what a policy would make of a load, in simulated time."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any, TypeVar

import click

from hotseat.cli.options import Command, output_option
from hotseat.cli.terminal import table, took
from hotseat.control.house import load_policy
from hotseat.core.policy import Policy
from hotseat.core.seats import Terms
from hotseat.core.units import Unreadable, parse_duration
from hotseat.simulation.figures import Figures, Waits, figures
from hotseat.simulation.load import SHAPES, Plan, rate
from hotseat.simulation.world import Engine, World

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])


def _duration(value: str) -> float:
    """Read a duration as documents write them."""
    try:
        return parse_duration(value)
    except Unreadable as error:
        raise click.BadParameter(f"{value!r} is not {error}") from error


def _durations(*options: tuple[str, str, str]) -> Callable[[AnyCommand], AnyCommand]:
    def add(command: AnyCommand) -> AnyCommand:
        for name, default, text in reversed(options):
            option = click.option(
                name, type=_duration, metavar="DURATION", default=default, show_default=True, help=text
            )
            command = option(command)
        return command

    return add


@dataclasses.dataclass(frozen=True, slots=True)
class _Case:
    """The options, by their names."""

    models: int
    load: float
    requests: int
    shape: str
    gpus: int
    slots: int
    load_time: float
    stop_time: float
    service_time: float
    max_wait: float
    min_residency: float
    drain_timeout: float
    seed: int

    def play(self, name: str, policy: Policy) -> Figures:
        """Run it under one policy."""
        names = [f"model-{number}" for number in range(1, self.models + 1)]
        terms = Terms(
            max_wait=self.max_wait,
            min_residency=self.min_residency,
            start_timeout=2 * self.load_time + 1,  # no load fails here
            drain_timeout=self.drain_timeout,
        )
        world = World(
            policy, dict.fromkeys(names, Engine(self.load_time, self.stop_time, self.slots, terms)), gpus=self.gpus
        )
        offered = rate(self.load, self.slots, self.service_time, self.gpus)
        plan = Plan(names, offered, self.requests, self.service_time, self.seed)
        return figures(name, world.run(SHAPES[self.shape](plan)), self.gpus)


@click.command(
    cls=Command,
    examples=(
        "hotseat simulate --models 4 --load 0.8 --load-time 3s",
        "hotseat simulate --compare batch,fifo --load-time 30s --max-wait 60s",
        "hotseat simulate --shape hot-cold --load 0.7 --max-wait 30s -o json",
    ),
)
@click.option("--models", type=click.IntRange(1), default=4, show_default=True, help="How many models take turns.")
@click.option(
    "--load", type=click.FloatRange(0, min_open=True), default=0.8, show_default=True, help="Share of what the GPUs could"
    " answer if switching took no time; nothing keeps up with 1 or more.",
)  # fmt: skip
@click.option("--requests", type=click.IntRange(1), default=10_000, show_default=True, help="How many requests come.")
@click.option(
    "--shape", type=click.Choice(list(SHAPES)), default="poisson", show_default=True, help="How they come: one by one; in"
    " groups for one model; or one by one and 98% of them for the first model.",
)  # fmt: skip
@click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, help="How many models fit at a time.")
@click.option(
    "--slots", type=click.IntRange(1), default=8, show_default=True, help="Requests a model answers at a time."
)
@_durations(
    ("--load-time", "10s", "From the start of an engine until it is ready."),
    ("--stop-time", "1s", "From the order to stop it until it is gone."),
    ("--service-time", "2s", "From a request's dispatch until its answer is complete."),
    ("--max-wait", "30s", "The Workspace's maxWait."),
    ("--min-residency", "0s", "The Workspace's minResidency."),
    ("--drain-timeout", "120s", "The Models' drainTimeout: requests beyond it are cut off."),
)
@click.option("--policy", default="batch", show_default=True, metavar="NAME", help="Policy to follow.")
@click.option("--compare", metavar="NAME,NAME…", help="Several policies under the same load, side by side.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same load.")
@output_option("table", "json")
@click.pass_context
def simulate(ctx: click.Context, /, policy: str, compare: str | None, output: str, **options: Any) -> None:
    """Run a made-up load through the scheduler, in simulated time.

    It runs the code that decides in a real hotseat, without engines and without waiting: it takes seconds for hours. It
    prints what was answered or cut off by the drain timeout, how long requests waited until they were dispatched and models
    until their turn, and the GPU time that went into switching or was left idle while somebody waited.
    """
    case = _Case(**options)
    if case.models == 1 and case.shape == "hot-cold":
        raise click.UsageError("--shape hot-cold needs --models 2 or more", ctx)
    if not case.service_time:
        raise click.UsageError("--service-time: an answer takes some time", ctx)
    policies = [(name, _policy(name, ctx)) for name in (compare.split(",") if compare else [policy])]
    began = time.monotonic()
    results = [case.play(name, policy) for name, policy in policies]
    if output == "json":
        given = dataclasses.asdict(case)
        click.echo(json.dumps({"options": given, "results": [dataclasses.asdict(r) for r in results]}, indent=2))
        return
    click.echo(_summary(results) + "\n\n" + _by_model(results))
    if sys.stderr.isatty():
        simulated = took(sum(result.seconds for result in results))
        click.echo(f"\n{simulated} simulated in {took(time.monotonic() - began)}", err=True)


def _policy(name: str, ctx: click.Context) -> Policy:
    try:
        return load_policy(name)
    except KeyError:
        there = ", ".join(sorted(entry_points(group="hotseat.policies").names))
        raise click.UsageError(f"there is no policy {name!r}; there is: {there}", ctx) from None


def _summary(results: Sequence[Figures]) -> str:
    headers = (
        "POLICY",
        "ANSWERED",
        "CUT",
        "REQ/S",
        *_WAITS,
        "TURN P99",
        "BOUND",
        "SWITCHES",
        "SWITCHING",
        "IDLE",
        "LOST",
    )
    rows = [
        (
            it.policy,
            f"{it.answered} of {it.requests}",
            str(it.cut),
            f"{it.throughput:.2f} of {it.offered:.2f}",
            *_waits(it.waits),
            took(it.turns.p99),
            took(it.effective_max_wait),
            str(it.switches),
            took(it.switching),
            took(it.idle),
            f"{it.lost:.1%}",
        )
        for it in results
    ]
    return table(headers, rows)


def _by_model(results: Sequence[Figures]) -> str:
    rows = [
        (result.policy, name, str(it.waits.count), *_waits(it.waits), took(it.turns.p99), str(it.loads))
        for result in results
        for name, it in result.models.items()
    ]
    return table(("POLICY", "MODEL", "REQUESTS", *_WAITS, "TURN P99", "LOADS"), rows)


_WAITS = ("MEAN WAIT", "P50", "P99", "MAX")


def _waits(waits: Waits) -> list[str]:
    return [took(seconds) for seconds in (waits.mean, waits.p50, waits.p99, waits.max)]
