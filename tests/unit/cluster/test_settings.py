"""Settings of an administrator, from the environment of the switcher to the objects that it makes."""

import json
import time
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.units import format_time
from hotseat.cluster.functions import VARIABLES, FunctionSettings, read_settings
from hotseat.cluster.router.app import RouterApp
from hotseat.cluster.switcher.app import SwitcherApp
from hotseat.control.history_store import HistorySettings, Kind
from hotseat.gateway.limits import ConcurrencyLimit
from hotseat.kube.client import Kube
from hotseat.kube.constants import ClusterSettings
from hotseat.kube.jobs import job_of
from hotseat.kube.objects import claim_of, service_of
from tests.fake_kube import FakeKube

BASE = Path(__file__).parents[3] / "knative/base"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Read the settings of a function with these variables."""
    key = tmp_path / "key"
    key.write_text("k" * 16)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def read_(**env: str) -> FunctionSettings:
        for name, value in {"HOTSEAT_DEMAND_KEY_FILE": str(key), "HOTSEAT_IMAGE": "hotseat:1", **env}.items():
            monkeypatch.setenv(name, value)
        return read_settings()

    return read_


def objects(settings: FunctionSettings, monkeypatch: pytest.MonkeyPatch, **spec: object) -> tuple[Json, Json, Json]:
    """Return claim, template of the Knative Service, and pod of the Job that a switcher makes of a Model."""
    monkeypatch.setattr(Kube, "connect", FakeKube)
    made = SwitcherApp(settings)._settings
    spec = {"engine": "vllm", "source": "hf://o/r", **spec}
    model = Model.model_validate({"metadata": {"name": "a"}, "spec": spec})
    claim, service, job = claim_of(model, made, "u"), service_of(model, made, "u", "/w"), job_of(model, made, "u")
    assert claim and service and job  # noqa: PT018
    return claim["spec"], service["spec"]["template"], job["spec"]["template"]["spec"]


@pytest.mark.parametrize(("text", "size"), [("", 2**28), ("1Gi", 2**30), ("0", None)])
def test_the_router_keeps_large_forms_in_files(read, monkeypatch, text, size):
    monkeypatch.setattr(Kube, "connect", FakeKube)
    made = []
    monkeypatch.setattr("hotseat.cluster.router.app.create_gateway", lambda *_, spool, **__: made.append(spool))
    RouterApp(read(HOTSEAT_MAX_FORM=text), ConcurrencyLimit(10))
    assert [each and each.max_size for each in made] == [size]


def test_the_router_keeps_a_history_where_it_is_told_to(read, monkeypatch, tmp_path):
    monkeypatch.setattr(Kube, "connect", FakeKube)
    path = tmp_path / "kept" / "history.db"
    made = []
    monkeypatch.setattr("hotseat.cluster.router.app.create_gateway", lambda *_, history, **__: made.append(history))
    for text in ("", "off", str(path)):
        app = RouterApp(
            read(HOTSEAT_HISTORY=text, HOTSEAT_HISTORY_DAYS="2", HOTSEAT_HISTORY_SIZE="32Mi"), ConcurrencyLimit(10)
        )
    assert made[:2] == [None, None]
    assert made[2].settings == HistorySettings(path, 2, 2**25)
    event = {
        "id": "1",
        "type": "dev.hotseat.model.cached.v1",
        "time": format_time(time.time()),
        "metadataname": "a",
        "data": {},
    }
    for _ in range(2):  # a router that starts gets events again that the switcher still has
        app._events.publish(event)
    made[2].close()
    assert [json.loads(row) for row in made[2].read(Kind.EVENTS, limit=9)[0]] == [event]


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("HOTSEAT_HISTORY_DAYS", "0", "a number of days, at least 1"),
        ("HOTSEAT_HISTORY_DAYS", "week", "a number of days, at least 1"),
        ("HOTSEAT_HISTORY_SIZE", "1Mi", "a size of at least 16Mi"),
    ],
)
def test_a_bound_of_the_history_that_cannot_be_is_refused(read, name, text, allowed):
    with pytest.raises(SystemExit, match=f"{name} is {text!r}; allowed: {allowed}"):
        read(**{name: text})


def test_all_settings_reach_the_objects(read, monkeypatch):
    settings = read(
        HOTSEAT_IMAGE_PULL_SECRETS="registry, mirror,",
        HOTSEAT_STORAGE_CLASS="fast",
        HOTSEAT_CACHE_SIZE="200Gi",
        HOTSEAT_REQUEST_TIMEOUT="10m",
        HOTSEAT_PROGRESS_DEADLINE="20m",
        HOTSEAT_FETCH_ENVIRONMENT="proxies",
        HOTSEAT_GPU_RESOURCE="amd.com/gpu",
    )
    claim, template, job = objects(settings, monkeypatch, imagePullSecrets=["own", "mirror"], credentials="hub")
    assert claim["storageClassName"] == "fast"
    assert claim["resources"] == {"requests": {"storage": "200Gi"}}
    secrets = [{"name": "own"}, {"name": "mirror"}, {"name": "registry"}]
    assert template["spec"]["imagePullSecrets"] == job["imagePullSecrets"] == secrets
    assert template["spec"]["timeoutSeconds"] == template["spec"]["responseStartTimeoutSeconds"] == 600
    assert template["metadata"]["annotations"]["serving.knative.dev/progress-deadline"] == "1200s"
    assert template["spec"]["containers"][0]["resources"]["limits"] == {"amd.com/gpu": "1"}
    assert job["containers"][0]["envFrom"] == [
        {"configMapRef": {"name": "proxies", "optional": True}},
        {"secretRef": {"name": "hub"}},
    ], "a Model's own come last, and win"


def certificates(folder):
    (folder / "tls.crt").write_text("x")
    return folder


def test_keda_is_served_with_tls_if_there_is_a_certificate(read, tmp_path):
    assert read(HOTSEAT_SCALER_TLS=str(tmp_path)).scaler_tls is None
    its = read(HOTSEAT_SCALER_TLS=str(certificates(tmp_path)), HOTSEAT_SCALER_PORT="9191")
    assert (its.scaler_tls, its.objects.scaler_tls, its.scaler_port) == (tmp_path, True, 9191)


def test_none_is_forgotten(read, tmp_path):
    """Each field of what objects are made with can be set, or is the namespace, or comes from the Workspace."""
    changed = read(
        HOTSEAT_IMAGE="x",
        HOTSEAT_GPU_RESOURCE="x",
        HOTSEAT_IMAGE_PULL_SECRETS="x",
        HOTSEAT_STORAGE_CLASS="x",
        HOTSEAT_CACHE_SIZE="1",
        HOTSEAT_REQUEST_TIMEOUT="1s",
        HOTSEAT_PROGRESS_DEADLINE="1s",
        HOTSEAT_FETCH_ENVIRONMENT="x",
        HOTSEAT_SERVICE_ACCOUNTS="x",
        HOTSEAT_SCALER_ADDRESS="x",
        HOTSEAT_SCALER_AUTHENTICATION="x",
        HOTSEAT_RUN_AS_USER="1",
        HOTSEAT_SCALER_TLS=str(certificates(tmp_path)),
    ).objects
    default = ClusterSettings("", "")
    same = {each.name for each in fields(ClusterSettings) if getattr(changed, each.name) == getattr(default, each.name)}
    assert same == {"namespace", "placement", "keep_prompts"}


def test_a_model_overrides_them(read, monkeypatch):
    settings = read(HOTSEAT_STORAGE_CLASS="fast", HOTSEAT_CACHE_SIZE="200Gi", HOTSEAT_PROGRESS_DEADLINE="1m")
    cache, lifecycle = {"storageClass": "slow", "size": "1Gi"}, {"startTimeout": "30m"}
    claim, template, _ = objects(settings, monkeypatch, cache=cache, lifecycle=lifecycle)
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("slow", "1Gi")
    assert template["metadata"]["annotations"]["serving.knative.dev/progress-deadline"] == "1860s"


def test_the_manifest_has_them_with_their_defaults(read):
    [config] = yaml.safe_load_all((BASE / "settings.yaml").read_text())
    data = config["data"]
    assert data.keys() <= VARIABLES.keys()
    assert read(**data).objects == read().objects
    assert {"HOTSEAT_IMAGE_PULL_SECRETS", "HOTSEAT_STORAGE_CLASS", "HOTSEAT_CACHE_SIZE", "HOTSEAT_REQUEST_TIMEOUT",
            "HOTSEAT_PROGRESS_DEADLINE", "HOTSEAT_FETCH_ENVIRONMENT"} == data.keys()  # fmt: skip


def test_without_settings_nothing_is_asked_of_the_cluster(read, monkeypatch):
    claim, template, job = objects(read(HOTSEAT_FETCH_ENVIRONMENT=""), monkeypatch)
    assert "storageClassName" not in claim, "the cluster's default"
    assert "imagePullSecrets" not in template["spec"]
    assert "envFrom" not in job["containers"][0]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("HOTSEAT_CACHE_SIZE", "lots", "an amount of memory such as 24Gi"),
        ("HOTSEAT_REQUEST_TIMEOUT", "60", "a duration such as 90s"),
        ("HOTSEAT_PROGRESS_DEADLINE", "soon", "a duration such as 90s"),
        ("HOTSEAT_ADMIN_PORT", "70000", "a port from 1 to 65535"),
        ("PORT", "http", "a port from 1 to 65535"),
        ("HOTSEAT_MAX_REQUESTS", "many", "a number"),
        ("HOTSEAT_BODY_TIMEOUT", "60", "a duration such as 90s"),
        ("HOTSEAT_MAX_HEADER", "wide", "an amount of memory such as 24Gi"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(read, name, value, allowed):
    with pytest.raises(SystemExit, match=f"{name} is '{value}'; allowed: {allowed}"):
        read(**{name: value})


def test_an_empty_admin_port_means_none(read):
    assert (read().admin_port, read(HOTSEAT_ADMIN_PORT="").admin_port) == (8081, None)


def router(settings: FunctionSettings, monkeypatch: pytest.MonkeyPatch) -> RouterApp:
    monkeypatch.setattr(Kube, "connect", FakeKube)
    return RouterApp(settings, ConcurrencyLimit(1))


def test_a_router_reads_keys_and_origins(read, monkeypatch, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("- name: a\n  key: secret\n  operations: [read]\n")
    settings = read(HOTSEAT_API_KEY_FILE=str(keys), HOTSEAT_CORS_ORIGINS="https://a.example, https://b.example")
    assert settings.cors == ("https://a.example", "https://b.example")
    source = router(settings, monkeypatch)._key_source
    assert [each.name for each in source.keys.table.entries] == ["a"]
    keys.write_text("- name: b\n")
    source.reload()
    assert [each.name for each in source.keys.table.entries] == ["a"], "a broken Secret keeps the keys"
    with pytest.raises(RuntimeError, match="exactly one of hash and key"):
        router(settings, monkeypatch)


def test_a_router_needs_no_secret_with_keys_and_takes_one_that_comes_later(read, monkeypatch, tmp_path):
    keys = tmp_path / "keys"
    source = router(read(HOTSEAT_API_KEY_FILE=str(keys)), monkeypatch)._key_source
    assert not source.keys
    keys.write_text("one\n")
    source.reload()
    assert source.keys


@pytest.mark.parametrize(("value", "user"), [(None, 65532), ("1000", 1000), ("", None)])
def test_pods_of_models_have_the_user_that_is_set_or_none(read, monkeypatch, value, user):
    """OpenShift refuses a user or a group that it has not assigned."""
    settings = read(**({} if value is None else {"HOTSEAT_RUN_AS_USER": value}))
    _, template, job = objects(settings, monkeypatch, image="engine:1")
    for pod in (template["spec"], job):
        assert pod.get("securityContext", {}).get("fsGroup") == user
        for container in pod["containers"]:
            context = container["securityContext"]
            assert (context.get("runAsUser"), context.get("runAsGroup")) == (user, user)
            assert context["runAsNonRoot"]


@pytest.mark.parametrize("value", ["0", "root", "-1"])
def test_another_user_is_refused(read, value):
    with pytest.raises(SystemExit, match=f"HOTSEAT_RUN_AS_USER is '{value}'; allowed: a number from 1, or nothing"):
        read(HOTSEAT_RUN_AS_USER=value)


def test_a_history_does_not_take_the_place_of_another_file(read, tmp_path):
    other = tmp_path / "models.yaml"
    other.write_text("kind: Model")
    with pytest.raises(SystemExit, match=f"HOTSEAT_HISTORY: {other} is no history of hotseat; allowed: "):
        read(HOTSEAT_HISTORY=str(other))
    assert other.read_text() == "kind: Model"
