"""A real API server with our CRDs refuses what `hotseat validate` refuses, and says what is wrong."""

import contextlib
import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hotseat.kube.client import Kube, KubeError
from hotseat.kube.constants import CRDS, MODELS, WORKSPACES, Resource
from tests.bad_documents import BAD, GOOD, model, workspace

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
KUBECONFIG = "HOTSEAT_TEST_KUBECONFIG"
RESOURCES = {"Model": MODELS, "Workspace": WORKSPACES}
NAMESPACES = Resource("v1", "Namespace", "namespaces", namespaced=False)
STRICT = "?dryRun=All&fieldValidation=Strict"


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    """Client of a namespace of its own, with our CRDs established."""
    kube = Kube.connect(Path(os.environ[KUBECONFIG]))
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        kube.apply(CRDS.path(name=crd["metadata"]["name"]), crd)
    subprocess.run(
        [*kubectl(), "wait", "--for=condition=Established", "--timeout=30s", "-f", ROOT / "crds"], check=True
    )
    kube.namespace = f"crds-{uuid.uuid4().hex[:8]}"
    kube.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kube.namespace}})
    yield kube
    kube.delete(NAMESPACES.path(name=kube.namespace))


def kubectl() -> list[str]:
    return [os.environ.get("KUBECTL", "kubectl"), "--kubeconfig", os.environ[KUBECONFIG]]


def refusal(kube: Kube, document: dict) -> str:
    """What the API server has against a document; nothing if it would take it."""
    path = RESOURCES[document["kind"]].path(kube.namespace)
    try:
        kube.create(path + STRICT, document)
    except KubeError as error:
        if error.status in {400, 422}:
            return str(error)
        raise
    return ""


@pytest.mark.parametrize(("document", "_field", "words"), BAD.values(), ids=BAD)
def test_a_bad_document_is_refused_for_that_reason(kube, document, _field, words):
    assert words.lower() in refusal(kube, document).lower()


@pytest.mark.parametrize("document", GOOD.values(), ids=GOOD)
def test_a_good_document_is_taken(kube, document):
    assert refusal(kube, document) == ""


def test_what_is_not_written_has_its_default(kube):
    created = kube.create(MODELS.path(kube.namespace) + STRICT, model())
    assert created["spec"]["lifecycle"]["startTimeout"] == "5m"
    assert created["spec"]["resources"] == {"gpus": 1}
    assert "workspace" not in created["spec"]
    created = kube.create(WORKSPACES.path(kube.namespace) + STRICT, workspace())
    assert created["spec"]["policy"]["maxWait"] == "Auto"


def test_a_change_is_checked_as_a_new_document_is(kube):
    path = MODELS.path(kube.namespace, "changed")
    kube.create(MODELS.path(kube.namespace), model("llamacpp", name="changed", source="/x"))
    for change in ({"source": None}, {"source": "hg://x"}, {"url": "http://h"}):
        with pytest.raises(KubeError) as caught:
            kube.merge(path, {"spec": change})
        assert caught.value.status == 422
    kube.delete(path)


