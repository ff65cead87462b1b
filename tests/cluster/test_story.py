"""What kubectl and the router tell of a switch while it happens: who is resident, who waits and why, and its Events."""

import os
import re
import subprocess

import pytest

from .harness import Guard, Hotseat, lines_of, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_a_switch_reads_like_a_story(hotseat: Hotseat, guard: Guard) -> None:
    hotseat.apply(model("teller", "--tokens-per-second", "10"), model("listener", "--load-time", "2"))
    for name in ("listener", "teller"):
        assert hotseat.served(name).status == 200
    command = [os.environ.get("KUBECTL", "kubectl"), "--kubeconfig", os.environ["HOTSEAT_TEST_KUBECONFIG"]]
    watching = [*command, "-n", hotseat.namespace, "get", "workspace", "default", "-w"]
    with subprocess.Popen(watching, stdout=subprocess.PIPE, text=True) as watch:
        try:
            switch_while_one_waits(hotseat)
        finally:
            watch.terminate()
        assert watch.stdout is not None
        lines = [re.split("  +", line.strip()) for line in watch.stdout.read().splitlines()]
    assert lines[0] == ["NAME", "RESIDENT", "SWITCHING TO", "WAITING", "SINCE", "READY", "AGE"]
    told = [" ".join(line) for line in lines]
    for words in ("1 listener (Batch)", "listener: releasing teller", "listener: loading 1 listener (Loading)"):
        assert any(words in line for line in told), (words, told)

    def events(kind: str, name: str) -> set[str]:
        fields = f"involvedObject.kind={kind},involvedObject.name={name}"
        return {
            line[0] for line in lines_of(hotseat.kubectl("get", "events", f"--field-selector={fields}", "-o", COLUMNS))
        }

    for kind, name in (("Model", "listener"), ("Workspace", "default")):
        wait_until(lambda k=kind, n=name: {"SwitchStarted", "SwitchCompleted"} <= events(k, n), 10, f"Events of {kind}")


def switch_while_one_waits(hotseat: Hotseat) -> None:
    long = hotseat.chat_aside("teller", max_tokens=60)
    wait_until(lambda: any(q["inFlight"] for q in hotseat.status("workspace", "default")["queue"]), 10, "in flight")
    asked = hotseat.chat_aside("listener")

    def row() -> dict[str, object]:
        rows = hotseat.request("GET", "/api/queue").body["queue"]
        return next((row for row in rows if row["model"] == "listener"), {})

    wait_until(lambda: row().get("reason") == "Batch", 20, "the router says why")
    found = row()
    assert str(found["message"]).startswith("teller is resident and serves 1 request in flight; it ends its turn")
    assert found["behind"] == ["teller"]
    assert found["expected_at"], "both were loaded before"
    assert (long.result().status, asked.result().status) == (200, 200)
    wait_until(lambda: not hotseat.status("workspace", "default").get("waitingFor"), 10, "nobody waits")


COLUMNS = "custom-columns=REASON:.reason"
