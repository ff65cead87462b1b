"""What `hotseat top` shows, as lines of text with styles, and what its keys do. Pure: time and size come with each call."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hotseat.cli.events import clock, models_of, passage, phases
from hotseat.cli.terminal import NOTHING, age, cut, printable, text_width, took, transfer
from hotseat.core.events import shown_model_of

Row = Mapping[str, Any]
Line = list[tuple[str, str]]  # texts with their styles

HEAD, DIM, BOLD, GOOD, BUSY, BAD, CHOSEN = "head", "dim", "bold", "good", "busy", "bad", "chosen"
BAR = 10  # columns of a bar
FEW = 5  # switches that are listed if there is room
GAP = "  "
RECENT = 60.0  # seconds for which the speed of an answer is shown after its end

KEYS = (
    ("↑ ↓, k j", "select a model"),
    ("l", "load it"),
    ("u", "unload it: requests in flight finish first"),
    ("p", "pin it, or allow it to be evicted again"),
    ("/", "show only models whose names contain a text; Esc shows all"),
    ("?", "show or hide this help"),
    ("q", "quit"),
)
_HINT = "↑↓ select  l load  u unload  p pin  / filter  ? help  q quit"

_PHASES = {  # of a switch, by the state of the instance that is in it
    "quiescing": "drain",
    "draining": "drain",
    "saving": "save",
    "parking": "release",
    "releasing": "release",
    "unproven": "release",
    "loading": "load",
    "waking": "load",
    "restoring": "restore",
}


@dataclass(frozen=True, slots=True)
class Answers:
    """What hotseat has answered. Fields of later versions may be missing, and so may routes."""

    models: Sequence[Row] = ()  # /v1/models
    running: Row = field(default_factory=dict)  # /running
    queue: Sequence[Row] = ()  # /api/queue
    gpus: Sequence[Row] = ()  # /api/gpus
    switches: Sequence[Row] = ()  # /api/switches
    requests: Sequence[Row] = ()  # /api/requests


@dataclass(frozen=True, slots=True)
class ModelLine:
    """A model, as it is shown."""

    name: str
    workspace: str
    state: str
    pinned: bool
    since: str | None  # RFC 3339
    in_flight: int
    waiting: int
    oldest: float | None  # seconds
    expected_at: str | None  # RFC 3339
    why: str
    speed: float | None  # tokens per second


@dataclass(frozen=True, slots=True)
class Action:
    """A command for hotseat."""

    what: str  # load, unload, pin, unpin
    model: str


@dataclass(slots=True)
class TopView:
    """What the user has chosen to see. `press` changes it."""

    url: str = ""
    selected: str = ""
    filter: str = ""
    typing: bool = False  # the filter
    help: bool = False
    asking: str = ""  # whether to unload this model
    notice: str = ""
    problem: str = ""  # why hotseat does not answer
    over: bool = False

    def press(self, key: str, answers: Answers) -> Action | None:
        """Apply a key. Return the command that it gives."""
        self.notice = ""
        if self.typing:
            self._type(key)
        elif self.asking:
            model, self.asking = self.asking, ""
            return Action("unload", model) if key in ("y", "Y") else None
        elif key in ("q", "Q"):
            self.over = True
        elif key == "?":
            self.help = not self.help
        elif key == "/":
            self.typing = True
        elif key == "esc":
            self.filter, self.help = "", False
        else:
            return self._choose(key, self.shown(model_lines(answers)))
        return None

    def shown(self, lines: Iterable[ModelLine]) -> list[ModelLine]:
        """Return the models that the filter leaves."""
        return [line for line in lines if self.filter.casefold() in line.name.casefold()]

    def chosen(self, lines: Sequence[ModelLine]) -> int:
        """Return the index of the selected model. It is the first one if the selected one is not there."""
        return next((index for index, line in enumerate(lines) if line.name == self.selected), 0)

    def _type(self, key: str) -> None:
        match key:
            case "enter":
                self.typing = False
            case "esc":
                self.typing, self.filter = False, ""
            case "backspace":
                self.filter = self.filter[:-1]
            case _ if len(key) == 1:
                self.filter += key

    def _choose(self, key: str, lines: Sequence[ModelLine]) -> Action | None:
        if not lines:
            return None
        index = self.chosen(lines)
        line = lines[index]
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -10, "page down": 10}
        self.selected = lines[max(0, min(len(lines) - 1, index + steps.get(key, 0)))].name
        match key:
            case "l":
                return Action("load", line.name)
            case "u" if line.in_flight or line.waiting:
                self.asking = line.name
            case "u":
                return Action("unload", line.name)
            case "p":
                return Action("unpin" if line.pinned else "pin", line.name)
        return None


# Models ---------------------------------------------------------------------------------------------------------------


def model_lines(answers: Answers, now: datetime | None = None) -> list[ModelLine]:
    """Return all models: residents first, then those with a queue, then the others, each by name."""
    listed = {row["id"]: row for row in answers.models if not row.get("parent") and "members" not in row}
    queues = {row["model"]: row for row in answers.queue}
    residents: dict[str, Row] = {}
    for row in answers.running.get("running") or ():  # of replicas, the one that has been there longest
        residents.setdefault(shown_model_of(row["model"]), row)
    speeds = _speeds(answers.requests, now)
    lines = [
        _model_line(name, listed.get(name, {}), queues.get(name, {}), residents.get(name), speeds.get(name))
        for name in dict.fromkeys((*queues, *listed, *residents))
    ]
    return sorted(lines, key=lambda line: (line.name not in residents, not line.waiting, line.name.casefold()))


def _model_line(name: str, listed: Row, queue: Row, resident: Row | None, speed: float | None) -> ModelLine:
    status = listed.get("status") or {}
    seen = status if resident is None else resident
    reason, message = str(queue.get("reason") or ""), str(queue.get("message") or "")
    state = str(seen.get("state") or "unloaded")
    if not message and state in ("failed", "fetching"):
        message = str(status.get("message") or "")
    return ModelLine(
        name=name,
        workspace=str(queue.get("workspace") or listed.get("workspace") or ""),
        state=state,
        pinned=bool(status.get("pinned") or (resident or {}).get("pinned")),
        since=seen.get("since"),
        in_flight=int(queue.get("in_flight") or (resident or {}).get("in_flight") or 0),
        waiting=int(queue.get("waiting") or 0),
        oldest=queue.get("oldest_seconds"),
        expected_at=queue.get("expected_at"),
        why=": ".join(filter(None, (reason, _line(message)))),
        speed=speed,
    )


def _line(message: str) -> str:
    """Return a message in one line: its first, and the last line of an engine's output if it ends with that."""
    first, *output = message.split("\n")
    return f"{first} {output[-1]}" if output and first.endswith(":") else first


