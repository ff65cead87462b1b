"""Which runtime serves the Models of a Workspace: the choice, a move, and what goes with it."""

from collections.abc import Iterator

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import ClusterRuntime, Workspace
from hotseat.cluster.switcher.runtimes import ClusterRuntimes
from hotseat.core.messages import InstanceAdopted, InstanceReady, InstanceReleased, Start, Stop
from hotseat.kube.client import NOT_FOUND, KubeError
from hotseat.kube.constants import CORE_SERVICES, DEPLOYMENTS, PODS, SCALED_OBJECTS, SERVICES
from tests.fake_kube import NS, FakeCluster
from tests.fakes import Observations
from tests.knative_home import NoFetcher
from tests.unit.runtimes.knative.test_runtime import await_true, never

KNATIVE, KEDA, DEPLOYMENT = ClusterRuntime.KNATIVE, ClusterRuntime.KEDA, ClusterRuntime.DEPLOYMENT
FORBIDDEN = 403


class Cluster(FakeCluster):
    """An API server that refuses some collections."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, int] = {}

    def get(self, path: str, **query: str) -> Json:
        if path in self.refused:
            raise KubeError(self.refused[path], "refused")
        return super().get(path, **query)


class Home:
    """The runtimes of one switcher after another."""

    def __init__(self) -> None:
        self.kube = Cluster()
        self.kube.lively = True
        self.all: list[ClusterRuntimes] = []

    def begin(self) -> ClusterRuntimes:
        self.runtimes = ClusterRuntimes(
            self.kube,
            NS,
            NoFetcher(),
            identity=f"switcher-{len(self.all)}",
            fingerprint=lambda _model: None,
            runtime_of=lambda _model: self.runtimes._chosen["default"],
            on_change=lambda _change, _item: None,
        )
        for runtime in self.runtimes._runtimes.values():
            runtime._adapter.probe = self.kube.ask
        self.all.append(self.runtimes)
        self.runtimes.open_watchers()
        return self.runtimes

    def follow(self, workspace: Workspace) -> Observations:
        told = Observations()
        self.runtimes.choose(workspace, {})
        self.runtimes.begin([model()], told)
        return told


@pytest.fixture
def home() -> Iterator[Home]:
    home = Home()
    yield home
    for each in home.all:
        each.close()
    home.kube.close()


def workspace(runtime: str = "Auto") -> Workspace:
    return Workspace.model_validate({"metadata": {"name": "default"}, "spec": {"runtime": runtime}})


def model() -> Model:
    return Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock"}})


def without_knative(kube: Cluster, status: int = NOT_FOUND) -> None:
    kube.refused[SERVICES.path(NS)] = status


# The choice -----------------------------------------------------------------------------------------------------------


def test_auto_takes_knative_where_it_is(home: Home) -> None:
    assert home.begin().choose(workspace(), {}) == (KNATIVE, "")


@pytest.mark.parametrize("status", [NOT_FOUND, FORBIDDEN])
def test_auto_takes_deployments_where_knative_is_not_or_may_not_be_used(home: Home, status: int) -> None:
    without_knative(home.kube, status)
    assert home.begin().choose(workspace(), {}) == (DEPLOYMENT, "")
    assert not any("knative" in path for _, path in home.kube.calls)


def test_auto_takes_keda_where_knative_is_not(home: Home) -> None:
    home.kube.collections.add(SCALED_OBJECTS.plural)
    assert home.begin().choose(workspace(), {}) == (KNATIVE, "")
    without_knative(home.kube)
    assert home.begin().choose(workspace(), {}) == (KEDA, "")
    assert home.begin().choose(workspace(), {"runtime": "Deployment"}) == (DEPLOYMENT, ""), "it was there before KEDA"


@pytest.mark.parametrize("status", [NOT_FOUND, FORBIDDEN])
def test_keda_needs_its_crd_and_rights_that_are_named(home: Home, status: int) -> None:
    home.kube.refused[SCALED_OBJECTS.path(NS)] = status
    without_knative(home.kube)
    runtimes = home.begin()
    assert runtimes.choose(workspace(), {}) == (DEPLOYMENT, "")
    assert runtimes.choose(workspace("KEDA"), {}) == (DEPLOYMENT, "")
    assert "apply deployment/role and keda/role" in runtimes.choice_of("default")[1]


def test_a_scaler_that_cannot_serve_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.kube.collections.add(SCALED_OBJECTS.plural)
    runtimes = home.begin()
    monkeypatch.setattr(runtimes._scaler, "start", lambda: "port 8090 is in use")
    home.follow(workspace("KEDA"))
    assert runtimes.choice_of("default") == (
        "KEDA",
        "runtime KEDA: the external scaler cannot serve, so KEDA starts no Model: port 8090 is in use",
    )


def test_knative_that_is_installed_later_moves_nothing(home: Home) -> None:
    without_knative(home.kube)
    runtimes = home.begin()
    assert runtimes.choose(workspace(), {}) == (DEPLOYMENT, "")
    home.kube.refused.clear()
    assert runtimes.choose(workspace(), {}) == (DEPLOYMENT, "")
    assert home.begin().choose(workspace(), {"runtime": "Deployment"}) == (DEPLOYMENT, ""), "nor after a restart"
    assert home.runtimes.choose(workspace("Knative"), {}) == (KNATIVE, ""), "but it can be named"


def test_a_runtime_that_is_not_there_is_said_and_used_once_it_is(home: Home) -> None:
    without_knative(home.kube)
    runtimes = home.begin()
    chosen, problem = runtimes.choose(workspace("Knative"), {})
    assert chosen is KNATIVE
    assert "Knative Serving is not installed" in problem
    assert runtimes.choice_of("default") == ("Knative", problem)
    home.kube.refused.clear()
    assert runtimes.choose(workspace("Knative"), {}) == (KNATIVE, "")
    assert runtimes.choice_of("default") == ("Knative", "")


def test_a_workspace_stays_with_its_runtime_if_the_new_one_cannot_be_used(home: Home) -> None:
    without_knative(home.kube)
    runtimes = home.begin()
    runtimes.choose(workspace("Deployment"), {})
    assert runtimes.choose(workspace("Knative"), {}) == (DEPLOYMENT, "")
    chosen, problem = runtimes.choice_of("default")
    assert chosen == "Deployment"
    assert problem.startswith("runtime Knative: ")


def test_deployments_need_rights_that_are_named(home: Home) -> None:
    home.kube.refused[CORE_SERVICES.path(NS)] = FORBIDDEN
    assert "apply deployment/role" in home.begin().choose(workspace("Deployment"), {})[1]


# A move ---------------------------------------------------------------------------------------------------------------


def test_what_runs_is_stopped_by_the_runtime_that_has_it(home: Home) -> None:
    home.kube.add_service("a")
    home.kube.add_deployment("a")
    runtimes = home.begin()
    told = home.follow(workspace("Knative"))
    runtimes.start(Start("a", "default/a@1", 1))
    assert told.await_one(InstanceReady, "default/a@1").address.endswith(":8012")
    runtimes.choose(workspace("Deployment"), {})
    runtimes.update([model()])
    runtimes.stop(Stop("a", "default/a@1", 1, 10.0))
    told.await_one(InstanceReleased, "default/a@1")
    runtimes.start(Start("a", "default/a@2", 2))
    assert told.await_one(InstanceReady, "default/a@2").address.endswith(":9000")
    assert home.kube.objects[DEPLOYMENTS.path(NS, "a")]["spec"]["replicas"] == 1
    assert home.kube.objects[DEPLOYMENTS.path(NS, "a-00001-deployment")]["spec"]["replicas"] == 0


def test_the_next_switcher_adopts_what_the_old_runtime_left(home: Home) -> None:
    home.kube.add_service("a")
    runtimes = home.begin()
    told = home.follow(workspace("Knative"))
    runtimes.start(Start("a", "default/a@1", 1))
    told.await_one(InstanceReady, "default/a@1")
    runtimes.close()
    runtimes = home.begin()
    told = home.follow(workspace("Deployment"))
    told.await_one(InstanceAdopted, "default/a@1")
    runtimes.stop(Stop("a", "default/a@1", 1, 10.0))
    told.await_one(InstanceReleased, "default/a@1")


def test_two_runtimes_never_have_instances_of_one_id(home: Home) -> None:
    """The scheduler takes a second one of an id for the first, and would not count its GPUs."""
    home.kube.add_service("a", replicas=1)
    home.kube.add_deployment("a", replicas=1)
    home.begin()
    told = home.follow(workspace("Knative"))
    await_true(lambda: len([each for each in told.seen if isinstance(each, InstanceAdopted)]) == 2)
    adopted = {each.instance for each in told.seen if isinstance(each, InstanceAdopted)}
    assert len(adopted) == 2


def test_a_stop_for_what_no_open_runtime_has_is_answered(home: Home) -> None:
    without_knative(home.kube)
    runtimes = home.begin()
    told = home.follow(workspace("Knative"))
    runtimes.stop(Stop("a", "default/a@1", 1, 10.0))
    told.await_one(InstanceReleased, "default/a@1")


def test_what_the_old_runtime_made_goes_once_it_is_released(home: Home) -> None:
    home.kube.add_service("a")
    service = SERVICES.path(NS, "a")
    home.kube.merge(service, {"metadata": {"ownerReferences": [{"uid": "uid-a"}]}})
    runtimes = home.begin()
    told = home.follow(workspace("Knative"))
    await_true(lambda: runtimes.watcher(SERVICES).named("a"))
    assert runtimes.left_over("a", "uid-a", KNATIVE) == []
    runtimes.start(Start("a", "default/a@1", 1))
    told.await_one(InstanceReady, "default/a@1")
    assert runtimes.left_over("a", "uid-a", DEPLOYMENT) == [], "its pod runs"
    runtimes.stop(Stop("a", "default/a@1", 1, 10.0))
    told.await_one(InstanceReleased, "default/a@1")
    assert [resource for resource, _ in runtimes.left_over("a", "uid-a", DEPLOYMENT)] == [SERVICES]
    assert runtimes.left_over("a", "another", DEPLOYMENT) == [], "it is not of this Model"


def test_nothing_of_a_closed_switcher_changes_the_cluster(home: Home) -> None:
    home.kube.add_deployment("a")
    runtimes = home.begin()
    home.follow(workspace("Deployment"))
    other = Home.begin(home)  # another switcher takes over
    home.follow(workspace("Deployment"))
    home.kube.calls.clear()
    runtimes.start(Start("a", "default/a@1", 1))
    await_true(runtimes.superseded.is_set)
    never(lambda: [path for _, path in home.kube.calls if path.startswith(PODS.path(NS))])
    assert not other.superseded.is_set()
