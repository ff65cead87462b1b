"""The interface of engines: how to run a server program, and how to find out that it is ready.

Engines are found by the entry point group `hotseat.engines`, so another package can add an engine.
They only describe; runtimes start and stop processes.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from hotseat.api.model import Api, Model
from hotseat.api.types import EngineCall

ENTRY_POINTS = "hotseat.engines"
_OPENAI = frozenset({Api.OPENAI})
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
    prompts: str | None = None  # existing directory for saved prompt caches; None if the engine saves none
    adapters: tuple[str, ...] = ()  # of the LoRA adapters in spec.loras: local paths, or names that the engine fetches
    cache: str | None = None  # directory of a pod in which the engine may keep what it fetches; None on one machine


@dataclass(frozen=True, slots=True)
class Container:
    """What an engine runs in an image without hotseat. An empty command: the program of the image. `env`: as in Launch."""

    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sleep:
    """The requests by which an engine sleeps and wakes.

    They are made in order; each is answered by 2xx once it is done. `state_path`: path whose GET
    answers `{"is_sleeping": true}` or false; None if the engine has none. `keeps_prompts`: whether its prompt cache
    is there after the wake; None: it is not known.
    """

    sleep: tuple[EngineCall, ...]
    wake: tuple[EngineCall, ...]
    state_path: str | None = None
    keeps_prompts: bool | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """What an engine reports of one of its slots, each of which holds the prompt cache of one conversation."""

    id: int
    used: bool  # a request has used it since the engine started
    tokens: int | None = None  # in its cache, after its last request; None: not known


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

    # An engine that asks for a key which it gets in its environment says in which variable: `key_variable: str`.
    # An engine that has other APIs than OpenAI's says which: `apis: Set[Api]`.
    # An engine that may have metrics in Prometheus's format says where: `metrics_path: str`.
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
class RunsInImage(Protocol):
    """An engine that runs in images without hotseat. Others run in hotseat's own image, or in one that is made from it."""

    def image(self, model: Model) -> str | None:
        """Return the image of a Model without spec.image; None: hotseat's own, which has the engine."""

    def container(self, model: Model, placement: Placement) -> Container:
        """Return what runs there. Raise EngineError for weights that cannot be had there. Files are not looked up."""


@runtime_checkable
class TellsMemory(Protocol):
    """An engine whose server reports its accelerator memory."""

    def memory_path(self, model: Model) -> str:
        """Return the path whose GET reports it."""

    def read_memory(self, body: bytes) -> int | None:
        """Return the bytes in a response; None if it has none. Raise ValueError if the response cannot be read."""


@runtime_checkable
class SavesPrompts(Protocol):
    """An engine that saves the prompt cache of a slot to a file of Placement.prompts, and restores it."""

    slots_path: str  # whose GET reports the slots
    prompt_rate_path: str  # whose GET reports how fast prompts are processed

    def cannot_save_prompts(self, model: Model) -> str:
        """Return why the Model's prompt cache cannot be saved, or an empty string."""

    def prompt_identity(self, model: Model, weights: str | None, *, in_pod: bool = False) -> str:
        """Return a text that changes when a saved cache cannot be restored any more. Raise OSError for a missing file.

        It has the weights and other files that the engine computes with, its version, and the settings of its cache. `in_pod`: the
        time of the last change of a file is left out. It is that of an image's unpacking, or of a volume's mounting.
        """

    def read_slots(self, body: bytes) -> list[Slot]:
        """Return the slots in a response of that path. Raise ValueError if it cannot be read."""

    def read_prompt_rate(self, body: bytes) -> float | None:
        """Return the tokens per second in a response of that path; None if it has none."""

    def save(self, slot: int, file: str) -> EngineCall:
        """Return the request that saves a slot to a file with this name."""

    def restore(self, slot: int, file: str) -> EngineCall:
        """Return the request that restores a slot from a file with this name."""

    def read_transfer(self, body: bytes) -> tuple[int, int]:
        """Return the tokens and bytes in a response to one of these requests. Raise ValueError if it cannot be read."""


def prompt_saver(engine: Engine, model: Model) -> SavesPrompts | None:
    """Return the engine if it can save the prompt cache of the Model, else None."""
    return engine if isinstance(engine, SavesPrompts) and not engine.cannot_save_prompts(model) else None


def is_remote(source: str | None) -> bool:
    """Whether a source must be fetched: it has a scheme other than file:// and pvc://."""
    return source is not None and "://" in source and not source.startswith(("file://", "pvc://"))


def sources_of(model: Model) -> tuple[str, ...]:
    """Return the source of a Model and those of its LoRA adapters."""
    source = model.spec.source
    return (*(() if source is None else (source,)), *(each.source for each in model.spec.loras))


def load_engine(name: str) -> Engine:
    """Return the engine of this name. Raise KeyError if no installed package has it."""
    for point in entry_points(group=ENTRY_POINTS, name=name):
        engine: Engine = point.load()()
        return engine
    raise KeyError(name)


def has_api(model: Model, api: Api) -> bool:
    """Whether the engine of a Model has this API itself. An engine that is not installed here is assumed to have OpenAI's only."""
    return api in (model.spec.apis or _apis(model.spec.engine))


@lru_cache(maxsize=64)
def _metrics_path(engine: str) -> str | None:
    try:
        path: str | None = getattr(load_engine(engine), "metrics_path", None)
    except KeyError:
        return None
    return path


def metrics_path(model: Model) -> str | None:
    """Return the path whose GET may answer with metrics of the engine. None: it has none, or is not installed here."""
    return _metrics_path(model.spec.engine)


def keeps_prompts_asleep(model: Model) -> bool | None:
    """Return whether the prompt cache of a Model is there after it was parked and woke. None: it is not known."""
    try:
        sleep = sleep_of(load_engine(model.spec.engine), model)
    except KeyError:
        return None
    return None if sleep is None else sleep.keeps_prompts


@lru_cache(maxsize=64)
def _apis(engine: str) -> AbstractSet[Api]:
    try:
        apis: AbstractSet[Api] = getattr(load_engine(engine), "apis", _OPENAI)
    except KeyError:
        return _OPENAI
    return apis
