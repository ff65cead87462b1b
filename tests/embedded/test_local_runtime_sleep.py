"""Engines that sleep under the local runtime: what proves it, and what may happen meanwhile."""

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hotseat.api.model import Model
from hotseat.core.messages import InstanceParked, InstanceReady, InstanceReleased, Park, SleepFailed, Start, Stop
from hotseat.runtimes.local.runtime import LocalRuntime

sys.path.insert(0, str(Path(__file__).parents[1]))
from fakes import FakeAccelerators, Observations

GI = 1 << 30


class House:
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
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.runtime.close()


def test_a_sleeper_tells_how_much_host_memory_it_holds(house: House) -> None:
    house.load()
    house.park()
    parked = house.told.await_one(InstanceParked, "a@1")
    assert parked.memory == pytest.approx(psutil.Process(house.pid).memory_info().rss, rel=0.3)


def test_it_sleeps_only_once_the_driver_sees_its_memory_fall(house: House) -> None:
    house.load()
    house.gpu.listed = {house.pid: 40 * GI, 1: GI}
    house.park()
    with pytest.raises(AssertionError):
        house.told.await_one(InstanceParked, "a@1", timeout=0.3)
    house.gpu.listed = {house.pid: 2 * GI, 1: 40 * GI}  # what another takes is no matter
    house.told.await_one(InstanceParked, "a@1")


def test_a_driver_that_does_not_answer_proves_nothing(house: House) -> None:
    house.load()
    house.gpu.problem = OSError("lost")
    house.park()
    assert "driver" in house.told.await_one(SleepFailed, "a@1").message
    house.gpu.problem = None


def test_a_stop_while_it_falls_asleep_does_not_wait_for_that(house: House) -> None:
    house.load("--sleep-time", "60")
    house.park()
    house.runtime.stop(Stop("a", "a@1", 1, 5.0))
    house.told.await_one(InstanceReleased, "a@1")
    assert house.told.of_holder("a@1") == ["HolderReady", "HolderReleased"]


def test_an_engine_that_ends_while_it_falls_asleep_is_noticed(house: House) -> None:
    house.load("--sleep-time", "60")
    house.park()
    psutil.Process(house.pid).kill()
    house.told.await_one(InstanceReleased, "a@1")
    kinds = house.told.of_holder("a@1")
    assert kinds[-1] == "HolderReleased"
    assert {"HolderFailed", "SleepFailed"} & set(kinds)


def test_one_that_has_not_been_ready_cannot_sleep_yet(house: House) -> None:
    spec = {"engine": "mock", "args": ["--load-time", "0.5"], "lifecycle": {"release": "Park"}}
    house.runtime.begin([Model.model_validate({"metadata": {"name": "a"}, "spec": spec})], house.told)
    house.runtime.start(Start("a", "a@1", 1))
    house.park()
    assert "not been ready" in house.told.await_one(SleepFailed, "a@1").message
    house.told.await_one(InstanceReady, "a@1")
