"""Clients of all kinds: patient ones, some that give up and try again, some that leave in the middle of anything.

Each request is drawn whole before it is sent, so that what a client asks for is the same for a seed whatever it is answered.
"""

import http.client
import json
import socket
import struct
import time
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.embedded.harness import CHAT, chat

from .checks import unexpected
from .documents import LONGEST_ANSWER
from .world import World

FAULTS = ("die-midstream:2", "cut-midstream:2", "error-500", "garbage", "hang")
LOADING = ("comments", "comments", "reasoning", "refuse")
NO_LINGER = struct.pack("ii", 1, 0)  # a close that resets


@dataclass(frozen=True)
class Ask:
    """One request. `model` picks from those that are there; `patience` None: as long as it takes."""

    model: float
    alias: bool
    stream: bool
    tokens: int
    seconds: float
    patience: float | None
    leave_after: int | None  # pieces of the answer
    rest_of_body: float | None  # part of the body after which it leaves
    reset: bool
    headers: dict[str, str]
    fault: str | None
    tries: int
    pause: float
    said: str


@dataclass
class Outcome:
    """How a request ended. `kind`: ok, error, broken (no whole answer), left (by its client), hung."""

    name: str
    begin: float
    kind: str
    status: int = 0
    code: str = ""
    detail: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    ask: Ask | None = None

    @property
    def key(self) -> str:
        """What it is counted as."""
        return self.kind if self.kind != "error" else f"{self.status} {self.code}"


def draw(rng: Random, said: str, *, impatient: float, faulty: bool) -> Ask:
    """Any request."""
    headers = {}
    kind, wait = rng.random(), rng.uniform(0.05, 3)
    if kind < 0.08:
        headers["X-Hotseat-Max-Wait"] = f"{wait:.2f}"
    elif kind < 0.16:
        headers["X-Request-Timeout"] = f"{wait:.2f}"
    stream = rng.random() < 0.5
    if rng.random() < 0.3:
        headers["X-Hotseat-Loading"] = rng.choice(LOADING)
    if rng.random() < 0.2:
        headers |= {"X-Priority": str(rng.randint(-2, 5)), "X-Tenant": f"t{rng.randint(0, 3)}"}
    gives_up, patience = rng.random() < impatient, rng.choice((0.1, 0.3, 0.6, 1.0, 2.0))
    leaves, pieces = rng.random() < 0.08, rng.randint(0, 3)
    half, part = rng.random() < 0.04, rng.random()
    fault = rng.choice(FAULTS) if faulty and rng.random() < 0.06 else None
    if fault == "hang":
        gives_up = True
    return Ask(
        model=min(rng.random(), rng.random()),  # some are asked for more often
        alias=rng.random() < 0.2,
        stream=stream,
        tokens=rng.randint(4, 12),
        seconds=rng.choice((0, 0, 0.1, 0.3, LONGEST_ANSWER)),
        patience=patience if gives_up else None,
        leave_after=pieces if leaves and stream else None,
        rest_of_body=part if half else None,
        reset=rng.random() < 0.5,
        headers=headers,
        fault=fault,
        tries=rng.randint(1, 4) if gives_up else 1,
        pause=rng.choice((0, 0, 0.05, 0.3, 1.0)),
        said=said,
    )


class Client:
    """One client: sends what it draws until the round is over."""

    def __init__(self, world: World, rng: Random, number: int, *, impatient: float, faulty: bool) -> None:
        self.world, self.rng, self.number = world, rng, number
        self.impatient, self.faulty = impatient, faulty

    def run(self) -> None:
        """Ask until the round ends."""
        asked = 0
        while not self.world.pause.is_set():
            asked += 1
            ask = draw(self.rng, f"w{self.number}x{asked}", impatient=self.impatient, faulty=self.faulty)
            for _ in range(ask.tries):
                kind = self.once(ask).kind
                if kind != "left" or self.world.pause.wait(ask.pause):
                    break
            self.world.pause.wait(ask.pause if kind != "broken" else 0.3)

    def name(self, ask: Ask) -> str:
        """The model that is meant among those that are there now, or another name of it."""
        models = sorted(self.world.cast.models.items())
        if not models:
            return "nobody"
        name, spec = models[int(ask.model * len(models))]
        return spec["names"][-1] if ask.alias and spec.get("names") else name

    def once(self, ask: Ask) -> Outcome:
        """Send it, and look at what comes of it."""
        world, name = self.world, self.name(ask)
        hotseat = world.hotseat
        assert hotseat is not None
        begin = time.monotonic()
        fault = world.fault(f"request {ask.fault}") if ask.fault else None  # of whom answers: perhaps a fallback
        outcome = send(world, hotseat.address, name, ask, begin)
        if fault is not None:
            world.ended(fault, after=1.0)
        world.count(outcome.key, name.removesuffix("-alias") if outcome.kind == "ok" else None)
        problem = unexpected(world, outcome)
        if problem:
            world.violate(f"client {self.number}: {problem}")
        return outcome


