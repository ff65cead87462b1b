"""Rounds of a soak: load of some kind for a while, and then, the load gone, a look at what is left of it."""

import contextlib
import json
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil

from tests.embedded.harness import Hotseat, eventually

from .checks import Log, Sizes, met
from .clients import Client, ImpatientClient
from .documents import BEFORE_REST, REST, Cast, impatient_cast, random_cast
from .faults import Faults
from .operators import DeafFollower, Editor, Operator, Watcher, await_documents
from .world import Violation, World

CLIENTS = 10
BURST = 40  # requests that wait at once: more than a round has, so that threads made when needed are all there
SOME_MINUTES = 3  # from so many on, rounds are longer, and hotseat is also stopped for long
LOOK = 5.0  # seconds that a look after a round takes, about
SETTLED = 20.0  # seconds in which nothing is left of a load that has gone


@dataclass(frozen=True)
class Profile:
    """What goes on in a round."""

    name: str
    edits: bool = False
    orders: bool = False
    faults: bool = False
    hotseat: bool = False  # its own processes are killed too
    impatient: float = 0.4


IMPATIENT = Profile("impatient", impatient=1)
CALM = Profile("calm", impatient=0.5)
EDITS = Profile("edits", edits=True, orders=True)
FAULTS = Profile("faults", orders=True, faults=True)
STORM = Profile("storm", edits=True, orders=True, faults=True, hotseat=True)
GENTLE = (IMPATIENT, EDITS, FAULTS, CALM)


