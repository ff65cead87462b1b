"""The doctor and the plugins on a real cluster: an empty namespace, one with hotseat in it, few rights, and a wrong setting."""

import base64
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hotseat.kube.client import Kube
from hotseat.kube.constants import CONFIG_MAPS, Resource

from .harness import Hotseat

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
NAMESPACES = Resource("v1", "Namespace", "namespaces", namespaced=False)
ACCOUNTS = Resource("v1", "ServiceAccount", "serviceaccounts")
SECRETS = Resource("v1", "Secret", "secrets")
DEPLOYMENT = CONFIG_MAPS.path("knative-serving", "config-deployment")
OURS = {"Broker", "Trigger", "router", "switcher", "demand key"}


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    """A namespace of its own, with our CRDs in the cluster."""
    kube = Kube.connect(Path(os.environ["HOTSEAT_TEST_KUBECONFIG"]))
    kubectl("apply", "--server-side", "--force-conflicts", "-f", ROOT / "crds")
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", ROOT / "crds")
    kube.namespace = f"doctor-{uuid.uuid4().hex[:8]}"
    kube.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kube.namespace}})
    yield kube
    kube.delete(NAMESPACES.path(name=kube.namespace))


@pytest.fixture(scope="module")
def deployed(kube) -> Kube:
    """Router and switcher in that namespace, as knative/ has them."""
    key = base64.b64encode(os.urandom(32)).decode()
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hotseat-demand"}, "stringData": {"key": key}}
    kube.create(SECRETS.path(kube.namespace), secret)
    kubectl("apply", "-n", kube.namespace, "-k", ROOT / "knative")
    for what in ("ksvc/hotseat-router", "ksvc/hotseat-switcher", "broker/hotseat", "trigger/hotseat-switcher"):
        kubectl("-n", kube.namespace, "wait", "--for=condition=Ready", "--timeout=120s", what)
    return kube


def kubectl(*args) -> None:
    Hotseat("default").kubectl(*map(str, args), timeout=150)


def hotseat(*args, program="hotseat", kubeconfig=None) -> subprocess.CompletedProcess:
    """Run one of our programs, with a kubectl on its PATH."""
    known = shutil.which(os.environ.get("KUBECTL", "kubectl")) or ""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{Path(known).parent}:{os.environ['PATH']}"}
    env |= {"KUBECONFIG": str(kubeconfig or os.environ["HOTSEAT_TEST_KUBECONFIG"])}
    env.pop("HOTSEAT_URL", None)
    return subprocess.run([program, *args], env=env, capture_output=True, text=True, check=False, timeout=60)


def verdicts(result) -> dict[str, str]:
    return {each["subject"]: each["verdict"] for each in json.loads(result.stdout)["findings"]}


def test_in_an_empty_namespace_only_what_is_ours_is_wrong(kube):
    result = hotseat("doctor", "-n", kube.namespace, "-o", "json")
    found = verdicts(result)
    assert result.returncode == 1
    assert {subject for subject, verdict in found.items() if verdict == "wrong"} == OURS
    assert {found[f"CRD {name}.hotseat.dev"] for name in ("models", "workspaces")} == {"ok"}


def test_where_hotseat_is_deployed_all_is_well(deployed):
    result = hotseat("doctor", "-n", deployed.namespace)
    assert result.returncode == 0, result.stdout
    assert "WRONG" not in result.stdout


@pytest.mark.parametrize("program", ["kubectl-hotseat", "kn-hotseat"])
def test_a_plugin_reaches_the_router_with_nothing_but_a_kubeconfig(deployed, program):
    asked = hotseat("models", "-n", deployed.namespace, "-o", "json", program=program)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["data"] == []
    assert hotseat("ps", "-n", deployed.namespace, program=program).stdout.startswith("WORKSPACE")


def test_a_plain_command_reaches_it_when_told_to(deployed):
    assert hotseat("switches", "--cluster", "-n", deployed.namespace).stdout.startswith("FROM")


def test_who_may_see_nothing_gets_unknown_and_no_crash(kube, tmp_path):
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
    kube.create(ACCOUNTS.path(kube.namespace), account)
    wish = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    token = kube.create(ACCOUNTS.path(kube.namespace, "nobody", "token"), wish)["status"]["token"]
    known = yaml.safe_load(Path(os.environ["HOTSEAT_TEST_KUBECONFIG"]).read_text())
    user = {"name": "nobody", "user": {"token": token}}
    context = {"name": "nobody", "context": {"cluster": known["clusters"][0]["name"], "user": "nobody"}}
    poor = known | {"users": [user], "contexts": [context], "current-context": "nobody"}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(poor))
    result = hotseat("doctor", "-n", kube.namespace, "-o", "json", kubeconfig=tmp_path / "kubeconfig")
    found = verdicts(result)
    assert result.returncode == 0, result.stderr
    assert found.pop("Kubernetes") == "ok"
    assert set(found.values()) == {"unknown"}


def test_fix_puts_a_setting_right(kube):
    """A deadline that is a second too short: it disturbs none of the tests beside, as Kourier's settings do."""
    former = kube.get(DEPLOYMENT)["data"].get("progress-deadline")
    kube.merge(DEPLOYMENT, {"data": {"progress-deadline": "299s"}})
    try:
        before = verdicts(hotseat("doctor", "-n", kube.namespace, "-o", "json"))
        result = hotseat("doctor", "-n", kube.namespace, "--fix", "--yes", "-o", "json")
        assert before["config-deployment progress-deadline"] == "wrong"
        assert verdicts(result)["config-deployment progress-deadline"] == "ok"
        assert kube.get(DEPLOYMENT)["data"]["progress-deadline"] == "600s"
    finally:
        kube.merge(DEPLOYMENT, {"data": {"progress-deadline": former}})
