"""keda/: deployment/ with the external scaler, and with the rights on ScaledObjects that the switcher uses."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hotseat.kube.constants import SCALER_ADDRESS, SCALER_PORT
from hotseat.kube.containers import SIDECAR_PORTS

from .test_deployment_manifests import READ, read, rules

KEDA = Path(__file__).parents[3] / "keda"


def render(folder: Path) -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl")
    text = subprocess.run([kubectl, "kustomize", str(folder)], check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(text))


def names(rendered: list[dict[str, Any]]) -> set[str]:
    return {f"{each['kind']}/{each['metadata']['name']}" for each in rendered}


def test_the_switcher_has_the_rights_on_scaled_objects_that_it_uses() -> None:
    assert rules(read(KEDA / "role/role.yaml")) == {"keda.sh/scaledobjects": [*READ, "create", "patch", "delete"]}


def test_it_is_deployment_with_the_scaler_and_without_knative() -> None:
    rendered = render(KEDA)
    added = {"Role/hotseat-switcher-keda", "RoleBinding/hotseat-switcher-keda", "Service/hotseat-scaler"}
    assert names(rendered) - names(render(KEDA.parent / "deployment")) == added
    assert "knative" not in yaml.safe_dump(rendered)
    assert all("namespace" not in each["metadata"] for each in rendered)


def test_keda_reaches_the_port_on_which_the_switcher_listens() -> None:
    rendered = {f"{each['kind']}/{each['metadata']['name']}": each for each in render(KEDA)}
    service, switcher = rendered["Service/hotseat-scaler"], rendered["Deployment/hotseat-switcher"]
    assert f"{service['metadata']['name']}.{{namespace}}.svc:{service['spec']['ports'][0]['port']}" == SCALER_ADDRESS
    assert service["spec"]["ports"][0]["targetPort"] == SCALER_PORT
    assert SCALER_PORT not in SIDECAR_PORTS, "the switcher may be a Knative Service"
    labels = switcher["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    pod = switcher["spec"]["template"]["spec"]
    assert [each["containerPort"] for each in pod["containers"][0]["ports"]] == [8080, SCALER_PORT], "HTTP is first"
    [volume] = [each for each in pod["volumes"] if each["name"] == "scaler"]
    assert volume["secret"]["optional"], "without it there is no TLS"
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "scaler"]
    assert mount["mountPath"] == "/etc/hotseat/scaler"
