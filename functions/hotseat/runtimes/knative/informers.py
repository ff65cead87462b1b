"""The objects of one namespace that concern Knative Services, in six informers."""

from functools import partial

from hotseat.api.types import Json
from hotseat.kube.client import Kube, Watcher
from hotseat.kube.constants import (
    AUTOSCALING_CLASS,
    CLASS_ANNOTATION,
    POD_AUTOSCALERS,
    REPLICA_SETS,
    REVISION,
    SERVERLESS_SERVICES,
    SERVICES,
)
from hotseat.runtimes.kubernetes.informers import Informers, OnChange, annotations


class KnativeInformers(Informers):
    """Pods, Deployments and ReplicaSets of Revisions, Knative Services, PodAutoscalers and ServerlessServices."""

    def __init__(self, kube: Kube, namespace: str, on_change: OnChange) -> None:
        super().__init__(kube, namespace, REVISION, on_change, SERVICES, POD_AUTOSCALERS, SERVERLESS_SERVICES)
        self.services = self.more[SERVICES]
        self.autoscalers = self.more[POD_AUTOSCALERS]
        self.serverless = self.more[SERVERLESS_SERVICES]
        on_replica_set = partial(on_change, REPLICA_SETS)
        self.replica_sets = Watcher(kube, REPLICA_SETS, namespace, on_replica_set, selector=REVISION)
        self.all += (self.replica_sets,)


def has_our_class(autoscaler: Json) -> bool:
    """Whether a PodAutoscaler has the autoscaling class of hotseat."""
    return annotations(autoscaler).get(CLASS_ANNOTATION) == AUTOSCALING_CLASS
