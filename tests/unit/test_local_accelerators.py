"""When the driver's figures prove that a holder gave its memory back."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hotseat.runtimes.local.accelerators import TOLERANCE, Claim, Nvml, find_accelerators, make_claim

sys.path.insert(0, str(Path(__file__).parents[1]))
from fakes import FakeAccelerators

GIB = 1 << 30
OTHERS, OURS = 10, 20  # process ids


@pytest.fixture
def gpu() -> FakeAccelerators:
    """A GPU on which somebody has 1 GiB and the driver some."""
    gpu = FakeAccelerators()
    gpu.used, gpu.listed = GIB + 100, {OTHERS: GIB}
    return gpu


@pytest.fixture
def claim(gpu: FakeAccelerators) -> Claim:
    claim = make_claim(gpu)
    assert claim is not None
    claim.processes.add(OURS)
    return claim


def test_all_is_given_back(claim: Claim) -> None:
    assert claim.remains() == ""


def test_a_process_that_is_listed_remains(claim: Claim, gpu: FakeAccelerators) -> None:
    gpu.listed[OURS] = 0
    assert claim.remains() == "GPU 0 still lists the processes 20"


def test_memory_that_nobody_accounts_for_remains(claim: Claim, gpu: FakeAccelerators) -> None:
    gpu.used += 8 * GIB
    assert claim.remains() == "GPU 0 has 8192 MiB more in use than before"


def test_a_little_is_tolerated(claim: Claim, gpu: FakeAccelerators) -> None:
    gpu.used += TOLERANCE
    assert claim.remains() == ""


def test_what_others_took_meanwhile_is_theirs(claim: Claim, gpu: FakeAccelerators) -> None:
    gpu.used += 8 * GIB
    gpu.listed[30] = 8 * GIB
    assert claim.remains() == ""


def test_what_others_gave_back_hides_nothing(claim: Claim, gpu: FakeAccelerators) -> None:
    gpu.listed = {}  # the other left with its 1 GiB, and as much of ours is still in use
    assert "1024 MiB" in claim.remains()


def test_a_driver_that_does_not_answer_proves_nothing(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError("lost")

    monkeypatch.setattr(FakeAccelerators, "snapshot", fail)
    assert "lost" in claim.remains()
    assert make_claim(claim.accelerators) is None  # before a start: nothing to compare with


def test_no_driver_is_no_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_accelerators() is None
    assert make_claim(None) is None


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
