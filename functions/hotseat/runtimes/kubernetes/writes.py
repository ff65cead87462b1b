"""The writes of the runtime, fenced against an earlier switcher.

Each scale carries the resourceVersion of the object that it is based on. A switcher does not scale
what another one has taken over.
"""

from collections.abc import Mapping

from hotseat.api.types import Json
from hotseat.kube import pods
from hotseat.kube.client import CONFLICT, NOT_FOUND, Kube, KubeError
from hotseat.kube.constants import DEPLOYMENTS, NODES, PODS, Resource
from hotseat.runtimes.kubernetes.informers import SWITCHER, annotations

_ATTEMPTS = 5
_FORBIDDEN = 403


class SupersededError(Exception):
    """Another switcher has taken over."""


class FencedWriter:
    """The writes, and the reads that must be fresh.

    `identity` is that of this switcher. Every method may raise KubeError.
    """

    def __init__(self, kube: Kube, namespace: str, identity: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._identity = identity

    def find(self, resource: Resource, name: str) -> Json | None:
        """Read an object as it is now; None if there is none of that name."""
        return self._kube.find(resource.path(self._namespace, name))

    def take_over(self, item: Json, resource: Resource = DEPLOYMENTS) -> Json | None:
        """Mark an object as this switcher's, so that an earlier switcher cannot scale by it.

        Return None if it is gone.
        """
        change = {"metadata": {"annotations": {SWITCHER: self._identity}}}
        return self._patch(item, change, resource, forcibly=True)

    def scale(self, deployment: Json, replicas: int, more: Mapping[str, str | None] | None = None) -> Json | None:
        """Scale and annotate a Deployment in one write, so that no pod is without its instance.

        Return None if it is gone. Raise SupersededError if another switcher has taken it over.
        `more`: annotations to set, or to remove (None).
        """
        metadata = {"annotations": {SWITCHER: self._identity, **(more or {})}}
        return self._patch(deployment, {"metadata": metadata, "spec": {"replicas": replicas}})

    def note(self, item: Json, more: Mapping[str, str | None], resource: Resource) -> Json | None:
        """Annotate an object by which others scale a Deployment. Return and raise as `scale` does."""
        return self._patch(item, {"metadata": {"annotations": {SWITCHER: self._identity, **more}}}, resource)

    def _patch(
        self, item: Json, change: Json, resource: Resource = DEPLOYMENTS, *, forcibly: bool = False
    ) -> Json | None:
        """Merge a change into an object, whose given version may be old.

        `forcibly`: even if another switcher has it.
        """
        path = resource.path(self._namespace, item["metadata"]["name"])
        newest: Json | None = item
        for _ in range(_ATTEMPTS):
            if newest is None:
                return None
            if forcibly or self._may_change(newest):
                version = {"resourceVersion": newest["metadata"]["resourceVersion"]}
                try:
                    return self._kube.merge(path, {**change, "metadata": {**change["metadata"], **version}})
                except KubeError as error:
                    if error.status not in (CONFLICT, NOT_FOUND):
                        raise
            elif newest is not item:
                raise _superseded(newest)
            newest = self._kube.find(path)
        raise KubeError(CONFLICT, f"{path} changes too often to be scaled")

    def check_fence(self, deployment: Json | None) -> None:
        """Raise SupersededError if another switcher has taken a Deployment over."""
        if deployment is None or self._may_change(deployment):
            return
        # The given version may be older than our own take-over.
        newest = self._kube.find(DEPLOYMENTS.path(self._namespace, deployment["metadata"]["name"]))
        if newest is not None and not self._may_change(newest):
            raise _superseded(newest)

    def _may_change(self, deployment: Json) -> bool:
        return annotations(deployment).get(SWITCHER, self._identity) == self._identity

    def delete_pod(self, pod: Json, grace: int | None) -> bool:
        """Delete a pod; return False if it has changed since this version, which the watch will report.

        A pod without a node is gone at once with its DELETE. If it got a node at the same moment,
        it would run there without an object. So a pod that has no node in this version is deleted
        only if it is unchanged. `grace`: seconds; None: the grace of the pod itself.
        """
        meta, unbound = pod["metadata"], pods.node(pod) is None
        version = meta["resourceVersion"] if unbound else ""
        try:
            self._kube.delete(PODS.path(self._namespace, meta["name"]), uid=meta["uid"], version=version, grace=grace)
        except KubeError as error:
            if error.status not in (CONFLICT, NOT_FOUND):
                raise
            return error.status == NOT_FOUND or not unbound
        return True

    def annotate(self, name: str, more: Mapping[str, str]) -> None:
        """Add annotations to a pod, which remain when its Deployment is gone."""
        try:
            self._kube.merge(PODS.path(self._namespace, name), {"metadata": {"annotations": dict(more)}})
        except KubeError as error:
            if error.status != NOT_FOUND:
                raise

    def node_is_gone(self, name: str) -> bool:
        """Whether a node is known to be gone permanently; False if it may not be read."""
        known, found = self._node(name)
        return known and pods.node_is_gone(found)

    def node_is_lost(self, name: str) -> bool:
        """Whether a node is gone, or does not report to the API server; False if it may not be read."""
        known, found = self._node(name)
        if not known or found is None or pods.node_is_gone(found):
            return known
        return bool(pods.condition(found, "Ready").get("status") == "Unknown")

    def _node(self, name: str) -> tuple[bool, Json | None]:
        """Return whether nodes may be read, and the node; None if there is none of that name."""
        try:
            return True, self._kube.find(NODES.path(name=name))
        except KubeError as error:
            if error.status == _FORBIDDEN:
                return False, None
            raise


def _superseded(deployment: Json) -> SupersededError:
    return SupersededError(f"{annotations(deployment)[SWITCHER]} has taken over {deployment['metadata']['name']}")
