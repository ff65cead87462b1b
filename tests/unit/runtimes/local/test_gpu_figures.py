"""The figures of GPUs: read from NVML, reused for a second, and unknown while the driver hangs."""

import sys
import threading
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from hotseat.runtimes.local.gpu_figures import MAX_AGE, GpuFigures, GpuMonitor
from hotseat.runtimes.local.gpus import Nvml

GIB = 1 << 30
FOUND = GpuFigures("0", "GPU-a", "NVIDIA H200", 2 * GIB, 8 * GIB, 0.5, 40, 120.5)


class Failure(Exception):
    """As NVMLError."""


def unsupported(*_: object) -> None:
    raise Failure("Not Supported")


def library(**more: object) -> SimpleNamespace:
    """NVIDIA's library, with its own names, so that a misspelt one shows."""
    functions = {
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetName": lambda _: b"NVIDIA H200",  # before version 12 these were bytes
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=2 * GIB, total=8 * GIB),
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=45, memory=10),
        "nvmlDeviceGetTemperature": lambda _, sensor: 40 if sensor == 0 else None,
        "nvmlDeviceGetPowerUsage": lambda _: 120_500,
    }
    return SimpleNamespace(
        NVMLError=Failure,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: "ab"[index],
        **functions | more,
    )


def test_each_figure_is_read_in_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library())
    first, second = Nvml().figures()
    assert first == GpuFigures("0", "GPU-a", "NVIDIA H200", 2 * GIB, 8 * GIB, 0.45, 40, 120.5)
    assert (second.id, second.uuid) == ("1", "GPU-b")


def test_a_figure_that_a_gpu_does_not_have_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of a GPU (MIG) have no utilisation, and GPUs with the memory of the machine none of their own."""
    fake = library(nvmlDeviceGetUtilizationRates=unsupported, nvmlDeviceGetMemoryInfo=unsupported)
    del fake.nvmlDeviceGetPowerUsage  # an old library
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert Nvml().figures()[0] == GpuFigures("0", "GPU-a", "NVIDIA H200", temperature=40)


class Driver:
    """One that a test can stop."""

    def __init__(self) -> None:
        self.reads = 0
        self.problem: Exception | None = None
        self.answers = threading.Event()
        self.answers.set()

    def read(self) -> Sequence[GpuFigures]:
        self.reads += 1
        assert self.answers.wait(30)
        if self.problem is not None:
            raise self.problem
        return [FOUND]


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_figures_are_reused_for_a_second(driver: Driver) -> None:
    now = [10.0]
    monitor = GpuMonitor(driver.read, ["GPU-a"], clock=lambda: now[0])
    assert monitor.figures() == (FOUND,)
    now[0] += MAX_AGE
    assert monitor.figures() == (FOUND,)
    assert driver.reads == 1
    now[0] += 0.1
    assert monitor.figures() == (FOUND,)
    assert driver.reads == 2


def test_a_driver_that_hangs_is_waited_for_once(driver: Driver) -> None:
    now = [10.0]
    driver.answers.clear()
    monitor = GpuMonitor(driver.read, ["GPU-a"], clock=lambda: now[0], timeout=0.01)
    assert monitor.figures() == (GpuFigures("0", "GPU-a"),), "which GPUs there are is known"
    now[0] += 60
    assert monitor.figures() == (GpuFigures("0", "GPU-a"),)
    assert driver.reads == 1, "no second thread hangs"
    driver.answers.set()
    (thread,) = [each for each in threading.enumerate() if each.name == "gpu-figures"] or [None]
    if thread is not None:
        thread.join(30)
    assert monitor.figures() == (FOUND,)


def test_a_thread_that_cannot_be_started_is_tried_again(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = GpuMonitor(driver.read, ["GPU-a"])

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert monitor.figures() == (GpuFigures("0", "GPU-a"),)
    assert monitor.figures() == (FOUND,)


@pytest.mark.parametrize("problem", [OSError("lost"), ValueError("a bug")])
def test_a_driver_that_fails_tells_nothing(driver: Driver, problem: Exception) -> None:
    driver.problem = problem
    assert GpuMonitor(driver.read, ["GPU-a"]).figures() == (GpuFigures("0", "GPU-a"),)
