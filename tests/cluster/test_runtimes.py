"""A Workspace moves from Knative Services to Deployments and back, while clients ask."""

import json

import pytest

from hotseat.api.types import Json

from .harness import ROOT, Guard, Hotseat, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

LABEL = "hotseat.dev/deployment"


def move(hotseat: Hotseat, runtime: str) -> None:
    patch = json.dumps({"spec": {"runtime": runtime}})
    hotseat.kubectl("patch", "workspace", "default", "--type=merge", "-p", patch)
    wait_until(lambda: hotseat.status("workspace", "default").get("runtime") == runtime, 30, runtime)


def served_by(hotseat: Hotseat, name: str, label: str) -> list[Json]:
    """Ask until pods of the new runtime are there. Until they can be, the model is served where it was."""

    def look() -> list[Json]:
        assert hotseat.served(name).status == 200
        return [each for each in hotseat.pods(label) if "deletionTimestamp" not in each["metadata"]]

    return wait_until(look, 60, f"a pod with {label}")


def test_a_workspace_moves_and_its_requests_wait(hotseat: Hotseat, guard: Guard) -> None:
    hotseat.kubectl("apply", "-k", str(ROOT / "deployment" / "role"))
    hotseat.apply(model("a"), model("b"))
    hotseat.served("a")
    assert hotseat.status("workspace", "default")["runtime"] == "Knative", "Auto, where Knative is"

    move(hotseat, "Deployment")
    [pod] = served_by(hotseat, "a", f"{LABEL}=a")
    assert [each["name"] for each in pod["spec"]["containers"]] == ["engine"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 2
    wait_until(lambda: not hotseat.get("ksvc", "a"), 60, "the ksvc is gone")
    status = wait_until(lambda: (s := hotseat.status("model", "a")).get("readyReplicas") and s, 30, "its replicas")
    assert (status["replicas"], status["updatedReplicas"]) == (1, 1)
    assert "Available" in {each["type"] for each in status["conditions"]}
    assert hotseat.chat("b", max_tokens=1).status == 200
    assert hotseat.residents() == {"b": "ready"}

    move(hotseat, "Knative")
    [pod] = served_by(hotseat, "b", "serving.knative.dev/service=b")
    assert "queue-proxy" in [each["name"] for each in pod["spec"]["containers"]]
    wait_until(
        lambda: hotseat.kubectl("get", "deployment", "b", "--ignore-not-found") == "", 60, "the Deployment is gone"
    )
