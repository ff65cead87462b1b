"""`hotseat switches --plot`: a time line of who was resident, and of each switch with its phases, drawn by matplotlib."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotseat.cli.events import kind, models_of
from hotseat.core.events import shown_model_of

if TYPE_CHECKING:
    from hotseat.cli.client import Client

Row = Mapping[str, Any]

RESIDENT, WAIT = "resident", "wait"
LEAVING, COMING = ("drain", "save", "release"), ("load", "restore")
ENDS = ("model.released", "model.parked", "model.failed")  # events after which an instance is not resident
SUFFIXES = (".png", ".svg", ".pdf")
EVENTS = 10_000  # that are read at most
_COLORS = {
    RESIDENT: "#3d85c6",
    "drain": "#f2b134",
    "save": "#9b6fc4",
    "release": "#d9534f",
    "load": "#7f8c8d",
    "restore": "#48a999",
}


@dataclass(frozen=True, slots=True)
class Span:
    """What a model did for some time. Times are seconds since 1970.

    `kind`: `resident` (it could serve), `wait` (its requests waited for a switch to it), or a phase of a switch. `note`: for `wait`,
    how many waited, and for `load` how it failed.
    """

    model: str
    kind: str
    begin: float
    end: float
    note: str = ""


def spans(switches: Iterable[Row], events: Iterable[Row], now: float) -> list[Span]:
    """Return what happened, by model and time. `events` tell of releases without a switch, such as those of idle models.

    A model that was resident before the first switch is so from the beginning. A switch that goes on has no phases yet.
    """
    rows = sorted(switches, key=lambda row: _time(row["started_at"]))
    found = [span for row in rows for span in _of_switch(row, now)]
    begin = min((span.begin for span in found), default=now)
    return sorted(
        [*found, *_residencies(rows, events, begin, now)], key=lambda span: (span.model, span.begin, span.end)
    )


def _of_switch(row: Row, now: float) -> Iterable[Span]:
    decided, phases, to = _time(row["started_at"]), row.get("phases") or {}, str(row["to"])
    ended = None if row["outcome"] == "running" else decided + phases.get("total", 0.0)
    waited = decided - phases.get("wait", 0.0)
    if row.get("waiting"):
        yield Span(to, WAIT, waited, now if ended is None else ended, str(row["waiting"]))
    if ended is None:
        return
    for model in map(shown_model_of, models_of(row.get("from"))):
        at = decided
        for phase in LEAVING:
            if seconds := phases.get(phase):
                yield Span(model, phase, at, at + seconds)
                at += seconds
    at = ended - sum(phases.get(phase, 0.0) for phase in COMING)
    for phase in COMING:
        if seconds := phases.get(phase):
            yield Span(to, phase, at, at + seconds, "" if row["outcome"] == "completed" else row["outcome"])
            at += seconds


def _residencies(rows: Sequence[Row], events: Iterable[Row], begin: float, now: float) -> Iterable[Span]:
    since: dict[
        str, float | None
    ] = {}  # by model, since when it is resident. None: it is not; missing: it is not known
    for change in sorted([*_evictions_and_loads(rows), *_releases(events)], key=lambda change: change.at):
        model = change.model
        if change.came:
            since[model] = since.get(model) or change.at
            continue
        # A release without a load that is known may be that of an engine that has failed.
        came = since.get(model, begin if change.by_switch else None)
        if came is not None and change.at > came:
            yield Span(model, RESIDENT, came, change.at)
            if change.release:
                yield Span(model, "release", change.at, change.at + change.release)
        since[model] = None
    yield from (Span(model, RESIDENT, came, now) for model, came in since.items() if came is not None)


@dataclass(frozen=True, slots=True)
class _Change:
    """A model that has become resident, or begins to leave. `release`: seconds that this takes, if no switch tells."""

    at: float
    model: str
    came: bool = False
    by_switch: bool = False
    release: float = 0.0


def _evictions_and_loads(rows: Iterable[Row]) -> Iterable[_Change]:
    for row in rows:
        decided = _time(row["started_at"])
        if row["outcome"] != "running":  # what it evicts may still serve
            yield from (_Change(decided, shown_model_of(name), by_switch=True) for name in models_of(row.get("from")))
        if row["outcome"] == "completed":
            yield _Change(decided + (row.get("phases") or {}).get("total", 0.0), str(row["to"]), came=True)
        elif row["outcome"] != "running":  # the next switch names it in `from`, but it has never served
            yield _Change(decided, str(row["to"]))


def _releases(events: Iterable[Row]) -> Iterable[_Change]:
    for event in events:
        data = event.get("data") or {}
        if kind(event) in ENDS and data.get("instance"):
            seconds = float(data.get("seconds") or 0.0)
            yield _Change(_time(event["time"]) - seconds, str(event.get("subject") or ""), release=seconds)


def _time(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def check(path: Path) -> None:
    """Raise click.UsageError or ClickException if no picture can be written to `path`."""
    if path.suffix.lower() not in SUFFIXES:
        raise click.UsageError(
            f"--plot: {path} is no picture; allowed: a file whose name ends with {', '.join(SUFFIXES)}"
        )
    if not path.absolute().parent.is_dir():
        raise click.UsageError(f"--plot: the folder {path.absolute().parent} does not exist")
    try:
        import matplotlib  # noqa: F401, ICN001, PLC0415 - an optional dependency
    except ImportError:
        raise click.ClickException("--plot needs matplotlib: pip install 'hotseat[plot]'") from None


def plot(client: "Client", switches: Sequence[Row], path: Path, *, up_to_now: bool = True) -> str:
    """Draw switches, and return what was drawn. Raise ClientError, or ClickException if there is nothing to draw.

    `up_to_now`: they are the last ones. Else the picture ends with the last of them.
    """
    if not switches:
        raise click.ClickException("--plot: there was no switch")
    end = datetime.now(UTC).timestamp()
    if not up_to_now:
        end = max(_time(row["started_at"]) + (row.get("phases") or {}).get("total", 0.0) for row in switches)
    events = _events(client, min(row["started_at"] for row in switches))
    found = spans(switches, [event for event in events if _time(event["time"]) <= end], end)
    workspaces = {name: row["workspace"] for row in switches for name in (row["to"], *map(shown_model_of, row["from"]))}
    draw(found, workspaces, path)
    return f"{path}: {len(switches)} switches of {len(workspaces)} models"


def _events(client: "Client", since: str) -> Sequence[Row]:
    """Return the events since then: those of the history, or those that hotseat still has if it keeps none."""
    from hotseat.cli.client import ApiError  # noqa: PLC0415 - it takes longer to import than most commands

    try:
        listed: Sequence[Row] = client.get("/api/history/events", "events", {"since": since, "limit": EVENTS})["events"]
    except ApiError as error:
        if error.status != 404:  # noqa: PLR2004 - it keeps no history, or is of an earlier version
            raise
        return list(client.events(history=EVENTS, follow=False))
    return listed


def draw(found: Sequence[Span], workspaces: Mapping[str, str], path: Path) -> None:
    """Write the picture. Each model is a row: its residencies, and the phases to scale."""
    from matplotlib import dates  # noqa: PLC0415 - an optional dependency, slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    rows = sorted(workspaces, key=lambda model: (workspaces[model], model))
    several = len(set(workspaces.values())) > 1
    figure = Figure(figsize=(14, 1.8 + 0.6 * len(rows)))
    axes = figure.subplots()
    zone = datetime.now().astimezone().tzinfo

    def day(seconds: float) -> float:
        return float(dates.date2num(datetime.fromtimestamp(seconds, UTC)))

    for span in found:
        row = rows.index(span.model)
        begin, length = day(span.begin), day(span.end) - day(span.begin)
        if span.kind == WAIT:
            axes.broken_barh([(begin, length)], (row + 0.34, 0.1), color="black")
            axes.annotate(
                span.note, (begin, row + 0.39), (-2, 0), textcoords="offset points", size=7, ha="right", va="center"
            )
        else:
            bars = axes.broken_barh([(begin, length)], (row - 0.3, 0.6), facecolor=_COLORS[span.kind])
            if span.note:
                bars.set(hatch="xxx", edgecolor="red")
    axes.set_yticks(range(len(rows)), [f"{workspaces[model]}/{model}" if several else model for model in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    first, last = day(min(span.begin for span in found)), day(max(span.end for span in found))
    axes.set_xlim(first - 0.02 * (last - first), last)
    axes.xaxis_date(tz=zone)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(axes.xaxis.get_major_locator(), tz=zone))
    axes.grid(axis="x", alpha=0.3)
    legend = [
        Patch(color=color, label=phase) for phase, color in _COLORS.items() if any(s.kind == phase for s in found)
    ]
    legend.append(Patch(color="black", label="requests waited, and how many"))
    axes.legend(
        handles=legend,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.25 / (1 + 0.3 * len(rows))),
        ncols=7,
        fontsize="small",
        frameon=False,
    )
    try:
        figure.savefig(path, dpi=110, bbox_inches="tight")
    except OSError as error:
        raise click.ClickException(f"--plot: {path} cannot be written: {error.strerror or error}") from None