def _speeds(requests: Iterable[Row], now: datetime | None) -> dict[str, float]:
    """Return the tokens per second of each model's newest answer, if that was a moment ago."""
    found: dict[str, float] = {}
    for row in requests:  # newest first
        if row.get("tokens_per_second") is not None and row["model"] not in found:
            ended = (_seconds_since(row["arrived_at"], now) or 0.0) - float(row["seconds"])
            if ended < RECENT:
                found[row["model"]] = float(row["tokens_per_second"])
    return found


def _seconds_since(moment: str | None, now: datetime | None) -> float | None:
    return None if moment is None or now is None else (now - datetime.fromisoformat(moment)).total_seconds()


# The picture ----------------------------------------------------------------------------------------------------------


def picture(answers: Answers, view: TopView, now: datetime, width: int, height: int | None = None) -> list[Line]:
    """Return the lines to show, none wider than `width`. With `height`, there are no more than that, and a line of keys."""
    lines = model_lines(answers, now)
    models = view.shown(lines)
    above = [
        _heading(answers, view, now),
        *_gap([_workspace(row, lines) for row in answers.running.get("workspaces") or ()]),
    ]
    above += _gap(_gpu_table(answers.gpus, width))
    below = _gap([_running(row, answers, now) for row in answers.switches if row["outcome"] == "running"])
    below += _gap(
        [
            [(f"fetch   {printable(row['model'])}{GAP}{transfer(row)}", BUSY)]
            for row in answers.running.get("fetching") or ()
        ]
    )
    past = [row for row in answers.switches if row["outcome"] != "running"][::-1]
    if height is None:
        found = [*above, *_gap(_model_table(models, None, now, width)), *below, *_gap(_past(past[:FEW]))]
        return [_cut(line, width) for line in found]
    foot = _gap([[(text, DIM)] for text in _key_help()]) if view.help else []
    foot += [[(printable(models[view.chosen(models)].why) if models else "", DIM)], _status(view, models)]
    room = max(1, height - len(above) - len(below) - len(foot) - 2)  # for models, without the gap and the headers
    few = min(FEW, len(past), max(0, room - min(len(models), 3) - 2))  # at least three models come before past switches
    if few:
        room -= few + 2
    shown = _window(models, view.chosen(models), room)
    table = _model_table(shown, view.selected or (models[0].name if models else ""), now, width)
    body = [*above, [], *table, *below, *(_gap(_past(past[:few])) if few else ())]
    body = body[: height - len(foot)]
    body += [[] for _ in range(height - len(foot) - len(body))]
    return [_cut(line, width) for line in (*body, *foot)][:height]


