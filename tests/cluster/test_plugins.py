"""`kubectl hotseat …` does on a cluster what `hotseat …` does on one machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .harness import Guard, Hotseat, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def models(hotseat: Hotseat) -> None:
    hotseat.apply(model("alpha"), model("beta"))
    wait_until(lambda: hotseat.is_ready("alpha") and hotseat.is_ready("beta"), 60, "services of the models")
    hotseat.served("alpha")


def plugin(hotseat: Hotseat, *args: str, fails: bool = False) -> str:
    """Run `kubectl hotseat`; give what it printed."""
    kubectl = Path(shutil.which(os.environ.get("KUBECTL", "kubectl")) or "kubectl")
    path = f"{Path(sys.executable).parent}:{kubectl.parent}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "KUBECONFIG": os.environ["HOTSEAT_TEST_KUBECONFIG"]}
    command = ["kubectl", "hotseat", args[0], "-n", hotseat.namespace, *args[1:]]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def test_who_is_there_and_how(hotseat: Hotseat, guard: Guard) -> None:
    rows = {row["id"]: row for row in json.loads(plugin(hotseat, "models", "-o", "json"))["data"]}
    assert set(rows) == {"alpha", "beta"}
    assert "alpha" in plugin(hotseat, "ps")


def test_load_and_unload_wait_for_what_they_order(hotseat: Hotseat, guard: Guard) -> None:
    plugin(hotseat, "load", "beta")
    assert hotseat.residents() == {"beta": "ready"}
    plugin(hotseat, "unload", "beta")
    wait_until(lambda: hotseat.residents() == {}, 5)
    plugin(hotseat, "load", "alpha")
    assert hotseat.residents() == {"alpha": "ready"}
    assert "nobody" in plugin(hotseat, "load", "nobody", fails=True)


def test_chat_answers(hotseat: Hotseat, guard: Guard) -> None:
    assert plugin(hotseat, "chat", "beta", "hello").strip()


def test_what_has_been(hotseat: Hotseat, guard: Guard) -> None:
    assert hotseat.chat("alpha").status == 200
    assert hotseat.chat("beta").status == 200
    assert "beta" in plugin(hotseat, "switches")
    events = [json.loads(line) for line in plugin(hotseat, "events", "--no-follow", "-o", "json").splitlines()]
    assert "dev.hotseat.switch.completed.v1" in {each["type"] for each in events}
