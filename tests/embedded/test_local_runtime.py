"""Real processes that misbehave: whatever they do, nothing of them is left when the seat is called free."""

import contextlib
import errno
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hotseat.api.model import Model
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    InstanceFailed,
    InstanceReady,
    InstanceReleased,
    InstanceUnproven,
    Start,
    Stop,
)
from hotseat.engines.base import Engine, load_engine
from hotseat.runtimes.local import engine_thread as holder_module
from hotseat.runtimes.local.engine_thread import EngineThread
from hotseat.runtimes.local.orphans import find_processes
from hotseat.runtimes.local.runtime import LocalRuntime
from hotseat.runtimes.local.supervisor_client import SupervisorProcess

sys.path.insert(0, str(Path(__file__).parents[1]))
from fakes import FakeAccelerators, Observations, small_model

from .harness import quickest, stopwatch


class House:
    """A runtime and what it told."""

    def __init__(self, folder: Path, accelerators: FakeAccelerators | None = None) -> None:
        self.folder = folder
        self.told = Observations()
        self.runtime = LocalRuntime(
            folder / "state", folder / "cache", log_dir=folder / "logs", accelerators=accelerators
        )

    def begin(self, *models: Model) -> None:
        self.runtime.begin(models, self.told)

    def load(self, model: str) -> InstanceReady:
        self.runtime.start(Start(model, f"{model}@1", 1))
        return self.told.await_one(InstanceReady, f"{model}@1")

    def stop(self, model: str, grace: float = 5.0) -> None:
        self.runtime.stop(Stop(model, f"{model}@1", 1, grace))

    def released(self, model: str) -> InstanceReleased:
        return self.told.await_one(InstanceReleased, f"{model}@1")

    def failed(self, model: str) -> InstanceFailed:
        return self.told.await_one(InstanceFailed, f"{model}@1")

    def log(self, model: str) -> list[str]:
        log = self.runtime.logs(model)
        assert log is not None
        return log.tail(1000)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.runtime.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """Pid of the daemon that an engine was told to leave at `folder/daemon`."""

    def read() -> int:
        until((tmp_path / "daemon").exists)
        return int((tmp_path / "daemon").read_text())

    yield read
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "daemon").read_text()), signal.SIGKILL)


def until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def get(ready: InstanceReady, path: str) -> None:
    """Tell the engine something; some paths kill it."""
    with contextlib.suppress(OSError), urllib.request.urlopen(ready.address + path):
        pass


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def engine_pid(house: House, model: str) -> int:
    return int(house.log(model)[0].partition("pid ")[2].split()[0])


def keeper_of(pid: int) -> int:
    return psutil.Process(pid).ppid()


def test_a_daemon_with_a_session_of_its_own_is_gone_before_the_release(
    house: House, daemon: Callable[[], int], tmp_path: Path
) -> None:
    house.begin(small_model(tmp_path, "a", f"daemon={tmp_path}/daemon"))
    house.load("a")
    assert alive(daemon())
    house.stop("a")
    house.released("a")
    assert not alive(daemon())


def test_a_crash_takes_its_daemons_with_it(house: House, daemon: Callable[[], int], tmp_path: Path) -> None:
    house.begin(small_model(tmp_path, "a", f"daemon={tmp_path}/daemon"))
    ready = house.load("a")
    daemon()
    get(ready, "/exit/7")
    assert house.failed("a").reason == "Exited"
    house.released("a")
    assert not alive(daemon())


def test_an_engine_that_ignores_sigterm_is_killed_after_the_grace(house: House, tmp_path: Path) -> None:
    names = iter("abcdefgh")
    house.begin(*(small_model(tmp_path, name, "ignore-term") for name in "abcdefgh"))

    def trial() -> float:
        name = next(names)
        house.load(name)
        with stopwatch() as seconds:
            house.stop(name, grace=0.3)
            house.released(name)
        assert seconds() >= 0.3
        assert house.told.of_holder(f"{name}@1") == ["HolderReady", "HolderReleased"]
        return seconds()

    quickest(trial, 1.5)


