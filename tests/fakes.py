"""Stand-ins for what tests do not want to run for real, and a small real engine for those that do."""

import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from hotseat.api.model import Model
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Fetch,
    InstanceFailed,
    InstanceParked,
    InstanceReady,
    InstanceReleased,
    InstanceUnproven,
    LimitPrompts,
    Observation,
    Park,
    PromptCommand,
    PromptsRestored,
    PromptsSaved,
    RuntimeCommand,
    SavePrompts,
    SleepFailed,
    Start,
    Stop,
    Wake,
)
from hotseat.core.ports import Observe
from hotseat.runtimes.local.logs import ModelLog

Seen = TypeVar("Seen", bound=Observation)


class Observations:
    """Observer that keeps what it hears, and lets a test wait for it."""

    def __init__(self) -> None:
        self.seen: list[Observation] = []
        self.times: list[float] = []
        self._changed = threading.Condition()

    def __call__(self, observation: Observation) -> None:
        with self._changed:
            self.seen.append(observation)
            self.times.append(time.monotonic())
            self._changed.notify_all()

    def await_one(self, kind: type[Seen], instance: str = "", timeout: float = 30.0, **fields: object) -> Seen:
        """First observation of that kind (of that instance, with these fields), if need be awaited."""
        if instance:
            fields["instance"] = instance

        def find() -> Seen | None:
            for each in self.seen:
                if isinstance(each, kind) and all(getattr(each, name) == value for name, value in fields.items()):
                    return each
            return None

        with self._changed:
            found = self._changed.wait_for(find, timeout)
        assert found is not None, f"no {kind.__name__} {fields} among {self.seen}"
        return found

    def of_instance(self, instance: str) -> list[str]:
        """Names of all that was told about an instance, in order."""
        return [type(each).__name__ for each in self.seen if getattr(each, "instance", None) == instance]


