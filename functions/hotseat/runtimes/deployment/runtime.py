"""Runtime of one namespace: instances are pods of the Deployments that the switcher makes of Models."""

import time
from collections.abc import Callable

from hotseat.core.ports import WeightsFetcher
from hotseat.kube.client import Kube
from hotseat.runtimes.deployment.adapter import DeploymentAdapter, probe_http
from hotseat.runtimes.kubernetes.adapter import Fingerprint, Probe, unknown
from hotseat.runtimes.kubernetes.runtime import PodRuntime


class DeploymentRuntime(PodRuntime):
    """PodRuntime for Deployments. `fingerprint` tells that of a Model's newest objects, which must be applied first."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        fetcher: WeightsFetcher,
        *,
        identity: str,
        fingerprint: Fingerprint = unknown,
        clock: Callable[[], float] = time.monotonic,
        probe: Probe = probe_http,
    ) -> None:
        adapter = DeploymentAdapter(kube, namespace, probe, fingerprint)
        super().__init__(kube, namespace, fetcher, adapter, identity=identity, clock=clock)
