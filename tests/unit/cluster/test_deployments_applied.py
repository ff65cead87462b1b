"""The switcher applies the Deployments of Models: never over a scale, never over what is not the Model's."""

from collections.abc import Callable, Iterator

import pytest

from hotseat.api.types import Json
from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.functions import FunctionSettings
from hotseat.cluster.switcher import status_objects as statuses
from hotseat.cluster.switcher.app import SwitcherApp
from hotseat.kube.client import CONFLICT, Kube, KubeError
from hotseat.kube.constants import CLAIMS, CORE_SERVICES, DEPLOYMENTS, MODELS, SERVICES, WORKSPACES, ClusterSettings
from tests.fake_kube import NS, FakeCluster
from tests.unit.runtimes.knative.test_runtime import await_true

DEPLOYMENT = DEPLOYMENTS.path(NS, "a")


class Home:
    """A switcher over an API server in memory, whose documents are reconciled by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kube = FakeCluster()
        monkeypatch.setattr(Kube, "connect", lambda: self.kube)
        self.app = SwitcherApp(
            FunctionSettings(
                namespace=NS, broker="", switcher="", key=DemandKeys(b"k" * 16), objects=ClusterSettings("hotseat", "", "gpu"),
                port=0, admin_port=None, pod="switcher-0", log_level="info", max_requests=1,
            )
        )  # fmt: skip
        self.kube.put(WORKSPACES.path(NS, "default"), document("default", "uid-w", {"runtime": "Deployment"}))
        self.write()
        self.kube.put(CLAIMS.path(NS, "other"), {"metadata": {"name": "other"}, "spec": {}})
        for each in (self.app._workspaces, self.app._models, self.app._claims):
            each.start()
            assert each.wait_synced(5)
        self.app._runtime.open_watchers()

    def write(self, **spec: object) -> None:
        spec = {"engine": "mock", "cache": {"size": "1Gi"}, **spec}
        self.kube.put(MODELS.path(NS, "a"), document("a", "uid-a", spec))

    def reconcile(self) -> None:
        """Read the newest documents, and apply their objects."""
        newest = self.kube.objects[MODELS.path(NS, "a")]["metadata"]["resourceVersion"]
        models = self.app._models
        await_true(lambda: (found := models.named("a")) and found["metadata"]["resourceVersion"] == newest)
        self.app._read_documents()
        for each in self.app._documents.models.values():
            assert not each.problem
            self.refused = self.app._refusals[each.model.name] = self.app._applier.apply(each)

    def seen(self, question: Callable[[Json], object]) -> None:
        """Wait until the switcher's watch has a Deployment of which that is true."""
        watcher = self.app._runtime.watcher(DEPLOYMENTS)
        await_true(lambda: (found := watcher.named("a")) is not None and question(found))


def document(name: str, uid: str, spec: Json) -> Json:
    return {"metadata": {"name": name, "namespace": NS, "uid": uid, "generation": 1}, "spec": spec}


def fingerprint(item: Json) -> str:
    return str(item["metadata"]["annotations"]["hotseat.dev/fingerprint"])


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    home = Home(monkeypatch)
    yield home
    home.app.close()
    for each in (home.app._workspaces, home.app._models, home.app._claims):
        each.stop()  # else they look for a closed API server without a pause
    home.kube.close()


def test_a_model_becomes_a_claim_a_deployment_and_a_service(home: Home) -> None:
    home.reconcile()
    assert home.kube.objects[DEPLOYMENT]["spec"]["replicas"] == 0
    assert home.kube.objects[CORE_SERVICES.path(NS, "a")]["spec"]["clusterIP"] == "None"
    assert CLAIMS.path(NS, "a-cache") in home.kube.objects
    assert SERVICES.path(NS, "a") not in home.kube.objects
    home.seen(bool)
    home.kube.calls.clear()
    home.reconcile()
    assert ("merge", DEPLOYMENT) not in home.kube.calls, "nothing has changed"


def test_a_scaled_up_deployment_is_not_changed_before_it_is_released(home: Home) -> None:
    home.reconcile()
    before = fingerprint(home.kube.objects[DEPLOYMENT])
    home.kube.merge(DEPLOYMENT, {"spec": {"replicas": 1}})
    home.seen(lambda found: found["spec"]["replicas"] == 1)
    home.write(env=[{"name": "A", "value": "1"}])
    home.reconcile()
    found = home.kube.objects[DEPLOYMENT]
    assert (found["spec"]["replicas"], fingerprint(found)) == (1, before)
    home.kube.merge(DEPLOYMENT, {"spec": {"replicas": 0}})
    home.seen(lambda found: found["spec"]["replicas"] == 0)
    home.reconcile()
    assert fingerprint(home.kube.objects[DEPLOYMENT]) == home.app._fingerprint("a") != before