def _gap(lines: list[Line]) -> list[Line]:
    return [[], *lines] if lines else []


def _window(models: Sequence[ModelLine], chosen: int, room: int) -> Sequence[ModelLine]:
    """Return as many models as there is room for, with the selected one."""
    first = max(0, min(chosen - room // 2, len(models) - room))
    return models[first : first + room]


def _heading(answers: Answers, view: TopView, now: datetime) -> Line:
    if view.problem:
        return [("hotseat  ", BOLD), (f"connecting…  {' '.join(view.problem.split())}", BAD)]
    waiting = sum(row.get("waiting") or 0 for row in answers.queue)
    flying = sum(row.get("in_flight") or 0 for row in answers.queue)
    text = f"{view.url}  {now.astimezone():%H:%M:%S}  {flying} in flight, {waiting} queued"
    return [("hotseat  ", BOLD), (text, "")]


def _workspace(row: Row, lines: Sequence[ModelLine]) -> Line:
    mine = [line for line in lines if line.workspace == row["name"]]
    bound, gpus = row.get("effective_max_wait"), row.get("gpus")
    parts = [
        "GPUs limited by groups" if gpus is None else f"{gpus} GPU{'' if gpus == 1 else 's'}",
        f"policy {row.get('policy') or NOTHING}",
        "" if bound is None else f"waits at most {age(bound)}",
        f"{sum(line.waiting for line in mine)} queued",
    ]
    return [(printable(row["name"]), BOLD), (GAP + ", ".join(filter(None, parts)), "")]


def _gpu_table(gpus: Sequence[Row], width: int) -> list[Line]:
    columns: list[tuple[str, Callable[[Row], str], Callable[[Row], str]]] = [
        ("GPU", lambda row: row["id"], _plain),
        ("NAME", lambda row: row.get("name") or "", _plain),
        ("MEMORY", _memory, lambda row: _load_style(_share(row.get("memory_used"), row.get("memory_total")))),
        ("USED", lambda row: _bar(row.get("utilization")), lambda row: GOOD if row.get("utilization") else DIM),
        ("TEMP", lambda row: _figure(row.get("temperature"), "°C"), _plain),
        ("POWER", lambda row: _figure(row.get("power"), "W"), _plain),
        ("WORKSPACE", lambda row: row.get("workspace") or "", _plain),
    ]
    cells = [[(read(row) or NOTHING, style(row)) for _, read, style in columns] for row in gpus]
    return (
        _table([name for name, _, _ in columns], cells, width, ("NAME", "POWER", "TEMP", "WORKSPACE")) if gpus else []
    )


def _plain(_: Row) -> str:
    return ""


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _load_style(share: float | None) -> str:
    return DIM if share is None else BUSY if share > 0.9 else GOOD  # noqa: PLR2004


def _memory(row: Row) -> str:
    from hotseat.api.units import format_bytes  # noqa: PLC0415 - its import takes longer than most commands

    used, total = row.get("memory_used"), row.get("memory_total")
    if used is None or not total:
        return ""
    filled = round(BAR * used / total)
    return f"{'█' * filled}{'░' * (BAR - filled)} {format_bytes(used)} of {format_bytes(total)}"


def _bar(share: float | None) -> str:
    if share is None:
        return ""
    filled = round(BAR * share)
    return f"{'█' * filled}{'░' * (BAR - filled)} {share:4.0%}"


def _figure(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.0f} {unit}"


def _model_table(models: Sequence[ModelLine], selected: str | None, now: datetime, width: int) -> list[Line]:
    """Return the table of models. `selected` None: none is marked."""

    def cells(line: ModelLine) -> list[tuple[str, str]]:
        here = _seconds_since(line.since, now) if line.state != "unloaded" else None
        ahead = _seconds_since(line.expected_at, now)
        chosen = CHOSEN if line.name == selected else ""
        return [
            (("▶ " if chosen else "  ") * (selected is not None) + printable(line.name), chosen),
            (line.workspace, ""),
            (line.state + (",pinned" if line.pinned else ""), _state_style(line.state)),
            ("" if here is None else age(here), ""),
            (str(line.in_flight) if line.in_flight else "", ""),
            ("" if line.speed is None else f"{line.speed:.3g}", ""),
            (str(line.waiting) if line.waiting else "", BUSY),
            ("" if line.oldest is None else age(line.oldest), ""),
            ("" if ahead is None else age(-ahead), ""),
            (printable(line.why), BAD if line.state == "failed" else ""),
        ]

    headers = ["MODEL", "WORKSPACE", "STATE", "FOR", "IN-FLIGHT", "TOKENS/S", "QUEUED", "OLDEST", "EXPECTED", "WHY"]
    rows = [[(text or NOTHING, style) for text, style in cells(line)] for line in models]
    if len({line.workspace for line in models}) < 2:  # noqa: PLR2004
        headers.remove("WORKSPACE")
        rows = [[row[0], *row[2:]] for row in rows]
    while headers[-1] in ("WHY", "EXPECTED") and all(row[-1][0] == NOTHING for row in rows):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    if not rows:
        return [[("no models", DIM)]]
    droppable = ("WORKSPACE", "FOR", "TOKENS/S", "WHY", "EXPECTED", "OLDEST")
    return _table(headers, rows, width, droppable, least={"MODEL": 20, "WHY": 20})


def _state_style(state: str) -> str:
    return (
        GOOD if state == "ready" else BAD if state in ("failed", "unproven") else DIM if state == "unloaded" else BUSY
    )


def _table(
    headers: Sequence[str],
    rows: Sequence[Sequence[tuple[str, str]]],
    width: int,
    droppable: Sequence[str],
    *,
    least: Mapping[str, int] | None = None,
) -> list[Line]:
    """Return a table. Columns of `droppable` are left out, the first one first, until it fits.

    A column in `least` may be cut to that width.
    """
    least = least or {}
    kept = list(range(len(headers)))
    wanted = [
        max(text_width(headers[column]), *(text_width(row[column][0]) for row in rows))
        for column in range(len(headers))
    ]
    needed = [min(wanted[column], least.get(headers[column], wanted[column])) for column in range(len(headers))]

    def over(widths: Sequence[int]) -> int:
        return sum(widths[column] + len(GAP) for column in kept) - len(GAP) - width

    for name in droppable:
        if over(needed) <= 0:
            break
        kept = [column for column in kept if headers[column] != name]
    given = wanted.copy()
    for column in reversed(kept):  # the last one is text
        given[column] -= max(0, min(over(given), wanted[column] - needed[column]))

    def line(cells: Sequence[tuple[str, str]]) -> Line:
        found: Line = []
        for column in kept:
            text, style = cut(cells[column][0], given[column]), cells[column][1]
            found.append((text, style))
            if column != kept[-1]:
                found.append((" " * (given[column] - text_width(text)) + GAP, ""))
        return found

    return [line([(name, HEAD) for name in headers]), *map(line, rows)]


def _running(row: Row, answers: Answers, now: datetime) -> Line:
    """Return the line for a switch that goes on: its models, what it has done, and its phase."""
    word, models = passage(row)
    leaving = {shown_model_of(name) for name in models_of(row.get("from"))}
    phase, since = "wait", row.get("started_at")
    residents = answers.running.get("running") or ()
    coming = [each for each in residents if each["model"] == row.get("to")]
    for each in (*coming, *(r for r in residents if shown_model_of(r["model"]) in leaving)):
        if found := _PHASES.get(each["state"]):
            phase, since = found, each.get("since")
    order = ("drain", "save", "release", "load", "restore")
    before = order[: order.index(phase)] if phase in order else ()
    done = {name: seconds for name, seconds in (row.get("phases") or {}).items() if name in before}
    waiting = f"{GAP}({row['waiting']} waiting)" if row.get("waiting") else ""
    past = phases({**row, "phases": done})
    at = took(max(0.0, _seconds_since(since, now) or 0.0))
    return [
        (f"{word:<6}{GAP}{models}{GAP}", BUSY),
        (past + GAP * bool(past), ""),
        (f"{phase} {at}", BOLD),
        (waiting, ""),
    ]


def _past(switches: Sequence[Row]) -> list[Line]:
    """Return the lines for switches that have ended, the newest first."""
    found: list[Line] = [[("LAST SWITCHES", HEAD)]] if switches else []
    for row in switches:
        style = {"completed": "", "failed": BAD}.get(row["outcome"], DIM)
        why = _line(str(row.get("message") or ""))
        text = phases(row) if row["outcome"] == "completed" else f"{row['outcome']}: {why}" if why else row["outcome"]
        at = clock({"time": row.get("started_at")})
        found.append(
            [
                (at + GAP, DIM),
                (passage(row)[1], style),
                (f"{GAP}{row.get('reason') or ''}", DIM),
                (f"{GAP}{printable(text)}", style),
            ]
        )
    return found


def _status(view: TopView, models: Sequence[ModelLine]) -> Line:
    if view.asking:
        flying, waiting = next(((one.in_flight, one.waiting) for one in models if one.name == view.asking), (0, 0))
        effects = [f"{flying} in flight finish first"] if flying or not waiting else []
        effects += [f"{waiting} queued get a 503"] if waiting else []
        text = f"Unload {printable(view.asking)}? {', '.join(effects)}. y: yes, any other key: no"
        return [(text, BUSY)]
    if view.typing:
        return [(f"/{printable(view.filter)}▏", BOLD)]
    if view.notice:
        return [(view.notice, BOLD)]
    shown = f"/{printable(view.filter)} ({len(models)})  " if view.filter else ""
    return [(shown, BOLD), (_HINT, DIM)]


def _key_help() -> list[str]:
    widest = max(text_width(key) for key, _ in KEYS)
    return [f"{key}{' ' * (widest - text_width(key))}{GAP}{text}" for key, text in KEYS]


def _cut(line: Line, width: int) -> Line:
    """Return a line that is no wider than `width`."""
    found: Line = []
    for text, style in line:
        kept = cut(text, width)
        found.append((kept, style))
        width -= text_width(kept)
        if kept != text:
            break
    return found
