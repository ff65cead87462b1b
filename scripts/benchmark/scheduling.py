"""Part `scheduling`: the same arrivals through a real hotseat with real processes, and through `hotseat simulate`'s world.

Rows of the table of polling systems (docs/scheduling.md), ten times as fast: eight at a time, 0.2 s each, load 0.8.
"""

import json
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.client import HOST, TIMEOUT, Unexpected, call, request_for
from benchmark.report import Row, median, percentile
from benchmark.servers import hotseat, model
from benchmark.switching import EngineLog
from hotseat.core.messages import InstanceState
from hotseat.core.policy.api import Capacity, ModelView, View
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.simulation.results import figures
from hotseat.simulation.simulator import SimulatedEngine
from hotseat.simulation.workload import SimRequest, Stream, WorkloadPlan, poisson
from hotseat.simulation.world import World

SLOTS, SERVICE, LOAD = 8, 0.2, 0.8
CASES = ((2, 1.0), (4, 3.0), (4, 0.3))  # models, seconds that an engine takes to start
MAX_WAIT = 6.0
_READ = 65536


@dataclass(slots=True)
class Sent:
    """One request on its way."""

    asked: SimRequest
    at: float
    received: bytes = b""


@dataclass(slots=True)
class Outcome:
    """What became of a load: seconds that each request waited, and until the last answer."""

    waits: list[float] = field(default_factory=list)
    seconds: float = 0.0


def measure_scheduling(folder: Path, requests: int) -> list[Row]:
    """Send this many requests in each case."""
    rows = _decisions()
    for models, start in CASES:
        names = [f"m{n}" for n in range(models)]
        parts = [Stream(name, seconds=SERVICE, gpus=1 / SLOTS) for name in names]
        asked = list(poisson(WorkloadPlan(parts, LOAD, requests=requests)))
        place = folder / f"{models}-{start:g}"
        place.mkdir()
        log = EngineLog(place / "engines.log")
        outcome = _real(place, log, names, start, asked)
        loads = sum(line.what == "start" for line in log.lines())
        rows += _rows(f"{models} models that start in {start:g} s", outcome, loads, _simulated(names, start, asked))
        rows.append(Row("scheduling", "engines that met another one", log.overlaps(), at_most=0))
    return rows


def _decisions() -> list[Row]:
    """Measure what one decision costs while requests wait for every model but the resident one: 100 for each."""
    costs = {models: _decision(models) for models in (100, 200)}
    what = "a decision with 100 models and 10,000 waiting, p50 of 2,000"
    return [
        Row("scheduling", what, 1e6 * costs[100], "µs", at_most=200),
        Row("scheduling", "the same with twice as many, in times of that", costs[200] / costs[100], at_most=2.2),
    ]


def _decision(models: int) -> float:
    """Seconds of CPU."""
    times = {"switch_cost": 30.0, "uncertainty": 1.0, "drain": 2.0, "arrivals": 0.1, "pace": 4.0}
    waiting = [ModelView(f"m{n}", waiting=100, oldest=float(n), gaps=(1.0,) * 8, **times) for n in range(1, models)]
    resident = ModelView(
        "m0", state=InstanceState.READY, waiting=100, oldest=5.0, in_flight=8, ready_since=1.0, **times
    )
    view, policy, took = View(1000.0, Capacity(1), (*waiting, resident)), Batch(), []
    for _ in range(2000):
        began = time.process_time_ns()
        policy.decide(view)
        took.append((time.process_time_ns() - began) / 1e9)
    return median(took)


def _rows(case: str, real: Outcome, loads: int, simulated: tuple[Outcome, int]) -> list[Row]:
    there, there_loads = simulated
    count = len(real.waits)
    pairs = (
        ("answers a second", count / real.seconds, count / there.seconds, "/s"),
        ("mean wait", sum(real.waits) / count, sum(there.waits) / count, "s"),
        ("p99 wait", percentile(real.waits, 0.99), percentile(there.waits, 0.99), "s"),
        ("loads", loads, there_loads, ""),
    )
    rows = []
    for what, ours, theirs, unit in pairs:
        rows.append(Row("scheduling", f"{case}: {what}", ours, unit))
        rows.append(Row("scheduling", f"{case}: {what}, simulated", theirs, unit))
    throughput = pairs[0]
    share = throughput[1] / throughput[2]
    rows.append(Row("scheduling", f"{case}: throughput, of the simulated", share, at_least=0.95))
    return rows


def _simulated(names: Sequence[str], start: float, asked: Sequence[SimRequest]) -> tuple[Outcome, int]:
    terms = SchedulingSpec(max_wait=MAX_WAIT)
    world = World(Batch(), dict.fromkeys(names, SimulatedEngine(start, 0.0, SLOTS, terms)))
    record = world.run(asked)
    told = figures("batch", record, 1)
    return Outcome([each for some in record.waits.values() for each in some], told.seconds), told.switches


def _real(folder: Path, log: EngineLog, names: Sequence[str], start: float, asked: Sequence[SimRequest]) -> Outcome:
    documents = [model(name, log.env(name, start), concurrency=SLOTS) for name in names]
    policy = {"name": "batch", "maxWait": f"{MAX_WAIT:g}s"}
    space = {"kind": "Workspace", "metadata": {"name": "default"}, "spec": {"policy": policy}}
    documents.append({"apiVersion": "hotseat.dev/v1alpha1", **space})
    with hotseat(folder, documents) as server:
        outcome = _send(server.port, asked)
        switches = json.loads(call(server.port, "GET", "/api/switches"))
        if not switches:
            raise Unexpected("no switch was recorded")
    return outcome


def _send(port: int, asked: Sequence[SimRequest]) -> Outcome:
    """Send each at its time, whatever has become of those before, on a connection of its own."""
    outcome, pending = Outcome(), list(reversed(asked))
    flying = 0
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        while pending or flying:
            now = time.perf_counter() - began
            while pending and pending[-1].at <= now:
                each = pending.pop()
                client = socket.create_connection((HOST, port), timeout=TIMEOUT)
                client.sendall(request_for(each.model, round(1000 * each.seconds)))
                selector.register(client, selectors.EVENT_READ, Sent(each, now))
                flying += 1
            pause = max(0.0, pending[-1].at - now) if pending else TIMEOUT
            for key, _ in selector.select(pause):
                if _read(key.fileobj, key.data):
                    selector.unregister(key.fileobj)
                    flying -= 1
                    now = time.perf_counter() - began
                    outcome.waits.append(max(0.0, now - key.data.asked.at - key.data.asked.seconds))
                    outcome.seconds = now
    return outcome


def _read(client: object, sent: Sent) -> bool:
    """Whether its answer is complete."""
    assert isinstance(client, socket.socket)
    data = client.recv(_READ)
    sent.received += data
    if data and b"\r\n\r\n" not in sent.received:
        return False
    if not sent.received.startswith(b"HTTP/1.1 200"):
        raise Unexpected(f"{sent.asked.model}: {sent.received[:300]!r}")
    client.close()  # the mock sends head and body at once
    return True
