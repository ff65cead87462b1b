"""Kills of each process at each phase, freezes, and a full disk."""

import contextlib
import os
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import psutil

from hotseat.core.messages import InstanceState
from tests.embedded.harness import Hotseat, eventually

from .world import Violation, World

PHASE_WAIT = 1.5  # seconds for which a phase is waited for; then whatever is there is hit
BACK = 15.0  # seconds in which a new worker serves
ENGINES_GONE = 5.0  # seconds in which supervisors clear up after a hotseat that was killed
FREEZES = (0.2, 0.5, 1.0, 2.5)
LONG_FREEZE = 36.0  # more than any heart-beat would take
PHASES = (*InstanceState, None)


class Faults:
    """Does one thing after another. `hotseat`: to hotseat's own processes too."""

    def __init__(self, world: World, rng: Random, disk: Path | None, *, hotseat: bool, long_freeze: bool) -> None:
        self.world, self.rng, self.disk = world, rng, disk
        kinds = [("kill engine", phase) for phase in PHASES] * 3 + [("kill supervisor", phase) for phase in PHASES] * 2
        kinds += [("freeze engine", phase) for phase in PHASES] + [("freeze hotseat", None)] * 5
        if hotseat:
            kinds += [(kind, phase) for kind in ("kill worker", "kill arbiter", "kill all") for phase in PHASES] * 2
        if long_freeze:
            kinds.append(("freeze hotseat long", None))
        if disk is not None:
            kinds += [("disk", None)] * 5
        rng.shuffle(kinds)
        self.kinds = kinds

    def run(self) -> None:
        """Go on until the round ends."""
        done = 0
        with contextlib.suppress(Violation):
            while not self.world.pause.wait(self.rng.uniform(0.2, 2)):
                kind, phase = self.kinds[done % len(self.kinds)]
                done += 1
                self.one(kind, phase, self.rng.random(), self.rng.choice(FREEZES))

    def one(self, kind: str, phase: str | None, choice: float, seconds: float) -> None:
        """Do one thing, when something is in that phase."""
        row = self.await_phase(phase, choice)
        match kind:
            case "kill engine" | "kill supervisor" | "freeze engine":
                if row is not None:
                    self.strike(kind, row, seconds)
            case "kill worker":
                self.kill_worker()
            case "kill arbiter" | "kill all":
                self.kill_hotseat(kind)
            case "freeze hotseat":
                self.freeze_hotseat(seconds)
            case "freeze hotseat long":
                self.freeze_hotseat(LONG_FREEZE)
            case "disk":
                self.fill_disk(seconds)

    def hotseat(self) -> Hotseat:
        assert self.world.hotseat is not None
        return self.world.hotseat

    def rows(self) -> list[dict[str, Any]]:
        """All instances."""
        found = self.hotseat().get("/running").json()
        return found["running"] + [{**row, "state": "parked"} for row in found["parked"]]

    def await_phase(self, phase: str | None, choice: float) -> dict[str, Any] | None:
        """An instance in that phase; any, where none comes to it; None where there is none."""
        end = time.monotonic() + PHASE_WAIT
        while True:
            try:
                rows = self.rows()
            except OSError:
                rows = []
            right = [row for row in rows if phase in (None, row["state"])]
            if right or time.monotonic() > end or self.world.pause.wait(0.01):
                among = right or rows
                return among[int(choice * len(among))] if among else None

    # Engines ----------------------------------------------------------------------------------------------------------

    def processes(self, instance: str) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """Supervisor, and engine with all its children, of an instance."""
        engines = []
        for pid in self.hotseat().engines():
            with contextlib.suppress(OSError, psutil.Error):
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if any(entry.startswith(f"HOTSEAT_INSTANCE={instance} ".encode()) for entry in environment):
                    engines.append(psutil.Process(pid))
        supervisors = []
        for engine in engines:
            with contextlib.suppress(psutil.Error):
                parent = engine.parent()
                if parent is not None and parent not in engines:
                    supervisors.append(parent)
        return supervisors, engines

    def strike(self, kind: str, row: dict[str, Any], seconds: float) -> None:
        """Kill or freeze an engine, or kill its supervisor."""
        supervisors, engines = self.processes(row["instance"])
        targets = supervisors if kind == "kill supervisor" else engines
        worker = self.hotseat().worker()
        targets = [process for process in targets if process.pid not in (worker, self.hotseat().process.pid)]
        if not targets:
            return
        fault = self.world.fault(kind, row["model"])
        self.world.note("", f"{row['instance']} {row['state']}, pids {[process.pid for process in targets]}")
        for process in targets:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend() if kind == "freeze engine" else process.kill()
        if kind == "freeze engine":
            self.world.pause.wait(seconds)
            for process in targets:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        self.world.ended(fault, after=2.0)

    # hotseat ----------------------------------------------------------------------------------------------------------

    def kill_worker(self) -> None:
        """The arbiter begins another."""
        hotseat = self.hotseat()
        fault = self.world.fault("kill worker")
        worker = psutil.Process(hotseat.worker())
        engines = hotseat.engines()
        worker.kill()
        if not _becomes(lambda: _answers(hotseat), BACK):
            self.world.violate(f"no new worker serves {BACK} s after the old one was killed")
        alive = set(engines) & set(hotseat.engines())
        if alive:
            self.world.violate(f"engines of a dead worker live on: {alive}")
        self.world.ended(fault, after=1.0)

    def kill_hotseat(self, kind: str) -> None:
        """Kill the arbiter, or it and its worker, and begin anew when they have gone."""
        hotseat, fault = self.hotseat(), self.world.fault(kind)
        if kind == "kill all":
            os.killpg(hotseat.process.pid, signal.SIGKILL)
            within = ENGINES_GONE
        else:
            hotseat.process.kill()
            within = self.world.cast.patience()
        hotseat.process.wait()
        if not _becomes(lambda: not hotseat._is_left() and not hotseat.engines(), within):
            self.world.violate(f"left {within:.0f} s after {kind}: {hotseat.engines()}")
        hotseat._kill()
        self.world.ended(fault, after=1.0)
        self.world.start(self.world.cast.documents())

    def freeze_hotseat(self, seconds: float) -> None:
        """Stop arbiter and worker for a while, as Ctrl-Z does; engines go on."""
        fault = self.world.fault("freeze hotseat")
        os.killpg(self.hotseat().process.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.killpg(self.hotseat().process.pid, signal.SIGCONT)
            self.world.ended(fault, after=1.0)

    def fill_disk(self, seconds: float) -> None:
        """Leave no room where hotseat writes its state."""
        assert self.disk is not None
        fault, file = self.world.fault("disk"), self.disk / "filling"
        try:
            with contextlib.suppress(OSError), file.open("wb", buffering=0) as filling:
                while True:
                    filling.write(b"\0" * 4096)
            self.world.pause.wait(seconds)
        finally:
            file.unlink()
            self.world.ended(fault, after=2.0)


def _answers(hotseat: Hotseat) -> bool:
    try:
        return hotseat.get("/ready").status == 200
    except OSError:
        return False


def _becomes(condition: Any, seconds: float) -> bool:
    try:
        eventually(condition, seconds)
    except AssertionError:
        return False
    return True
