"""keda/autoscaling: what KEDA reads is there, and each ScaledObject is about a Model that holds requests for its Service."""

import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from hotseat.api.model import Model
from hotseat.api.units import parse_duration

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "keda/autoscaling"
FILES = [path for path in sorted(FOLDER.glob("*.yaml")) if path.name != "kustomization.yaml"]
_OUTER = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [{resources}]
components: [{resources}/keys]
"""


def objects(path: Path) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all(path.read_text())}


def test_samples_are_those_of_the_other_runtimes() -> None:
    for path in sorted((ROOT / "keda/samples").iterdir()):
        assert path.is_symlink(), f"{path.name}: a Model is the same with each runtime"
        assert path.resolve().parent in {ROOT / "knative/samples", ROOT / "deployment/samples"}
        assert path.exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_model_its_service_and_what_scales_it_fit_together(path: Path) -> None:
    found = objects(path)
    model = Model.model_validate({"metadata": found["Model"]["metadata"], "spec": found["Model"]["spec"]})
    name = model.name
    assert {each["metadata"]["name"] for each in found.values()} == {name}
    assert (model.spec.engine, model.spec.url) == ("external", f"http://{name}")
    assert model.spec.lifecycle.connect_timeout >= parse_duration("1m"), "a replica needs that long to start"
    pod = found["Deployment"]["spec"]["template"]
    assert pod["metadata"]["labels"] == found["Service"]["spec"]["selector"]
    [port] = found["Service"]["spec"]["ports"]
    [engine] = pod["spec"]["containers"]
    assert (port["port"], port["targetPort"]) == (80, engine["ports"][0]["containerPort"])
    assert "replicas" not in found["Deployment"]["spec"], "applied again, they would be set back"
    scaled = found["ScaledObject"]["spec"]
    assert scaled["scaleTargetRef"] == {"name": name}
    [trigger] = scaled["triggers"]
    assert (trigger["type"], trigger["metadata"]["valueLocation"]) == ("metrics-api", f"requests.{name}")


def test_what_is_read_is_the_service_of_admin_routes() -> None:
    [service] = yaml.safe_load_all((ROOT / "knative/base/admin.yaml").read_text())
    for path in FILES:
        url = urlsplit(objects(path)["ScaledObject"]["spec"]["triggers"][0]["metadata"]["url"])
        assert (url.hostname, url.path) == (f"{service['metadata']['name']}.default.svc", "/api/queue")
        assert service["spec"]["ports"][0]["port"] == 80


def test_the_namespace_is_set_in_one_place_and_keys_can_be_added(tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl")
    copy = tmp_path / "autoscaling"
    shutil.copytree(FOLDER, copy)
    made = (copy / "kustomization.yaml").read_text().replace("namespace: default", "namespace: models")
    (copy / "kustomization.yaml").write_text(made)
    (tmp_path / "kustomization.yaml").write_text(_OUTER.format(resources="autoscaling"))
    text = subprocess.run([kubectl, "kustomize", str(tmp_path)], check=True, capture_output=True, text=True).stdout
    found = list(yaml.safe_load_all(text))
    triggers = [each["spec"]["triggers"][0] for each in found if each["kind"] == "ScaledObject"]
    assert len(triggers) == len(FILES)
    for trigger in triggers:
        assert urlsplit(trigger["metadata"]["url"]).hostname == "hotseat-router-admin.models.svc"
        assert trigger["metadata"]["authModes"] == "bearer"
        assert trigger["authenticationRef"] == {"name": "hotseat-autoscaling"}
    [authentication] = [each for each in found if each["kind"] == "TriggerAuthentication"]
    assert authentication["metadata"]["name"] == "hotseat-autoscaling"
