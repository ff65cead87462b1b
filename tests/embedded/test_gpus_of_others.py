"""A GPU that hotseat does not have to itself: another hotseat, or a desktop. NVIDIA's library is one of ours."""

import uuid
from pathlib import Path

import pytest

from .conftest import Up
from .harness import eventually, model

NVML = """
import pathlib, time, types
class NVMLError(Exception): ...
used = pathlib.Path({used!r})
def nvmlInit(): ...
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(handle): return {uuid!r}
def nvmlDeviceGetMemoryInfo(handle): return types.SimpleNamespace(used=int(used.read_text()), total=141 << 30)
def nvmlDeviceGetComputeRunningProcesses(handle): return []  # as inside a container
nvmlDeviceGetGraphicsRunningProcesses = nvmlDeviceGetComputeRunningProcesses
NVML_TEMPERATURE_GPU = 0
def nvmlDeviceGetName(handle): return "NVIDIA H200"
def nvmlDeviceGetTemperature(handle, sensor): return 41
def nvmlDeviceGetPowerUsage(handle): return 123_400
def nvmlDeviceGetUtilizationRates(handle):
    while used.with_name("hangs").exists(): time.sleep(0.01)
    return types.SimpleNamespace(gpu=45)
"""


class Gpu:
    """One whose driver lists nobody."""

    def __init__(self, folder: Path) -> None:
        self.uuid = f"GPU-{uuid.uuid4()}"
        self._used = folder / "used"
        self.used(0)
        (folder / "pynvml.py").write_text(NVML.format(used=str(self._used), uuid=self.uuid))
        self.env = {"PYTHONPATH": str(folder)}

    def used(self, gib: int) -> None:
        draft = self._used.with_name("draft")
        draft.write_text(str(gib << 30))
        draft.rename(self._used)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    for variable in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    return Gpu(tmp_path)


def test_two_hotseats_on_one_gpu_are_told_of_each_other(up: Up, gpu: Gpu) -> None:
    first = up(model("a"), env=gpu.env)
    second = up(model("b"), env=gpu.env)
    (warning,) = [said for said in second.said() if "WARNING" in said]
    assert (
        f"another hotseat (pid {first.worker()}, state directory {first.state}) also uses GPU 0 ({gpu.uuid})" in warning
    )
    assert not [said for said in first.said() if "WARNING" in said]
    third = up(model("c", resources={"gpus": 0}), env=gpu.env)
    assert not [said for said in third.said() if "WARNING" in said], "it uses none"


def test_memory_that_others_take_meanwhile_does_not_close_the_place(up: Up, gpu: Gpu) -> None:
    hotseat = up(model("a", "--stop-time", "0.3"), model("b"), env=gpu.env)
    hotseat.ask("a")
    gpu.used(3)  # somebody else has come
    assert hotseat.ask("b").by == "b"
    assert hotseat.events("model.failed") == []


def test_a_place_that_is_closed_says_what_it_waits_for(up: Up, gpu: Gpu) -> None:
    hotseat = up(model("a", "--load-time", "0.5"), model("b"), env=gpu.env)
    load = hotseat.call("POST", "/api/models/a/load?wait=10s")
    eventually(lambda: hotseat.loads()["a"])
    gpu.used(8)
    assert load.answer().status == 200
    waits = hotseat.send("b")  # nothing comes back
    hotseat.wait_for(lambda: hotseat.events("model.failed", "a"), 20)
    answer = waits.answer()
    assert (answer.status, answer.code) == (503, "release_unproven")
    assert "GPU 0 has 8192 MiB more in use than before" in answer.json()["error"]["message"]
    gpu.used(0)
    hotseat.wait_event("model.released", "a")
    assert hotseat.ask("b").by == "b"


def test_figures_of_gpus_are_listed_and_measured(up: Up, gpu: Gpu) -> None:
    hotseat = up(model("a"), env=gpu.env)
    gpu.used(3)
    row = {
        "id": "0",
        "uuid": gpu.uuid,
        "name": "NVIDIA H200",
        "memory_used": 3 << 30,
        "memory_total": 141 << 30,
        "utilization": 0.45,
        "temperature": 41,
        "power": 123.4,
        "workspace": "default",
    }
    eventually(lambda: hotseat.get("/api/gpus").json() == {"gpus": [row]})
    figures = {name: value for (name, *labels), value in hotseat.metrics().items() if labels == ["0", gpu.uuid]}
    assert figures == {
        "hotseat_gpu_memory_used_bytes": 3 << 30,
        "hotseat_gpu_memory_total_bytes": 141 << 30,
        "hotseat_gpu_utilization_ratio": 0.45,
        "hotseat_gpu_temperature_celsius": 41,
        "hotseat_gpu_power_watts": 123.4,
    }


def test_a_driver_that_hangs_holds_up_neither_a_scrape_nor_requests(up: Up, gpu: Gpu, tmp_path: Path) -> None:
    hotseat = up(model("a"), env=gpu.env)
    (tmp_path / "hangs").touch()
    figures = hotseat.call("GET", "/api/gpus")
    assert hotseat.ask("a").by == "a"
    (row,) = figures.answer().json()["gpus"]
    assert (row["uuid"], row["memory_used"], row["workspace"]) == (gpu.uuid, None, "default")
    assert not any(name.startswith("hotseat_gpu_") for name, *_ in hotseat.metrics())
    (tmp_path / "hangs").unlink()
    eventually(lambda: hotseat.get("/api/gpus").json()["gpus"][0]["memory_used"] == 0)


def test_a_machine_without_a_driver_has_no_figures(up: Up) -> None:
    assert up(model("a")).get("/api/gpus").json() == {"gpus": []}
