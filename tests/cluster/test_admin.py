"""What an administrator relies on: one image, admin routes inside only, settings, and logs and events of the router."""

import base64
import json
import subprocess

import pytest

from .harness import ADMIN_PORT, ROOT, Hotseat, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def models(hotseat: Hotseat) -> None:
    hotseat.apply(model("alpha"))
    hotseat.await_model("alpha")
    assert hotseat.served("alpha").status == 200


def public(hotseat: Hotseat, path: str, method: str = "GET") -> int:
    """Ask at the cluster's gateway; give the status."""
    host = f"Host: hotseat-router.{hotseat.namespace}.localhost"
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "-H", host]
    done = subprocess.run([*command, f"http://{hotseat.gateway}{path}"], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_engines_run_in_the_image_of_the_switchers_pod(hotseat: Hotseat) -> None:
    (container,) = hotseat.get("ksvc", "alpha")["spec"]["template"]["spec"]["containers"]
    pod = hotseat.component("switcher")["spec"]["containers"]
    assert container["image"] == next(each["image"] for each in pod if each["name"] == "switcher")


@pytest.mark.parametrize("path", ["/running", "/metrics", "/api/switches", "/api/events?follow=false"])
def test_admin_routes_are_not_at_the_gateway(hotseat: Hotseat, path: str) -> None:
    assert public(hotseat, path) == 404
    assert hotseat.request("GET", path).status == 200, "at the pod"


def test_commands_are_not_at_the_gateway(hotseat: Hotseat) -> None:
    assert public(hotseat, "/api/models/unload", "POST") == 404
    assert hotseat.residents() == {"alpha": "ready"}
    assert [public(hotseat, path) for path in ("/health", "/ready", "/v1/models")] == [200] * 3


def test_the_service_for_admin_routes_leads_to_the_router(hotseat: Hotseat) -> None:
    found = json.loads(hotseat.kubectl("get", "endpoints", "hotseat-router-admin", "-o", "json"))
    addresses = [(a["ip"], s["ports"][0]["port"]) for s in found["subsets"] for a in s["addresses"]]
    assert addresses == [(hotseat.component("router")["status"]["podIP"], ADMIN_PORT)]


def test_logs_and_events_come_from_the_switcher(hotseat: Hotseat) -> None:
    log = hotseat.request("GET", "/api/models/alpha/logs?lines=50")
    assert log.status == 200, log.error
    assert log.body["text"].strip(), "lines of the engine"

    def types() -> set[str]:
        text = hotseat.request("GET", "/api/events?follow=false").body["text"]
        return {line.removeprefix("event: dev.hotseat.") for line in text.splitlines() if line.startswith("event: ")}

    wait_until(lambda: types() >= {"switch.completed.v1", "model.ready.v1"}, 30, "events of the switcher")


def test_settings_reach_the_next_model(hotseat: Hotseat) -> None:
    settings = {"data": {"HOTSEAT_PROGRESS_DEADLINE": "13m", "HOTSEAT_CACHE_SIZE": "1Gi"}}
    hotseat.kubectl("patch", "configmap", "hotseat-settings", "--type=merge", "-p", json.dumps(settings))
    former = hotseat.kill("switcher")
    wait_until(lambda: not hotseat.get("pod", former["metadata"]["name"]), 120, "until it is gone, it may act")
    hotseat.await_another("switcher", former, 90)
    source = "https://origin.example.com/w.gguf"
    hotseat.apply(
        model("beta", source=source, engine="llamacpp", image="engine.example.com/engine:1", cache={}, args=[])
    )
    claim = wait_until(lambda: hotseat.get("pvc", "beta-cache"), 90, "the claim")
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    annotations = wait_until(lambda: hotseat.get("ksvc", "beta"), 30)["spec"]["template"]["metadata"]["annotations"]
    assert annotations["serving.knative.dev/progress-deadline"] == "780s"
    hotseat.delete("model", "beta")


def test_people_with_kubernetes_roles_may_do_what_these_say(hotseat: Hotseat) -> None:
    hotseat.kubectl("apply", "-k", str(ROOT / "knative/aggregated-roles"))
    people = {role: f"{role}-of-{hotseat.namespace}" for role in ("view", "edit", "admin")}
    for role, person in people.items():
        hotseat.kubectl("create", "rolebinding", person, f"--clusterrole={role}", f"--user={person}")

    def may(role: str) -> set[str]:
        asked = [
            ("list", "models"),
            ("create", "models"),
            ("delete", "models"),
            ("get", "workspaces"),
            ("patch", "workspaces"),
        ]
        answers = {
            f"{verb} {what}": hotseat.kubectl("auth", "can-i", verb, what, "--as", people[role], check=False).strip()
            for verb, what in asked
        }
        return {what for what, answer in answers.items() if answer == "yes"}

    sees = {"list models", "get workspaces"}
    wait_until(lambda: may("view") == sees, 30, "the controller aggregates them")
    wait_until(lambda: may("edit") == sees | {"create models", "delete models"}, 30)
    wait_until(lambda: may("admin") == sees | {"create models", "delete models", "patch workspaces"}, 30)


def test_the_demand_key_is_replaced_and_no_request_fails(hotseat: Hotseat) -> None:
    hotseat.apply(model("gamma"))
    hotseat.await_model("gamma")
    key = base64.b64encode(b"another key, which is long enough").decode()
    hotseat.kubectl("patch", "secret", "hotseat-demand", "--type=merge", "-p", json.dumps({"data": {"key": key}}))

    def log(component: str) -> str:
        return hotseat.kubectl("logs", hotseat.component(component)["metadata"]["name"], "-c", component, "--tail=-1")

    for component in ("switcher", "router"):
        pod = hotseat.component(component)["metadata"]["name"]
        # An update of the pod has the kubelet look at its volumes at once.
        hotseat.kubectl("annotate", "pod", pod, "--overwrite", "example.com/look=now")
        wait_until(lambda component=component: "the demand key has changed" in log(component), 120)  # type: ignore[misc]
        for name in ("gamma", "alpha"):
            assert hotseat.served(name).status == 200
    former = hotseat.kill("router")
    hotseat.await_another("router", former, 90)
    for name in ("gamma", "alpha"):
        assert hotseat.served(name).status == 200, "the new router signs with the new key"
    assert "no valid signature" not in log("switcher")
