"""What the runtime does to the world.

Every scale carries the resourceVersion that it saw, and is not even tried by a switcher that another took over from.
"""

from collections.abc import Mapping

from hotseat.kube import pods
from hotseat.kube.client import CONFLICT, NOT_FOUND, Json, Kube, KubeError
from hotseat.kube.constants import DEPLOYMENTS, NODES, PODS, SERVICES
from hotseat.runtimes.knative.informers import SWITCHER, annotations

POD_GRACE = 1  # seconds: queue-proxy would use up to 30 of whatever it gets, and nothing is in flight any more
_ATTEMPTS = 5
_FORBIDDEN = 403


class SupersededError(Exception):
    """Another switcher has taken over."""


class FencedWriter:
    """The writes, and the reads that must be fresh. `identity` is this switcher's. Every method raises KubeError."""

    def __init__(self, kube: Kube, namespace: str, identity: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._identity = identity

    def service(self, name: str) -> Json | None:
        """Read a ksvc: what a watch knows may be older than the document that a start is meant for."""
        return self._kube.find(SERVICES.path(self._namespace, name))

    def take_over(self, deployment: Json) -> Json | None:
        """Mark a Deployment as ours, whoever's it was: nobody who saw it before can change it now. None: it is gone."""
        return self._patch(deployment, {"metadata": {"annotations": {SWITCHER: self._identity}}}, forcibly=True)

    def scale(self, deployment: Json, replicas: int, marks: Mapping[str, str | None] | None = None) -> Json | None:
        """Scale and mark in one write, so that a pod never is without the instance that it was made for. None: it is gone.

        SupersededError: another switcher took it over.
        """
        marks = {SWITCHER: self._identity, **(marks or {})}
        return self._patch(deployment, {"metadata": {"annotations": marks}, "spec": {"replicas": replicas}})

    def _patch(self, seen: Json, change: Json, *, forcibly: bool = False) -> Json | None:
        """Merge into the newest of a Deployment; what was seen of it may be old, which costs another attempt."""
        path = DEPLOYMENTS.path(self._namespace, seen["metadata"]["name"])
        newest: Json | None = seen
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
            elif newest is not seen:
                raise _superseded(newest)
            newest = self._kube.find(path)
        raise KubeError(CONFLICT, f"{path} changes too often to be scaled")

    def check(self, deployment: Json | None) -> None:
        """SupersededError: another switcher took it over. What was seen of it may be from before we did that ourselves."""
        if deployment is None or self._may_change(deployment):
            return
        newest = self._kube.find(DEPLOYMENTS.path(self._namespace, deployment["metadata"]["name"]))
        if newest is not None and not self._may_change(newest):
            raise _superseded(newest)

    def _may_change(self, deployment: Json) -> bool:
        return annotations(deployment).get(SWITCHER, self._identity) == self._identity

    def delete(self, pod: Json) -> bool:
        """Have a pod end, as it was last seen; False: it has changed since, and the watch will tell how.

        A pod without a node is gone at once with its DELETE. A node that it got at that very moment would run it, and nothing
        would be heard of it: so only what was seen without a node, and is still that, is deleted.
        """
        meta, unbound = pod["metadata"], pods.node(pod) is None
        version = meta["resourceVersion"] if unbound else ""
        try:
            self._kube.delete(
                PODS.path(self._namespace, meta["name"]), uid=meta["uid"], version=version, grace=POD_GRACE
            )
        except KubeError as error:
            if error.status not in (CONFLICT, NOT_FOUND):
                raise
            return error.status == NOT_FOUND or not unbound
        return True

    def mark(self, name: str, marks: Mapping[str, str]) -> None:
        """Write on a pod whose it is, for the time when its Deployment is gone."""
        try:
            self._kube.merge(PODS.path(self._namespace, name), {"metadata": {"annotations": dict(marks)}})
        except KubeError as error:
            if error.status != NOT_FOUND:
                raise

    def node_is_gone(self, name: str) -> bool:
        """Whether a node is gone for good. One that we may not look at is not known to be."""
        known, found = self._node(name)
        return known and pods.settles(found)

    def node_is_lost(self, name: str) -> bool:
        """Whether nothing is heard of a node: its state is unknown, or it is gone."""
        known, found = self._node(name)
        if not known or found is None or pods.settles(found):
            return known
        conditions = found.get("status", {}).get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "Unknown" for each in conditions)

    def _node(self, name: str) -> tuple[bool, Json | None]:
        """Whether anything can be known of a node, and the node; None: there is none of that name."""
        try:
            return True, self._kube.find(NODES.path(name=name))
        except KubeError as error:
            if error.status == _FORBIDDEN:
                return False, None
            raise


def _superseded(deployment: Json) -> SupersededError:
    return SupersededError(f"{annotations(deployment)[SWITCHER]} has taken over {deployment['metadata']['name']}")
