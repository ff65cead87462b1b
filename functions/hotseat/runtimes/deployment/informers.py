"""Pods and ReplicaSets of Deployments that were made by hand: their owners say to which Deployment they belong."""

from hotseat.api.types import Json
from hotseat.kube.client import Kube
from hotseat.kube.constants import DEPLOYMENT, NOT_OF_KNATIVE, Resource
from hotseat.runtimes.kubernetes.informers import Informers, OnChange, labels
from hotseat.runtimes.kubernetes.replica_sets import ReplicaSets

_HASH = "pod-template-hash"  # label of pods; the name of their ReplicaSet ends with it


class DeploymentInformers(Informers):
    """Deployments and pods of one namespace. The template of an adopted Deployment need not have our label."""

    def __init__(self, kube: Kube, namespace: str, on_change: OnChange, *more: Resource, selector: str) -> None:
        super().__init__(kube, namespace, DEPLOYMENT, on_change, *more, selector=selector)

    def workload_of(self, item: Json) -> str:
        """Return the Deployment that a pod or a ReplicaSet belongs to; empty for pods of other controllers."""
        meta = item["metadata"]
        owner: Json = next((each for each in meta.get("ownerReferences") or () if each.get("controller")), {})
        if DEPLOYMENT in labels(item):
            return labels(item)[DEPLOYMENT]
        if owner.get("kind") == "Deployment":
            return str(owner["name"])
        if owner.get("kind") == "ReplicaSet" and _HASH in labels(item):
            return str(owner["name"]).removesuffix(f"-{labels(item)[_HASH]}")
        return "" if "containers" in item["spec"] else str(meta["name"])


class DeploymentReplicaSets(ReplicaSets):
    """The ReplicaSets and pods of Deployments, by the selectors of these."""

    def __init__(self, kube: Kube, namespace: str, informers: DeploymentInformers) -> None:
        super().__init__(kube, namespace, DEPLOYMENT)
        self._informers = informers

    def _of(self, resource: Resource, workload: str) -> list[Json]:
        found = self._list(resource, _selector(self._informers.deployment(workload)))
        return [each for each in found if self._informers.workload_of(each) == workload]


def _selector(deployment: Json | None) -> str:
    """Return the selector of a Deployment as text. That of one that is gone is not known."""
    selector = ((deployment or {}).get("spec") or {}).get("selector") or {}
    parts = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for each in selector.get("matchExpressions") or ():
        key, values = each["key"], ",".join(each.get("values") or ())
        words = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "DoesNotExist": f"!{key}"}
        parts.append(words.get(each["operator"], key))
    return ",".join(parts) or NOT_OF_KNATIVE
