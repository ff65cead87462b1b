"""charts/hotseat on an empty namespace: installed, upgraded and uninstalled with a real Helm."""

import json
import os
import uuid
from collections.abc import Iterator

import pytest

from tests.helm import CHART, helm

from .harness import GPU_RESOURCE, IMAGE, Hotseat, destroy, wait_until
from .test_deployment_install import ask

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

REPOSITORY, TAG = IMAGE.rsplit(":", 1)
VALUES = {
    "image": {"repository": REPOSITORY, "tag": TAG},
    "gpuResource": GPU_RESOURCE,
    "workspace": {"policy": {"minResidency": "0s"}},
    "models": {name: {"engine": "mock", "lifecycle": {"stopTimeout": "2s"}} for name in ("a", "b")},
}


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Hotseat]:
    before = request.session.testsfailed
    home = Hotseat(f"hotseat-test-{uuid.uuid4().hex[:6]}")
    # Helm installs CRDs that are missing, and leaves others, such as those of an earlier version.
    home.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHART / "crds"))
    home.kubectl("create", "namespace", home.namespace)
    home.kubectl("label", "namespace", home.namespace, "pod-security.kubernetes.io/enforce=restricted")
    yield home
    destroy(home, failed=request.session.testsfailed > before)


def run(home: Hotseat, command: str, *arguments: str, given: str = "") -> str:
    place = ["--namespace", home.namespace, "--kubeconfig", os.environ["HOTSEAT_TEST_KUBECONFIG"]]
    return helm(command, "hotseat", *arguments, *place, given=given).stdout


def demand_key(home: Hotseat) -> str:
    return home.kubectl("get", "secret", "hotseat-demand", "-o", "jsonpath={.data.key}")


def test_models_of_values_serve_and_survive_an_upgrade(home: Hotseat) -> None:
    notes = run(home, "install", str(CHART), "-f", "-", "--wait", "--timeout=100s", given=json.dumps(VALUES))
    assert "port-forward svc/hotseat-router 8000:80" in notes
    assert '"model": "a"' in notes
    wait_until(lambda: home.status("model", "b").get("phase"), 60, "the Models")
    assert [ask(home, name) for name in ("a", "b")] == ["a", "b"]

    key = demand_key(home)
    assert len(key) > 64
    changed = VALUES | {
        "settings": {"HOTSEAT_LOG_LEVEL": "debug"},
        "models": VALUES["models"] | {"c": {"engine": "mock"}},
    }
    run(home, "upgrade", str(CHART), "-f", "-", "--wait", "--timeout=100s", given=json.dumps(changed))
    assert demand_key(home) == key
    wait_until(lambda: home.status("model", "c").get("phase"), 60, "the new Model")
    assert [ask(home, name) for name in ("c", "a")] == ["c", "a"]

    assert home.request("POST", "/api/models/unload").status == 202
    wait_until(lambda: not home.residents(), 60, "no resident")
    run(home, "uninstall", "--wait", "--timeout=60s")
    assert (
        home.kubectl(
            "get",
            "models,workspaces,deployments,secrets,roles",
            "-o",
            "name",
            "-l",
            "app.kubernetes.io/part-of=hotseat",
        )
        == ""
    )
    crds = home.kubectl("get", "crds", "-o", "name").split()
    assert {"customresourcedefinition.apiextensions.k8s.io/models.hotseat.dev"} <= set(crds)
