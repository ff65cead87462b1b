"""Draw the figures of the docs: what a switch looks like over time, from a simulated run, and the states of an instance.

scripts/gen-docs writes them to docs/images. They use the system's fonts and no script, so they look the same everywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from math import hypot

from hotseat.core.admission.messages import Dispatch, RequestFinished
from hotseat.core.messages import InstanceState
from hotseat.core.policy.api import Capacity
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.instance import TRANSITIONS
from hotseat.core.scheduler.messages import Publish, SchedulingSpec
from hotseat.simulation.simulator import SimulatedEngine
from hotseat.simulation.workload import SimRequest
from hotseat.simulation.world import World

FONT = 'font-family="system-ui, sans-serif"'
COLORS = {
    "loading": "#f2c14e",
    "ready": "#4c9f70",
    "quiescing": "#9ccbae",
    "draining": "#7c8fa6",
    "releasing": "#d1495b",
}
WAITING = "#b0b7c3"
MARKER = (
    '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto-start-reverse">'
    '<path d="M0 0L8 4L0 8z" fill="#5b6675"/></marker></defs>'
)

# The run of docs/concepts.md: two models of 8 s to load and 1 s to stop, a bound of 30 s, one client after another.
MAX_WAIT, LOAD, STOP = 30.0, 8.0, 1.0
REQUESTS = [
    *(SimRequest(at, "chat", 5.0) for at in (1.0, 11.0, 16.0, 21.0, 24.0, 28.0, 31.0, 34.0, 37.0, 40.0, 44.0, 50.0)),
    SimRequest(18.0, "code", 4.0),
    SimRequest(26.0, "code", 6.0),
    SimRequest(46.0, "code", 4.0),
]


@dataclass
class Served:
    """A request of the run."""

    asked: SimRequest
    begun: float = 0.0
    ended: float = 0.0


@dataclass
class Run:
    """What happened: spans of states by model, and requests in the order of their arrival."""

    spans: list[tuple[str, str, float, float]]
    requests: list[Served]


def simulate() -> Run:  # noqa: C901 - two small watchers are inside
    """Run REQUESTS through the real scheduler and the real policy."""
    spec = SchedulingSpec(max_wait=MAX_WAIT)
    world = World(
        Batch(), {name: SimulatedEngine(LOAD, STOP, 2, spec) for name in ("chat", "code")}, capacity=Capacity(1)
    )
    changes: list[tuple[float, dict[str, str]]] = []
    load = sorted(REQUESTS, key=lambda each: each.at)
    run = Run([], [Served(each) for each in load])
    scheduler, admission = world.scheduler.step, world.routers[0].machine.step

    def watch_scheduler(stimulus):  # noqa: ANN001, ANN202 - as the method that it replaces
        commands = scheduler(stimulus)
        for command in commands:
            if isinstance(command, Publish):
                states = {each.model: str(each.state) for each in command.residency.residents}
                changes.append((world.simulator.now, states))
        return commands

    def watch_admission(stimulus):  # noqa: ANN001, ANN202
        if isinstance(stimulus, RequestFinished):
            run.requests[int(stimulus.request) - 1].ended = world.simulator.now
        commands = admission(stimulus)
        for command in commands:
            if isinstance(command, Dispatch):
                run.requests[int(command.request) - 1].begun = world.simulator.now
        return commands

    world.scheduler.step, world.routers[0].machine.step = watch_scheduler, watch_admission
    world.run(load)
    since: dict[str, tuple[str, float]] = {}
    end = max(each.ended for each in run.requests) + 3
    for now, states in [*changes, (end, {})]:
        for model, (state, began) in list(since.items()):
            if states.get(model) != state:
                if now > began:
                    run.spans.append((model, state, began, now))
                del since[model]
        since |= {model: (state, now) for model, state in states.items() if model not in since}
    return run


def turns() -> str:
    """Return the time line of docs/concepts.md as SVG, to scale."""
    run = simulate()
    left, scale, row = 96, 13.2, 14
    end = max(last for *_, last in run.spans)
    width = int(left + end * scale + 24)
    top = 62
    lanes = {name: top + index * 40 for index, name in enumerate(("chat", "code"))}
    requests_top = top + 2 * 40 + 34
    height = requests_top + len(run.requests) * row + 44

    def x(seconds: float) -> float:
        return round(left + seconds * scale, 1)

    out = [_head(width, height, "Two models take turns on one GPU")]
    at = left
    for name in ("loading", "ready", "quiescing", "draining", "releasing"):
        out += [f'<rect x="{at}" y="14" width="14" height="14" fill="{COLORS[name]}"/>', _text(at + 19, 26, name)]
        at += 40 + 7.5 * len(name)
    out += [_line(at, 21, at + 22, 21, WAITING, 3, dashed=True), _text(at + 28, 26, "request waits")]
    out += [_line(at + 130, 21, at + 152, 21, "#2f4858", 5), _text(at + 158, 26, "request is answered")]
    for second in range(0, int(end) + 1, 5):
        out += [
            _line(x(second), top - 10, x(second), height - 34, "#e3e6eb", 1),
            _text(x(second), height - 16, f"{second} s", middle=True),
        ]
    for name, y in lanes.items():
        out.append(_text(12, y + 19, name, bold=True))
        out.append(_line(left, y + 28, x(end), y + 28, "#c9ced6", 1))
    for model, state, began, ended in run.spans:
        wide = max(round((ended - began) * scale, 1), 1.5)
        out.append(f'<rect x="{x(began)}" y="{lanes[model]}" width="{wide}" height="28" fill="{COLORS[state]}">')
        out.append(f"<title>{model}: {state}, {began:.1f} s to {ended:.1f} s</title></rect>")
    out.append(_text(12, requests_top - 6, "requests", bold=True))
    for index, each in enumerate(run.requests):
        y = requests_top + 8 + index * row
        out.append(_text(12, y + 4, f"for {each.asked.model}"))
        out.append(_line(x(each.asked.at), y, x(each.begun), y, WAITING, 3, dashed=True))
        out.append(_line(x(each.begun), y, x(each.ended), y, "#2f4858", 5))
    first = next(each for each in run.requests if each.asked.model == "code")
    bound = first.asked.at + MAX_WAIT
    out.append(_line(x(bound), top - 12, x(bound), height - 34, "#d1495b", 1.5, dashed=True))
    out.append(_text(x(bound) + 4, top - 6, "maxWait of the first request for code", color="#d1495b"))
    return "\n".join([*out, "</svg>\n"])


# Where the states of an instance stand, as columns and rows.
PLACES = {
    None: (0, 1),
    "loading": (1, 1),
    "restoring": (2, 0),
    "ready": (3, 1),
    "quiescing": (4, 0),
    "draining": (4, 1),
    "saving": (5, 0),
    "parking": (5, 1),
    "parked": (5, 2),
    "waking": (3, 2),
    "releasing": (6, 1),
    "unproven": (6, 2),
    "": (7, 1),
}
LABELS = {"failed", "stop"}  # drawn in gray without words: they lead from nearly everywhere to releasing


def states() -> str:
    """Return the states of an instance and their transitions as SVG."""
    across, down, half_w, half_h, left, top = 150, 120, 48, 17, 60, 60

    def center(state: str | None) -> tuple[float, float]:
        column, line = PLACES[state]
        return left + column * across, top + line * down

    arrows: dict[tuple[str | None, str], list[str]] = {}
    for trigger, edge in TRANSITIONS.items():
        if str(trigger).startswith("found"):
            continue
        for state in edge.sources:
            before, after = (str(state) if state else None), (str(edge.to) if edge.to else "")
            arrows.setdefault((before, after), []).append(str(trigger))
    out = [_head(left * 2 + 7 * across, top * 2 + 2 * down + 26, "States of an instance")]
    out.append(MARKER)
    for (before, after), triggers in arrows.items():
        sizes = [(10, 10) if state in (None, "") else (half_w, half_h) for state in (before, after)]
        words = [trigger for trigger in triggers if trigger not in LABELS or before in ("releasing", "unproven")]
        out += _arrow(center(before), center(after), sizes, ", ".join(words), bend=(after, before) in arrows)
    for state in PLACES:
        cx, cy = center(state)
        if not state:
            out.append(
                f'<circle cx="{cx}" cy="{cy}" r="8" fill="{"#2f4858" if state is None else "#fff"}" stroke="#2f4858" stroke-width="2"/>'
            )
            continue
        color = COLORS.get(state, "#dfe5ec")
        out.append(
            f'<rect x="{cx - half_w}" y="{cy - half_h}" width="{2 * half_w}" height="{2 * half_h}" rx="6" fill="{color}"/>'
        )
        out.append(_text(cx, cy + 5, state, middle=True, bold=True))
    out.append(
        _text(
            left,
            top * 2 + 2 * down + 6,
            "Thin arrows: stop, failed. Circle on the right: nothing of the instance is left. Not drawn: what is found after a restart.",
        )
    )
    missing = {str(state) for state in InstanceState} - {state for state in PLACES if state}
    if missing:
        raise ValueError(f"the drawing has no place for {', '.join(sorted(missing))}")
    return "\n".join([*out, "</svg>\n"])


# The parts of docs/architecture.md: name, what it is, place and size; and what goes from one to another.
Box = tuple[str, str, int, int, int, int]
PARTS: dict[str, list[Box]] = {
    "one-machine.svg": [
        ("clients", "any API", 20, 90, 110, 56),
        ("gateway", "HTTP, keys, APIs", 190, 90, 140, 56),
        ("admission machine", "pure: queues, dispatch", 400, 30, 180, 56),
        ("relay", "bytes, both ways", 400, 150, 180, 56),
        ("scheduler", "pure: states of instances", 660, 30, 190, 56),
        ("policy", "pure: who is next", 920, 30, 150, 56),
        ("runtime", "processes, proof", 660, 150, 190, 56),
        ("engine", "llama-server, vllm, …", 400, 250, 180, 56),
    ],
    "cluster.svg": [
        ("clients", "any API", 4, 90, 100, 56),
        ("router", "gateway, admission, relay", 190, 90, 190, 56),
        ("Broker", "CloudEvents; optional", 460, 20, 180, 56),
        ("switcher", "scheduler, policy, runtime", 720, 90, 200, 56),
        ("Workspace", "status: the residency", 460, 150, 180, 56),
        ("pod of the model", "engine", 190, 250, 190, 56),
        ("Deployment or Service", "one for each Model", 720, 250, 200, 56),
    ],
}
FLOWS: dict[str, list[tuple[str, str, str]]] = {
    "one-machine.svg": [
        ("clients", "gateway", ""),
        ("gateway", "admission machine", "request"),
        ("admission machine", "relay", "dispatch"),
        ("admission machine", "scheduler", "demand"),
        ("scheduler", "admission machine", "residency"),
        ("scheduler", "policy", "view"),
        ("policy", "scheduler", "decision"),
        ("scheduler", "runtime", "commands"),
        ("runtime", "scheduler", "observations"),
        ("runtime", "engine", "starts, stops"),
        ("relay", "engine", "request"),
        ("gateway", "relay", ""),
    ],
    "cluster.svg": [
        ("clients", "router", ""),
        ("router", "Broker", "demand"),
        ("Broker", "switcher", "demand"),
        ("switcher", "Workspace", "writes"),
        ("Workspace", "router", "watches"),
        ("router", "pod of the model", "requests"),
        ("switcher", "Deployment or Service", "scales, proves"),
        ("Deployment or Service", "pod of the model", "runs"),
    ],
}


def parts(name: str) -> str:
    """Return the parts of one machine or of a cluster as SVG."""
    boxes = {box[0]: box for box in PARTS[name]}
    width, height = max(x + w for _, _, x, _, w, _ in PARTS[name]) + 20, 326
    out = [_head(width, height, "Parts of hotseat, and what goes between them"), MARKER]
    flows = {(before, after) for before, after, _ in FLOWS[name]}
    for before, after, words in FLOWS[name]:
        (_, _, x1, y1, w1, h1), (_, _, x2, y2, w2, h2) = boxes[before], boxes[after]
        ends = (x1 + w1 / 2, y1 + h1 / 2), (x2 + w2 / 2, y2 + h2 / 2)
        halves = [(w1 // 2 + 2, h1 // 2 + 2), (w2 // 2 + 2, h2 // 2 + 2)]
        out += _arrow(*ends, halves, words or " ", bend=(after, before) in flows, straight=True)
    for title, says, x, y, w, h in PARTS[name]:
        color = COLORS["ready"] if title in ("engine", "pod of the model") else "#dfe5ec"
        out.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{color}"/>')
        out += [
            _text(x + w / 2, y + 24, title, middle=True, bold=True),
            _text(x + w / 2, y + 42, says, middle=True, size=11),
        ]
    return "\n".join([*out, "</svg>\n"])


def _arrow(
    begin: tuple[float, float],
    end: tuple[float, float],
    halves: list[tuple[int, int]],
    words: str,
    *,
    bend: bool,
    straight: bool = False,
) -> Iterator[str]:
    """Yield an arrow between the edges of two boxes. It bends aside where another one goes the other way, or boxes lie between."""
    (x1, y1), (x2, y2) = begin, end
    far = hypot(x2 - x1, y2 - y1)
    aside = 26.0 if bend else (0.0 if straight or far < 190 else far / 7)
    if not words and not bend:
        aside = far / 5
    middle = (x1 + x2) / 2 + (y2 - y1) / far * aside, (y1 + y2) / 2 - (x2 - x1) / far * aside

    def edge(x: float, y: float, half: tuple[int, int]) -> tuple[float, float]:
        dx, dy = middle[0] - x, middle[1] - y
        part = min(half[0] / abs(dx) if dx else 9.0, half[1] / abs(dy) if dy else 9.0)
        small = part * (1.12 if part < 1 else 1)
        return x + dx * small, y + dy * small

    (ax, ay), (bx, by) = edge(x1, y1, halves[0]), edge(x2, y2, halves[1])
    width, color = (1.4, "#5b6675") if words else (0.7, "#aab2bd")
    yield (
        f'<path d="M{ax:.1f} {ay:.1f}Q{middle[0]:.1f} {middle[1]:.1f} {bx:.1f} {by:.1f}" fill="none" stroke="{color}" '
        f'stroke-width="{width}" marker-end="url(#a)"/>'
    )
    if words.strip():
        tx, ty = (ax + 2 * middle[0] + bx) / 4, (ay + 2 * middle[1] + by) / 4
        tx += 2 * (middle[0] - x1) * (straight and x1 == x2)  # beside an arrow that goes up or down
        yield _text(round(tx, 1), round(ty - 4, 1), words, middle=True, size=11, halo=True)


def _head(width: int, height: int, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {FONT} font-size="13">'
        f'<title>{title}</title><rect width="{width}" height="{height}" fill="#fff"/>'
    )


def _text(
    x: float,
    y: float,
    words: str,
    *,
    middle: bool = False,
    bold: bool = False,
    size: int = 13,
    halo: bool = False,
    color: str = "#1f2933",
) -> str:
    more = (
        ' text-anchor="middle"' * middle + ' font-weight="600"' * bold + (f' font-size="{size}"' if size != 13 else "")
    )
    more += ' paint-order="stroke" stroke="#fff" stroke-width="4"' * halo
    return f'<text x="{x}" y="{y}" fill="{color}"{more}>{escape(words)}</text>'


def _line(  # noqa: PLR0917 - two points, and how it looks
    x1: float, y1: float, x2: float, y2: float, color: str, width: float, *, dashed: bool = False
) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{color}" stroke-width="{width}"{dash}/>'


DRAWINGS = {"turns.svg": turns, "states.svg": states, **{name: partial(parts, name) for name in PARTS}}