MODEL_STATUS = {
    "observedGeneration": 1,
    "phase": "Fetching",
    "workspace": "lab",
    "address": "http://10.0.0.1:8012",
    "replicas": 1,
    "cached": {"done": 1, "total": 2, "path": "/cache/x"},
    "lastSwitch": {"id": "s1", "outcome": "completed", "endedAt": "2026-01-01T00:00:00.123Z", "seconds": 4.05},
    "conditions": [
        {"type": "Ready", "status": "False", "reason": "WeightsMissing", "message": "half", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "Cached", "status": "Unknown"},
    ],
}  # fmt: skip
WORKSPACE_STATUS = {
    "observedGeneration": 1,
    "epoch": 7,
    "resident": "small,large",
    "since": "2026-01-01T00:00:00.000Z",
    "switching": "small: draining large",
    "waiting": 3,
    "waitingFor": "3 small (Draining)",
    "waits": [{"model": "small", "reason": "Draining", "message": "m", "expectedAt": "2026-01-01T00:00:00Z", "behind": ["large"]}],
    "residents": [
        {"model": "small", "instance": "lab/small@7", "state": "ready", "epoch": 7, "since": "2026-01-01T00:00:00.000Z", "address": "http://10.0.0.1:8012"},
        {"model": "large", "instance": "lab/large@6", "state": "quiescing", "epoch": 6, "leaving": "switch"},
    ],
    "models": [{"name": "small", "spec": {"engine": "mock", "any": [1, {"thing": True}]}, "state": "ready", "since": "2026-01-01T00:00:00Z", "done": 1}],
    "refusals": [{"model": "x", "epoch": 7, "code": "failed", "message": "m", "retryAt": "2026-01-01T00:00:00Z"}],
    "effectiveMaxWait": 45.5,
    "routers": [{"id": "r", "pod": "router-0", "seq": 12, "brokerSeq": 11}],
    "queue": [{"model": "small", "waiting": 3, "oldest": "2026-01-01T00:00:00Z", "inFlight": 1}],
    "switches": [
        {"id": "s", "from": ["large"], "to": "small", "reason": "demand", "outcome": "completed", "message": "", "waiting": 1,
         "startedAt": "2026-01-01T00:00:00Z", "endedAt": "2026-01-01T00:00:04Z", "phases": {"drain": 0.1, "total": 4.0}},
    ],
    "conditions": [{"type": "Ready", "status": "True"}],
}  # fmt: skip


@pytest.fixture
def made(kube) -> Iterator[Kube]:
    """Both kinds of object, with a status that says everything."""
    documents = [(model("llamacpp", name="small", source="hf://o/r/f"), MODEL_STATUS), (workspace(), WORKSPACE_STATUS)]
    with contextlib.ExitStack() as stack:
        for document, status in documents:
            resource, name = RESOURCES[document["kind"]], document["metadata"]["name"]
            kube.create(resource.path(kube.namespace), document)
            stack.callback(kube.delete, resource.path(kube.namespace, name))
            written = kube.merge(resource.path(kube.namespace, name, "status"), {"status": status})
            assert written["status"] == status  # nothing of it is unknown to the schema
        yield kube


def test_a_status_is_written_by_its_subresource_only(made):
    path = MODELS.path(made.namespace, "small")
    assert made.merge(path, {"status": {"phase": "Ready"}})["status"]["phase"] == "Fetching"
    with pytest.raises(KubeError, match="Unsupported value"):
        made.merge(f"{path}/status", {"status": {"phase": "Sleeping"}})


def test_people_see_it_in_columns_and_wait_for_conditions(made):
    def ask(*arguments: str) -> str:
        done = subprocess.run(
            [*kubectl(), "-n", made.namespace, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout

    head, row = (line.split() for line in ask("get", "hsm", "-o", "wide").splitlines())
    assert head == [
        "NAME", "ENGINE", "SOURCE", "PHASE", "READY", "CACHED", "WORKSPACE", "ADDRESS", "REPLICAS", "REASON", "MESSAGE", "AGE",
    ]  # fmt: skip
    assert row[:-1] == [
        "small", "llamacpp", "hf://o/r/f", "Fetching", "False", "Unknown", "lab", "http://10.0.0.1:8012", "1", "WeightsMissing", "half",
    ]  # fmt: skip
    head, row = (re.split("  +", line.strip()) for line in ask("get", "hsw").splitlines())
    assert head == ["NAME", "RESIDENT", "SWITCHING TO", "WAITING", "SINCE", "READY", "AGE"]
    assert row[:4] == ["a", "small,large", "small: draining large", "3 small (Draining)"]
    assert row[5] == "True"
    assert {json.loads(ask("get", "hotseat", "-o", "json"))["items"][n]["kind"] for n in range(2)} == {
        "Model",
        "Workspace",
    }
    ask("wait", "model/small", "--for=condition=Ready=false", "--timeout=5s")
    explained = ask("explain", "models.spec.vllm.gpuMemoryUtilization")
    assert "Fraction of the GPU memory" in explained
