"""What `hotseat simulate` prints and draws: tables, and residency over time on a terminal or as a PNG by matplotlib."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from hotseat.cli.terminal import NOTHING, table, took
from hotseat.simulation.results import Figures, Recording, Waits, phases, timeline

_WAITS = ("MEAN WAIT", "P50", "P99", "MAX")
_SMALL = 1.0  # requests per second below which rates have three decimals


def summary(results: Sequence[Figures]) -> str:
    """Return a table with the outcome of the requests, one row per policy."""
    columns: dict[str, Callable[[Figures], str]] = {
        "POLICY": lambda it: it.policy,
        "ANSWERED": lambda it: f"{it.answered} of {it.requests}",
        "REFUSED": lambda it: str(it.refused),
        "CUT": lambda it: str(it.cut),
        "GAVE UP": lambda it: str(it.given_up),
        "REQ/S": lambda it: f"{_rate(it.throughput)} of {_rate(it.offered)}",
        "MEAN WAIT": lambda it: took(it.waits.mean),
        "P50": lambda it: took(it.waits.p50),
        "P99": lambda it: took(it.waits.p99),
        "MAX": lambda it: took(it.waits.max),
        "TURN P99": lambda it: took(it.turns.p99),
        "BOUND": lambda it: took(it.effective_max_wait),
        "TOTAL": lambda it: took(it.seconds),
    }
    return table(list(columns), [[show(it) for show in columns.values()] for it in results])


def gpu_time(results: Sequence[Figures]) -> str:
    """Return a table with the use of the GPUs' time, one row per policy. The shares add up to 100%, except for rounding."""
    rows = []
    for it in results:
        parts = (it.serving, it.switching, it.idle, it.spare)
        whole = sum(parts) or 1.0
        rows.append((it.policy, str(it.switches), *(f"{part / whole:.1%}" for part in parts), f"{it.lost:.1%}"))
    return table(("POLICY", "SWITCHES", "SERVING", "SWITCHING", "IDLE", "SPARE", "LOST"), rows)


def by_model(results: Sequence[Figures]) -> str:
    """Return a table with one row for each model and policy."""
    rows = [
        (result.policy, name, str(it.waits.count), *_waits(it.waits), took(it.turns.p99), str(it.loads))
        for result in results
        for name, it in result.models.items()
    ]
    return table(("POLICY", "MODEL", "REQUESTS", *_WAITS, "TURN P99", "LOADS"), rows)


def _waits(waits: Waits) -> list[str]:
    return [took(seconds) for seconds in (waits.mean, waits.p50, waits.p99, waits.max)]


def _rate(per_second: float) -> str:
    if not per_second:
        return NOTHING  # all requests arrived at once
    return f"{per_second:.2f}" if per_second >= _SMALL else f"{per_second:.3f}"


SHADES = "░▒▓█"  # share of a column in which a model was ready
STEPS = "▁▂▃▄▅▆▇█"  # queue length
SWITCHING = "-"
SLICES = 1000  # of a PNG


def text(name: str, record: Recording, columns: int) -> str:
    """Return the plot of one run for a terminal, with two lines for each model."""
    widest = max(map(len, record.waits), default=0)
    line = timeline(record, max(10, columns - widest - 2))
    top = max((max(lane.waiting) for lane in line.models.values()), default=0)
    column = took(line.seconds / max(10, columns - widest - 2))
    rows = [
        f"{name}: ready {SHADES[0]} to {SHADES[-1]} (share of a column), loading or stopping {SWITCHING}",
        f"Second line: queue length, up to {top}. One column is {column}.",
    ]
    for model, lane in line.models.items():
        states = "".join(map(_state, lane.ready, lane.switching))
        queue = "".join(STEPS[(count * (len(STEPS) - 1) + top - 1) // top] if count else " " for count in lane.waiting)
        rows += [f"{model:{widest}}  {states}".rstrip(), f"{'':{widest}}  {queue}".rstrip()]
    return "\n".join(rows)


def _state(ready: float, switching: float) -> str:
    if ready > 0:
        return SHADES[min(len(SHADES) - 1, int(ready * len(SHADES)))]
    return SWITCHING if switching > 0 else " "


def check(path: Path) -> None:
    """Raise click.UsageError or ClickException if no PNG can be written to `path`."""
    if path.suffix.lower() != ".png":
        raise click.UsageError(
            f"--plot: {path} is not a PNG file; allowed: a file whose name ends with .png, or - for the terminal"
        )
    if not path.absolute().parent.is_dir():
        raise click.UsageError(f"--plot: the folder {path.absolute().parent} does not exist")
    try:
        import matplotlib  # noqa: F401, ICN001, PLC0415 - an optional dependency
    except ImportError:
        raise click.ClickException(
            "--plot FILE.png needs matplotlib: pip install 'hotseat[plot]'; --plot - draws on the terminal without it"
        ) from None


def png(runs: Mapping[str, Recording], path: Path) -> None:
    """Write a PNG with all runs side by side."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency, slow to import

    figure = Figure(figsize=(9 * len(runs), 2.5 + 0.7 * max(len(record.waits) for record in runs.values())))
    rows = figure.subplots(2, len(runs), sharex="col", squeeze=False)
    for (name, record), states, queues in zip(runs.items(), *rows, strict=True):
        states.set_title(name)
        for row, model in enumerate(record.waits):
            spans = [phases(stay, record.last_answer) for stay in record.intervals if stay.model == model]
            ready = [(begin, end - begin) for (begin, end), _ in spans]
            switching = [(begin, end - begin) for _, both in spans for begin, end in both]
            states.broken_barh(ready, (row - 0.4, 0.8), color=f"C{row % 10}")
            states.broken_barh(switching, (row - 0.4, 0.8), color="lightgrey")
        states.set_yticks(range(len(record.waits)), list(record.waits))
        states.invert_yaxis()
        line = timeline(record, SLICES)
        at = [line.seconds * (index + 0.5) / SLICES for index in range(SLICES)]
        for row, (model, lane) in enumerate(line.models.items()):
            queues.plot(at, lane.waiting, color=f"C{row % 10}", linewidth=0.9, label=model)
        queues.set_ylabel("queued")
        queues.set_xlabel("seconds")
    rows[0][0].set_ylabel("resident (grey: switching)")
    rows[1][0].legend(loc="upper left", fontsize="small")
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise click.ClickException(f"--plot: {path} cannot be written: {error.strerror or error}") from None
