"""What a container of hotseat's image becomes, given a Model and a cache."""

import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hotseat.api.model import Model
from hotseat.kube.constants import ClusterSettings
from hotseat.kube.engine_entrypoint import launch_of
from hotseat.kube.objects import service_of
from hotseat.sources.base import FILES, SourceError, complete, entry

SETTINGS = ClusterSettings(image="hotseat:test", namespace="llm")


def environment(cache: Path, settings: ClusterSettings = SETTINGS, /, **spec: object) -> dict[str, str]:
    """What the kubelet would set."""
    model = Model.model_validate({"metadata": {"name": "qwen"}, "spec": spec})
    service = service_of(model, settings, "1234")
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
        ({"HOTSEAT_MODEL": told["HOTSEAT_MODEL"].replace("llamacpp", "nosuch")}, "this image has no engine 'nosuch'"),
        ({"HOTSEAT_MODEL": json.dumps({})}, "HOTSEAT_MODEL is not a valid Model"),
    ):
        command = [sys.executable, "-P", "-m", "hotseat.kube.engine_entrypoint"]
        ended = subprocess.run(
            command, env={**os.environ, **told, **changed}, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 2
        assert message in ended.stderr


MOCK = {"engine": "mock", "args": ["--slots", "2"], "cache": {"size": "1Gi"}}


def start(cache: Path, settings: ClusterSettings, **spec: object) -> Path | None:
    """Return the directory for prompt caches with which an engine is started."""
    argv = launch_of(environment(cache, settings, **{**MOCK, **spec})).argv
    return Path(argv[argv.index("--slot-save-path") + 1]) if "--slot-save-path" in argv else None


def test_prompts_are_kept_where_only_the_same_engine_finds_them(tmp_path: Path) -> None:
    keeping = replace(SETTINGS, keep_prompts=60.0)
    folder = start(tmp_path, keeping)
    assert folder is not None
    assert folder.parent == tmp_path / ".hotseat-prompts" / "qwen"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder)] == [0o700, 0o700]
    young, old = folder / "0", folder / "1"
    for path, age in ((young, 50), (old, 70)):
        path.write_bytes(b"p")
        path.chmod(0o664)
        os.utime(path, (time.time() - age, time.time() - age))
    folder.chmod(0o2770)  # as the kubelet does
    assert start(tmp_path, keeping) == folder
    assert [path.name for path in folder.iterdir()] == ["0"]
    assert stat.S_IMODE(young.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) & 0o777 == 0o700
    assert time.time() - young.stat().st_mtime < 40, "it is in use again"
    other = start(tmp_path, keeping, args=["--slots", "3"])
    assert other is not None
    assert [*folder.parent.iterdir()] == [other]
    assert [*other.iterdir()] == []
    (other / "0").write_bytes(b"p")
    assert start(tmp_path, SETTINGS, args=["--slots", "3"]) is None, "they are not kept any longer"
    assert not folder.parent.exists()


def test_a_model_that_is_created_again_has_no_prompts(tmp_path: Path) -> None:
    told = environment(tmp_path, replace(SETTINGS, keep_prompts=60.0), **MOCK)
    assert json.loads(told["HOTSEAT_PROMPTS"]) == {"keep": 60.0, "model": "1234"}
    again = told | {"HOTSEAT_PROMPTS": told["HOTSEAT_PROMPTS"].replace("1234", "5678")}
    assert launch_of(told).argv != launch_of(again).argv


def test_an_engine_starts_without_prompts_if_there_is_no_place_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".hotseat-prompts").write_text("a file")
    assert start(tmp_path, replace(SETTINGS, keep_prompts=60.0)) is None
    assert "no prompt caches are kept" in capsys.readouterr().err


def test_what_the_engine_writes_is_for_nobody_else(tmp_path: Path) -> None:
    code = (
        "import os; from hotseat.kube.engine_entrypoint import main; os.umask(0o22); "
        "os.execvpe = lambda *_: print(oct(os.umask(0))); main()"
    )
    for settings, umask in ((SETTINGS, "0o22"), (replace(SETTINGS, keep_prompts=60.0), "0o77")):
        told = environment(tmp_path, settings, **MOCK)
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, **told},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == umask


def test_a_volume_that_is_mounted_again_has_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet changes the group and the mode of its files. It does not change their content, nor the time of that."""
    monkeypatch.setattr("hotseat.engines.llamacpp._program", lambda: ("/bin/true",))
    weights = tmp_path / "a.gguf"
    weights.write_bytes(b"w")
    spec = {"engine": "llamacpp", "source": str(weights), "args": []}
    keeping = replace(SETTINGS, keep_prompts=60.0)
    first = start(tmp_path, keeping, **spec)
    assert first is not None
    weights.chmod(0o660)
    assert start(tmp_path, keeping, **spec) == first
    weights.write_bytes(b"other")
    assert start(tmp_path, keeping, **spec) not in (None, first)
