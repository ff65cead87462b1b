"""`hotseat simulate`: run a workload through the scheduler in simulated time."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from hotseat.api.units import AUTO, Unreadable, parse_auto_duration, parse_duration
from hotseat.cli import simulate_output as simulate_plot
from hotseat.cli import simulate_output as simulate_tables
from hotseat.cli.options import Command, output_option
from hotseat.cli.simulate_case import Case, parse_models
from hotseat.cli.terminal import took
from hotseat.simulation.results import Figures, Recording, figures
from hotseat.simulation.workload import SHAPES, Trace

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])

ON_TERMINAL = "-"  # value of --plot


def _duration(value: str) -> float:
    """Read a duration as documents write them."""
    try:
        return parse_duration(value)
    except Unreadable as error:
        raise click.BadParameter(f"{value!r} is not {error}") from error


def _auto_duration(value: str) -> float | None:
    """Read a duration, or Auto as None."""
    try:
        return parse_auto_duration(value)
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


@click.command(
    cls=Command,
    examples=(
        "hotseat simulate --models 4 --load 0.8 --load-time 3s",
        "hotseat simulate --compare batch,fifo,naive --load-time 30s --max-wait 60s",
        "hotseat simulate --shape hot-cold --load 0.7 --max-wait 30s -o json",
        "hotseat simulate --shape day --load 0.5 --service-spread 1 --plot -",
        "hotseat simulate --model small=weight=5,load-time=3s --model large=load-time=60s,slots=2,gpus=2 --gpus 2",
        "hotseat simulate -f models.yaml --trace requests.jsonl --compare batch,fifo",
    ),
)
@click.option("--models", type=click.IntRange(1), default=4, show_default=True, help="Number of models.")
@click.option(
    "--model", "given", multiple=True, metavar="NAME[=KEY=VALUE,…]", callback=parse_models,
    help="A model, instead of --models, or settings for a model of -f or --trace. Can be repeated. KEY is "
        "weight, load-time, stop-time, service-time, slots, gpus, priority, max-wait or min-residency.",
)  # fmt: skip
@click.option(
    "-f", "--file", "files", type=click.Path(path_type=Path), multiple=True, metavar="FILE|DIR",
    help="Documents with the Models and their scheduling settings. Can be repeated. Durations are not part of "
        "documents: set them with the options below.",
)  # fmt: skip
@click.option("--workspace", metavar="NAME", help="Workspace to simulate, if the documents have several.")
@click.option(
    "--trace", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
    help="Replay a request log (`hotseat up --request-log FILE`), a CSV file with the same columns, or the requests of a "
        "history (`history.db`), instead of a generated load.",
)  # fmt: skip
@click.option(
    "--load", type=click.FloatRange(0, min_open=True), default=0.8, show_default=True,
    help="Load, as a share of what the GPUs could serve if switching took no time. 1 or more cannot be served.",
)  # fmt: skip
@click.option(
    "--requests", type=click.IntRange(1),
        help="Number of requests.  [default: 10000; 40 for alternate; day: see --duration]"
)  # fmt: skip
@click.option(
    "--duration",
    type=_duration,
    metavar="DURATION",
    help="Duration of the load, instead of --requests.  [default for day: 24h]",
)
@click.option(
    "--shape", type=click.Choice(list(SHAPES)), default="poisson", show_default=True,
    help="How requests arrive. poisson: independently. bursts: in groups for one model. hot-cold: independently, "
        "98% of them for the first model. day: over a day, with 1.6 times the load at 16:00 and 0.4 times at "
        "night. alternate: all at once, for each model in turn.",
)  # fmt: skip
@click.option(
    "--gpus",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of GPUs. Each model takes one unless it states gpus.",
)
@click.option(
    "--slots",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Number of requests that a model serves at a time.",
)
@_durations(
    ("--load-time", "10s", "Time from the start of an engine until it is ready."),
    ("--stop-time", "1s", "Time from stopping an engine until it is gone."),
    ("--service-time", "2s", "Time from the dispatch of a request until its answer is complete."),
    ("--save-time", "0.1s", "Time to save the prompt cache of an engine before it is stopped. See --prompt-share."),
    ("--restore-time", "0.1s", "Time to restore it once the engine has loaded again."),
    ("--min-residency", "0s", "minResidency of the Workspace."),
    ("--drain-timeout", "120s", "drainTimeout of the Models. Requests that take longer to drain are cut off."),
)
@click.option(
    "--max-wait",
    type=_auto_duration,
    metavar="DURATION|Auto",
    default=AUTO,
    show_default=True,
    help="maxWait of the Workspace.",
)
@click.option(
    "--prompt-share", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True,
    help="Share of the service time of a request that is spared after a switch, because the prompt cache of its model was "
        "saved and restored. 0: prompt caches are not kept.",
)  # fmt: skip
@click.option(
    "--service-spread", type=click.FloatRange(0, 10), default=0.0, show_default=True,
    help="Variation of service times: standard deviation divided by mean (lognormal).",
)  # fmt: skip
@click.option(
    "--load-spread", type=click.FloatRange(0, 10), default=0.0, show_default=True,
        help="Variation of load times, likewise."
)  # fmt: skip
@click.option(
    "--routers",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Number of routers. Requests go to them in turn.",
)
@click.option(
    "--patience", type=_duration, metavar="DURATION",
    help="Clients give up if their answer has not started after this time, and retry after --retry-after.  "
        "[default: clients wait]",
)  # fmt: skip
@click.option(
    "--retry-after", type=_duration, metavar="DURATION", default="1s", show_default=True, help="See --patience."
)
@click.option("--policy", metavar="NAME", help="Policy.  [default: the policy of the documents, else batch]")
@click.option("--compare", metavar="NAME,NAME…",
    help="Compare several policies under the same load. naive is a plain proxy that switches at each change of "
        "the model.")  # fmt: skip
@click.option(
    "--seed", type=int, default=1, show_default=True, help="Seed of the load. The same seed gives the same load."
)
@click.option("--plot", metavar="FILE.png|-",
    help="Plot the resident models and the queue lengths over time: a PNG file (needs matplotlib), or - for the "
        "terminal.")  # fmt: skip
@output_option("table", "json")
@click.pass_context
def simulate(
    ctx: click.Context, /, policy: str | None, compare: str | None, plot: str | None, output: str, **options: Any
) -> None:
    """Run a load through the scheduler in simulated time.

    The simulation runs the scheduler of a real hotseat, without engines. Hours of simulated time take seconds. It prints how
    many requests were answered or cut off, how long requests waited, how long models waited for their turn, and how the
    GPUs' time was used. docs/simulate.md describes what is modelled and what is not.
    """
    case = Case(**options)
    case.check(ctx)
    if plot and plot != ON_TERMINAL:
        simulate_plot.check(Path(plot))
    log = case.log()
    model_set = case.model_set(log)
    asked = case.workload(model_set, log)
    names = list(dict.fromkeys(compare.split(","))) if compare else [policy or model_set.policy]
    runners = {name: case.runner(name, model_set) for name in names}
    began = time.monotonic()
    records = {name: run(asked()) for name, run in runners.items()}
    results = [figures(name, record, model_set.gpus) for name, record in records.items()]
    if plot and plot != ON_TERMINAL:
        simulate_plot.png(records, Path(plot))
    if output == "json":
        click.echo(json.dumps(_as_json(options, log, results), indent=2, default=str))
        return
    _print(results, log, case.trace, records if plot else {}, drawn=plot == ON_TERMINAL)
    if sys.stderr.isatty():
        simulated = took(sum(result.seconds for result in results))
        click.echo(f"\n{simulated} simulated in {took(time.monotonic() - began)}", err=True)


def _as_json(options: Mapping[str, Any], log: Trace | None, results: Sequence[Figures]) -> dict[str, Any]:
    read = log and {"requests": len(log.requests), "assumed": log.assumed, "left_out": log.left_out}
    bound = options["max_wait"]
    return {
        "options": {**options, "max_wait": AUTO if bound is None else bound},
        **({"trace": read} if read else {}),
        "results": [asdict(it) for it in results],
    }


def _print(
    results: Sequence[Figures], log: Trace | None, file: Path | None, records: Mapping[str, Recording], *, drawn: bool
) -> None:
    if log is not None:
        text = f"{file}: {len(log.requests)} requests"
        if log.assumed:
            text += f"; not dispatched: {log.assumed} (the median service time of the model is used)"
        if log.left_out:
            text += f"; invalid: {log.left_out} (left out)"
        click.echo(text, err=True)
    parts = [simulate_tables.summary(results), simulate_tables.gpu_time(results), simulate_tables.by_model(results)]
    if drawn:
        columns = shutil.get_terminal_size().columns
        parts += [simulate_plot.text(name, record, columns) for name, record in records.items()]
    click.echo("\n\n".join(parts))
