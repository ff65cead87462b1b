"""Clients that people use, with their defaults: plain, streamed, with tools, with an error, and with a load in between."""

import os
import subprocess
from pathlib import Path

import pytest

from .conftest import Up
from .harness import model

SCRIPTS = Path(__file__).parents[1] / "clients"
PYTHON = os.environ.get("HOTSEAT_TEST_CLIENTS")  # of the venv with tests/clients/requirements.txt; scripts/test sets it


@pytest.mark.skipif(PYTHON is None, reason="HOTSEAT_TEST_CLIENTS names no Python with tests/clients/requirements.txt")
@pytest.mark.parametrize("client", ["langchain_client", "litellm_client", "litellm_proxy"])
def test_a_client_works_unchanged(up: Up, client: str, tmp_path: Path) -> None:
    hotseat = up(model("a"), model("b"), options=("--api-key", "k"))
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    command = [str(PYTHON), str(SCRIPTS / f"{client}.py"), hotseat.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
