"""When the driver's figures prove that an instance gave its memory back."""

import sys
from types import SimpleNamespace

import pytest

from hotseat.runtimes.local.gpus import TOLERANCE, MemoryBaseline, Nvml, find_accelerators, take_baseline
from tests.fakes import FakeAccelerators

GIB = 1 << 30
OTHERS, OURS = 10, 20  # process ids


@pytest.fixture
def gpu() -> FakeAccelerators:
    """A GPU on which somebody has 1 GiB and the driver some."""
    gpu = FakeAccelerators()
    gpu.used, gpu.listed = GIB + 100, {OTHERS: GIB}
    return gpu


@pytest.fixture
def claim(gpu: FakeAccelerators) -> MemoryBaseline:
    claim = take_baseline(gpu)
    assert claim is not None
    claim.processes.add(OURS)
    return claim


def test_all_is_given_back(claim: MemoryBaseline) -> None:
    assert claim.unreleased() == ""


def test_a_process_that_is_listed_remains(claim: MemoryBaseline, gpu: FakeAccelerators) -> None:
    gpu.listed[OURS] = 0
    assert claim.unreleased() == "GPU 0 still lists the processes 20"


def test_memory_that_nobody_accounts_for_remains(claim: MemoryBaseline, gpu: FakeAccelerators) -> None:
    gpu.used += 8 * GIB
    assert claim.unreleased() == (
        "GPU 0 has 8192 MiB more in use than before, and the driver does not say by which process; the GPU counts as free once no more than "
        "256 MiB of them are left"
    )


def test_a_little_is_tolerated(claim: MemoryBaseline, gpu: FakeAccelerators) -> None:
    gpu.used += TOLERANCE
    assert claim.unreleased() == ""


def test_what_others_took_meanwhile_is_theirs(claim: MemoryBaseline, gpu: FakeAccelerators) -> None:
    gpu.used += 8 * GIB
    gpu.listed[30] = 8 * GIB
    assert claim.unreleased() == ""


def test_what_others_gave_back_hides_nothing(claim: MemoryBaseline, gpu: FakeAccelerators) -> None:
    gpu.listed = {}  # the other left with its 1 GiB, and as much of ours is still in use
    assert "1024 MiB" in claim.unreleased()


@pytest.fixture
def shared() -> FakeAccelerators:
    """A GPU whose driver lists nobody, as in a container. Others have 2 GiB of it."""
    gpu = FakeAccelerators()
    gpu.used = 2 * GIB
    return gpu


def loaded(gpu: FakeAccelerators, memory: int = 8 * GIB) -> MemoryBaseline:
    """Of an engine that has taken so much."""
    claim = take_baseline(gpu)
    assert claim is not None
    gpu.used += memory
    claim.update(loaded=True)
    return claim


def test_where_nobody_is_listed_what_others_took_meanwhile_is_theirs(shared: FakeAccelerators) -> None:
    claim = loaded(shared)
    shared.used += 3 * GIB  # while it served
    claim.update()
    shared.used -= 7 * GIB
    assert claim.unreleased() == "", "all but a little of what came with it is back"


def test_where_nobody_is_listed_what_is_not_given_back_remains(shared: FakeAccelerators) -> None:
    claim = loaded(shared)
    shared.used += 3 * GIB
    claim.update()
    shared.used -= 4 * GIB
    assert "GPU 0 has 7168 MiB more in use than before" in claim.unreleased(10.0)


def test_a_place_is_not_closed_for_ever_by_what_others_took_in_the_wrong_moment(shared: FakeAccelerators) -> None:
    claim = loaded(shared, 2 * GIB)
    shared.used += GIB - 2 * GIB  # others took 1 GiB just when it ended
    assert claim.unreleased(59.0) != ""
    assert claim.unreleased(60.0) == ""
    crashed = take_baseline(shared)
    assert crashed is not None
    shared.used += GIB  # it never got ready: nobody knows what came with it
    assert crashed.unreleased(59.0) != ""
    assert crashed.unreleased(60.0) == ""


def test_where_nothing_came_back_it_is_never_free(shared: FakeAccelerators) -> None:
    assert "8192 MiB more" in loaded(shared).unreleased(1e6)


def test_where_the_driver_tells_time_proves_nothing(claim: MemoryBaseline, gpu: FakeAccelerators) -> None:
    gpu.used += 8 * GIB
    gpu.listed[OURS] = 8 * GIB
    claim.update(loaded=True)
    del gpu.listed[OURS]
    assert "8192 MiB more" in claim.unreleased(1e6)


def test_only_gpus_that_it_was_given_are_looked_at(shared: FakeAccelerators) -> None:
    claim = take_baseline(shared, [1])
    assert claim is not None
    shared.used += 8 * GIB
    assert claim.unreleased() == ""


def test_a_driver_that_does_not_answer_proves_nothing(claim: MemoryBaseline, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError("lost")

    monkeypatch.setattr(FakeAccelerators, "snapshot", fail)
    assert "lost" in claim.unreleased()
    assert take_baseline(claim.accelerators) is None  # before a start: nothing to compare with


def test_no_driver_is_no_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_accelerators() is None
    assert take_baseline(None) is None


def test_nvml_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the library's own names, so that a misspelt one shows."""
    listed = [SimpleNamespace(pid=7, usedGpuMemory=GIB), SimpleNamespace(pid=8, usedGpuMemory=None)]
    library = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: f"gpu{index}",
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=2 * GIB),
        nvmlDeviceGetComputeRunningProcesses=lambda _: listed,
        nvmlDeviceGetGraphicsRunningProcesses=lambda _: [],
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert Nvml().snapshot() == {0: (2 * GIB, {7: GIB, 8: 0})}
    assert Nvml().uuids() == ("GPU-gpu0",)
