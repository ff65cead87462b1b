"""Pictures of a simulation: who was resident over time, and how many waited. On a terminal, or as a PNG by matplotlib."""

from collections.abc import Mapping
from pathlib import Path

import click

from hotseat.cli.terminal import took
from hotseat.simulation.results import Recording
from hotseat.simulation.timeline import phases, timeline

SHADES = "░▒▓█"  # by the share of a column in which a model was ready
STEPS = "▁▂▃▄▅▆▇█"  # by how many wait
SWITCHING = "-"
FINE = 1000  # slices of a PNG


def text(name: str, record: Recording, columns: int) -> str:
    """Draw one run: two lines a model."""
    widest = max(map(len, record.waits), default=0)
    line = timeline(record, max(10, columns - widest - 2))
    top = max((max(lane.waiting) for lane in line.lanes.values()), default=0)
    column = took(line.seconds / max(10, columns - widest - 2))
    rows = [
        f"{name}: ready {SHADES[0]} to {SHADES[-1]} (part of a column to all of it), loading or stopping {SWITCHING}",
        f"Below, how many wait, up to {top}. A column is {column}.",
    ]
    for model, lane in line.lanes.items():
        seats = "".join(map(_seat, lane.ready, lane.switching))
        queue = "".join(STEPS[(count * (len(STEPS) - 1) + top - 1) // top] if count else " " for count in lane.waiting)
        rows += [f"{model:{widest}}  {seats}".rstrip(), f"{'':{widest}}  {queue}".rstrip()]
    return "\n".join(rows)


def _seat(ready: float, switching: float) -> str:
    if ready > 0:
        return SHADES[min(len(SHADES) - 1, int(ready * len(SHADES)))]
    return SWITCHING if switching > 0 else " "


def check(path: Path) -> None:
    """Say at once, and not after a long run, why no PNG could be made."""
    if path.suffix.lower() != ".png":
        raise click.UsageError(
            f"--plot: {path} is no PNG; allowed: a file whose name ends with .png, or - for the terminal"
        )
    if not path.absolute().parent.is_dir():
        raise click.UsageError(f"--plot: there is no folder {path.absolute().parent}")
    try:
        import matplotlib  # noqa: F401, ICN001, PLC0415 - it is no dependency
    except ImportError:
        raise click.ClickException(
            "--plot FILE.png needs matplotlib: pip install 'hotseat[plot]'; --plot - draws on the terminal without it"
        ) from None


def png(runs: Mapping[str, Recording], path: Path) -> None:
    """Draw all runs side by side."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - it is no dependency, and takes long to import

    figure = Figure(figsize=(9 * len(runs), 2.5 + 0.7 * max(len(record.waits) for record in runs.values())))
    rows = figure.subplots(2, len(runs), sharex="col", squeeze=False)
    for (name, record), seats, queues in zip(runs.items(), *rows, strict=True):
        seats.set_title(name)
        for place, model in enumerate(record.waits):
            spans = [phases(stay, record.last_answer) for stay in record.stays if stay.model == model]
            ready = [(begin, end - begin) for (begin, end), _ in spans]
            moving = [(begin, end - begin) for _, both in spans for begin, end in both]
            seats.broken_barh(ready, (place - 0.4, 0.8), color=f"C{place % 10}")
            seats.broken_barh(moving, (place - 0.4, 0.8), color="lightgrey")
        seats.set_yticks(range(len(record.waits)), list(record.waits))
        seats.invert_yaxis()
        line = timeline(record, FINE)
        at = [line.seconds * (index + 0.5) / FINE for index in range(FINE)]
        for place, (model, lane) in enumerate(line.lanes.items()):
            queues.plot(at, lane.waiting, color=f"C{place % 10}", linewidth=0.9, label=model)
        queues.set_ylabel("waiting")
        queues.set_xlabel("seconds")
    rows[0][0].set_ylabel("resident (grey: switching)")
    rows[1][0].legend(loc="upper left", fontsize="small")
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise click.ClickException(f"--plot: {path} cannot be written: {error.strerror or error}") from None
