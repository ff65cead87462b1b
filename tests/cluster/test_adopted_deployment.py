"""A Deployment that a person has made and labelled takes turns with a Model, and is given back when the label is removed."""

import json

import pytest

from hotseat.kube.constants import DEPLOYMENTS

from .harness import IMAGE, ROOT, SEAT, Guard, Hotseat, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

HANDMADE = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: mine
  labels: {{hotseat.dev/workspace: default}}
  annotations: {{hotseat.dev/names: gpt-mine, hotseat.dev/drain-timeout: 20s}}
spec:
  replicas: 0
  strategy: {{type: Recreate}}
  selector: {{matchLabels: {{app: mine}}}}
  template:
    metadata: {{labels: {{app: mine}}}}
    spec:
      terminationGracePeriodSeconds: 2
      automountServiceAccountToken: false
      securityContext: {{fsGroup: 65532}}
      volumes: [{{name: cache, persistentVolumeClaim: {{claimName: seat}}}}]
      containers:
        - name: main
          image: {image}
          command: [python3, -P, -m, hotseat.engines.mock_server, --host, 0.0.0.0, --port, "8000", --name, mine]
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


def test_a_labelled_deployment_and_a_model_take_turns(hotseat: Hotseat, guard: Guard) -> None:
    def replicas() -> int:
        return int(hotseat.kube.get(DEPLOYMENTS.path(hotseat.namespace, "mine"))["spec"].get("replicas", 0))

    def events(reason: str) -> list[str]:
        selector = f"involvedObject.kind=Deployment,involvedObject.name=mine,reason={reason}"
        found = json.loads(hotseat.kubectl("get", "events", "-o", "json", "--field-selector", selector))["items"]
        return [each["message"] for each in found]

    hotseat.kubectl("apply", "-k", str(ROOT / "deployment" / "role"))
    switcher = hotseat.component("switcher")["metadata"]["name"]
    hotseat.kubectl("delete", "pod", switcher, "--wait=false")
    hotseat.apply(HANDMADE.format(image=IMAGE, seat=SEAT), model("theirs"))
    wait_until(lambda: hotseat.component("switcher")["metadata"]["name"] != switcher, 60, "the new switcher")
    wait_until(lambda: "mine" in json.dumps(hotseat.status("workspace", "default").get("models")), 90, "its adoption")

    for name in ("gpt-mine", "theirs", "mine"):
        assert hotseat.served(name).status == 200
        assert list(hotseat.residents().values()) == ["ready"]
        assert replicas() == (name != "theirs")
    assert hotseat.request("GET", "/v1/models/gpt-mine").status == 200
    assert "mine" in hotseat.kubectl("get", "deployments", "-l", "hotseat.dev/state=ready", "-o", "name")
    wait_until(lambda: events("SwitchCompleted"), 10, "an Event of its switch")
    assert events("Misconfigured") == []

    autoscaler = ("autoscale", "deployment", "mine", "--min=1", "--max=3", "--cpu-percent=50")
    hotseat.kubectl(*autoscaler)
    [told] = wait_until(lambda: events("Misconfigured"), 90, "an Event about the HorizontalPodAutoscaler")
    assert told == "HorizontalPodAutoscaler mine scales it as well; delete that"
    hotseat.kubectl("delete", "horizontalpodautoscaler", "mine")

    hotseat.kubectl("label", "deployment", "mine", "hotseat.dev/workspace-")
    wait_until(lambda: replicas() == 0 and not hotseat.residents(), 60, "it is given back")
    hotseat.kubectl("scale", "deployment", "mine", "--replicas=1")
    hotseat.kubectl("rollout", "status", "deployment/mine", "--timeout=30s")
    assert replicas() == 1
    assert not hotseat.residents(), "it is its owner's alone"
