"""The interface of engines: how to run a server program, and how to find out that it is ready.

Engines are found by the entry point group `hotseat.engines`, so another package can add an engine.
They only describe; runtimes start and stop processes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from hotseat.api.model import Model
from hotseat.api.types import EngineCall

ENTRY_POINTS = "hotseat.engines"
SECRET_PREFIX = "HOTSEAT_API_KEY"  # noqa: S105 - prefix of variables that engines must not see


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to start: `argv` without a shell, `env` on top of the runtime's own."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """The address on which an engine must listen, and the path of its weights."""

    host: str
    port: int
    weights: str | None = None  # local path; None if the engine fetches them itself or needs none


@dataclass(frozen=True, slots=True)
class Sleep:
    """The requests by which an engine sleeps and wakes.

    They are made in order; each is answered by 2xx once it is done. `state_path`: path whose GET
    answers `{"is_sleeping": true}` or false; None if the engine has none.
    """

    sleep: tuple[EngineCall, ...]
    wake: tuple[EngineCall, ...]
    state_path: str | None = None


class EngineError(ValueError):
    """The Model cannot run here; the message says what to do."""


class Engine(Protocol):
    """How to run one server program."""

    name: str

    def check(self, model: Model) -> list[str]:
        """Return the problems of a Model's fields for this engine. No I/O."""

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the process that serves the Model. Raise EngineError for a missing program or unsuitable weights."""

    def health_path(self, model: Model) -> str:
        """Return the path whose GET answers 2xx once the engine can serve."""

    def fetches(self, model: Model) -> bool:
        """Whether hotseat must fetch the weights before a start."""

    # An engine that can sleep also has `sleep(model) -> Sleep`; other engines may say why not in
    # `cannot_sleep: str`.


def sleep_of(engine: Engine, model: Model) -> Sleep | None:
    """Return the requests for sleep that the Model states, else those of the engine; None if it cannot sleep."""
    lifecycle = model.spec.lifecycle
    if lifecycle.sleep:
        return Sleep(lifecycle.sleep, lifecycle.wake)
    own: Callable[[Model], Sleep] | None = getattr(engine, "sleep", None)
    return own(model) if own is not None else None


@runtime_checkable
class TellsMemory(Protocol):
    """An engine whose server reports its accelerator memory."""

    def memory_path(self, model: Model) -> str:
        """Return the path whose GET reports it."""

    def read_memory(self, body: bytes) -> int | None:
        """Return the bytes in a response; None if it has none. Raise ValueError if the response cannot be read."""


def is_remote(source: str | None) -> bool:
    """Whether a source must be fetched: it has a scheme other than file:// and pvc://."""
    return source is not None and "://" in source and not source.startswith(("file://", "pvc://"))


def load_engine(name: str) -> Engine:
    """Return the engine of this name. Raise KeyError if no installed package has it."""
    for point in entry_points(group=ENTRY_POINTS, name=name):
        engine: Engine = point.load()()
        return engine
    raise KeyError(name)
