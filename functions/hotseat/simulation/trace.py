"""Read a request log of a running hotseat as a workload: the same requests, times and service times.

docs/simulate.md says how rejected and failed requests are treated.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from hotseat.simulation.workload import SimRequest

# Requests that were rejected before dispatch, but would have been served: timeout, full queue, client disconnected.
WANTED = (408, 429, 499)
SERVER_ERROR = 500
ROUNDING = 0.002  # seconds by which `waited` may exceed `seconds`


class BadTrace(ValueError):
    """A line of a request log is invalid. The message says where, what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a log. Times are in seconds. `waited` is None if the request was not dispatched."""

    arrived: float  # Unix time
    model: str
    waited: float | None
    seconds: float  # from its arrival until its end
    status: int = 200
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded workload."""

    requests: tuple[SimRequest, ...]
    models: tuple[str, ...]  # in the order of their first request
    assumed: int  # requests without a service time of their own: the median of their model is used
    left_out: int  # invalid requests, which were not dispatched


def read(rows: Iterable[str], file: str, *, otherwise: float) -> Trace:
    """Read a log: CSV if the name of the file ends with .csv, else JSON lines. Raise BadTrace if it is invalid.

    `otherwise` is the service time in seconds for models without a dispatched request.
    """
    kind = _csv_rows if file.lower().endswith(".csv") else _json_rows
    lines = sorted((_line(row, f"{file}:{number}") for number, row in kind(rows, file)), key=lambda it: it.arrived)
    if not lines:
        raise BadTrace(f"{file}: has no requests; `hotseat up --request-log FILE` writes such logs")
    wanted = [line for line in lines if _was_wanted(line)]
    usual = _usual(wanted)
    begin = wanted[0].arrived if wanted else 0.0

    def seconds(line: Line) -> float:
        if line.waited is None:
            return usual.get(line.model, otherwise)
        return max(0.0, line.seconds - line.waited)

    requests = tuple(SimRequest(line.arrived - begin, line.model, seconds(line), line.priority) for line in wanted)
    assumed = sum(line.waited is None for line in wanted)
    return Trace(requests, tuple(dict.fromkeys(it.model for it in requests)), assumed, len(lines) - len(wanted))


def _was_wanted(line: Line) -> bool:
    """Whether the request was dispatched, or would have been under another load. False for invalid requests."""
    return line.waited is not None or line.status in WANTED or line.status >= SERVER_ERROR


def _usual(lines: Iterable[Line]) -> dict[str, float]:
    took = defaultdict(list)
    for line in lines:
        if line.waited is not None:
            took[line.model].append(max(0.0, line.seconds - line.waited))
    return {model: median(times) for model, times in took.items()}


# Rows -----------------------------------------------------------------------------------------------------------------


def _json_rows(rows: Iterable[str], file: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        try:
            value = json.loads(row)
        except ValueError as error:
            raise BadTrace(f"{file}:{number}: is not JSON ({error}); allowed: one JSON object per line") from None
        if not isinstance(value, dict):
            raise BadTrace(f"{file}:{number}: is {_shown(value)}; allowed: one JSON object per line")
        yield number, value


def _csv_rows(rows: Iterable[str], file: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(rows)
    missing = [name for name in ("time", "model", "waited", "seconds") if name not in (reader.fieldnames or ())]
    if missing:
        raise BadTrace(f"{file}:1: has no column {missing[0]}; allowed: time,model,waited,seconds[,status,priority]")
    for row in reader:
        filled = {name: value for name, value in row.items() if name is not None and value}
        numbers = {name: _number(filled[name]) for name in _NUMBERS if name in filled}
        yield reader.line_num, {"waited": None} | filled | numbers


_NUMBERS = ("waited", "seconds", "status", "priority")


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _line(row: Mapping[str, Any], where: str) -> Line:
    def field(name: str, right: Callable[[Any], bool], allowed: str, *default: Any) -> Any:
        if name not in row and default:
            return default[0]
        if name not in row:
            raise BadTrace(f"{where}: has no `{name}`; allowed: {allowed}")
        if not right(row[name]):
            raise BadTrace(f"{where}: `{name}` is {_shown(row[name])}; allowed: {allowed}")
        return row[name]

    arrived = _when(field("time", lambda it: _when(it) is not None, "a time such as 2026-01-31T12:00:00.000Z"))
    seconds = field("seconds", _is_time, "a number of seconds from arrival to end, at least 0")
    return Line(
        arrived or 0.0,
        field("model", lambda it: isinstance(it, str) and bool(it), "the name of a model"),
        field(
            "waited",
            lambda it: it is None or (_is_time(it) and it <= seconds + ROUNDING),
            "a number of seconds up to `seconds`, or null if the request was not dispatched",
        ),
        seconds,
        field("status", lambda it: _is_whole(it) and 100 <= it < 600, "an HTTP status", 200),  # noqa: PLR2004
        field("priority", _is_whole, "an integer", 0),
    )


def _when(value: Any) -> float | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < float("inf")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else text[:79] + "…"  # noqa: PLR2004 - a line of a terminal
