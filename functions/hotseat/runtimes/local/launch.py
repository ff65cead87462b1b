"""What is run for a Model on this machine (command, environment, port), and why it cannot be run."""

import contextlib
import errno
import os
import shutil
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from hotseat.api.model import Model
from hotseat.engines.access import engine_headers, key_environment, secret_variables
from hotseat.engines.base import SECRET_PREFIX, Engine, EngineError, Placement, is_remote
from hotseat.engines.custom import Custom
from hotseat.engines.placeholders import filled
from hotseat.runtimes.local.orphans import INSTANCE_VARIABLE, STATE_VARIABLE, SUPERVISOR_VARIABLE, StateDir
from hotseat.runtimes.local.supervisor import REASONS
from hotseat.secret_values import SecretMissing
from hotseat.sources.base import SourceError, cached, redacted

HOST = "127.0.0.1"
_PLACEHOLDER_PORT = 1  # for a start that is only checked
PORT_ATTEMPTS = 100  # to find a free port


class CannotStart(Exception):
    """The engine cannot be started; `reason` is that of InstanceFailed."""

    def __init__(self, message: str, reason: str = "CannotStart") -> None:
        super().__init__(message)
        self.reason = reason


class WeightsMissing(CannotStart):
    """The weights have to be fetched first."""


@contextlib.contextmanager
def wrap_os_errors() -> Iterator[None]:
    """Turn an OSError into CannotStart, with the name of the file."""
    try:
        yield
    except OSError as problem:
        what = f"{problem.filename}: " if problem.filename else ""
        raise CannotStart(f"{what}{problem.strerror or problem}") from problem


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What is needed to start an engine."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    stop_command: tuple[str, ...]
    port: int
    health_path: str
    headers: bytes = field(default=b"", repr=False)  # lines of the head of each request to it


class PortReservations:
    """Reserved ports of engines that may not listen yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reserved: dict[int, str] = {}  # names of Models by port

    @contextlib.contextmanager
    def reserve(self, wanted: int | None, model: str) -> Iterator[int]:
        """Reserve the port `wanted`, or any free one, for an engine of a Model. Raise CannotStart if it is in use."""
        with self._lock:
            port = wanted if wanted is not None else _free_port(self._reserved)
            if wanted is not None and (other := self._reserved.get(port)) is not None:
                message = f"port {port} is used by the Model {other}, which is loaded; remove port from one of them, or set another"
                raise CannotStart(message, "PortTaken")
            if wanted is not None and not _can_listen(port):
                raise CannotStart(f"port {port} is in use by another program", "PortTaken")
            self._reserved[port] = model
        try:
            yield port
        finally:
            with self._lock:
                del self._reserved[port]


def make_plan(
    model: Model,
    engine: Engine,
    port: int,
    cache_dir: Path,
    marks: Mapping[str, str],
    *,
    gpus: Mapping[str, str | None] = MappingProxyType({}),
    prompts: str | None = None,
    hidden: AbstractSet[str] = frozenset(),
) -> LaunchPlan:
    """Return what to run. Raise CannotStart if that is not possible.

    `marks`: variables by which orphaned processes are found; `gpus`: variables that select its GPUs
    (None: unset); `prompts`: the directory for its saved prompts, if they are kept; `hidden`: variables with secrets, of which it
    gets its own only.
    """
    weights = weights_of(model, engine, cache_dir)
    adapters = tuple(_fetched(each.source, cache_dir) for each in model.spec.loras)
    placement = Placement(HOST, port, weights, prompts, adapters)
    try:
        model = filled(model, placement)
        launch = engine.launch(model, placement)
        stop_command = _fill(model, model.spec.stop_command, placement)
        key = key_environment(model, getattr(engine, "key_variable", ""))
        headers = engine_headers(model)
    except (EngineError, SecretMissing) as problem:
        raise CannotStart(str(problem)) from problem
    hidden = (hidden - secret_variables(model)) | gpus.keys()
    env = {name: value for name, value in base_environment().items() if name not in hidden}
    env |= {name: value for name, value in gpus.items() if value is not None}
    env |= dict(launch.env) | key | {variable.name: variable.value for variable in model.spec.env} | dict(marks)
    health_path = model.spec.health.path or engine.health_path(model)
    return LaunchPlan(launch.argv, env, stop_command, port, health_path, headers)


def check_start(model: Model, engine: Engine, cache_dir: Path, state: StateDir) -> None:
    """Raise CannotStart if an engine could not be started now.

    This is called before other models are evicted for it.
    """
    with wrap_os_errors():
        plan = make_plan(model, engine, model.spec.port or _PLACEHOLDER_PORT, cache_dir, {})
        program, path = plan.argv[0], plan.env.get("PATH", os.defpath)
        if shutil.which(program, path=path) is None:
            error = errno.EACCES if shutil.which(program, os.F_OK, path) else errno.ENOENT
            raise CannotStart(f"{program}: {os.strerror(error)}", REASONS[error])
        if plan.stop_command:
            state.check()


def base_environment() -> dict[str, str]:
    """Return the environment of this process without its secrets, and without the marks of another hotseat above it."""
    marks = (INSTANCE_VARIABLE, STATE_VARIABLE, SUPERVISOR_VARIABLE)
    return {
        name: value for name, value in os.environ.items() if not name.startswith(SECRET_PREFIX) and name not in marks
    }


def weights_of(model: Model, engine: Engine, cache_dir: Path) -> str | None:
    """Return the path of the weights of a Model; None if its engine needs none. Raise CannotStart if they are missing."""
    source = model.spec.source
    if source is None or (is_remote(source) and not engine.fetches(model)):
        return None
    return _fetched(source, cache_dir)


def _fetched(source: str, cache_dir: Path) -> str:
    try:
        path = cached(source, cache_dir)
    except SourceError as problem:
        raise CannotStart(str(problem)) from problem
    if path is None:
        raise WeightsMissing(f"the weights {redacted(source)} have not been fetched yet")
    return str(path)


def _fill(model: Model, command: tuple[str, ...], placement: Placement) -> tuple[str, ...]:
    """Replace the fields of the custom engine in another command."""
    if not command:
        return ()
    spec = model.spec.model_copy(update={"command": command, "args": ()})
    return Custom().launch(model.model_copy(update={"spec": spec}), placement).argv


def _free_port(reserved: Collection[int]) -> int:
    for _ in range(PORT_ATTEMPTS):
        with socket.socket() as listener:
            listener.bind((HOST, 0))
            port: int = listener.getsockname()[1]
        if port not in reserved and _can_listen(port):  # another program may have got it just now
            return port
    raise CannotStart("no free port found", "PortTaken")


def _can_listen(port: int) -> bool:
    """Whether no program listens on a port; old connections of a former engine do not count."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as problem:
            return problem.errno != errno.EADDRINUSE  # the engine itself reports any other error
    return True
