"""Deployments that a person has made and labelled: their pods carry nothing of hotseat's."""

from collections.abc import Iterator

import pytest

from hotseat.api.types import Json
from hotseat.core.messages import InstanceAdopted, InstanceReady, InstanceReleased
from hotseat.kube.constants import DEPLOYMENT, PODS, REPLICA_SETS, WORKSPACE
from hotseat.runtimes.deployment.informers import _selector
from tests.fake_kube import NS, FakeCluster, merged
from tests.unit.runtimes.deployment.test_runtime import DeploymentHome
from tests.unit.runtimes.knative.test_runtime import A, await_true, never

INSTANCE = "hotseat.dev/instance"


class HandmadeHome(DeploymentHome):
    """A cluster with the Deployments a and b, which are somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.kube.objects.clear()
        self.kube = FakeCluster()
        self.at = self.kube.add_handmade("a")
        self.kube.add_handmade("b")

    @property
    def deployment(self) -> Json:
        return self.kube.objects[self.at]

    def relabel(self, workspace: str | None) -> None:
        self.kube.merge(self.at, {"metadata": {"labels": {WORKSPACE: workspace}}})


@pytest.fixture
def home() -> Iterator[HandmadeHome]:
    home = HandmadeHome()
    home.begin()
    yield home
    home.end()


def test_it_comes_and_goes_and_nothing_but_its_scale_changes(home: HandmadeHome) -> None:
    before = home.deployment["spec"]
    pod = home.resident()
    assert DEPLOYMENT not in pod["metadata"]["labels"]
    address = home.told.await_one(InstanceReady, A).address
    ip = home.kube.find(PODS.path(NS, pod["metadata"]["name"]))["status"]["podIP"]
    assert address == f"http://{ip}:9000", "the port named http"
    assert home.deployment["metadata"]["annotations"][INSTANCE] == A
    home.stop()
    await_true(lambda: home.going(pod))
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(pod, keep=True)
    home.told.await_one(InstanceReleased, A)
    assert home.deployment["spec"] == before
    assert INSTANCE not in home.deployment["metadata"]["annotations"]


def test_pods_of_others_with_its_labels_do_not_count(home: HandmadeHome) -> None:
    pod = home.resident()
    job = {"name": "j", "labels": {"app": "a"}, "ownerReferences": [{"kind": "Job", "name": "j", "controller": True}]}
    spec = {"containers": [{"name": "job"}], "nodeName": "node"}
    home.kube.put(PODS.path(NS, "j"), {"metadata": job, "spec": spec, "status": {}})
    home.stop()
    await_true(lambda: home.going(pod))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)
    assert home.kube.find(PODS.path(NS, "j"))["metadata"].get("deletionTimestamp") is None


def test_the_next_switcher_adopts_it_with_its_instance(home: HandmadeHome) -> None:
    pod = home.resident()
    told = home.again()
    adopted = told.await_one(InstanceAdopted, A)
    assert (adopted.model, adopted.gpus, adopted.releasing, bool(adopted.address)) == ("a", 1, False, True)
    home.stop()
    await_true(lambda: home.going(pod))


@pytest.mark.parametrize("restart", [False, True])
def test_one_whose_label_is_removed_is_released_and_then_its_owners(home: HandmadeHome, restart: bool) -> None:
    pod = home.resident()
    home.relabel(None)
    del home.fingerprints["a"]
    told = home.again() if restart else home.told
    if restart:
        told.await_one(InstanceAdopted, A)
    home.stop()
    await_true(lambda: home.scale() == 0)
    home.kube.end(pod)
    told.await_one(InstanceReleased, A)
    home.kube.merge(home.at, {"spec": {"replicas": 1}})
    home.kube.serve(home.kube.pods("a")[-1])
    never(lambda: [each for each in told.seen if isinstance(each, InstanceAdopted) and each.instance != A])
    assert home.scale() == 1
    assert not home.going(home.kube.pods("a")[-1])


def test_one_that_is_labelled_while_it_runs_is_adopted_once_its_model_is_known() -> None:
    home = HandmadeHome()
    home.relabel(None)
    del home.fingerprints["a"]
    told = home.begin()
    home.kube.merge(home.at, {"spec": {"replicas": 1}})
    home.kube.serve(home.kube.pods("a")[-1])
    home.relabel("lab")
    never(lambda: [each for each in told.seen if isinstance(each, InstanceAdopted)])
    home.fingerprints["a"] = "1"
    home.runtime.adopt_running()
    adopted = told.await_one(InstanceAdopted, model="a")
    assert adopted.instance.startswith("lab/a@")
    assert adopted.address
    home.runtime.close()
    home.kube.close()


def test_one_that_is_deleted_holds_until_its_pod_has_ended(home: HandmadeHome) -> None:
    pod = home.resident()
    home.kube.remove(REPLICA_SETS.path(NS, "a-rs"))
    home.kube.remove(home.at)
    home.kube.end_of(PODS.path(NS, pod["metadata"]["name"]), 300)
    never(lambda: "InstanceReleased" in home.told.of_instance(A))
    home.kube.end(pod)
    home.told.await_one(InstanceReleased, A)


def test_a_deployment_without_our_label_is_nobody_here(home: HandmadeHome) -> None:
    told = home.told
    home.kube.add_handmade("shop", workspace="", replicas=1)
    home.kube.serve(home.kube.pods("shop")[0])
    never(lambda: [each for each in told.seen if isinstance(each, InstanceAdopted)])


def test_a_selector_as_text() -> None:
    expressions = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "env", "operator": "NotIn", "values": ["dev"]},
        {"key": "gpu", "operator": "Exists"},
        {"key": "old", "operator": "DoesNotExist"},
    ]
    selector = {"matchLabels": {"app": "x"}, "matchExpressions": expressions}
    text = "app=x,tier in (a,b),env notin (dev),gpu,!old"
    assert _selector(merged({}, {"spec": {"selector": selector}})) == text
    assert _selector(None) == "!serving.knative.dev/revision"
