"""What an engine is: how to run a server program and how to tell that it is ready. One small file each beside this one.

Engines are found by the entry point group `hotseat.engines`, so another package can add one. They describe; runtimes act.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from hotseat.api.model import Model
from hotseat.api.types import EngineCall

ENTRY_POINTS = "hotseat.engines"


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to start: `argv` without a shell, `env` on top of the runtime's own."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a runtime puts an engine: the address it shall listen on, and where the weights are."""

    host: str
    port: int
    weights: str | None = None  # local path, once fetched; None where the engine gets them itself or needs none


@dataclass(frozen=True, slots=True)
class Sleep:
    """The requests by which an engine sleeps and wakes. They are made in order; each is answered by 2xx once it is done.

    `state_path`: path whose GET answers `{"is_sleeping": true}` or false; None if the engine has none.
    """

    sleep: tuple[EngineCall, ...]
    wake: tuple[EngineCall, ...]
    state_path: str | None = None


class EngineError(ValueError):
    """This Model cannot run here; the message says what to do about it."""


class Engine(Protocol):
    """How to run one server program."""

    name: str

    def check(self, model: Model) -> list[str]:
        """Say what is wrong with a Model's fields for this engine; empty if nothing. No I/O."""

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Build the process that serves the model. EngineError: no such program, weights of a wrong kind."""

    def health_path(self, model: Model) -> str:
        """Path whose GET answers 2xx once the engine can serve."""

    def fetches(self, model: Model) -> bool:
        """Whether weights must be fetched by hotseat before a start."""

    # An engine that can sleep has `sleep(model) -> Sleep`, too; one that cannot may say why, in `cannot_sleep`.


def sleep_of(engine: Engine, model: Model) -> Sleep | None:
    """How to have it sleep: what the Model states, else what the engine knows; None where it cannot."""
    lifecycle = model.spec.lifecycle
    if lifecycle.sleep:
        return Sleep(lifecycle.sleep, lifecycle.wake)
    own: Callable[[Model], Sleep] | None = getattr(engine, "sleep", None)
    return own(model) if own is not None else None


@runtime_checkable
class TellsMemory(Protocol):
    """What an engine has beside that, if its server tells how much of the accelerator's memory it takes."""

    def memory_path(self, model: Model) -> str:
        """Path whose GET tells."""

    def read_memory(self, body: bytes) -> int | None:
        """Find the bytes in the answer; None: it does not tell. ValueError: it is no such answer."""


def is_remote(source: str | None) -> bool:
    """Whether a source names weights that are somewhere else: anything with a scheme but a file or a claim."""
    return source is not None and "://" in source and not source.startswith(("file://", "pvc://"))


def load_engine(name: str) -> Engine:
    """Engine of that name; KeyError if no installed package has it."""
    for point in entry_points(group=ENTRY_POINTS, name=name):
        engine: Engine = point.load()()
        return engine
    raise KeyError(name)