def test_a_crash_is_noticed_at_once_and_explained(house: House, tmp_path: Path) -> None:
    names = iter("abcdefgh")
    house.begin(*(small_model(tmp_path, name) for name in "abcdefgh"))

    def trial() -> float:
        name = next(names)
        ready = house.load(name)
        get(ready, "/say/the-last-words")
        with stopwatch() as seconds:
            get(ready, "/exit/7")
            failed = house.failed(name)
        assert failed.reason == "Exited"
        assert ("code 7" in failed.message, failed.exit_code) == (True, 7)
        assert "the-last-words" in failed.message
        return seconds()

    quickest(trial, 0.5)


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGSEGV, "Segfault"), (signal.SIGKILL, "Killed")])
def test_a_crash_by_a_signal_is_named(house: House, tmp_path: Path, number: int, reason: str) -> None:
    house.begin(small_model(tmp_path, "a"))
    get(house.load("a"), f"/signal/{int(number)}")
    failed = house.failed("a")
    assert (failed.reason, failed.exit_code) == (reason, 128 + number)


def test_running_out_of_memory_while_loading_is_told_from_the_log(house: House, tmp_path: Path) -> None:
    house.begin(small_model(tmp_path, "a", "say=torch.OutOfMemoryError: CUDA out of memory.", "exit=1"))
    house.runtime.start(Start("a", "a@1", 1))
    assert house.failed("a").reason == "OutOfMemory"


def test_a_command_that_is_not_there(house: House) -> None:
    spec = {"engine": "custom", "command": ["/nowhere/engine", "{port}"]}
    house.begin(Model.model_validate({"metadata": {"name": "a"}, "spec": spec}))
    house.runtime.start(Start("a", "a@1", 1))
    house.released("a")
    assert house.failed("a").reason == "CommandNotFound"
    assert "/nowhere/engine" in house.failed("a").message


