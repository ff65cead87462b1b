"""What a container of hotseat's image becomes, given a Model and a cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hotseat.api.model import Model
from hotseat.kube.constants import ClusterSettings
from hotseat.kube.engine_entrypoint import launch_of
from hotseat.kube.objects import service_of
from hotseat.sources.base import FILES, SourceError, complete, entry

SETTINGS = ClusterSettings(image="hotseat:test", namespace="llm")


def environment(cache: Path, **spec: object) -> dict[str, str]:
    """What the kubelet would set."""
    model = Model.model_validate({"metadata": {"name": "qwen"}, "spec": spec})
    service = service_of(model, SETTINGS, "1234")
    assert service is not None
    container = service["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each["value"] for each in container["env"]} | {"HOTSEAT_CACHE_DIR": str(cache)}


def test_the_engine_gets_the_weights_that_the_job_fetched(tmp_path: Path) -> None:
    source = "hf://o/r/a.gguf"
    weights = entry(source, tmp_path) / FILES / "a.gguf"
    weights.parent.mkdir(parents=True)
    weights.touch()
    told = environment(tmp_path, engine="llamacpp", source=source, command=["llama"], env=[{"name": "A", "value": "b"}])
    with pytest.raises(SourceError, match="are not in"):
        launch_of(told)
    complete(source, tmp_path, weights)
    launch = launch_of(told)
    assert launch.argv[:7] == ("llama", "--model", str(weights), "--host", "0.0.0.0", "--port", "8080")
    assert launch.env["A"] == "b"
    assert launch.env["HF_HOME"] == "/cache/hf"


def test_weights_in_a_claim_need_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B", "c")
    told = environment(
        tmp_path, engine="custom", source="pvc://models/x", command=["s", "{port}", "{model}", "{env:B}"]
    )
    assert launch_of(told).argv == ("s", "8080", "/weights/x", "c")


def test_what_is_wrong_is_told_where_a_pods_status_shows_it(tmp_path: Path) -> None:
    told = environment(tmp_path, engine="llamacpp", source="/none.gguf")
    for changed, message in (
        ({}, "source /none.gguf does not exist"),
        ({"HOTSEAT_MODEL": told["HOTSEAT_MODEL"].replace("llamacpp", "tgi")}, "this image has no engine 'tgi'"),
        ({"HOTSEAT_MODEL": json.dumps({})}, "HOTSEAT_MODEL is not a valid Model"),
    ):
        command = [sys.executable, "-P", "-m", "hotseat.kube.engine_entrypoint"]
        ended = subprocess.run(
            command, env={**os.environ, **told, **changed}, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 2
        assert message in ended.stderr
