"""Deployments and ScaledObjects that a person has made and labelled take turns with a Model, and can be taken back."""

import json

import pytest

from hotseat.kube.constants import CRDS, DEPLOYMENTS, PAUSED_REPLICAS, SCALED_OBJECTS

from .harness import IMAGE, ROOT, SEAT, Guard, Hotseat, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

HANDMADE = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels: {labels}
  annotations: {annotations}
spec:
  replicas: 0
  strategy: {{type: Recreate}}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 2
      automountServiceAccountToken: false
      securityContext: {{fsGroup: 65532}}
      volumes: [{{name: cache, persistentVolumeClaim: {{claimName: seat}}}}]
      containers:
        - name: main
          image: {image}
          command: [python3, -P, -m, hotseat.engines.mock_server, --host, 0.0.0.0, --port, "8000", --name, {name}]
          env: [{{name: HOTSEAT_MOCK_SEAT, value: {seat}-default}}]
          ports: [{{name: http, containerPort: 8000}}]
          readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 1}}
          resources: {{limits: {{nvidia.com/gpu: "1"}}}}
          volumeMounts: [{{name: cache, mountPath: /cache}}]
          securityContext:
            runAsNonRoot: true
            runAsUser: 65532
            allowPrivilegeEscalation: false
            capabilities: {{drop: [ALL]}}
            seccompProfile: {{type: RuntimeDefault}}
"""


SCALED_OBJECT = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: scaler
  labels: {hotseat.dev/workspace: default}
spec:
  scaleTargetRef: {name: scaled}
  minReplicaCount: 0
  maxReplicaCount: 3
  pollingInterval: 1
  triggers:
    - type: cron
      metadata: {timezone: Etc/UTC, start: "0 0 1 1 *", end: "1 0 1 1 *", desiredReplicas: "3"}
"""


def handmade(name: str, labels: str = "{}", annotations: str = "{}") -> str:
    return HANDMADE.format(name=name, labels=labels, annotations=annotations, image=IMAGE, seat=SEAT)


def replicas(hotseat: Hotseat, name: str) -> int:
    return int(hotseat.kube.get(DEPLOYMENTS.path(hotseat.namespace, name))["spec"].get("replicas", 0))


def await_adoption(hotseat: Hotseat, name: str) -> None:
    def look() -> bool:
        return any(row["name"] == name for row in hotseat.status("workspace", "default").get("models") or ())

    wait_until(look, 90, f"{name} is adopted")


@pytest.fixture(scope="module")
def adopting(hotseat: Hotseat) -> Hotseat:
    """Let the switcher adopt Deployments and ScaledObjects as well, and make a Model."""
    for role in ("deployment", "keda"):
        hotseat.kubectl("apply", "-k", str(ROOT / role / "role"))
    switcher = hotseat.kill("switcher")
    hotseat.apply(model("theirs"))
    hotseat.await_another("switcher", switcher)
    return hotseat


def test_a_labelled_deployment_and_a_model_take_turns(adopting: Hotseat, guard: Guard) -> None:
    hotseat = adopting

    def events(reason: str) -> list[str]:
        selector = f"involvedObject.kind=Deployment,involvedObject.name=mine,reason={reason}"
        found = json.loads(hotseat.kubectl("get", "events", "-o", "json", "--field-selector", selector))["items"]
        return [each["message"] for each in found]

    settings = "{hotseat.dev/names: gpt-mine, hotseat.dev/drain-timeout: 20s}"
    hotseat.apply(handmade("mine", "{hotseat.dev/workspace: default}", settings))
    await_adoption(hotseat, "mine")
    autoscaler = ("autoscale", "deployment", "mine", "--min=1", "--max=3", "--cpu-percent=50")
    for name in ("gpt-mine", "theirs", "mine"):
        assert hotseat.served(name).status == 200
        assert list(hotseat.residents().values()) == ["ready"]
        assert replicas(hotseat, "mine") == (name != "theirs")
        if name == "gpt-mine":
            assert events("Misconfigured") == []
            hotseat.kubectl(*autoscaler)  # which the switcher reads every half a minute
    assert hotseat.request("GET", "/v1/models/gpt-mine").status == 200
    chosen = ("get", "deployments", "-l", "hotseat.dev/state=ready", "-o", "name")
    wait_until(lambda: hotseat.kubectl(*chosen) == "deployment.apps/mine\n", 10, "its state")
    wait_until(lambda: events("SwitchCompleted"), 10, "an Event of its switch")
    [told] = wait_until(lambda: events("Misconfigured"), 90, "an Event about the HorizontalPodAutoscaler")
    assert told == "HorizontalPodAutoscaler mine scales it as well; delete that"
    hotseat.kubectl("delete", "horizontalpodautoscaler", "mine")

    hotseat.kubectl("label", "deployment", "mine", "hotseat.dev/workspace-")
    wait_until(lambda: replicas(hotseat, "mine") == 0 and not hotseat.residents(), 60, "it is given back")
    hotseat.kubectl("scale", "deployment", "mine", "--replicas=1")
    hotseat.kubectl("rollout", "status", "deployment/mine", "--timeout=30s")
    assert replicas(hotseat, "mine") == 1
    assert not hotseat.residents(), "it is its owner's alone"


def test_a_labelled_scaled_object_and_a_model_take_turns(adopting: Hotseat, guard: Guard) -> None:
    hotseat = adopting
    if hotseat.kube.find(CRDS.path(name="scaledobjects.keda.sh")) is None:
        pytest.skip("there is no KEDA")
    hotseat.kubectl("delete", "deployment", "mine", "--ignore-not-found", "--cascade=foreground")
    hotseat.apply(handmade("scaled"), SCALED_OBJECT)
    await_adoption(hotseat, "scaled")
    for name in ("scaled", "theirs", "scaled"):
        assert hotseat.served(name).status == 200
        assert list(hotseat.residents()) == [name]
        assert replicas(hotseat, "scaled") == (name != "theirs")
    hotseat.kubectl("label", "scaledobject", "scaler", "hotseat.dev/workspace-")
    wait_until(lambda: replicas(hotseat, "scaled") == 0 and not hotseat.residents(), 60, "it is released")
    paused = SCALED_OBJECTS.path(hotseat.namespace, "scaler")
    wait_until(
        lambda: not hotseat.kube.get(paused)["metadata"].get("annotations", {}).get(PAUSED_REPLICAS), 60, "no pause"
    )
