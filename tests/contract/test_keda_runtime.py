"""The contract of every Runtime (test_runtime.py), kept by the runtime of KEDA over a lively API server and operator in memory.

As with Deployments (test_deployment_runtime.py), some of its tests are not for a cluster.
"""

from collections.abc import Iterator

import pytest

from hotseat.core.messages import InstanceReady
from hotseat.core.ports import Runtime
from hotseat.runtimes.keda.runtime import KedaRuntime
from tests.contract.test_runtime import (  # noqa: F401 - pytest collects them here, with the home below
    test_a_crash_is_told_without_being_asked,
    test_a_failed_load_says_why_and_is_released,
    test_a_fetch_of_what_is_there_says_so,
    test_a_stop_for_an_instance_that_is_gone_is_answered_again,
    test_a_stop_for_an_instance_that_never_was_is_answered,
    test_a_stop_while_loading_releases_without_a_failure,
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


class KedaHome:
    """KedaRuntime with pods that live by themselves."""

    def __init__(self) -> None:
        self.kube = FakeCluster()
        self.kube.lively = True
        self.kube.behaviour = {"slow": "slow", "broken": "broken"}
        for name in ("quick", "slow", "broken", "stubborn", "sleepless"):
            add_scaled_deployment(self.kube, name)
        self.runtime = KedaRuntime(self.kube, NS, NoFetcher(), identity="it", probe=self.kube.ask)
        self.keda = FakeKeda(self.kube, self.runtime.has_place)
        self.keda.start()

    def crash(self, ready: InstanceReady) -> None:
        self.kube.crash(self.kube.pods("quick")[0], 7)


@pytest.fixture
def home() -> Iterator[KedaHome]:
    home = KedaHome()
    yield home
    home.keda.stop()
    home.runtime.close()
    home.kube.close()


@pytest.fixture
def runtime(home: KedaHome) -> Runtime:
    return home.runtime