class Soak:
    """One soak: rounds over one folder, and the same hotseat as long as no round ends it."""

    def __init__(self, world: World, seed: int, disk: Path | None, *, minutes: float) -> None:
        self.world, self.seed, self.disk, self.minutes = world, seed, disk, minutes
        self.seconds = 12 if minutes >= SOME_MINUTES else 7  # of load, in each round
        self.log, self.sizes = Log(world), Sizes(world)

    def profile(self, number: int) -> Profile:
        """What round `number` is: gentle ones in the first half, so that sizes are seen over a long time; then also storms."""
        late = number >= self.minutes * 60 / (self.seconds + LOOK) / 2
        return STORM if late and number % 2 else GENTLE[number % len(GENTLE)]

    def begin(self) -> None:
        """Start hotseat, with no load."""
        self.world.documents_are(frozenset(), None)
        self.world.cast = Cast()
        self.world.start(REST)
        self.settle()

    def round(self, number: int) -> None:
        """Put load on, take it away, look."""
        world, began, profile = self.world, time.monotonic(), self.profile(number)
        rng = Random(f"{self.seed}/{number}")
        impatient = profile is IMPATIENT
        cast = impatient_cast(rng) if impatient else random_cast(rng, faulty=profile.faults)
        world.note("round", f"{number} {profile.name}: {json.dumps(cast.documents())}")
        before = Counter(world.served)
        Editor(world, rng, faulty=False).apply(cast, lambda documents, _: self.hotseat.write(documents), 0)
        world.pause.clear()
        await_documents(world)
        actors = self.impatient(rng, cast) if impatient else self.actors(rng, profile)
        actors += [DeafFollower(world), Watcher(world, self.log)]
        threads = [threading.Thread(target=self.acting, args=(actor,), daemon=True) for actor in actors]
        for thread in threads:
            thread.start()
        world.pause.wait(self.seconds)
        world.pause.set()
        end = time.monotonic() + cast.patience() + world.cast.patience()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            world.violate("an actor does not end")
        if impatient and not world.violations:
            self.all_were_served(cast, world.served - before)
        if not world.violations:
            self.settle()
        print(f"round {number} {profile.name:9} {time.monotonic() - began:5.1f} s, "
              f"{sum((world.served - before).values())} answers; {self.told}", flush=True)  # fmt: skip

    def impatient(self, rng: Random, cast: Cast) -> list[Any]:
        """One client a model, each with a patience of little more than one load."""
        load = float(next(iter(cast.models.values()))["args"][1])
        patience = load * rng.uniform(1.4, 2) + 0.5  # the start of a process counts, too
        return [
            ImpatientClient(self.world, Random(rng.random()), number, model=name, patience=patience)
            for number, name in enumerate(cast.models)
        ]

    def actors(self, rng: Random, profile: Profile) -> list[Any]:
        """All who act in a round; each draws from a generator of its own."""
        world = self.world
        actors: list[Any] = [
            Client(world, Random(rng.random()), number, impatient=profile.impatient, faulty=profile.faults)
            for number in range(CLIENTS)
        ]
        if profile.edits:
            actors.append(Editor(world, Random(rng.random()), faulty=profile.faults))
        if profile.orders:
            actors.append(Operator(world, Random(rng.random()), pins=rng.random() < 0.5))
        if profile.faults:
            faults = Random(rng.random())
            actors.append(
                Faults(world, faults, self.disk, hotseat=profile.hotseat, long_freeze=self.minutes >= SOME_MINUTES)
            )
        return actors

    def acting(self, actor: Any) -> None:
        """Run an actor; what it breaks on is a violation: of hotseat's, or of this program."""
        try:
            actor.run()
        except Exception:
            self.world.violate(f"{type(actor).__name__}: {traceback.format_exc()}")

    @property
    def hotseat(self) -> Hotseat:
        assert self.world.hotseat is not None
        return self.world.hotseat

    # Looks ------------------------------------------------------------------------------------------------------------

    def all_were_served(self, cast: Cast, served: Counter[str]) -> None:
        """Clients that wait longer than a load take turns."""
        starved = [name for name in cast.models if not served[name]]
        if starved:
            self.world.violate(
                f"clients that wait longer than one load were never served: {starved}; answers {dict(served)}"
            )

    def settle(self) -> None:
        """Look whether all is as if the load had never been."""
        hotseat, world = self.hotseat, self.world
        world.documents_are(frozenset(), None)
        for documents in (BEFORE_REST, REST):
            hotseat.write(documents)
            told = {each["metadata"]["name"]: each["spec"].get("description", "") for each in documents}
            self.must("the documents at rest are taken in", lambda told=told: self._models() == told)
            self.must("nothing is pinned", self._unpinned)
            hotseat.post("/api/models/unload")
            self.must("nothing runs, is parked or waits", lambda: not self._left())
            self.must("metrics count nothing", lambda: not self._counted())
        self.must("no prompts are kept", lambda: not self._prompts())
        burst = [hotseat.send("rest-a", tokens=4) for _ in range(BURST)]
        for call in burst:
            if (answer := call.answer()).status != 200:
                world.violate(f"after the load: {answer.status} {answer.body[:300]!r}")
        if (answer := hotseat.ask("rest-b")).status != 200:
            world.violate(f"after the load: {answer.status} {answer.body[:300]!r}")
        hotseat.post("/api/models/unload")
        self.must("nothing runs, is parked or waits", lambda: not self._left())
        self.must("metrics count nothing", lambda: not self._counted())
        hotseat.calls.clear()
        self.must("no engine is left", lambda: not self._engines())
        self.told = self.sizes.look({"arbiter": hotseat.process.pid, "worker": hotseat.worker()})
        self.log.look()
        for line in met(world):
            world.violate(f"two engines in one place: {line}")

    def must(self, what: str, condition: Callable[[], Any]) -> None:
        """Wait for something that has to come."""
        try:
            eventually(condition, SETTLED)
        except AssertionError:
            running = json.dumps(self.hotseat.get("/running").json(), indent=1)
            self.world.violate(f"not so {SETTLED} s after the load has gone: {what}\n{running}\n{self._counted()}")
            raise Violation(what) from None

    told = ""

    def _models(self) -> dict[str, str]:
        return {row["id"]: row.get("description") or "" for row in self.hotseat.get("/v1/models").json()["data"]}

    def _unpinned(self) -> bool:
        for name in self._models():
            self.hotseat.post(f"/api/models/{name}/unpin")
        return True

    def _left(self) -> list[Any]:
        found = self.hotseat.get("/running").json()
        return found["running"] + found["parked"] + found["waiting"]

    def _prompts(self) -> list[Any]:
        """Files of saved prompts, and what hotseat says of them."""
        folders = (self.world.state / "prompts", self.hotseat.shelf)
        files = [str(path) for folder in folders for path in folder.rglob("*") if path.is_file()]
        return files + self.hotseat.get("/api/cache").json()["prompts"]

    def _counted(self) -> dict[tuple[str, ...], float]:
        gauges = ("hotseat_requests_in_flight", "hotseat_queued_requests", "hotseat_queued_request_bytes",
                  "hotseat_residents", "hotseat_parked_instances", "hotseat_pinned_models", "hotseat_oldest_queued_request_seconds")  # fmt: skip
        return {key: value for key, value in self.hotseat.metrics().items() if key[0] in gauges and value}

    def _engines(self) -> list[str]:
        """Processes of engines, supervisors apart: one of those is kept warm."""
        found = []
        for pid in self.hotseat.engines():
            with contextlib.suppress(psutil.Error):
                command = " ".join(psutil.Process(pid).cmdline())
                if "supervisor.py" not in command:
                    found.append(command)
        return found

    def end(self) -> None:
        """Ask hotseat to end, as a person does, while a few still wait; then nothing may be left."""
        hotseat, world = self.hotseat, self.world
        world.pause.clear()
        fault = world.fault("end")
        calls = [hotseat.send(name) for name in ("rest-a", "rest-b", "rest-a")]
        hotseat.signal(15)
        for call in calls:
            with contextlib.suppress(OSError):
                call.answer()
        status = hotseat.ended(30)
        if status != 0:
            world.violate(f"hotseat ended with {status}")
        try:
            eventually(lambda: not hotseat._is_left() and not hotseat.engines(), 3)
        except AssertionError:
            world.violate(f"processes are left after the end: {hotseat.engines()}")
        if hotseat.shelf.exists():
            world.violate(f"prompts are left after the end: {[*hotseat.shelf.rglob('*')]}")
        world.ended(fault)
        self.log.look()
        hotseat._kill()
