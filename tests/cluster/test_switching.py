"""Models take turns on a real cluster, asked through the gateway, and everything that people see of it."""

import pytest
import requests

from .harness import GPU_RESOURCE, IMAGE, Guard, Hotseat, lines_of, model, wait_until, workspace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

KN = """
apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: handmade
  labels: {hotseat.dev/workspace: default}
  annotations: {hotseat.dev/names: "handmade,by-hand,also", hotseat.dev/gpus: "1"}
spec:
  template:
    metadata:
      annotations: {autoscaling.knative.dev/class: gpu.hotseat.dev, autoscaling.knative.dev/initial-scale: "0"}
    spec:
      containers:
        - image: IMAGE
          command: [python, -m, hotseat.engines.mock_server, --name, handmade, --host, 0.0.0.0, --port, "8080"]
          ports: [{containerPort: 8080}]
          env: [{name: HOTSEAT_MOCK_SEAT, value: /cache/seat-default}]
          readinessProbe: {httpGet: {path: /health}, periodSeconds: 1}
          resources: {limits: {LIMIT}}
          securityContext:
            runAsNonRoot: true
            runAsUser: 65532
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
            seccompProfile: {type: RuntimeDefault}
          volumeMounts: [{name: cache, mountPath: /cache}]
      volumes: [{name: cache, persistentVolumeClaim: {claimName: seat}}]
"""


@pytest.fixture(scope="module", autouse=True)
def models(hotseat: Hotseat) -> None:
    hotseat.apply(model("alpha"), model("beta", "--load-time", "2"))
    wait_until(lambda: hotseat.is_ready("alpha") and hotseat.is_ready("beta"), 60, "services of the models")


def test_two_models_answer_in_turn(hotseat: Hotseat, guard: Guard) -> None:
    for name in ("alpha", "beta", "alpha"):
        answer = hotseat.chat(name)
        assert (answer.status, answer.body["model"]) == (200, name), answer.error
        assert hotseat.residents() == {name: "ready"}
        # A pod whose containers have ended may be listed a moment longer.
        wait_until(lambda: len(hotseat.pods("hotseat.dev/model")) == 1, 10, "only one pod")
        (pod,) = hotseat.pods("hotseat.dev/model")
        assert pod["metadata"]["labels"]["hotseat.dev/model"] == name
    last = hotseat.status("workspace", "default")["switches"][-1]
    assert (last["from"], last["to"], last["outcome"]) == (["beta"], "alpha", "completed")


def test_a_form_above_the_limit_on_bodies_waits_in_a_file(hotseat: Hotseat, guard: Guard) -> None:
    end = b'\r\n--limit\r\nContent-Disposition: form-data; name="model"\r\n\r\nbeta\r\n--limit--\r\n'
    form = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + bytes(70 * 2**20) + end
    assert hotseat.chat("alpha").status == 200
    router = f"http://{hotseat.component('router')['status']['podIP']}:8080/v1/audio/transcriptions"
    kind = {"Content-Type": "multipart/form-data; boundary=limit"}
    answer = requests.post(router, form, headers=kind, timeout=60)
    assert answer.status_code == 200, answer.text
    assert hotseat.residents() == {"beta": "ready"}


def test_services_stay_ready_at_zero_and_while_one_loads(hotseat: Hotseat, guard: Guard) -> None:
    assert hotseat.chat("alpha").status == 200
    asked = hotseat.chat_aside("beta")
    seen = []
    while not asked.done:
        assert hotseat.is_ready("alpha"), "alpha leaves"
        assert hotseat.is_ready("beta"), "beta comes"
        seen.append(hotseat.state_label("beta"))
    assert asked.result().status == 200
    assert "loading" in seen
    assert [line[-1] for line in lines_of(hotseat.kubectl("get", "revision", "--no-headers"))]


def test_a_label_shows_who_is_resident(hotseat: Hotseat, guard: Guard) -> None:
    assert hotseat.chat("alpha").status == 200
    wait_until(lambda: (hotseat.state_label("alpha"), hotseat.state_label("beta")) == ("ready", "unloaded"), 5)


def test_statuses_tell_what_is(hotseat: Hotseat, guard: Guard) -> None:
    assert hotseat.chat("alpha").status == 200
    for condition in ("Cached", "Ready", "Resident"):
        hotseat.kubectl("wait", "model/alpha", f"--for=condition={condition}", "--timeout=5s")
    status = hotseat.status("model", "alpha")
    assert (status["phase"], status["replicas"], status["workspace"]) == ("Ready", 1, "default")
    assert status["address"].endswith(":8012")
    assert status["observedGeneration"] == hotseat.get("model", "alpha")["metadata"]["generation"]
    assert status["lastSwitch"]["outcome"] == "completed"
    wait_until(lambda: hotseat.status("model", "beta")["phase"] == "Unloaded", 5)
    assert hotseat.condition("model", "beta", "Resident")["status"] == "False"
    space = hotseat.status("workspace", "default")
    assert space["resident"] == "alpha"
    assert set(space["switches"][-1]["phases"]) >= {"drain", "release", "load", "total"}
    # On a busy machine, a report may take longer than the condition allows.
    wait_until(lambda: hotseat.condition("workspace", "default", "EventsDelivered")["status"] == "True", 20)