def test_a_scale_that_the_switcher_has_not_seen_yet_wins(home: Home) -> None:
    home.reconcile()
    home.seen(bool)
    before = fingerprint(home.kube.objects[DEPLOYMENT])
    home.write(env=[{"name": "A", "value": "1"}])
    stale = home.app._runtime.watcher(DEPLOYMENTS).named("a")
    home.kube.merge(DEPLOYMENT, {"spec": {"replicas": 1}})
    home.app._runtime._watchers[DEPLOYMENTS].named = lambda _name: stale
    home.reconcile()
    found = home.kube.objects[DEPLOYMENT]
    assert (found["spec"]["replicas"], fingerprint(found)) == (1, before)


def test_a_deployment_that_is_not_the_models_is_left_alone(home: Home) -> None:
    theirs = {"metadata": {"name": "a", "labels": {"app": "a"}}, "spec": {"replicas": 3}}
    home.kube.put(DEPLOYMENT, theirs)
    home.kube.put(CORE_SERVICES.path(NS, "a"), {"metadata": {"name": "a"}, "spec": {"clusterIP": "10.0.0.1"}})
    home.reconcile()
    assert (home.refused.reason, home.refused.what) == ("NameConflict", "Deployment a")
    assert home.kube.objects[DEPLOYMENT]["spec"] == {"replicas": 3}
    assert home.kube.objects[CORE_SERVICES.path(NS, "a")]["spec"] == {"clusterIP": "10.0.0.1"}


def test_what_knative_made_of_the_model_is_waited_for(home: Home) -> None:
    """A ksvc has a core Service of its name, which goes with it once the Model has moved."""
    at, meta = CORE_SERVICES.path(NS, "a"), {"name": "a", "uid": "uid-s", "labels": {"hotseat.dev/model": "a"}}
    owner = {"apiVersion": "serving.knative.dev/v1", "kind": "Route", "name": "a", "uid": "uid-route"}
    home.kube.put(at, {"metadata": {**meta, "ownerReferences": [owner]}, "spec": {}})
    home.reconcile()
    assert (home.refused, home.kube.objects[at]["spec"]) == (None, {})
    home.kube.put(at, {"metadata": meta, "spec": {}})
    await_true(lambda: "ownerReferences" not in home.app._runtime.watcher(CORE_SERVICES).named("a")["metadata"])
    home.reconcile()
    assert (home.refused.reason, home.refused.what) == ("NameConflict", "Service a"), "nobody will delete it"


def test_what_was_written_meanwhile_is_no_condition(home: Home) -> None:
    home.kube.refused["Deployment"] = KubeError(CONFLICT, "it has changed")
    home.reconcile()
    assert home.refused is None
    assert CORE_SERVICES.path(NS, "a") in home.kube.objects
    home.kube.refused["Deployment"] = KubeError(403, "exceeded quota")
    home.reconcile()
    assert (home.refused.reason, home.refused.message) == ("ApplyFailed", "exceeded quota")


def test_the_models_status_is_that_of_its_deployment(home: Home) -> None:
    home.reconcile()
    conditions = [{"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "message": "yes"}]
    status = {"replicas": 1, "readyReplicas": 1, "conditions": conditions}
    home.kube.merge(f"{DEPLOYMENT}/status", {"status": status})
    home.seen(lambda found: found.get("status", {}).get("replicas"))
    made = home.app._statuses()[0]["a"]
    assert (made["replicas"], made["readyReplicas"], made["updatedReplicas"]) == (1, 1, 0)
    [available] = [each for each in made["conditions"] if each["type"] == "Available"]
    assert (available["status"], available["reason"], available["message"]) == (
        "True", "MinimumReplicasAvailable", "yes",
    )  # fmt: skip
    assert list(home.app._statuses()[1]) == [DEPLOYMENT], "the state label is on the Deployment"


def test_a_workspace_says_which_runtime_it_has_and_which_it_cannot_have() -> None:
    ready, _ = statuses.workspace_conditions(
        1, statuses.Residency(), broker_ok=None, runtime_problem="runtime Knative: not installed"
    )
    assert (ready["status"], ready["reason"]) == ("False", "RuntimeUnavailable")
    assert "not installed" in ready["message"]
