"""The contract of every Runtime (test_runtime.py), kept by each runtime of a cluster over a lively API server in memory.

Some of its tests are not for a cluster: weights of a local path, that closing stops what runs (here the next switcher adopts it,
see tests/unit/runtimes/knative/test_runtime.py), and what comes after a park, as it parks nothing.
"""

from collections.abc import Iterator

import pytest

from hotseat.core.messages import InstanceReady
from hotseat.core.ports import Runtime
from hotseat.runtimes.deployment.runtime import DeploymentRuntime
from hotseat.runtimes.keda.runtime import KedaRuntime
from hotseat.runtimes.knative.runtime import KnativeRuntime
from hotseat.runtimes.kubernetes.runtime import PodRuntime
from tests.contract.test_runtime import (  # noqa: F401 - pytest collects them here, with the home below
    test_a_crash_is_told_without_being_asked,
    test_a_failed_load_says_why_and_is_released,
    test_a_fetch_of_what_is_there_says_so,
    test_a_stop_for_an_instance_that_is_gone_is_answered_again,
    test_a_stop_for_an_instance_that_never_was_is_answered,
    test_a_stop_while_loading_releases_without_a_failure,
    test_an_instance_answers_that_it_has_saved_or_restored_if_there_is_nothing,
    test_an_instance_gets_ready_and_is_released_by_a_stop,
    test_an_update_tells_of_what_changed_and_leaves_instances_alone,
    test_callers_mistakes_are_errors,
    test_logs_have_positions_and_outlive_the_run,
    test_one_that_does_not_fall_asleep_says_so_and_is_still_there,
    test_what_runs_is_stopped_although_its_document_says_external_since,
    test_who_is_gone_neither_sleeps_nor_wakes,
    told,
)
from tests.fake_keda import FakeKeda, add_scaled_deployment
from tests.fake_kube import NS, FakeCluster
from tests.knative_home import NoFetcher

RUNTIMES = {
    KnativeRuntime: FakeCluster.add_service,
    DeploymentRuntime: FakeCluster.add_deployment,
    KedaRuntime: add_scaled_deployment,
}


class Home:
    """A runtime with pods that live by themselves."""

    def __init__(self, runtime_type: type[PodRuntime]) -> None:
        self.kube = FakeCluster()
        self.kube.lively = True
        self.kube.behaviour = {"slow": "slow", "broken": "broken"}
        for name in ("quick", "slow", "broken", "stubborn", "sleepless"):
            RUNTIMES[runtime_type](self.kube, name)
        self.runtime = runtime_type(self.kube, NS, NoFetcher(), identity="it", probe=self.kube.ask)

    def crash(self, ready: InstanceReady) -> None:
        self.kube.crash(self.kube.pods("quick")[0], 7)


@pytest.fixture(params=RUNTIMES, ids=lambda runtime_type: runtime_type.__name__)
def home(request: pytest.FixtureRequest) -> Iterator[Home]:
    home = Home(request.param)
    keda = FakeKeda(home.kube, home.runtime.has_place) if isinstance(home.runtime, KedaRuntime) else None
    if keda:
        keda.start()
    yield home
    if keda:
        keda.stop()
    home.runtime.close()
    home.kube.close()


@pytest.fixture
def runtime(home: Home) -> Runtime:
    return home.runtime
