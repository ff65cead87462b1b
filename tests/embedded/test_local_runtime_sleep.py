"""Engines that sleep under the local runtime: what proves it, and what may happen meanwhile."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hotseat.api.model import Model
from hotseat.core.messages import InstanceParked, InstanceReady, InstanceReleased, Park, SleepFailed, Start, Stop
from hotseat.runtimes.local.runtime import LocalRuntime
from tests.fakes import FakeAccelerators, Observations

GI = 1 << 30


class Story:
    """A runtime with one mock on a GPU whose state the test sets."""

    def __init__(self, folder: Path) -> None:
        self.told = Observations()
        self.gpu = FakeAccelerators()
        self.runtime = LocalRuntime(folder / "state", folder / "cache", accelerators=self.gpu)
        self.pid = 0

    def load(self, *args: str) -> InstanceReady:
        spec = {"engine": "mock", "args": list(args), "lifecycle": {"release": "Park"}}
        self.runtime.begin([Model.model_validate({"metadata": {"name": "a"}, "spec": spec})], self.told)
        self.runtime.start(Start("a", "a@1", 1))
        ready = self.told.await_one(InstanceReady, "a@1")
        log = self.runtime.logs("a")
        assert log is not None
        self.pid = int(log.tail(100)[0].partition("pid ")[2].split()[0])
        return ready

    def park(self, turn: int = 1) -> None:
        self.runtime.park(Park("a", "a@1", 1, turn))


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    story = Story(tmp_path)
    yield story
    story.runtime.close()


def test_a_sleeper_tells_how_much_host_memory_it_holds(story: Story) -> None:
    story.load()
    story.park()
    parked = story.told.await_one(InstanceParked, "a@1")
    assert parked.memory == pytest.approx(psutil.Process(story.pid).memory_info().rss, rel=0.3)


def test_it_sleeps_only_once_the_driver_sees_its_memory_fall(story: Story) -> None:
    story.load()
    story.gpu.listed = {story.pid: 40 * GI, 1: GI}
    story.park()
    with pytest.raises(AssertionError):
        story.told.await_one(InstanceParked, "a@1", timeout=0.3)
    story.gpu.listed = {story.pid: 2 * GI, 1: 40 * GI}  # what another takes is no matter
    story.told.await_one(InstanceParked, "a@1")


def test_a_driver_that_does_not_answer_proves_nothing(story: Story) -> None:
    story.load()
    story.gpu.problem = OSError("lost")
    story.park()
    assert "driver" in story.told.await_one(SleepFailed, "a@1").message
    story.gpu.problem = None


def test_a_stop_while_it_falls_asleep_does_not_wait_for_that(story: Story) -> None:
    story.load("--sleep-time", "60")
    story.park()
    story.runtime.stop(Stop("a", "a@1", 1, 5.0))
    story.told.await_one(InstanceReleased, "a@1")
    assert story.told.of_instance("a@1") == ["InstanceReady", "InstanceReleased"]


def test_an_engine_that_ends_while_it_falls_asleep_is_noticed(story: Story) -> None:
    story.load("--sleep-time", "60")
    story.park()
    psutil.Process(story.pid).kill()
    story.told.await_one(InstanceReleased, "a@1")
    kinds = story.told.of_instance("a@1")
    assert kinds[-1] == "InstanceReleased"
    assert {"InstanceFailed", "SleepFailed"} & set(kinds)


def test_one_that_has_not_been_ready_cannot_sleep_yet(story: Story) -> None:
    spec = {"engine": "mock", "args": ["--load-time", "0.5"], "lifecycle": {"release": "Park"}}
    story.runtime.begin([Model.model_validate({"metadata": {"name": "a"}, "spec": spec})], story.told)
    story.runtime.start(Start("a", "a@1", 1))
    story.park()
    assert "not been ready" in story.told.await_one(SleepFailed, "a@1").message
    story.told.await_one(InstanceReady, "a@1")