class FakeRuntime:
    """Runtime without processes: each command is answered at once, in the caller's thread, unless a test keeps it waiting.

    `slow` models stay loading until `ready`; `stubborn` ones are released by a Stop without grace or by `release`;
    `sleepless` ones neither fall asleep nor wake; `broken` ones fail to load, with the reason given; `remote` ones are absent until fetched, where None is success and a
    text is the message of the failure.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.commands: list[RuntimeCommand] = []
        self.slow: set[str] = set()
        self.stubborn: set[str] = set()
        self.sleepless: set[str] = set()
        self.broken: dict[str, str] = {}
        self.remote: dict[str, str | None] = {}
        self.instances: dict[str, Start] = {}
        self.closed = False
        self._fetched: set[str] = set()
        self._clock = clock
        self._models: dict[str, Model] = {}
        self._logs: dict[str, ModelLog] = {}
        self._observe: Observe | None = None

    def begin(self, models: Iterable[Model], observe: Observe) -> None:
        self._observe = observe
        self.update(models)

    def update(self, models: Iterable[Model]) -> None:
        before, self._models = self._models, {model.name: model for model in models}
        for name, model in self._models.items():
            self._logs.setdefault(name, ModelLog())
            if before.get(name) != model:
                self._tell_cache(name)

    def fetch(self, order: Fetch) -> None:
        self._known(order.model)
        self.commands.append(order)
        if order.model in self.remote and order.model not in self._fetched:
            self._tell(CacheObserved(self._clock(), order.model, CacheState.FETCHING))
            if (message := self.remote[order.model]) is not None:
                self._tell(CacheObserved(self._clock(), order.model, CacheState.FAILED, message))
                return
            self._fetched.add(order.model)
        self._tell_cache(order.model)

    def start(self, order: Start) -> None:
        self._ours(order.model)
        self._known(order.model)
        if order.instance in self.instances:
            raise ValueError(f"the instance {order.instance} exists")
        self.commands.append(order)
        self.instances[order.instance] = order
        self._logs[order.model].write([f"--- {order.instance} started ---"])
        if order.model in self.broken:
            self.crash(order.instance, self.broken[order.model])
        elif order.model not in self.slow:
            self.ready(order.instance)

    def stop(self, order: Stop) -> None:
        if order.instance not in self.instances:
            self._ours(order.model)
        self.commands.append(order)
        if order.instance not in self.instances:
            self._tell(InstanceReleased(self._clock(), order.instance, order.epoch))
        elif order.model not in self.stubborn or order.grace <= 0:
            self.release(order.instance)

    def park(self, order: Park) -> None:
        self._turn(order, InstanceParked(self._clock(), order.instance, order.epoch, order.turn))

    def wake(self, order: Wake) -> None:
        address = f"http://{order.instance}.invalid"
        self._turn(order, InstanceReady(self._clock(), order.instance, order.epoch, address, order.turn))

    def _turn(self, order: Park | Wake, done: Observation) -> None:
        self.commands.append(order)
        if order.instance not in self.instances:
            done = InstanceReleased(self._clock(), order.instance, order.epoch)
        elif order.model in self.sleepless:
            done = SleepFailed(self._clock(), order.instance, order.epoch, order.turn, "a test says so")
        self._tell(done)

    def handle_prompts(self, order: PromptCommand) -> None:
        self.commands.append(order)
        if isinstance(order, LimitPrompts):
            return
        if order.instance not in self.instances:
            self._tell(InstanceReleased(self._clock(), order.instance, order.epoch))
        elif isinstance(order, SavePrompts):
            self._tell(PromptsSaved(self._clock(), order.instance, order.epoch, 100, 1000))
        else:
            self._tell(PromptsRestored(self._clock(), order.instance, order.epoch, 100, 1000))

    def logs(self, model: str) -> ModelLog | None:
        return self._logs.get(model) if model in self._models else None

    def close(self) -> None:
        self.closed = True
        for instance in list(self.instances):
            self.release(instance)

    # What the world does, by order of a test --------------------------------------------------------------------------

    def ready(self, instance: str) -> None:
        self._tell(InstanceReady(self._clock(), instance, self.instances[instance].epoch, f"http://{instance}.invalid"))

    def crash(self, instance: str, reason: str = "Exited") -> None:
        """It ends by itself, and is gone."""
        self._tell(
            InstanceFailed(self._clock(), instance, self.instances[instance].epoch, reason, f"{instance}: {reason}")
        )
        self.release(instance)

    def release(self, instance: str) -> None:
        self._tell(InstanceReleased(self._clock(), instance, self.instances.pop(instance).epoch))

    def lose(self, instance: str) -> None:
        """It should be gone, and nobody knows."""
        self._tell(InstanceUnproven(self._clock(), instance, self.instances[instance].epoch, "a test says so"))

    def _tell_cache(self, name: str) -> None:
        absent = name in self.remote and name not in self._fetched
        missing = (source := self._models[name].spec.source) is not None and source.startswith("/missing")
        state = CacheState.FAILED if missing else CacheState.ABSENT if absent else CacheState.CACHED
        self._tell(CacheObserved(self._clock(), name, state, f"source {source} does not exist" if missing else ""))

    def _known(self, model: str) -> None:
        if self._observe is None or self.closed or model not in self._models:
            raise ValueError(model)

    def _ours(self, model: str) -> None:
        if model in self._models and self._models[model].spec.engine == "external":
            raise ValueError(f"{model} is external")

    def _tell(self, observation: Observation) -> None:
        if self._observe is not None:
            self._observe(observation)


class FakeAccelerators:
    """One GPU whose state a test sets."""

    def __init__(self) -> None:
        self.used = 0
        self.listed: dict[int, int] = {}
        self.problem: Exception | None = None  # raised by each look

    def uuids(self) -> tuple[str, ...]:
        return ()

    def snapshot(self) -> dict[int, tuple[int, dict[int, int]]]:
        if self.problem is not None:
            raise self.problem
        return {0: (self.used, dict(self.listed))}


SMALL_ENGINE = """
import os, signal, socket, sys, time
port, options = int(sys.argv[1]), dict(word.partition("=")[::2] for word in sys.argv[2:])
if "ignore-term" in options:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "daemon" in options and os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(options["daemon"] + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(options["daemon"] + ".new", options["daemon"])
    if "bare" in options:  # nothing in its environment says whose it is
        os.execve("/bin/sleep", ["sleep", "600"], {})
    time.sleep(600)
print(options.get("say", "loading"), flush=True)
time.sleep(float(options.get("load", 0)))
if "exit" in options:
    sys.exit(int(options["exit"]))
server = socket.create_server(("127.0.0.1", port))
while True:
    connection, _ = server.accept()
    path = connection.recv(4096).split()[1].decode()
    if path.startswith("/exit/"):
        os._exit(int(path[6:]))
    if path.startswith("/signal/"):
        os.kill(os.getpid(), int(path[8:]))
    if path.startswith("/say/"):
        print(path[5:], flush=True)
    if path == "/environment":
        print(sorted(os.environ), flush=True)
    if path == "/sleep" and "sleepless" in options:
        connection.sendall(b"HTTP/1.1 500 No\\r\\n\\r\\nI cannot")
        connection.close()
        continue
    if path == "/health" and "hang-health" in options:
        continue  # never answered, and the connection stays open until the next one
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
    connection.close()
"""


def small_model(folder: Path, name: str, *options: str, **spec: object) -> Model:
    """Model whose engine is real and starts in 30 ms; `options` say how it misbehaves, `spec` adds fields."""
    program = folder / "small_engine.py"
    program.write_text(SMALL_ENGINE)
    command = [sys.executable, "-I", "-S", str(program), "{port}", *options]
    return Model.model_validate({"metadata": {"name": name}, "spec": {"engine": "custom", "command": command, **spec}})
