"""Part `held`: thousands of requests that wait for a model: what each costs, and whether every count is exact. And open streams.

One model answers a long request, so the other one's must wait. The first crowd leaves, the second is served. All the while
/running and /metrics must agree with what is known here.
"""

import re
import time
from pathlib import Path

from benchmark.client import Client, Crowd, Unexpected, call, running
from benchmark.report import Row
from benchmark.servers import Server, hotseat, model
from benchmark.switching import EngineLog

HELD = 10_000
STREAMS = 2000
FILES_EACH, FILES_SPARE = 3, 300  # descriptors that hotseat reckons with for a request, and for all else
CONCURRENCY = 500  # requests that the engine gets at a time
CHUNKS, PERIOD_MS = 20, 500  # of a stream
START = 0.2  # seconds that an engine takes to start
LONG = "instance"  # the model with the long request
WANTED = "wanted"
SETTLE = 60.0  # seconds within which a count must become what it should be
GONE = 1.0  # seconds, the target for all departures to be counted


def measure_held(folder: Path, files: int, wanted: int = HELD) -> list[Row]:
    """Memory per held request, and the counts; and memory per stream. FILES: descriptors that a process may have."""
    held = min(wanted, (files - FILES_SPARE) // FILES_EACH)
    log = EngineLog(folder / "engines.log")
    documents = [
        {
            "apiVersion": "hotseat.dev/v1alpha1",
            "kind": "Workspace",
            "metadata": {"name": "default"},
            "spec": {"queue": {"maxWaiting": held}, "policy": {"maxWait": "10m"}},
        },
        *(model(name, log.env(name, START), concurrency=CONCURRENCY) for name in (LONG, WANTED)),
    ]
    with hotseat(folder, documents) as server, Crowd(server.port) as long, Crowd(server.port) as crowd:
        counts = _Counts(server, held)
        call(server.port, "POST", f"/api/models/{LONG}/load?wait=true")
        long.send([LONG], service_ms=99_999)
        counts.expect({}, in_flight=1)
        before = server.memory()
        crowd.send([WANTED] * held)
        counts.expect({WANTED: held}, in_flight=1)
        each = (server.memory() - before) / held / 1000
        crowd.leave()
        gone = counts.expect({}, in_flight=1)
        crowd.send([WANTED] * held)
        counts.expect({WANTED: held}, in_flight=1)
        known = len(log.lines())
        long.leave()  # the long request ends, its model is idle
        began = time.perf_counter()
        statuses = crowd.read_all(SETTLE)
        served = time.perf_counter() - began
        counts.expect({}, in_flight=0)
        if statuses != [200] * held:
            raise Unexpected(f"answers of those that were held: {sorted(set(statuses))}, {len(statuses)} in all")
        loads = sum(line.what == "start" for line in log.lines()[known:])
    each_stream = _measure_streams(folder)
    return [
        Row("held", f"memory of each of {held:,} held requests", each, "KB", at_most=12),
        Row("held", "observations of queues and residents", counts.observations),
        Row("held", "… that were wrong", counts.wrong, at_most=0),
        Row("held", f"time until {held:,} departures are counted", gone, "s", at_most=GONE),
        Row("held", f"loads to serve {held:,} held requests", loads, at_most=1),
        Row("held", f"time until all are answered, engine start {START:g} s", served, "s"),
        Row("held", "engines that met another one", log.overlaps(), at_most=0),
        Row("held", f"memory of each of {STREAMS:,} open streams", each_stream, "KB", at_most=40),
    ]


def _measure_streams(folder: Path) -> float:
    """KB of the worker for each of many streams, all of which are read."""
    place = folder / "streams"
    place.mkdir()
    with hotseat(place, [model("m", concurrency=STREAMS)]) as server, Crowd(server.port) as crowd:
        with Client(server.port) as client:
            client.ask("m")
        before = server.memory()
        crowd.stream("m", STREAMS, PERIOD_MS, CHUNKS)
        crowd.read_for(CHUNKS * PERIOD_MS / 1000 / 2)
        if (open_ := running(server.port)["running"][0]["in_flight"]) != STREAMS:
            raise Unexpected(f"{open_} of {STREAMS} streams are open")
        return (server.memory() - before) / STREAMS / 1000


class _Counts:
    """Looks at /running and /metrics until they say what they should; what no moment could justify is counted as wrong."""

    def __init__(self, server: Server, held: int) -> None:
        self._port, self._held = server.port, held
        self.observations = 0
        self.wrong = 0

    def expect(self, waiting: dict[str, int], in_flight: int) -> float:
        """Seconds until the counts are these, and then three times more; Unexpected if they do not get there."""
        began = time.perf_counter()
        while (found := self._look()) != (waiting, in_flight):
            if time.perf_counter() - began > SETTLE:
                raise Unexpected(f"waiting and in flight should be {waiting}, {in_flight}, but are {found}")
            time.sleep(0.01)
        took = time.perf_counter() - began
        for _ in range(3):
            self.wrong += self._look() != (waiting, in_flight)
            self.wrong += self._scrape() != (sum(waiting.values()), in_flight)
        return took

    def _look(self) -> tuple[dict[str, int], int]:
        seen = running(self._port)
        self.observations += 1
        residents = seen["running"]
        waiting = {row["model"]: row["count"] for row in seen["waiting"]}
        self.wrong += len(residents) > 1 or any(count > self._held for count in waiting.values())
        return waiting, sum(row["in_flight"] for row in residents)

    def _scrape(self) -> tuple[int, int]:
        """Read from /metrics how many wait and are in flight, over all models."""
        self.observations += 1
        text = call(self._port, "GET", "/metrics").decode()

        def total(name: str) -> int:
            return sum(int(float(value)) for value in re.findall(rf"^{name}{{.*}} (.*)$", text, re.MULTILINE))

        return total("hotseat_queued_requests"), total("hotseat_requests_in_flight")
