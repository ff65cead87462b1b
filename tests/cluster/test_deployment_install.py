"""deployment/ on an empty namespace, as docs/cluster.md has it: no Broker, and everything applied at once."""

import json
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

from .harness import CLAIM, GPU_RESOURCE, IMAGE, ROOT, Hotseat, destroy, model, wait_until, workspace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Hotseat]:
    before = request.session.testsfailed
    home = Hotseat(f"hotseat-test-{uuid.uuid4().hex[:6]}")
    home.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    home.kubectl("create", "namespace", home.namespace)
    yield home
    destroy(home, failed=request.session.testsfailed > before)


def ask(home: Hotseat, name: str) -> str:
    """Ask the router at the address of its pod. Return the model of the answer."""
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
    url = f"http://{home.component('router')['status']['podIP']}:8080/v1/chat/completions"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["model"])


def test_models_take_turns_without_knative_and_a_broker(home: Hotseat) -> None:
    home.kubectl("create", "secret", "generic", "hotseat-demand", f"--from-literal=key={home.key}")
    manifests = home.kubectl("kustomize", str(ROOT / "deployment"))
    manifests = manifests.replace("value: nvidia.com/gpu", f'value: "{GPU_RESOURCE}"')
    document = workspace()
    document["spec"]["runtime"] = "Deployment"
    home.apply(manifests.replace("dev.local/hotseat:dev", IMAGE), CLAIM, document, model("a"), model("b"))
    for part in ("hotseat-router", "hotseat-switcher"):
        home.kubectl("wait", f"deploy/{part}", "--for=condition=Available", "--timeout=80s")
    wait_until(lambda: home.status("model", "b").get("phase"), 60, "the Models")
    assert [ask(home, name) for name in ("a", "b", "a")] == ["a", "b", "a"]
    assert home.status("workspace", "default")["runtime"] == "Deployment"
