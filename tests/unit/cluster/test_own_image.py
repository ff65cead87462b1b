"""The switcher finds the image for Jobs and engines in its own pod, and HOTSEAT_IMAGE still overrides that."""

import pytest

from hotseat.api.types import Json
from hotseat.cluster.functions import FunctionSettings, read_settings
from hotseat.cluster.switcher import own_image as module
from hotseat.cluster.switcher.app import SwitcherApp
from hotseat.cluster.switcher.own_image import own_image
from hotseat.kube.client import Kube, KubeError
from hotseat.kube.constants import PODS
from tests.fake_kube import NS, FakeKube

POD = "hotseat-switcher-00001-deployment-x"
DEPLOYED = "registry.example.com/hotseat@sha256:0123"


def kube_with(*containers: Json) -> FakeKube:
    kube = FakeKube()
    kube.put(PODS.path(NS, POD), {"metadata": {"name": POD}, "spec": {"containers": list(containers)}})
    return kube


@pytest.mark.parametrize("name", ["switcher", "user-container", "any"])
def test_it_is_that_of_the_switcher_and_of_no_sidecar(name: str) -> None:
    ours, sidecar = {"name": name, "image": DEPLOYED}, {"name": "queue-proxy", "image": "knative/queue"}
    assert own_image(kube_with(ours, sidecar), POD) == DEPLOYED
    if name != "any":  # some meshes put theirs first
        assert own_image(kube_with({"name": "istio-proxy", "image": "istio"}, ours, sidecar), POD) == DEPLOYED


def test_a_missing_right_says_what_to_do() -> None:
    class Forbidding(FakeKube):
        def get(self, path: str, **query: str) -> Json:
            raise KubeError(403, "pods is forbidden")

    with pytest.raises(
        RuntimeError, match=r"pods is forbidden; allow the switcher to get pods .* or set HOTSEAT_IMAGE"
    ):
        own_image(Forbidding(), POD)


def test_the_api_server_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    kube = kube_with({"name": "switcher", "image": DEPLOYED})
    kube.away = True

    def pause(_seconds: float) -> None:
        kube.away = False

    assert own_image(kube, POD, pause=pause) == DEPLOYED
    kube.away = True
    monkeypatch.setattr(module, "PATIENCE", -1.0)
    with pytest.raises(RuntimeError, match="API server is away"):
        own_image(kube, POD, pause=lambda _: None)


def settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, **env: str) -> FunctionSettings:
    key = tmp_path_factory.mktemp("demand") / "key"
    key.write_text("k" * 16)
    for name, value in {"HOTSEAT_DEMAND_KEY_FILE": str(key), "HOTSEAT_POD_NAME": POD, **env}.items():
        monkeypatch.setenv(name, value)
    return read_settings()


@pytest.mark.parametrize(
    ("env", "image"),
    [({}, DEPLOYED), ({"HOTSEAT_IMAGE": "mirror.example.com/hotseat:1"}, "mirror.example.com/hotseat:1")],
)
def test_a_switcher_makes_jobs_and_engines_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, env: dict[str, str], image: str
) -> None:
    kube = kube_with({"name": "switcher", "image": DEPLOYED})
    monkeypatch.setattr(Kube, "connect", lambda: kube)
    app = SwitcherApp(settings(monkeypatch, tmp_path_factory, **env))
    assert app._settings.image == image
