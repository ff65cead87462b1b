"""People who edit documents and give orders, and one who looks at everything all the time."""

import contextlib
import http.client
import json
import signal
import socket
import time
from collections.abc import Callable
from random import Random
from typing import Any
from urllib.parse import quote

import yaml

from tests.embedded.harness import Call, Document

from .checks import ENDS, Log, together
from .documents import Cast, edit
from .world import RELOAD, World

ORDERS = ("load", "load", "unload", "pin", "unpin", "unpin")
WAITS = ("false", "false", "0.5s", "3s")
READINGS = ("/running", "/api/queue", "/api/switches", "/v1/models", "/metrics", "/api/events?follow=false")
PINNED = 60.0  # seconds; a pin holds until it is undone, at the latest after the round
HEALTHY = 5.0  # seconds in which hotseat says that it lives


class Editor:
    """Changes the documents, in each way that a file can be changed."""

    def __init__(self, world: World, rng: Random, *, faulty: bool) -> None:
        self.world, self.rng, self.faulty = world, rng, faulty
        self.ways: tuple[Callable[[list[Document], float], None], ...] = (
            self.replaced, self.replaced, self.in_place, self.in_halves, self.broken_first, self.linked, self.hangup,
        )  # fmt: skip

    def run(self) -> None:
        """Edit until the round ends."""
        while not self.world.pause.wait(self.rng.uniform(0.1, 3)):
            what, cast = edit(self.rng, self.world.cast, faulty=self.faulty)
            way, pause, wait = self.rng.choice(self.ways), self.rng.uniform(0.02, 0.2), self.rng.random() < 0.3
            self.world.note("edit", f"{what}, {way.__name__}")
            self.apply(cast, way, pause)
            if wait:
                await_documents(self.world)

    def apply(self, cast: Cast, way: Callable[[list[Document], float], None], pause: float) -> None:
        """Put it into the file. While that is written, and for a while after it, hotseat may go by either."""
        world, old = self.world, self.world.cast
        if old.names() != cast.names() or old.documents() != cast.documents():
            world.documents_are(old.names() & cast.names(), None)
        way(cast.documents(), pause)
        world.cast = cast
        world.documents_are(cast.names(), cast)

    def replaced(self, documents: list[Document], pause: float) -> None:
        self._hotseat().write(documents)

    def in_place(self, documents: list[Document], pause: float) -> None:
        self._hotseat().file.write_text(yaml.safe_dump_all(documents))

    def in_halves(self, documents: list[Document], pause: float) -> None:
        text = yaml.safe_dump_all(documents)
        with self._hotseat().file.open("w") as file:
            cut = text.index("---", len(text) // 2) if "---" in text[len(text) // 2 :] else len(text)
            file.write(text[:cut])
            file.flush()
            self.world.pause.wait(pause)
            file.write(text[cut:])

    def broken_first(self, documents: list[Document], pause: float) -> None:
        self._hotseat().file.write_text("apiVersion: [")
        self.world.pause.wait(pause)
        self._hotseat().write(documents)

    def linked(self, documents: list[Document], pause: float) -> None:
        file = self._hotseat().file
        target = file.with_name(f"target-{time.monotonic_ns()}")
        target.write_text(yaml.safe_dump_all(documents))
        link = file.with_name("link")
        link.symlink_to(target.name)
        link.rename(file)

    def hangup(self, documents: list[Document], pause: float) -> None:
        self._hotseat().write(documents)
        for _ in range(3):
            with contextlib.suppress(ProcessLookupError):
                self._hotseat().signal(signal.SIGHUP)

    def _hotseat(self) -> Any:
        return self.world.hotseat


class Operator:
    """Gives orders, and reads what can be read."""

    def __init__(self, world: World, rng: Random, *, pins: bool) -> None:
        self.world, self.rng = world, rng
        self.orders = ORDERS if pins else [order for order in ORDERS if "pin" not in order]

    def run(self) -> None:
        """Give orders until the round ends."""
        while not self.world.pause.wait(self.rng.uniform(0.05, 1.5)):
            order, which, wait = self.rng.choice(self.orders), self.rng.random(), self.rng.choice(WAITS)
            reading, reads, every = self.rng.choice(READINGS), self.rng.random() < 0.4, self.rng.random() < 0.05
            names = sorted(self.world.cast.models) or ["nobody"]
            name = names[int(which * len(names))]
            if reads:
                self.ask("GET", reading, name)
            elif every:
                self.ask("POST", f"/api/models/unload?wait={wait}", None, "unload")
            else:
                self.ask("POST", f"/api/models/{name}/{order}?wait={wait}", name, order)

    def ask(self, method: str, path: str, name: str | None, order: str = "") -> None:
        """Send one, and see that it ends, and how."""
        world, begin, hotseat = self.world, time.monotonic(), self.world.hotseat
        assert hotseat is not None
        fault = world.fault(order, name if order == "unload" else None) if order in ("unload", "pin") else None
        try:
            answer = Call(hotseat.address, method, path).answer()
        except (OSError, http.client.HTTPException) as error:
            slack = world.frozen(begin, time.monotonic())
            if not world.faulted(ENDS, begin) and not slack:
                world.violate(f"{method} {path}: {error!r} after {time.monotonic() - begin:.1f} s")
            return
        finally:
            if fault is not None:
                world.ended(fault, after=PINNED if order == "pin" else 1.0)
        allowed = answer.status in (200, 202) or (answer.status == 503 and method == "POST")
        gone = answer.status == 404 and name is not None and world.was_absent(name, begin, time.monotonic())
        if not (allowed or gone):
            world.violate(f"{method} {path}: {answer.status} {answer.body[:300]!r}")


class DeafFollower:
    """Follows events and the logs of all models on a connection each, and reads nothing of them until the round ends."""

    def __init__(self, world: World) -> None:
        self.world = world

    def run(self) -> None:
        """Connect, and do not read."""
        hotseat = self.world.hotseat
        assert hotseat is not None
        with contextlib.ExitStack() as connections:
            for path in ("/api/events", *(f"/api/models/{name}/logs?follow=true" for name in self.world.cast.models)):
                deaf = connections.enter_context(socket.socket())
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.settimeout(10)
                with contextlib.suppress(OSError):  # hotseat was killed or frozen
                    deaf.connect(("127.0.0.1", int(hotseat.address.rpartition(":")[2])))
                    deaf.sendall(f"GET {quote(path, safe='/?=')} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            self.world.pause.wait()


class Watcher:
    """Looks at health, at who holds which GPU, and at the log, all the time."""

    def __init__(self, world: World, log: Log) -> None:
        self.world, self.log = world, log

    def run(self) -> None:
        """Look until the round ends."""
        while not self.world.pause.wait(0.2):
            self.look()
            self.log.look()

    def look(self) -> None:
        """One look."""
        world, begin, hotseat = self.world, time.monotonic(), self.world.hotseat
        assert hotseat is not None
        try:
            assert Call(hotseat.address, "GET", "/health").answer().status == 200
            running = json.loads(Call(hotseat.address, "GET", "/running").answer().body)["running"]
        except (OSError, http.client.HTTPException) as error:
            if not world.faulted(ENDS, begin - 1) and not world.frozen(begin, time.monotonic()):
                world.violate(f"/health or /running: {error!r} after {time.monotonic() - begin:.1f} s")
            return
        took = time.monotonic() - begin - world.frozen(begin, time.monotonic())
        if took > HEALTHY:
            world.violate(f"/health and /running took {took:.1f} s")
        if (problem := together(running)) is not None:
            world.violate(problem)


def await_documents(world: World) -> bool:
    """Whether hotseat goes by the documents of the file in time; it is a violation where not, and nothing explains it."""
    begin, cast = time.monotonic(), world.cast
    seen: set[str] = set()
    while time.monotonic() < begin + RELOAD + world.frozen(begin, time.monotonic()):
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert world.hotseat is not None
            rows = Call(world.hotseat.address, "GET", "/v1/models").answer().json()["data"]
            seen = {row["id"] for row in rows}
            if seen == cast.models.keys():
                return True
        if world.cast is not cast or world.pause.wait(0.05):
            return True
    if not world.faulted(ENDS, begin):
        world.violate(f"an edit was not taken in within {RELOAD} s: {sorted(seen)} in place of {sorted(cast.models)}")
    return False
