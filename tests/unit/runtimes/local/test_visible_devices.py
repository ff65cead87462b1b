"""What an engine is told about GPUs, by vendor, and what hotseat itself was told."""

from pathlib import Path

import pytest

from hotseat.api.model import Model
from hotseat.engines.mock import Mock
from hotseat.runtimes.local.gpus import AMD, INTEL, NVIDIA, Gpus, find_gpus
from hotseat.runtimes.local.launch import make_plan
from tests.fakes import FakeAccelerators

VARIABLE = "CUDA_VISIBLE_DEVICES"


def model(gpus: int = 1, **env: str) -> Model:
    variables = [{"name": name, "value": value} for name, value in env.items()]
    spec = {"engine": "mock", "resources": {"gpus": gpus}, "env": variables}
    return Model.model_validate({"metadata": {"name": "a"}, "spec": spec})


class TwoGpus(FakeAccelerators):
    def uuids(self) -> tuple[str, ...]:
        return ("GPU-aa", "GPU-bb")


def machine(folder: Path, *traces: str) -> Path:
    for trace in traces:
        (folder / trace).mkdir(parents=True)
    return folder


def test_nvidia_gpus_are_named_by_uuid_where_the_driver_tells_and_else_by_number(tmp_path: Path) -> None:
    gpus = find_gpus(TwoGpus(), {}, tmp_path)
    assert gpus.names == ("0", "1")
    shown = gpus.environment(model(2), ("0", "1"))
    assert shown == {VARIABLE: "GPU-aa,GPU-bb", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert gpus.environment(model(), ("GPU-cc",))[VARIABLE] == "GPU-cc"  # stated by a document
    silent = find_gpus(None, {}, machine(tmp_path, "proc/driver/nvidia/version"))
    assert silent.names is None
    assert silent.environment(model(), ("1",)) == {VARIABLE: "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_one_variable_of_amd_is_set_and_the_others_are_cleared(tmp_path: Path) -> None:
    gpus = find_gpus(None, {}, machine(tmp_path, "sys/class/kfd"))
    assert gpus.vendor is AMD
    cleared = {"HIP_VISIBLE_DEVICES": None, "GPU_DEVICE_ORDINAL": None, VARIABLE: None}
    assert gpus.environment(model(), ("1",)) == {"ROCR_VISIBLE_DEVICES": "1", **cleared}
    assert gpus.environment(model(0), ()) == {"ROCR_VISIBLE_DEVICES": "-1", **cleared}


def test_intel_has_a_mask_and_no_value_for_none(tmp_path: Path) -> None:
    gpus = find_gpus(None, {}, machine(tmp_path, "sys/module/xe"))
    assert gpus.vendor is INTEL
    assert gpus.environment(model(2), ("0", "1")) == {"ZE_AFFINITY_MASK": "0,1"}
    assert gpus.environment(model(0), ()) == {}


def test_a_model_without_gpus_sees_none() -> None:
    assert Gpus().environment(model(0), ()) == {VARIABLE: ""}


def test_what_nobody_hands_out_is_left_as_it_is() -> None:
    assert Gpus().environment(model(1), ()) == {}


def test_hotseat_hands_out_only_what_it_was_given_itself(tmp_path: Path) -> None:
    gpus = find_gpus(TwoGpus(), {VARIABLE: "3, 1"}, tmp_path)
    assert gpus.names == ("3", "1")
    assert gpus.environment(model(), ("3",)) == {VARIABLE: "3"}  # as whoever gave it counts
    assert find_gpus(TwoGpus(), {VARIABLE: ""}, tmp_path).names == ()
    given = find_gpus(None, {"HIP_VISIBLE_DEVICES": "2"}, machine(tmp_path, "sys/class/kfd"))
    assert given.environment(model(), ("2",))["HIP_VISIBLE_DEVICES"] == "2"
    assert given.environment(model(), ("2",))["ROCR_VISIBLE_DEVICES"] is None


def test_the_model_has_the_last_word() -> None:
    assert Gpus().environment(model(1, CUDA_VISIBLE_DEVICES="7"), ("0",)) == {}
    assert Gpus().environment(model(0, CUDA_VISIBLE_DEVICES="7"), ()) == {}
    assert Gpus(AMD).environment(model(1, HIP_VISIBLE_DEVICES="7"), ("0",)) == {}


@pytest.mark.parametrize(
    ("shown", "seen"), [({VARIABLE: "1"}, "1"), ({VARIABLE: None}, None), ({}, "hotseat's own"), ({VARIABLE: ""}, "")]
)
def test_the_engine_gets_it_in_its_environment(
    shown: dict[str, str | None], seen: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, "hotseat's own")
    plan = make_plan(model(), Mock(), 1234, tmp_path, {}, gpus=shown)
    assert plan.env.get(VARIABLE) == seen
    own = make_plan(model(1, CUDA_VISIBLE_DEVICES="7"), Mock(), 1234, tmp_path, {}, gpus={})
    assert own.env[VARIABLE] == "7"


def test_nvidia_is_the_guess_where_nothing_tells(tmp_path: Path) -> None:
    assert find_gpus(None, {}, tmp_path) == Gpus(NVIDIA)
