"""What all actors of a soak share: the hotseat that runs, the documents of each moment, the faults that were made, what was seen."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path

from tests.embedded.harness import PREFIX, Document, Hotseat

from .documents import GPUS, Cast

RELOAD = 5.0  # seconds within which an edit is taken in
EVENTS = ("switch.started", "switch.completed", "switch.failed", "switch.cancelled", "model.ready", "model.failed", "model.parked",
          "model.woken", "model.prompts_saved", "model.prompts_restored", "model.prompts_dropped")  # fmt: skip
LAST = 60  # actions that a report shows


@dataclass
class Fault:
    """Something that was done to hotseat or an engine. `model` None: it concerns all. `end` inf: it goes on."""

    kind: str
    model: str | None
    begin: float
    end: float = inf


class Violation(Exception):
    """Something that must not be; it ends the round."""


class World:
    """One soak. Thread-safe; times are time.monotonic()."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder, self.state = folder, state
        self.begun = time.monotonic()
        self.hotseat: Hotseat | None = None
        self.cast = Cast()
        self.pause = threading.Event()  # the round is over: actors end
        self.counts: Counter[str] = Counter()  # outcomes of requests
        self.events: Counter[str] = Counter()  # of hotseats that have ended
        self.served: Counter[str] = Counter()  # answers by the model that was asked
        self.faults: list[Fault] = []
        self.violations: list[str] = []
        self.actions: deque[str] = deque(maxlen=LAST)
        self._gathered: Hotseat | None = None
        self._lock = threading.Lock()
        self._documents: list[tuple[float, frozenset[str], Cast | None]] = []  # since when which names were in the file

    # What happens -----------------------------------------------------------------------------------------------------

    def note(self, actor: str, what: str) -> None:
        """Remember an action for the report."""
        line = f"{time.monotonic() - self.begun:8.2f}  {actor:10}  {what}"
        with self._lock:
            self.actions.append(line)
            with (self.folder / "actions").open("a") as file:
                file.write(line + "\n")

    def count(self, outcome: str, served: str | None = None) -> None:
        """Count how a request ended."""
        with self._lock:
            self.counts[outcome] += 1
            if served is not None:
                self.served[served] += 1

    def violate(self, what: str) -> None:
        """Tell of something that must not be; the round ends."""
        self.note("VIOLATION", what)
        with self._lock:
            self.violations.append(what)
        self.pause.set()

    def fault(self, kind: str, model: str | None = None) -> Fault:
        """Note a fault that begins now; `ended` ends it."""
        fault = Fault(kind, model, time.monotonic())
        with self._lock:
            self.faults.append(fault)
        self.note("fault", f"{kind} {model or ''}")
        return fault

    def ended(self, fault: Fault, after: float = 0.0) -> None:
        """The fault is over, but for what it still explains for so many seconds."""
        fault.end = time.monotonic() + after

    def faulted(self, kinds: Iterable[str], begin: float, end: float = inf, models: Iterable[str] = ()) -> bool:
        """Whether one of these faults went on in that time, for one of these models where some are named."""
        with self._lock:
            return any(
                fault.kind in kinds
                and fault.begin <= end
                and fault.end >= begin
                and (fault.model is None or not models or fault.model in models)
                for fault in self.faults
            )

    def frozen(self, begin: float, end: float) -> float:
        """Seconds of that time in which hotseat was stopped."""
        with self._lock:
            spans = [(max(begin, f.begin), min(end, f.end)) for f in self.faults if f.kind == "freeze hotseat"]
        return sum(max(0.0, until - since) for since, until in spans)

    # Documents --------------------------------------------------------------------------------------------------------

    def documents_are(self, names: frozenset[str], cast: Cast | None) -> None:
        """Note which names the file has from now on."""
        with self._lock:
            self._documents.append((time.monotonic(), names, cast))

    def was_absent(self, name: str, begin: float, end: float) -> bool:
        """Whether hotseat may not have known a name at some moment of that time."""
        with self._lock:
            known = list(self._documents)
        ends = [since for since, _, _ in known[1:]] + [inf]
        return any(
            name not in names and since <= end and until + RELOAD >= begin
            for (since, names, _), until in zip(known, ends, strict=True)
        )

    def casts(self, begin: float, end: float) -> list[Cast]:
        """Documents that hotseat may have gone by in that time."""
        with self._lock:
            known = list(self._documents)
        ends = [since for since, _, _ in known[1:]] + [inf]
        return [
            cast
            for (since, _, cast), until in zip(known, ends, strict=True)
            if cast is not None and since <= end and until + RELOAD >= begin
        ]

    # hotseat ----------------------------------------------------------------------------------------------------------

    def start(self, documents: Iterable[Document]) -> Hotseat:
        """Start one, where an earlier one has ended or was killed."""
        down = self.fault("down")
        self.gather()
        try:
            self.hotseat = Hotseat(
                self.folder, documents, "--state-dir", str(self.state), "--history-size", "16Mi", seats=GPUS
            )
        except AssertionError as error:
            self.violate(f"hotseat does not start: {error}")
            raise Violation(str(error)) from None
        self.hotseat.state = self.state
        self.ended(down)
        return self.hotseat

    def gather(self) -> None:
        """Count the events of a hotseat that has ended, or was killed: what became of loads and switches."""
        if self.hotseat is None or self.hotseat is self._gathered:
            return
        self._gathered = self.hotseat
        for event in self.hotseat.events():
            kind = event["type"].removeprefix(PREFIX).removesuffix(".v1")
            if kind in EVENTS:
                why = event["data"].get("code" if kind.startswith("switch") else "reason", "")
                self.events[f"{kind} {why}".strip()] += 1
