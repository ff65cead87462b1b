"""Real processes that misbehave: whatever they do, nothing of them is left when the seat is called free."""

import contextlib
import errno
import os
import signal
import socket
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
from hotseat.runtimes.local import engine_thread as instance_module
from hotseat.runtimes.local.engine_thread import EngineThread
from hotseat.runtimes.local.orphans import find_processes
from hotseat.runtimes.local.runtime import LocalRuntime
from hotseat.runtimes.local.supervisor_client import SupervisorProcess
from tests.fakes import FakeAccelerators, Observations, small_model

from .harness import quickest, stopwatch


class Story:
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
def story(tmp_path: Path) -> Iterator[Story]:
    story = Story(tmp_path)
    yield story
    story.runtime.close()


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


def engine_pid(story: Story, model: str) -> int:
    return int(story.log(model)[0].partition("pid ")[2].split()[0])


def supervisor_of(pid: int) -> int:
    return psutil.Process(pid).ppid()


def test_a_daemon_with_a_session_of_its_own_is_gone_before_the_release(
    story: Story, daemon: Callable[[], int], tmp_path: Path
) -> None:
    story.begin(small_model(tmp_path, "a", f"daemon={tmp_path}/daemon"))
    story.load("a")
    assert alive(daemon())
    story.stop("a")
    story.released("a")
    assert not alive(daemon())


def test_a_crash_takes_its_daemons_with_it(story: Story, daemon: Callable[[], int], tmp_path: Path) -> None:
    story.begin(small_model(tmp_path, "a", f"daemon={tmp_path}/daemon"))
    ready = story.load("a")
    daemon()
    get(ready, "/exit/7")
    assert story.failed("a").reason == "Exited"
    story.released("a")
    assert not alive(daemon())


def test_an_engine_that_ignores_sigterm_is_killed_after_the_grace(story: Story, tmp_path: Path) -> None:
    names = iter("abcdefgh")
    story.begin(*(small_model(tmp_path, name, "ignore-term") for name in "abcdefgh"))

    def trial() -> float:
        name = next(names)
        story.load(name)
        with stopwatch() as seconds:
            story.stop(name, grace=0.3)
            story.released(name)
        assert seconds() >= 0.3
        assert story.told.of_instance(f"{name}@1") == ["InstanceReady", "InstanceReleased"]
        return seconds()

    quickest(trial, 1.5)


def test_a_crash_is_noticed_at_once_and_explained(story: Story, tmp_path: Path) -> None:
    names = iter("abcdefgh")
    story.begin(*(small_model(tmp_path, name) for name in "abcdefgh"))

    def trial() -> float:
        name = next(names)
        ready = story.load(name)
        get(ready, "/say/the-last-words")
        with stopwatch() as seconds:
            get(ready, "/exit/7")
            failed = story.failed(name)
        assert failed.reason == "Exited"
        assert ("code 7" in failed.message, failed.exit_code) == (True, 7)
        assert "the-last-words" in failed.message
        return seconds()

    quickest(trial, 0.5)


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGSEGV, "Segfault"), (signal.SIGKILL, "Killed")])
def test_a_crash_by_a_signal_is_named(story: Story, tmp_path: Path, number: int, reason: str) -> None:
    story.begin(small_model(tmp_path, "a"))
    get(story.load("a"), f"/signal/{int(number)}")
    failed = story.failed("a")
    assert (failed.reason, failed.exit_code) == (reason, 128 + number)


def test_running_out_of_memory_while_loading_is_told_from_the_log(story: Story, tmp_path: Path) -> None:
    story.begin(small_model(tmp_path, "a", "say=torch.OutOfMemoryError: CUDA out of memory.", "exit=1"))
    story.runtime.start(Start("a", "a@1", 1))
    assert story.failed("a").reason == "OutOfMemory"


def test_a_command_that_is_not_there(story: Story) -> None:
    spec = {"engine": "custom", "command": ["/nowhere/engine", "{port}"]}
    story.begin(Model.model_validate({"metadata": {"name": "a"}, "spec": spec}))
    story.runtime.start(Start("a", "a@1", 1))
    story.released("a")
    assert story.failed("a").reason == "CommandNotFound"
    assert "/nowhere/engine" in story.failed("a").message