def test_an_unknown_name_is_refused_and_moves_nobody(hotseat: Hotseat, guard: Guard) -> None:
    assert hotseat.chat("alpha").status == 200
    before = hotseat.status("workspace", "default")["epoch"]
    answer = hotseat.chat("nobody-knows-it")
    assert answer.status == 404
    assert answer.body["error"]["code"] == "model_not_found"
    assert hotseat.status("workspace", "default")["epoch"] == before
    assert hotseat.residents() == {"alpha": "ready"}


def test_a_request_in_flight_is_finished_before_its_model_goes(hotseat: Hotseat, guard: Guard) -> None:
    hotseat.apply(model("slow", "--tokens-per-second", "8"))
    assert hotseat.served("slow")
    long = hotseat.chat_aside("slow", max_tokens=40)
    wait_until(
        lambda: any(q["inFlight"] for q in hotseat.status("workspace", "default")["queue"]), 10, "a request in flight"
    )
    assert hotseat.chat("alpha").status == 200
    answer = long.result(1)
    assert answer.status == 200
    assert answer.body["usage"]["completion_tokens"] == 40
    hotseat.delete("model", "slow")


def test_a_service_made_by_hand_is_adopted(hotseat: Hotseat, guard: Guard) -> None:
    limit = f'{GPU_RESOURCE}: "1"' if GPU_RESOURCE else "memory: 200Mi"
    hotseat.apply(KN.replace("IMAGE", IMAGE).replace("LIMIT", limit))
    wait_until(lambda: hotseat.is_ready("handmade"), 60, "the service")
    wait_until(lambda: hotseat.chat("by-hand").status != 404, 20, "its other name is known")
    answer = hotseat.chat("handmade")
    assert (answer.status, answer.body["model"]) == (200, "handmade"), answer.error
    assert hotseat.residents() == {"handmade": "ready"}
    assert hotseat.chat("alpha").status == 200
    hotseat.delete("ksvc", "handmade")
    wait_until(lambda: hotseat.chat("handmade").status == 404, 20, "it is forgotten")


def test_a_change_of_a_resident_model_is_a_clean_switch(hotseat: Hotseat, guard: Guard) -> None:
    assert hotseat.chat("alpha").status == 200
    first = hotseat.status("ksvc", "alpha")["latestCreatedRevisionName"]
    pod = hotseat.pod_of("alpha")
    hotseat.apply(model("alpha", "--tokens", "3"))
    wait_until(lambda: hotseat.status("ksvc", "alpha")["latestReadyRevisionName"] != first, 60, "a new Revision")
    wait_until(
        lambda: pod["metadata"]["uid"] not in [p["metadata"]["uid"] for p in hotseat.pods_of("alpha")],
        60,
        "the old pod goes",
    )
    answer = hotseat.chat("alpha")
    assert answer.status == 200, answer.error
    assert answer.body["usage"]["completion_tokens"] == 3, "the new arguments"
    fresh = hotseat.pod_of("alpha")
    assert fresh["metadata"]["labels"]["serving.knative.dev/revision"] != first
    hotseat.apply(model("alpha"))


def test_drift_is_repaired(hotseat: Hotseat, guard: Guard) -> None:
    change = '{"spec":{"template":{"spec":{"containerConcurrency":7,"timeoutSeconds":60}}}}'
    wanted = hotseat.get("ksvc", "beta")["spec"]["template"]["spec"]["timeoutSeconds"]
    hotseat.kubectl("patch", "ksvc", "beta", "--type=merge", "-p", change)
    wait_until(
        lambda: hotseat.get("ksvc", "beta")["spec"]["template"]["spec"]["timeoutSeconds"] == wanted, 30, "the timeout"
    )
    assert hotseat.chat("beta").status == 200


def test_a_service_goes_with_its_model(hotseat: Hotseat, guard: Guard) -> None:
    hotseat.apply(model("gone"))
    wait_until(lambda: hotseat.is_ready("gone"), 60)
    assert hotseat.chat("gone").status == 200
    hotseat.delete("model", "gone")
    wait_until(lambda: not hotseat.get("ksvc", "gone"), 30, "the service goes")
    wait_until(lambda: hotseat.residents() == {}, 60, "the seat is free")
    assert hotseat.chat("gone").status == 404
    assert hotseat.chat("beta").status == 200


def test_two_workspaces_do_not_know_each_other(hotseat: Hotseat, guard: Guard) -> None:
    hotseat.apply(workspace("second"), model("gamma", workspace="second"))
    wait_until(lambda: hotseat.is_ready("gamma"), 60)
    assert hotseat.chat("beta").status == 200
    hotseat.served("gamma")
    assert hotseat.residents() == {"beta": "ready"}
    assert hotseat.residents("second") == {"gamma": "ready"}
    assert hotseat.chat("alpha").status == 200
    assert hotseat.residents("second") == {"gamma": "ready"}
    hotseat.delete("model", "gamma")
    hotseat.delete("workspace", "second")
