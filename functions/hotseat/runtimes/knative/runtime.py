"""Runtime of one namespace: instances are pods of Knative Services, which are scaled up and deleted by uid."""

import time
from collections.abc import Callable

from hotseat.core.ports import WeightsFetcher
from hotseat.kube.client import Kube
from hotseat.runtimes.knative.adapter import KnativeAdapter, probe_queue_proxy
from hotseat.runtimes.kubernetes.adapter import Fingerprint, Probe, unknown
from hotseat.runtimes.kubernetes.runtime import PodRuntime


class KnativeRuntime(PodRuntime):
    """PodRuntime for Knative Services."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        fetcher: WeightsFetcher,
        *,
        identity: str,
        fingerprint: Fingerprint = unknown,
        clock: Callable[[], float] = time.monotonic,
        probe: Probe = probe_queue_proxy,
    ) -> None:
        adapter = KnativeAdapter(kube, namespace, probe, fingerprint)
        super().__init__(kube, namespace, fetcher, adapter, identity=identity, clock=clock)
