"""Models of a folder, and a configuration of llama-swap that is served as it is: each beside documents, and reloaded."""

import stat
import sys
from pathlib import Path

import psutil
import pytest

from .conftest import Up
from .harness import Hotseat, eventually, model, workspace

PACKAGE = Path(__file__).parents[2] / "functions"
# Takes the arguments of llama-server that hotseat gives, and is a mock of that name.
SERVER = f"""\
#!/bin/sh
echo "$@" >> {{log}}
while [ $# -gt 0 ]; do
    case "$1" in --alias) name=$2;; --port) port=$2;; esac
    shift
done
PYTHONPATH={PACKAGE} exec {sys.executable} -S -P -m hotseat.engines.mock_server --name "$name" --port "$port"
"""
CONFIG = f"""\
macros:
  mock: {sys.executable} -S -P -m hotseat.engines.mock_server --name ${{MODEL_ID}} --port ${{PORT}}
models:
  Org/Swap.Q4: {{cmd: "${{mock}}", env: ["PYTHONPATH={PACKAGE}"], ttl: 300, filters: {{unheardOf: 1}}}}
"""


@pytest.fixture
def hotseat(up: Up, tmp_path: Path) -> Hotseat:
    program, models = tmp_path / "bin" / "llama-server", tmp_path / "models"
    program.parent.mkdir()
    program.write_text(SERVER.replace("{log}", str(tmp_path / "argv")))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (models / "vision").mkdir(parents=True)
    for name in ("Tiny-Q4.gguf", "vision/model.gguf", "vision/mmproj-F16.gguf"):
        (models / name).write_bytes(b"GGUF")
    (tmp_path / "config.yaml").write_text(CONFIG)
    path = f"{program.parent}:/usr/bin:/bin"
    options = (str(tmp_path / "config.yaml"), "--models-dir", str(models))
    return up(model("doc"), options=options, env={"PATH": path})


def shown(hotseat: Hotseat) -> set[str]:
    return {each["id"] for each in hotseat.get("/v1/models").json()["data"]}


def test_all_are_served_and_changes_are_seen(hotseat: Hotseat, tmp_path: Path) -> None:
    assert shown(hotseat) == {"doc", "Org/Swap.Q4", "Tiny-Q4", "vision"}
    assert "warning: " in hotseat.log()
    assert "filters.unheardOf" in hotseat.log()
    for name in ("doc", "Org/Swap.Q4", "Tiny-Q4", "vision"):
        assert hotseat.ask(name).status == 200
    tiny, vision = (tmp_path / "argv").read_text().splitlines()
    assert f"--model {tmp_path}/models/Tiny-Q4.gguf" in tiny
    assert "--mmproj" not in tiny
    assert vision.endswith(f"--mmproj {tmp_path}/models/vision/mmproj-F16.gguf")

    written = tmp_path / "models" / "big.gguf"
    with written.open("wb") as file:
        file.write(b"GGUF")
        file.flush()
        (tmp_path / "config.yaml").write_text(CONFIG.replace("Org/Swap.Q4", "other"))
        eventually(lambda: "other" in shown(hotseat))
    (tmp_path / "models" / "Tiny-Q4.gguf").unlink()
    eventually(lambda: shown(hotseat) == {"doc", "other", "vision", "big"})
    assert hotseat.ask("big").status == 200


def test_models_share_defaults_macros_and_placeholders(up: Up) -> None:
    shared = workspace(
        modelDefaults={
            "lifecycle": {"idleTimeout": "10m"},
            "env": [{"name": "WHERE", "value": "${box}:${port}:${env:HOME}"}],
        },
        macros={"box": "gpu-box", "few": "--tokens ${count}", "count": "3"},
    )
    hotseat = up(shared, model("a", "${words:few}"))
    assert hotseat.ask("a").json()["choices"][0]["message"]["content"] == "a: hi 2"
    port = hotseat.get("/running").json()["running"][0]["address"].rpartition(":")[2]
    there = psutil.Process(hotseat.stats("a")["pid"]).environ()["WHERE"]
    assert there == f"gpu-box:{port}:{psutil.Process().environ()['HOME']}"
    assert not hotseat.get("/api/ps").json()["models"][0]["expires_at"].startswith("9999")
