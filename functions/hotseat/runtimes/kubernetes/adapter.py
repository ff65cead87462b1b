"""What differs between the runtimes of a cluster: the objects that serve a Model, and how they are scaled.

A workload is a Deployment with its ReplicaSets and pods. It has a name: that of a Knative Revision,
or of the Deployment itself. A label with this name is on the Deployment and on its pods. Everything
else is shared: a pod is followed, probed and proven gone in the same way, whoever creates it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from hotseat.api.types import Json
from hotseat.kube.client import Change, Kube
from hotseat.kube.constants import Resource
from hotseat.runtimes.kubernetes.informers import Informers, OnChange
from hotseat.runtimes.kubernetes.replica_sets import ReplicaSets
from hotseat.runtimes.kubernetes.writes import FencedWriter

Probe = Callable[[str], bool]
Fingerprint = Callable[[str], str | None]  # of the objects for a Model's newest document; None: it is not known


def unknown(_model: str) -> None:
    """Return None, the fingerprint of objects whose documents are not known."""


class WorkloadAdapter(ABC):
    """One kind of objects that serve a Model. Its runtime calls `open` once, before anything else.

    Methods may raise KubeError where they have a writer; the runtime then calls them again.
    """

    name: str  # of the runtime, for messages
    serves_as: str  # kind of the object that serves a Model, for reasons of failures
    label: str  # label of Deployments and pods whose value is the name of their workload
    model_label: str  # label of both whose value is the name of the Model
    related: tuple[Resource, ...] = ()  # other kinds with that label, which say whether a Deployment belongs to a Model
    default_probe: Probe
    informers: Informers
    replica_sets: ReplicaSets

    def __init__(self, kube: Kube, namespace: str, probe: Probe | None, fingerprint: Fingerprint) -> None:
        self._kube = kube
        self._namespace = namespace
        self.probe = probe or self.default_probe
        self._fingerprint = fingerprint

    def open(self, on_change: OnChange) -> None:
        """Make the informers. They call `on_change` once they are started."""
        self.informers = Informers(self._kube, self._namespace, self.label, on_change)

    def start(self) -> None:  # noqa: B027 - most adapters have no threads
        """Start the adapter's own threads, once all running instances are adopted."""

    def stop(self) -> None:  # noqa: B027
        """End the adapter's own threads."""

    def handle_change(self, resource: Resource, change: Change, item: Json) -> None:  # noqa: B027
        """Handle a change of an object, on the thread of its watch."""

    @abstractmethod
    def is_model(self, item: Json) -> bool:
        """Whether a Deployment or a pod belongs to a Model."""

    def labels_of(self, model: str) -> Mapping[str, str]:  # noqa: ARG002
        """Return the labels of the object that stands for a Model; empty if it is the Deployment itself."""
        return {}

    def take_over(self, writer: FencedWriter) -> Iterator[Callable[[], object]]:
        """Yield what marks each Model's scale as this switcher's, so that an earlier switcher cannot change it."""
        for deployment in self.informers.deployments.objects:
            if self.is_model(deployment):
                yield partial(writer.take_over, deployment)

    def record(self, workload: str) -> Json | None:
        """Return the object whose annotations say for which instance a workload was scaled up."""
        return self.informers.deployment(workload)

    def may_run(self, workload: str) -> bool:  # noqa: ARG002
        """Whether a workload that is found scaled up, without an instance, may stay so."""
        return True

    @abstractmethod
    def find_workload(self, writer: FencedWriter, model: str) -> tuple[str | None, str]:
        """Return the workload to scale up for a Model, and why there is none or it has failed.

        It must be made from the Model's newest document.
        """

    @abstractmethod
    def describe(self, workload: str) -> str:
        """Return the object to which a Deployment belongs, for messages."""

    def scale(
        self, writer: FencedWriter, deployment: Json, replicas: int, annotations: Mapping[str, str | None]
    ) -> Json | None:
        """Scale a Deployment and set annotations of it; return its new version, or None if it is gone.

        Raise SupersededError if another switcher has taken it over.
        """
        return writer.scale(deployment, replicas, annotations)

    def scale_to_zero(self, writer: FencedWriter, workload: str) -> int | None:
        """Scale a workload to zero.

        Return the generation that its Deployment has then, 0 if it has none, or None if it is not at
        zero yet. Call this again then: another controller does it.
        """
        deployment = self.informers.deployment(workload)
        written = self.scale(writer, deployment, 0, {}) if deployment is not None else None
        return 0 if written is None else int(written["metadata"].get("generation", 0))

    def late(self, workload: str, replicas: int) -> str:  # noqa: ARG002
        """Return why a workload is not scaled yet, once that has taken some time; empty if there is no such reason."""
        return ""

    @abstractmethod
    def address(self, pod: Json) -> str | None:
        """Return the URL to which requests for a pod go; None while the pod has no IP."""

    @abstractmethod
    def probe_target(self, pod: Json) -> str | None:
        """Return what `probe` is called with; None if only the pod's condition Ready says that it serves.

        Call it for pods that have an IP.
        """

    @abstractmethod
    def grace(self) -> int | None:
        """Return the seconds of grace for the deletion of pods; None: each pod's own."""

    @abstractmethod
    def time_to_end(self, pod: Json | None, *, foreign: bool) -> float:
        """Return the seconds that a deleted pod may take to end. `foreign`: another client has deleted it."""
