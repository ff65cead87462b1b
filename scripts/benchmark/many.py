"""Part `many`: what a thousand Models cost beside a hundred, when hotseat starts and when all of them change.

Both are timed in each round, one after the other, so that only their ratio matters: it says whether anything grows faster than the
documents do.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from benchmark.client import Client, Unexpected, call
from benchmark.report import Row, median
from benchmark.servers import hotseat, model

FEW, MANY = 100, 1000
RATIO = 1.5  # the target
PATIENCE = 60.0  # seconds for a reload


def measure_many(folder: Path, rounds: int) -> list[Row]:
    """Time from /ready, and from a reload that changed every Model, to the first answer; of a switch; and of such a reload."""
    found: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds):
        for count in (FEW, MANY):
            place = folder / f"{number}-{count}"
            place.mkdir()
            for what, seconds in _measure(place, count).items():
                found.setdefault((what, count), []).append(1000 * seconds)
    rows = []
    for what in ("/ready", "reload", "switch", "taking in"):
        few, many = median(found[what, FEW]), median(found[what, MANY])
        if what == "taking in":
            rows.append(Row("many", f"a reload of {MANY:,} Models that changed", many, "ms"))
            continue
        name = what if what == "switch" else f"{what} → first answer"
        rows += [
            Row("many", f"{name}, {FEW:,} Models", few, "ms"),
            Row("many", f"{name}, {MANY:,} Models", many, "ms"),
            Row("many", f"{name}, ratio", many / few, at_most=RATIO),
        ]
    return rows


def _measure(folder: Path, count: int) -> dict[str, float]:
    """Seconds from /ready to an answer, from SIGHUP until hotseat has taken the documents in, from then to an answer, and of a switch.

    Nothing is loaded at the reload. Else the changed document of the loaded Model restarts its engine, and whether the request comes
    before that or has to wait for it is a matter of chance.
    """
    with hotseat(folder, _documents(count, "as they were")) as server, Client(server.port) as client:
        ready = client.ask("m-1")
        call(server.port, "POST", "/api/models/unload?wait=true")
        manifest = folder / "models.yaml"
        manifest.write_text("\n---\n".join(json.dumps(document) for document in _documents(count, "changed")))
        began = time.monotonic()
        os.kill(server.worker, signal.SIGHUP)
        while "reloaded: changed m-0" not in (folder / "hotseat.out").read_text():
            if time.monotonic() - began > PATIENCE:
                raise Unexpected(f"{count} Models were not taken in")
            time.sleep(0.002)
        taken = time.monotonic() - began
        return {"/ready": ready, "taking in": taken, "reload": client.ask("m-2"), "switch": client.ask("m-3")}


def _documents(count: int, description: str) -> list[dict[str, Any]]:
    env = {"DELAY": "0", "CHANGED": description}
    return [model(f"m-{number}", env, description=description) for number in range(count)]