def test_a_foreign_server_on_its_port_is_not_mistaken_for_it(story: Story, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        story.begin(small_model(tmp_path, "a", port=foreign.getsockname()[1]))
        story.runtime.start(Start("a", "a@1", 1))
        story.released("a")
    assert story.failed("a").reason == "PortTaken"
    assert story.told.of_instance("a@1") == ["InstanceFailed", "InstanceReleased"]


def test_a_health_endpoint_that_hangs_blocks_no_stop(story: Story, tmp_path: Path) -> None:
    story.begin(small_model(tmp_path, "a", "hang-health"))
    story.runtime.start(Start("a", "a@1", 1))
    until(lambda: story.log("a"))
    story.stop("a")
    story.released("a")
    assert story.told.of_instance("a@1") == ["InstanceReleased"]


def test_the_engine_sees_no_key_of_ours_and_its_own_variables(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOTSEAT_API_KEY", "secret")
    story.begin(small_model(tmp_path, "a", env=[{"name": "COLOUR", "value": "red"}]))
    get(story.load("a"), "/environment")
    until(lambda: "COLOUR" in story.log("a")[-1])
    assert "PATH" in story.log("a")[-1]
    assert "HOTSEAT_API_KEY" not in story.log("a")[-1]


def test_output_is_followed_and_kept_on_disk(story: Story, tmp_path: Path) -> None:
    story.begin(small_model(tmp_path, "a"))
    ready = story.load("a")
    log = story.runtime.logs("a")
    assert log is not None
    until(lambda: "loading" in story.log("a"))
    position, _ = log.read_after(0, timeout=0)
    get(ready, "/say/hello")
    assert log.read_after(position, timeout=5)[1] == ["hello"]
    story.stop("a")
    story.released("a")
    story.runtime.close()
    lines = (tmp_path / "logs" / "a.log").read_text().splitlines()
    assert lines[0].startswith("--- a@1 started, pid ")
    assert lines[1:3] == ["loading", "hello"]


def test_the_stop_command_runs_before_sigterm(story: Story, tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", f"echo {{port}} > {tmp_path}/stopped; sleep 600"]
    story.begin(small_model(tmp_path, "a", "ignore-term", stopCommand=command))
    ready = story.load("a")
    story.stop("a", grace=0.1)
    story.released("a")  # although the command hangs, and the engine ignores SIGTERM
    assert (tmp_path / "stopped").read_text().strip() == ready.address.rpartition(":")[2]
    assert not list((tmp_path / "state").glob("*.json"))


def test_the_stop_command_runs_after_a_crash_too(story: Story, tmp_path: Path) -> None:
    story.begin(small_model(tmp_path, "a", stopCommand=["/bin/touch", f"{tmp_path}/stopped"]))
    get(story.load("a"), "/exit/7")
    story.released("a")
    assert (tmp_path / "stopped").exists()


@pytest.mark.parametrize("more", [[], ["bare"]])
def test_a_killed_supervisor_leaves_nothing_behind_that_its_engine_started(
    story: Story, daemon: Callable[[], int], tmp_path: Path, more: list[str]
) -> None:
    """Its daemon is found by its environment. One without ("bare") and with a session of its own cannot be found."""
    story.begin(small_model(tmp_path, "a", f"daemon={tmp_path}/daemon", *more))
    story.load("a")
    daemon()
    engine = engine_pid(story, "a")
    os.kill(supervisor_of(engine), signal.SIGKILL)
    story.released("a")
    assert story.failed("a").reason == "SupervisorKilled"
    assert not alive(engine)
    assert more or not alive(daemon())


def test_a_spare_supervisor_that_was_killed_costs_nothing(story: Story, tmp_path: Path) -> None:
    story.begin(small_model(tmp_path, "a"))
    for child in psutil.Process().children():
        if any("supervisor.py" in word for word in child.cmdline()):
            child.kill()
    story.load("a")


def test_a_spare_supervisor_killed_with_its_order_unread_costs_nothing_either(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL takes its time: the pipe may still be open when the order is written."""
    story.begin(small_model(tmp_path, "a"))
    launch, killed = SupervisorProcess.launch, list[int]()

    def launch_and_kill(supervisor: SupervisorProcess, *order: Any) -> None:
        if not killed:
            os.kill(supervisor.pid, signal.SIGSTOP)
        launch(supervisor, *order)
        if not killed:
            killed.append(supervisor.pid)
            os.kill(supervisor.pid, signal.SIGKILL)

    monkeypatch.setattr(SupervisorProcess, "launch", launch_and_kill)
    story.load("a")
    assert killed
    assert story.told.of_instance("a@1") == ["InstanceReady"]


def test_a_supervisor_that_dies_each_time_is_not_tried_for_ever(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.begin(small_model(tmp_path, "a"))
    monkeypatch.setattr(
        SupervisorProcess, "launch", lambda supervisor, *_order: os.kill(supervisor.pid, signal.SIGKILL)
    )
    story.runtime.start(Start("a", "a@1", 1))
    assert story.failed("a").reason == "SupervisorKilled"
    story.released("a")


def test_what_has_failed_is_not_begun_once_more_when_its_supervisor_dies(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.begin(small_model(tmp_path, "a"))
    launch, messages, launched, failed = (
        SupervisorProcess.launch,
        SupervisorProcess.messages,
        list[SupervisorProcess](),
        list[SupervisorProcess](),
    )

    def launch_or_die(supervisor: SupervisorProcess, *order: Any) -> None:
        launched.append(supervisor)
        if len(launched) > 1:
            launch(supervisor, *order)
        else:
            os.kill(supervisor.pid, signal.SIGKILL)

    def fail_first(supervisor: SupervisorProcess) -> list[dict[str, Any]] | None:
        if failed:
            return messages(supervisor)
        failed.append(supervisor)
        return [{"failed": "CannotStart", "message": "no"}]

    monkeypatch.setattr(SupervisorProcess, "launch", launch_or_die)
    monkeypatch.setattr(SupervisorProcess, "messages", fail_first)
    story.runtime.start(Start("a", "a@1", 1))
    assert story.failed("a").reason == "CannotStart"
    story.released("a")
    assert launched == failed


def test_what_could_not_be_proven_is_told_and_proven_later(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL is made to come late, as it does to a process that waits for a device."""
    monkeypatch.setattr(instance_module, "PROOF_TIME", -1.0)
    story.begin(small_model(tmp_path, "a", "ignore-term"))
    story.load("a")
    story.stop("a", grace=0.5)
    story.released("a")
    assert story.told.of_instance("a@1") == ["InstanceReady", "InstanceUnproven", "InstanceReleased"]


def test_the_driver_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_module, "PROOF_TIME", 0.1)
    monkeypatch.setattr(instance_module, "UNPROVEN_PAUSE", 0.02)
    gpu = FakeAccelerators()
    gpu.used, gpu.listed = 1 << 30, {1: 1 << 30}
    story = Story(tmp_path, gpu)
    story.begin(small_model(tmp_path, "a"))
    story.load("a")
    gpu.used = 9 << 30
    story.stop("a", grace=0.1)
    assert "GPU 0" in story.told.await_one(InstanceUnproven, "a@1").reason
    assert "InstanceReleased" not in story.told.of_instance("a@1")
    gpu.used = 1 << 30
    story.released("a")
    story.runtime.close()


def test_a_look_at_the_driver_that_fails_proves_nothing_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_module, "PROOF_TIME", 0.1)
    monkeypatch.setattr(instance_module, "UNPROVEN_PAUSE", 0.02)
    gpu = FakeAccelerators()
    story = Story(tmp_path, gpu)
    story.begin(small_model(tmp_path, "a"))
    story.load("a")
    gpu.problem = RuntimeError("the GPU has fallen off the bus")
    story.stop("a", grace=0.1)
    assert "fallen off the bus" in story.told.await_one(InstanceUnproven, "a@1").reason
    gpu.problem = None
    story.released("a")
    story.runtime.close()


def test_a_look_at_the_processes_that_fails_is_repeated(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def find(variable: str, value: str) -> list[int]:
        looks.append(value)
        if len(looks) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/proc")
        return find_processes(variable, value)

    monkeypatch.setattr(instance_module, "find_processes", find)
    story.begin(small_model(tmp_path, "a"))
    story.load("a")
    os.kill(supervisor_of(engine_pid(story, "a")), signal.SIGKILL)
    story.released("a")
    assert len(looks) == 2
    assert story.told.of_instance("a@1") == ["InstanceReady", "InstanceFailed", "InstanceReleased"]


@pytest.mark.parametrize(("owner", "name"), [(os, "pipe"), (EngineThread, "start")], ids=["descriptors", "threads"])
def test_a_start_for_which_hotseat_lacks_something_fails_and_leaves_nothing(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no more to be had")

    story.begin(small_model(tmp_path, "a"))
    descriptors = psutil.Process().num_fds()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refuse)
        story.runtime.start(Start("a", "a@1", 1))
    assert story.told.of_instance("a@1") == ["InstanceFailed", "InstanceReleased"]
    assert (story.failed("a").reason, story.failed("a").message) == ("CannotStart", "cannot start: no more to be had")
    assert psutil.Process().num_fds() == descriptors
    story.load("a")  # the same instance: nothing is in its way


def test_a_supervisor_that_was_closed_is_not_read_by_a_number_that_is_another_ones_now(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.begin(small_model(tmp_path, "a"))
    ready = story.load("a")
    instance = story.runtime._instances["a@1"]
    supervisor = instance._supervisor
    assert supervisor is not None
    number, close = supervisor.log, supervisor.close
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.write(writer, b"somebody else's")

    def close_and_reuse() -> None:
        monkeypatch.setattr(supervisor, "close", close)
        close()
        os.dup2(reader, number)

    monkeypatch.setattr(supervisor, "close", close_and_reuse)
    monkeypatch.setattr(supervisor, "messages", None)
    get(ready, "/say/anything")  # wakes the thread
    story.released("a")
    instance.join(10)
    assert story.failed("a").reason == "InternalError"
    assert os.read(number, 100) == b"somebody else's"
    for descriptor in (number, reader, writer):
        os.close(descriptor)


def test_models_without_a_gpu_do_not_ask_the_driver(tmp_path: Path) -> None:
    gpu = FakeAccelerators()
    story = Story(tmp_path, gpu)
    story.begin(small_model(tmp_path, "a", resources={"gpus": 0}))
    story.load("a")
    gpu.used = 9 << 30
    story.stop("a")
    story.released("a")
    story.runtime.close()


def test_many_turns_leave_no_thread_and_no_descriptor(story: Story, tmp_path: Path) -> None:
    story.begin(small_model(tmp_path, "a"))
    descriptors = []
    for epoch in range(6):
        story.runtime.start(Start("a", f"a@{epoch}", epoch))
        story.told.await_one(InstanceReady, f"a@{epoch}")
        story.runtime.stop(Stop("a", f"a@{epoch}", epoch, 5))
        story.told.await_one(InstanceReleased, f"a@{epoch}")
        until(lambda: not any(thread.is_alive() for thread in story.runtime._threads))
        descriptors.append(psutil.Process().num_fds())
    assert descriptors[-1] == descriptors[1]


def test_a_begun_runtime_tells_cached_for_models_without_weights(story: Story, tmp_path: Path) -> None:
    story.begin(small_model(tmp_path, "a"))
    assert story.told.await_one(CacheObserved, model="a").message == ""


def test_one_model_that_cannot_be_looked_at_is_the_only_one_that_fails(story: Story, tmp_path: Path) -> None:
    """A limit once: the documents behind it were not taken in, and requests for them waited for ever."""

    class Broken:
        name = "broken"

        def fetches(self, _model: Model) -> bool:
            raise ZeroDivisionError("a bug of somebody else's")

    def engine(name: str) -> Engine:
        if name == "unloadable":
            raise ImportError("no libfoo.so")
        return Broken() if name == "broken" else load_engine(name)  # type: ignore[return-value]

    story.runtime._load_engine = engine
    bad = [
        small_model(tmp_path, "long", source="/" + "x" * 300),
        Model.model_validate({"metadata": {"name": "broken"}, "spec": {"engine": "broken", "source": "hf://a/b"}}),
        Model.model_validate({"metadata": {"name": "unloadable"}, "spec": {"engine": "unloadable"}}),
    ]
    story.begin(small_model(tmp_path, "first"))
    story.runtime.update([small_model(tmp_path, "first"), *bad, small_model(tmp_path, "last")])
    for name, why in (("long", "File name too long"), ("broken", "somebody else's"), ("unloadable", "no installed")):
        assert why in story.told.await_one(CacheObserved, model=name, state=CacheState.FAILED).message
    story.told.await_one(CacheObserved, model="last", state=CacheState.CACHED)
    story.load("last")


def test_weights_that_could_not_be_had_are_looked_for_again_with_the_same_documents(
    story: Story, tmp_path: Path
) -> None:
    documents = [small_model(tmp_path, "a", source=str(tmp_path / "w.gguf")), small_model(tmp_path, "b")]
    story.begin(*documents)
    story.told.await_one(CacheObserved, model="a", state=CacheState.FAILED)
    (tmp_path / "w.gguf").touch()
    story.told.seen.clear()
    story.runtime.update(documents)
    story.runtime.update(documents)
    states = [(each.model, each.state) for each in story.told.seen if isinstance(each, CacheObserved)]
    assert states == [("a", CacheState.CACHED)], "once, and nothing of what was there"