class ImpatientClient(Client):
    """Asks for one model again and again, and gives up after a little more than one load."""

    def __init__(self, world: World, rng: Random, number: int, *, model: str, patience: float) -> None:
        super().__init__(world, rng, number, impatient=1, faulty=False)
        self.model, self.patience = model, patience

    def name(self, ask: Ask) -> str:
        return self.model

    def run(self) -> None:
        """Ask for its model."""
        asked = 0
        while not self.world.pause.is_set():
            asked += 1
            pause = self.rng.uniform(0.1, 0.3)
            said = f"w{self.number}x{asked}"
            self.once(Ask(0, False, False, 4, 0, self.patience, None, None, True, {}, None, 1, 0, said))
            self.world.pause.wait(pause)


def send(world: World, address: str, name: str, ask: Ask, begin: float) -> Outcome:
    """Send one request and take its answer."""
    bound = world.cast.patience()
    patience = bound if ask.patience is None else ask.patience
    body: dict[str, Any] = chat(name, ask.said, stream=ask.stream)
    body["mock"] = {"tokens": ask.tokens, "tokens_per_second": ask.tokens / ask.seconds if ask.seconds else 0}
    if ask.fault:
        body["mock"]["fault"] = ask.fault
    connection = http.client.HTTPConnection(address, timeout=min(patience, 5.0))
    outcome = Outcome(name, begin, "ok", ask=ask)

    def left() -> float:
        seconds = begin + patience + world.frozen(begin, time.monotonic()) - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    try:
        connection.connect()
        data = json.dumps(body).encode()
        if ask.rest_of_body is not None:
            connection.putrequest("POST", CHAT)
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data[: int(len(data) * ask.rest_of_body)])
            world.pause.wait(0.1)
            outcome.kind = "left"
            return outcome
        connection.request("POST", CHAT, data, {"Content-Type": "application/json", **ask.headers})
        take(connection, outcome, ask, left)
    except TimeoutError:
        outcome.kind = "left" if ask.patience is not None else "hung"
        outcome.detail = f"no end after {time.monotonic() - begin:.1f} s; {bound:.1f} s are enough for these documents"
    except (OSError, http.client.HTTPException) as error:
        outcome.kind, outcome.detail = "broken", repr(error)
    finally:
        if ask.reset and outcome.kind == "left" and connection.sock is not None:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        connection.close()
    return outcome


def take(connection: http.client.HTTPConnection, outcome: Outcome, ask: Ask, left: Any) -> None:
    """Take the answer in, and say in `outcome` what it was. TimeoutError where patience ends."""
    sock = connection.sock
    sock.settimeout(left())
    response = connection.getresponse()
    outcome.status, outcome.headers = response.status, dict(response.headers)
    data, pieces = b"", 0
    while True:
        sock.settimeout(left())
        piece = response.read1(65536)
        if not piece:
            break
        data, pieces = data + piece, pieces + 1
        if ask.leave_after is not None and response.status == 200 and pieces > ask.leave_after:
            outcome.kind = "left"
            return
    if response.length:
        raise http.client.IncompleteRead(data)
    judge(outcome, ask, data)


def judge(outcome: Outcome, ask: Ask, data: bytes) -> None:
    """Say what a whole answer was."""
    if outcome.status != 200:
        outcome.kind = "error"
        error = json.loads(data)["error"]
        outcome.code, outcome.detail = error["code"], error["message"]
        return
    if ask.stream:
        rows = [row[6:] for row in data.decode().split("\n") if row.startswith("data: ")]
        events = [json.loads(row) for row in rows if row != "[DONE]"]
        broken = next((event["error"] for event in events if "error" in event), None)
        if broken is not None:
            outcome.kind, outcome.status = "error", 200
            outcome.code, outcome.detail = broken["code"], broken["message"]
            return
        if not rows or rows[-1] != "[DONE]":
            outcome.kind, outcome.detail = "short", f"a stream that ends without [DONE]: {rows[-2:]}"
            return
        said = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    else:
        said = json.loads(data)["choices"][0]["message"]["content"]
    words = said.split()
    outcome.detail = words[0].removesuffix(":")
    if words[1] != ask.said or len(words) != ask.tokens:
        outcome.kind, outcome.detail = "short", f"asked {ask.said!r} with {ask.tokens} tokens, was answered {said!r}"
