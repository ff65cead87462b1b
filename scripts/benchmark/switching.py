"""Parts `switch`, `burst` and `starvation`: what hotseat adds to the engines' own times, and whom it lets wait how long.

The engines are the mock in C, which starts in a millisecond and then waits for as long as its DELAY says. Its log has the
wall-clock times of its own start (first statement), ready (it listens), term (SIGTERM seen) and exit.
"""

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.client import Client, Crowd, Unexpected, call
from benchmark.report import Row, median, percentile
from benchmark.servers import hotseat, mock, model

START_TIMES = (0.2, 0.5, 1.0, 1.3, 2.0)  # seconds
BURST = 40
BURST_START = 1.0
DEFAULT_MAX_WAIT = 30.0  # seconds; the default is Auto, whose bound is less with these engines
BUSY_CLIENTS = 4
SERVICE_MS = 500  # of their requests
OVERHEAD = 0.05  # seconds, the target for p99 of a switch's overhead


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the engines' log."""

    time: float
    name: str
    what: str


class EngineLog:
    """The log that all engines of one run write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def env(self, name: str, start: float) -> dict[str, str]:
        """Environment of an engine that writes to it, and that takes `start` seconds to start."""
        return {"LOADLOG": str(self.path), "MNAME": name, "DELAY": str(start)}

    def lines(self) -> list[Line]:
        """All lines so far."""
        words = (line.split() for line in self.path.read_text(encoding="ascii").splitlines())
        return [Line(float(when), name, what) for when, name, what in words]

    def overlaps(self) -> int:
        """Count engines that started while another one lived."""
        alive: set[str] = set()
        count = 0
        for line in self.lines():
            if line.what == "start":
                count += bool(alive)
                alive.add(line.name)
            elif line.what == "exit":
                alive.discard(line.name)
        return count


@dataclass(frozen=True, slots=True)
class Switch:
    """One measured switch; all times in seconds. See docs/benchmark.md for what each covers."""

    overhead: float
    leaving: float  # from the request until the old engine sees SIGTERM
    changing: float  # from the old engine's exit until the new one's first statement
    arriving: float  # from the new engine's ready until the answer, less a direct request's time


def measure_switch(folder: Path, switches: int, start_times: Sequence[float] = START_TIMES) -> list[Row]:
    """Measure the overhead of `switches` switches to an engine of each start time, in turn."""
    log = EngineLog(folder / "engines.log")
    names = {f"start-{start * 1000:.0f}ms": start for start in start_times}
    documents = [model(name, log.env(name, start)) for name, start in names.items()]
    measured: dict[str, list[Switch]] = {name: [] for name in names}
    pauses = random.Random(1)  # so that no clock of hotseat's own ticks in step with this
    with mock(folder) as engine:
        direct = _direct(engine.port)
    with hotseat(folder, documents) as server, Client(server.port) as client:
        client.ask(next(reversed(names)))
        for _ in range(switches):
            for name in names:
                time.sleep(pauses.uniform(0.1, 0.3))  # the resident is idle by then
                measured[name].append(_switch_to(name, client, log, direct))
    return _switch_rows(names, measured, log)


def _switch_to(name: str, client: Client, log: EngineLog, direct: float) -> Switch:
    known = len(log.lines())
    began = time.time()
    took = client.ask(name)
    at = {line.what: line for line in log.lines()[known:]}
    if set(at) != {"term", "exit", "start", "ready"} or at["start"].name != name:
        raise Unexpected(f"a switch to {name} took other steps than expected: {at}")
    stop, start = at["exit"].time - at["term"].time, at["ready"].time - at["start"].time
    return Switch(
        overhead=took - stop - start - direct,
        leaving=at["term"].time - began,
        changing=at["start"].time - at["exit"].time,
        arriving=began + took - at["ready"].time - direct,
    )


def _switch_rows(names: dict[str, float], measured: dict[str, list[Switch]], log: EngineLog) -> list[Row]:
    rows = []
    for name, start in names.items():
        overheads = [1000 * switch.overhead for switch in measured[name]]
        rows.append(Row("switch", f"overhead p50, engine start {start:g} s", median(overheads), "ms", at_most=10))
        rows.append(
            Row("switch", f"overhead p99, engine start {start:g} s", percentile(overheads, 0.99), "ms", at_most=50)
        )
    every = [switch for switches in measured.values() for switch in switches]
    overheads = [1000 * switch.overhead for switch in every]
    rows.append(Row("switch", f"overhead p50, all {len(every)}", median(overheads), "ms", at_most=10))
    rows.append(Row("switch", f"overhead p99, all {len(every)}", percentile(overheads, 0.99), "ms", at_most=50))
    for what, part in (
        ("request → SIGTERM seen", [s.leaving for s in every]),
        ("exit → next engine's first statement", [s.changing for s in every]),
        ("ready → answer", [s.arriving for s in every]),
    ):
        rows.append(Row("switch", f"of it p50, {what}", 1000 * median(part), "ms"))
    rows.append(Row("switch", "engines that met another one", log.overlaps(), at_most=0))
    return rows


def measure_burst(folder: Path, rounds: int) -> list[Row]:
    """Send requests for two models, alternating, all at once, to a hotseat with nothing loaded."""
    log = EngineLog(folder / "engines.log")
    documents = [model(name, log.env(name, BURST_START)) for name in ("a", "b")]
    loads, times = [], []
    with hotseat(folder, documents) as server:
        for _ in range(rounds):
            call(server.port, "POST", "/api/models/unload?wait=true")
            known = len(log.lines())
            with Crowd(server.port) as crowd:
                began = time.perf_counter()
                crowd.send("ab"[i % 2] for i in range(BURST))
                statuses = crowd.read_all(60)
                times.append(time.perf_counter() - began)
            if statuses != [200] * BURST:
                raise Unexpected(f"answers of the burst: {statuses}")
            loads.append(sum(line.what == "start" for line in log.lines()[known:]))
    return [
        Row("burst", f"loads for {BURST} alternating requests, most of {rounds} rounds", max(loads), at_most=2),
        Row("burst", f"time for all, engine start {BURST_START:g} s", median(times), "s", at_most=2.3),
        Row("burst", "engines that met another one", log.overlaps(), at_most=0),
    ]


def measure_starvation(folder: Path, busy: float, max_wait: float, start: float) -> list[Row]:
    """Keep one model busy for so many seconds; a request for another, with a bound on its wait, comes after one."""
    log = EngineLog(folder / "engines.log")
    documents = [
        model("busy", log.env("busy", start)),
        model("bounded", log.env("bounded", start), scheduling={"maxWait": f"{max_wait:g}s"}),
        model("default", log.env("default", start)),
    ]
    rows = []
    with hotseat(folder, documents) as server:
        for name, bound in (("bounded", max_wait), ("default", DEFAULT_MAX_WAIT)):
            with Client(server.port) as client:
                client.ask("busy")
            with _busy_clients(server.port, busy), Client(server.port) as client:
                time.sleep(1)
                served = client.ask(name)
            wait = min(bound, busy - 1)
            stated = f"max wait {bound:g} s" if name == "bounded" else "default max wait"
            what = f"request served beside {BUSY_CLIENTS} clients busy for {busy:g} s, {stated}"
            rows.append(Row("starvation", what, served, "s", at_most=wait + SERVICE_MS / 1000 + start + OVERHEAD))
    rows.append(Row("starvation", "engines that met another one", log.overlaps(), at_most=0))
    return rows


@contextlib.contextmanager
def _busy_clients(port: int, seconds: float) -> Iterator[None]:
    """Clients that ask for `busy` one request after another for so many seconds; it ends when they do."""
    end = time.monotonic() + seconds
    problems: list[BaseException] = []

    def run() -> None:
        try:
            with Client(port) as client:
                while time.monotonic() < end:
                    client.ask("busy", SERVICE_MS)
        except (OSError, Unexpected) as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(BUSY_CLIENTS)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    if problems:
        raise Unexpected(f"a request for the busy model failed: {problems[0]}")


def _direct(port: int) -> float:
    with Client(port) as client:
        return median(client.ask("m") for _ in range(200))