def test_a_foreign_server_on_its_port_is_not_mistaken_for_it(house: House, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        house.begin(small_model(tmp_path, "a", port=foreign.getsockname()[1]))
        house.runtime.start(Start("a", "a@1", 1))
        house.released("a")
    assert house.failed("a").reason == "PortTaken"
    assert house.told.of_holder("a@1") == ["HolderFailed", "HolderReleased"]


def test_a_health_endpoint_that_hangs_blocks_no_stop(house: House, tmp_path: Path) -> None:
    house.begin(small_model(tmp_path, "a", "hang-health"))
    house.runtime.start(Start("a", "a@1", 1))
    until(lambda: house.log("a"))
    house.stop("a")
    house.released("a")
    assert house.told.of_holder("a@1") == ["HolderReleased"]


def test_the_engine_sees_no_key_of_ours_and_its_own_variables(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOTSEAT_API_KEY", "secret")
    house.begin(small_model(tmp_path, "a", env=[{"name": "COLOUR", "value": "red"}]))
    get(house.load("a"), "/environment")
    until(lambda: "COLOUR" in house.log("a")[-1])
    assert "PATH" in house.log("a")[-1]
    assert "HOTSEAT_API_KEY" not in house.log("a")[-1]


def test_output_is_followed_and_kept_on_disk(house: House, tmp_path: Path) -> None:
    house.begin(small_model(tmp_path, "a"))
    ready = house.load("a")
    log = house.runtime.logs("a")
    assert log is not None
    until(lambda: "loading" in house.log("a"))
    position, _ = log.read_after(0, timeout=0)
    get(ready, "/say/hello")
    assert log.read_after(position, timeout=5)[1] == ["hello"]
    house.stop("a")
    house.released("a")
    house.runtime.close()
    lines = (tmp_path / "logs" / "a.log").read_text().splitlines()
    assert lines[0].startswith("--- a@1 started, pid ")
    assert lines[1:3] == ["loading", "hello"]


def test_the_stop_command_runs_before_sigterm(house: House, tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", f"echo {{port}} > {tmp_path}/stopped; sleep 600"]
    house.begin(small_model(tmp_path, "a", "ignore-term", stopCommand=command))
    ready = house.load("a")
    house.stop("a", grace=0.1)
    house.released("a")  # although the command hangs, and the engine ignores SIGTERM
    assert (tmp_path / "stopped").read_text().strip() == ready.address.rpartition(":")[2]
    assert not list((tmp_path / "state").glob("*.json"))


def test_the_stop_command_runs_after_a_crash_too(house: House, tmp_path: Path) -> None:
    house.begin(small_model(tmp_path, "a", stopCommand=["/bin/touch", f"{tmp_path}/stopped"]))
    get(house.load("a"), "/exit/7")
    house.released("a")
    assert (tmp_path / "stopped").exists()


@pytest.mark.parametrize("more", [[], ["bare"]])
def test_a_killed_keeper_leaves_nothing_behind_that_its_engine_started(
    house: House, daemon: Callable[[], int], tmp_path: Path, more: list[str]
) -> None:
    """Its daemon is found by its environment. One without ("bare") and with a session of its own cannot be found."""
    house.begin(small_model(tmp_path, "a", f"daemon={tmp_path}/daemon", *more))
    house.load("a")
    daemon()
    engine = engine_pid(house, "a")
    os.kill(keeper_of(engine), signal.SIGKILL)
    house.released("a")
    assert house.failed("a").reason == "KeeperKilled"
    assert not alive(engine)
    assert more or not alive(daemon())


def test_a_spare_keeper_that_was_killed_costs_nothing(house: House, tmp_path: Path) -> None:
    house.begin(small_model(tmp_path, "a"))
    for child in psutil.Process().children():
        if any("keeper.py" in word for word in child.cmdline()):
            child.kill()
    house.load("a")


def test_a_spare_keeper_killed_with_its_order_unread_costs_nothing_either(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL takes its time: the pipe may still be open when the order is written."""
    house.begin(small_model(tmp_path, "a"))
    launch, killed = SupervisorProcess.launch, list[int]()

    def launch_and_kill(keeper: SupervisorProcess, *order: Any) -> None:
        if not killed:
            os.kill(keeper.pid, signal.SIGSTOP)
        launch(keeper, *order)
        if not killed:
            killed.append(keeper.pid)
            os.kill(keeper.pid, signal.SIGKILL)

    monkeypatch.setattr(SupervisorProcess, "launch", launch_and_kill)
    house.load("a")
    assert killed
    assert house.told.of_holder("a@1") == ["HolderReady"]


def test_a_keeper_that_dies_each_time_is_not_tried_for_ever(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.begin(small_model(tmp_path, "a"))
    monkeypatch.setattr(SupervisorProcess, "launch", lambda keeper, *_order: os.kill(keeper.pid, signal.SIGKILL))
    house.runtime.start(Start("a", "a@1", 1))
    assert house.failed("a").reason == "KeeperKilled"
    house.released("a")


def test_what_has_failed_is_not_begun_once_more_when_its_keeper_dies(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.begin(small_model(tmp_path, "a"))
    launch, messages, launched, failed = (
        SupervisorProcess.launch,
        SupervisorProcess.messages,
        list[SupervisorProcess](),
        list[SupervisorProcess](),
    )

    def launch_or_die(keeper: SupervisorProcess, *order: Any) -> None:
        launched.append(keeper)
        if len(launched) > 1:
            launch(keeper, *order)
        else:
            os.kill(keeper.pid, signal.SIGKILL)

    def fail_first(keeper: SupervisorProcess) -> list[dict[str, Any]] | None:
        if failed:
            return messages(keeper)
        failed.append(keeper)
        return [{"failed": "CannotStart", "message": "no"}]

    monkeypatch.setattr(SupervisorProcess, "launch", launch_or_die)
    monkeypatch.setattr(SupervisorProcess, "messages", fail_first)
    house.runtime.start(Start("a", "a@1", 1))
    assert house.failed("a").reason == "CannotStart"
    house.released("a")
    assert launched == failed


def test_what_could_not_be_proven_is_told_and_proven_later(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL is made to come late, as it does to a process that waits for a device."""
    monkeypatch.setattr(holder_module, "PROOF_TIME", -1.0)
    house.begin(small_model(tmp_path, "a", "ignore-term"))
    house.load("a")
    house.stop("a", grace=0.5)
    house.released("a")
    assert house.told.of_holder("a@1") == ["HolderReady", "HolderUnproven", "HolderReleased"]


def test_the_driver_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder_module, "PROOF_TIME", 0.1)
    monkeypatch.setattr(holder_module, "UNPROVEN_PAUSE", 0.02)
    gpu = FakeAccelerators()
    gpu.used, gpu.listed = 1 << 30, {1: 1 << 30}
    house = House(tmp_path, gpu)
    house.begin(small_model(tmp_path, "a"))
    house.load("a")
    gpu.used = 9 << 30
    house.stop("a", grace=0.1)
    assert "GPU 0" in house.told.await_one(InstanceUnproven, "a@1").reason
    assert "HolderReleased" not in house.told.of_holder("a@1")
    gpu.used = 1 << 30
    house.released("a")
    house.runtime.close()


def test_a_look_at_the_driver_that_fails_proves_nothing_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder_module, "PROOF_TIME", 0.1)
    monkeypatch.setattr(holder_module, "UNPROVEN_PAUSE", 0.02)
    gpu = FakeAccelerators()
    house = House(tmp_path, gpu)
    house.begin(small_model(tmp_path, "a"))
    house.load("a")
    gpu.problem = RuntimeError("the GPU has fallen off the bus")
    house.stop("a", grace=0.1)
    assert "fallen off the bus" in house.told.await_one(InstanceUnproven, "a@1").reason
    gpu.problem = None
    house.released("a")
    house.runtime.close()


def test_a_look_at_the_processes_that_fails_is_repeated(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def find(variable: str, value: str) -> list[int]:
        looks.append(value)
        if len(looks) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/proc")
        return find_processes(variable, value)

    monkeypatch.setattr(holder_module, "find_processes", find)
    house.begin(small_model(tmp_path, "a"))
    house.load("a")
    os.kill(keeper_of(engine_pid(house, "a")), signal.SIGKILL)
    house.released("a")
    assert len(looks) == 2
    assert house.told.of_holder("a@1") == ["HolderReady", "HolderFailed", "HolderReleased"]


@pytest.mark.parametrize(("owner", "name"), [(os, "pipe"), (EngineThread, "start")], ids=["descriptors", "threads"])
def test_a_start_for_which_hotseat_lacks_something_fails_and_leaves_nothing(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no more to be had")

    house.begin(small_model(tmp_path, "a"))
    descriptors = psutil.Process().num_fds()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refuse)
        house.runtime.start(Start("a", "a@1", 1))
    assert house.told.of_holder("a@1") == ["HolderFailed", "HolderReleased"]
    assert (house.failed("a").reason, house.failed("a").message) == ("CannotStart", "cannot start: no more to be had")
    assert psutil.Process().num_fds() == descriptors
    house.load("a")  # the same holder: nothing is in its way


def test_a_keeper_that_was_closed_is_not_read_by_a_number_that_is_another_ones_now(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.begin(small_model(tmp_path, "a"))
    ready = house.load("a")
    holder = house.runtime._holders["a@1"]
    keeper = holder._keeper
    assert keeper is not None
    number, close = keeper.log, keeper.close
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.write(writer, b"somebody else's")

    def close_and_reuse() -> None:
        monkeypatch.setattr(keeper, "close", close)
        close()
        os.dup2(reader, number)

    monkeypatch.setattr(keeper, "close", close_and_reuse)
    monkeypatch.setattr(keeper, "messages", None)
    get(ready, "/say/anything")  # wakes the thread
    house.released("a")
    holder.join(10)
    assert house.failed("a").reason == "InternalError"
    assert os.read(number, 100) == b"somebody else's"
    for descriptor in (number, reader, writer):
        os.close(descriptor)


def test_models_without_a_gpu_do_not_ask_the_driver(tmp_path: Path) -> None:
    gpu = FakeAccelerators()
    house = House(tmp_path, gpu)
    house.begin(small_model(tmp_path, "a", resources={"gpus": 0}))
    house.load("a")
    gpu.used = 9 << 30
    house.stop("a")
    house.released("a")
    house.runtime.close()


def test_many_turns_leave_no_thread_and_no_descriptor(house: House, tmp_path: Path) -> None:
    house.begin(small_model(tmp_path, "a"))
    descriptors = []
    for epoch in range(6):
        house.runtime.start(Start("a", f"a@{epoch}", epoch))
        house.told.await_one(InstanceReady, f"a@{epoch}")
        house.runtime.stop(Stop("a", f"a@{epoch}", epoch, 5))
        house.told.await_one(InstanceReleased, f"a@{epoch}")
        until(lambda: not any(thread.is_alive() for thread in house.runtime._threads))
        descriptors.append(psutil.Process().num_fds())
    assert descriptors[-1] == descriptors[1]


def test_a_begun_runtime_tells_cached_for_models_without_weights(house: House, tmp_path: Path) -> None:
    house.begin(small_model(tmp_path, "a"))
    assert house.told.await_one(CacheObserved, model="a").message == ""


def test_one_model_that_cannot_be_looked_at_is_the_only_one_that_fails(house: House, tmp_path: Path) -> None:
    """A limit once: the documents behind it were not taken in, and requests for them waited for ever."""

    class Broken:
        name = "broken"

        def fetches(self, _model: Model) -> bool:
            raise ZeroDivisionError("a bug of somebody else's")

    def engine(name: str) -> Engine:
        if name == "unloadable":
            raise ImportError("no libfoo.so")
        return Broken() if name == "broken" else load_engine(name)  # type: ignore[return-value]

    house.runtime._load_engine = engine
    bad = [
        small_model(tmp_path, "long", source="/" + "x" * 300),
        Model.model_validate({"metadata": {"name": "broken"}, "spec": {"engine": "broken", "source": "hf://a/b"}}),
        Model.model_validate({"metadata": {"name": "unloadable"}, "spec": {"engine": "unloadable"}}),
    ]
    house.begin(small_model(tmp_path, "first"))
    house.runtime.update([small_model(tmp_path, "first"), *bad, small_model(tmp_path, "last")])
    for name, why in (("long", "File name too long"), ("broken", "somebody else's"), ("unloadable", "no installed")):
        assert why in house.told.await_one(CacheObserved, model=name, state=CacheState.FAILED).message
    house.told.await_one(CacheObserved, model="last", state=CacheState.CACHED)
    house.load("last")


def test_weights_that_could_not_be_had_are_looked_for_again_with_the_same_documents(
    house: House, tmp_path: Path
) -> None:
    documents = [small_model(tmp_path, "a", source=str(tmp_path / "w.gguf")), small_model(tmp_path, "b")]
    house.begin(*documents)
    house.told.await_one(CacheObserved, model="a", state=CacheState.FAILED)
    (tmp_path / "w.gguf").touch()
    house.told.seen.clear()
    house.runtime.update(documents)
    house.runtime.update(documents)
    states = [(each.model, each.state) for each in house.told.seen if isinstance(each, CacheObserved)]
    assert states == [("a", CacheState.CACHED)], "once, and nothing of what was there"
