"""What is run for a Model on this machine: command, environment, address; and why it cannot be."""

import contextlib
import errno
import os
import shutil
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from hotseat.api.model import Model
from hotseat.engines.base import Engine, EngineError, Placement, is_remote
from hotseat.engines.custom import Custom
from hotseat.runtimes.local.orphans import INSTANCE_VARIABLE, STATE_VARIABLE, SUPERVISOR_VARIABLE, StateDir
from hotseat.runtimes.local.supervisor import REASONS
from hotseat.sources.base import SourceError, cached

HOST = "127.0.0.1"
SECRET_PREFIX = "HOTSEAT_API_KEY"  # noqa: S105 - the name of variables that engines must not see
_SOME_PORT = 1  # where a start is only thought through
ATTEMPTS = 100  # to find a port that nobody has


class CannotStart(Exception):
    """Nothing was started; `reason` is for InstanceFailed."""

    def __init__(self, message: str, reason: str = "CannotStart") -> None:
        super().__init__(message)
        self.reason = reason


class WeightsMissing(CannotStart):
    """They have to be fetched first."""


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn what the system refuses into CannotStart, with what it was refused for."""
    try:
        yield
    except OSError as problem:
        what = f"{problem.filename}: " if problem.filename else ""
        raise CannotStart(f"{what}{problem.strerror or problem}") from problem


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """A process to be."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    stop_command: tuple[str, ...]
    port: int
    health_path: str


class PortReservations:
    """Ports promised to engines that may not listen yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._promised: dict[int, str] = {}  # to which Model

    @contextlib.contextmanager
    def promise(self, wanted: int | None, model: str) -> Iterator[int]:
        """Keep a port for an engine of a Model: this one, or any free one. CannotStart if somebody listens there already."""
        with self._lock:
            port = wanted if wanted is not None else _free_port(self._promised)
            if wanted is not None and (other := self._promised.get(port)) is not None:
                message = f"port {port} is used by the Model {other}, which is loaded; remove port from one of them, or set another"
                raise CannotStart(message, "PortTaken")
            if wanted is not None and not _can_listen(port):
                raise CannotStart(f"port {port} is in use by another program", "PortTaken")
            self._promised[port] = model
        try:
            yield port
        finally:
            with self._lock:
                del self._promised[port]


def make_plan(
    model: Model,
    engine: Engine,
    port: int,
    cache_dir: Path,
    marks: Mapping[str, str],
    *,
    gpus: Mapping[str, str | None] = MappingProxyType({}),
) -> LaunchPlan:
    """Say what to run. `marks` are the variables by which leftovers are known, `gpus` those that show it its GPUs.

    CannotStart says why not.
    """
    placement = Placement(HOST, port, _weights(model, engine, cache_dir))
    try:
        launch = engine.launch(model, placement)
        stop_command = _fill(model, model.spec.stop_command, placement)
    except EngineError as problem:
        raise CannotStart(str(problem)) from problem
    env = {name: value for name, value in base_environment().items() if name not in gpus}
    env |= {name: value for name, value in gpus.items() if value is not None}
    env |= dict(launch.env) | {variable.name: variable.value for variable in model.spec.env} | dict(marks)
    return LaunchPlan(launch.argv, env, stop_command, port, model.spec.health.path or engine.health_path(model))


def check_start(model: Model, engine: Engine, cache_dir: Path, state: StateDir) -> None:
    """Look whether a start could begin, before anybody makes room for it. CannotStart says why not."""
    with told():
        plan = make_plan(model, engine, model.spec.port or _SOME_PORT, cache_dir, {})
        program, path = plan.argv[0], plan.env.get("PATH", os.defpath)
        if shutil.which(program, path=path) is None:
            error = errno.EACCES if shutil.which(program, os.F_OK, path) else errno.ENOENT
            raise CannotStart(f"{program}: {os.strerror(error)}", REASONS[error])
        if plan.stop_command:
            state.check()


def base_environment() -> dict[str, str]:
    """Environment of this process without its own secrets, and without marks of another hotseat above it."""
    marks = (INSTANCE_VARIABLE, STATE_VARIABLE, SUPERVISOR_VARIABLE)
    return {
        name: value for name, value in os.environ.items() if not name.startswith(SECRET_PREFIX) and name not in marks
    }


def _weights(model: Model, engine: Engine, cache_dir: Path) -> str | None:
    source = model.spec.source
    if source is None or (is_remote(source) and not engine.fetches(model)):
        return None
    try:
        path = cached(source, cache_dir)
    except SourceError as problem:
        raise CannotStart(str(problem)) from problem
    if path is None:
        raise WeightsMissing(f"the weights {source} have not been fetched yet")
    return str(path)


def _fill(model: Model, command: tuple[str, ...], placement: Placement) -> tuple[str, ...]:
    """Fill the fields of the custom engine's commands into another command."""
    if not command:
        return ()
    spec = model.spec.model_copy(update={"command": command, "args": ()})
    return Custom().launch(model.model_copy(update={"spec": spec}), placement).argv


def _free_port(promised: Collection[int]) -> int:
    for _ in range(ATTEMPTS):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        if port not in promised and _can_listen(port):  # another program may have got it just now
            return port
    raise CannotStart("no free port found", "PortTaken")


def _can_listen(port: int) -> bool:
    """Whether nobody listens there; old connections of a former engine do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as problem:
            return problem.errno != errno.EADDRINUSE  # anything else is for the engine to say
    return True
