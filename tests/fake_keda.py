"""As much of KEDA's operator as scales a Deployment: pauses, polls, and what it writes of them.

It acts on a paused ScaledObject when the annotations of its pause have changed, as KEDA does, and at its own start.
"""

import threading
from collections.abc import Callable

from hotseat.api.types import Json
from hotseat.kube.client import KubeError
from hotseat.kube.constants import (
    DEPLOYMENTS,
    KEDA,
    MODEL,
    PAUSED,
    PAUSED_REPLICAS,
    SCALED_BY,
    SCALED_OBJECTS,
    WORKSPACE,
)
from tests.fake_kube import NS, FakeCluster, _in

POLL = 0.01


class FakeKeda:
    """An operator. `ask` is the external scaler: whether a Model is active, None for an error.

    Where several replicas are wanted by demand, it returns their number: the HorizontalPodAutoscaler's part.
    """

    def __init__(self, kube: FakeCluster, ask: Callable[[str], int | None]) -> None:
        self.kube, self.ask = kube, ask
        self.finalizes = True  # lets deleted ScaledObjects go
        self._carried_out: dict[str, tuple[str | None, str | None]] = {}
        self._stopped = threading.Event()
        kube.collections.add(SCALED_OBJECTS.plural)

    def start(self) -> None:
        """Start it, as after a restart: it has seen nothing yet."""
        self._carried_out.clear()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, args=(self._stopped,), daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self, stopped: threading.Event) -> None:
        while not stopped.wait(POLL):
            with self.kube.changed:
                if stopped.is_set() or self.kube.away:
                    continue
                for at in [each for each in self.kube.objects if _in(each, SCALED_OBJECTS.path(NS))]:
                    self._reconcile(at, self.kube.objects[at])

    def _reconcile(self, at: str, item: Json) -> None:
        name, meta = item["metadata"]["name"], item["metadata"]
        notes = meta.get("annotations") or {}
        pause = (notes.get(PAUSED_REPLICAS), notes.get(PAUSED))
        if "deletionTimestamp" in meta:
            if self.finalizes:
                self.kube.remove(at)
        elif pause[0] is not None:
            if self._carried_out.get(at) != pause:
                self._scale(item, int(pause[0]))
                self._carried_out[at] = pause
                self._say(at, {"pausedReplicaCount": int(pause[0])})
        else:
            self._carried_out.pop(at, None)
            if (item.get("status") or {}).get("pausedReplicaCount") is not None:
                self._say(at, {"pausedReplicaCount": None})
            active = self.ask(name)
            if active is not None:
                self._scale(item, int(active))

    def _say(self, at: str, status: Json) -> None:
        self.kube.merge(f"{at}/status", {"status": status})

    def _scale(self, item: Json, replicas: int) -> None:
        at = DEPLOYMENTS.path(NS, item["spec"]["scaleTargetRef"]["name"])
        found = self.kube.objects.get(at)
        if found is not None and found["spec"]["replicas"] != replicas:
            try:
                self.kube.merge(at, {"spec": {"replicas": replicas}})
            except KubeError:
                return


def add_scaled_deployment(kube: FakeCluster, name: str) -> None:
    """Make what the switcher makes of a Model with KEDA."""
    kube.add_deployment(name, more={SCALED_BY: KEDA})
    meta = {"name": name, "namespace": NS, "labels": {MODEL: name, WORKSPACE: "default"}}
    meta["annotations"] = {PAUSED_REPLICAS: "0"}
    kube.put(SCALED_OBJECTS.path(NS, name), {"metadata": meta, "spec": {"scaleTargetRef": {"name": name}}})
