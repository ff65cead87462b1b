"""Deployments that KEDA scales: it alone writes their replicas, and never on its own account.

A Model without a place is paused at zero by an annotation of its ScaledObject, which KEDA carries out
at once. To start it, the pause is removed; KEDA then asks the switcher's external scaler, and
scales the Deployment to one, or to more by demand: at most to scheduling.replicas, which is what the
Model claims GPUs for. So two have to agree before a pod is made: the ScaledObject is not
paused, and the scaler says that the Model has a place. An answer that comes too late, a pause that
somebody removes, or a restart of either side does not bring a Model back.

A release needs two facts in this order. KEDA has carried out the pause: it writes
`status.pausedReplicaCount` after it has scaled the Deployment, and clears that before it asks the
scaler again. And the Deployment is at zero. After that, only a write of KEDA that was on its way
could scale it up, which is found as any foreign scale-up is, and taken back.

A ScaledObject that was made by hand is adopted by its label. Its own triggers may say anything, so it
is paused at one while its Model has a place, and at zero otherwise. One whose label is removed is
released first, and then its pause and our annotations are removed.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from hotseat.api.types import Json
from hotseat.kube.adoption import target_of
from hotseat.kube.client import Kube
from hotseat.kube.constants import (
    DEPLOYMENT,
    DEPLOYMENTS,
    KEDA,
    MODEL,
    NOT_OF_KNATIVE,
    PAUSED,
    PAUSED_REPLICAS,
    SCALED_BY,
    SCALED_OBJECTS,
    WORKSPACE,
)
from hotseat.kube.pods import condition
from hotseat.runtimes.deployment.adapter import DeploymentAdapter, is_handmade
from hotseat.runtimes.kubernetes.adapter import Fingerprint, Probe
from hotseat.runtimes.kubernetes.informers import EPOCH, INSTANCE, SWITCHER, annotations, labels
from hotseat.runtimes.kubernetes.instance import scaled_up
from hotseat.runtimes.kubernetes.writes import FencedWriter

REPEAT = 1.0  # seconds before KEDA is told again to carry out a pause


class KedaAdapter(DeploymentAdapter):
    """Scales Deployments by the pauses of their ScaledObjects."""

    name = "KEDA"
    scaled_by = KEDA
    selector = NOT_OF_KNATIVE  # a Deployment that is adopted by its ScaledObject has no label
    watched = (SCALED_OBJECTS,)

    def __init__(self, kube: Kube, namespace: str, probe: Probe | None, fingerprint: Fingerprint) -> None:
        super().__init__(kube, namespace, probe, fingerprint)
        self.adopting = True  # until all that an earlier switcher left is adopted
        self.on_place: Callable[[], None] = lambda: None  # called when a workload gets a place, or loses it
        self._repeated: dict[str, float] = {}  # by workload: when KEDA was last told again to carry out its pause

    def start(self) -> None:
        """Accept no more workloads that are scaled up without an instance."""
        self.adopting = False

    def take_over(self, writer: FencedWriter) -> Iterator[Callable[[], object]]:
        """Yield what marks each ScaledObject as this switcher's."""
        for item in self.informers.more[SCALED_OBJECTS].objects:
            if MODEL in labels(item) or WORKSPACE in labels(item) or SWITCHER in annotations(item):
                yield partial(writer.take_over, item, SCALED_OBJECTS)

    def record(self, workload: str) -> Json | None:
        """Return the ScaledObject of a workload; None if there is none."""
        found = [each for each in self.informers.more[SCALED_OBJECTS].objects if target_of(each) == workload]
        return next((each for each in found if WORKSPACE in labels(each)), found[0] if found else None)

    def is_model(self, item: Json) -> bool:
        """Whether a Deployment or a pod belongs to a Model that KEDA scales."""
        if DEPLOYMENT in labels(item):
            return SCALED_BY in labels(item)
        workload = self.informers.workload_of(item)
        if self.record(workload) is None and self.informers.deployment(workload) is not None:
            return False  # KEDA does not scale it
        return super().is_model(item)

    def labels_of(self, model: str) -> Mapping[str, str]:
        """Return the labels of the ScaledObject of a Model."""
        item = self.record(model)
        return {} if item is None else labels(item)

    def may_run(self, workload: str) -> bool:
        """Whether an earlier switcher may have given a workload its place. None has one that this switcher did not give."""
        item = self.record(workload)
        if item is not None and is_handmade(item) and SWITCHER not in annotations(item):
            return True  # its label is new
        return self.adopting and (item is None or not is_paused(item))

    def find_workload(self, writer: FencedWriter, model: str) -> tuple[str | None, str]:
        """Return the Deployment of a Model, and why there is none, or no ScaledObject, or it is not updated yet."""
        item = self.record(model)
        if item is not None and is_handmade(item) and self.informers.deployment(model) is not None:
            return model, ""
        workload, why = super().find_workload(writer, model)
        if workload is None:
            return None, why
        if item is None or "deletionTimestamp" in item["metadata"]:
            return None, f"there is no ScaledObject {model}"
        return workload, ""

    def scale(
        self, writer: FencedWriter, deployment: Json, replicas: int, annotations: Mapping[str, str | None]
    ) -> Json | None:
        """Pause a Deployment at zero, or remove the pause, and annotate its ScaledObject.

        Return the Deployment, which is not scaled yet, or None if there is no ScaledObject.
        """
        workload = deployment["metadata"]["name"]
        self.on_place()
        item = self.record(workload) or writer.find(SCALED_OBJECTS, workload)
        up = "1" if item is not None and MODEL not in labels(item) else None  # whatever the triggers of another say
        pause = {PAUSED_REPLICAS: up if replicas else "0", PAUSED: None}
        if item is None or writer.note(item, {**pause, **annotations}, SCALED_OBJECTS) is None:
            return None
        return deployment

    def scale_to_zero(self, writer: FencedWriter, workload: str) -> int | None:
        """Pause a workload at zero; None until KEDA has carried that out."""
        self.on_place()
        item = self.record(workload)
        if item is None or is_paused(item):  # that of the watch may be older than its start
            item = writer.find(SCALED_OBJECTS, item["metadata"]["name"] if item else workload)
        if item is not None and not is_paused(item):
            item = writer.note(item, {PAUSED_REPLICAS: "0"}, SCALED_OBJECTS)
        carried_out = item is None or item.get("status", {}).get("pausedReplicaCount") == 0
        deployment = writer.find(DEPLOYMENTS, workload)  # only now: what was at zero before may not have stayed so
        if deployment is None:
            return 0
        if not scaled_up(deployment):
            return int(deployment["metadata"].get("generation", 0)) if carried_out else None
        if item is not None and carried_out:
            self._repeat(writer, item)
        return None

    def keep_paused(self, writer: FencedWriter, workload: str) -> None:
        """Pause a workload without a place again, if somebody has removed the pause. Give back one that has no label any more."""
        item, deployment = self.record(workload), self.informers.deployment(workload)
        if item is None or "deletionTimestamp" in item["metadata"]:
            return
        if MODEL in labels(item):
            pause = deployment is not None
        elif WORKSPACE in labels(item):
            new = SWITCHER not in annotations(item)  # so what runs is adopted
            pause = self._fingerprint(workload) is not None and not (new and scaled_up(deployment))
        else:
            if SWITCHER in annotations(item):
                writer.note(item, dict.fromkeys((PAUSED_REPLICAS, PAUSED, INSTANCE, EPOCH, SWITCHER)), SCALED_OBJECTS)
            return
        if pause and not is_paused(item):
            writer.note(item, {PAUSED_REPLICAS: "0"}, SCALED_OBJECTS)

    def late(self, workload: str, replicas: int) -> str:
        """Return what KEDA has not done, with what its ScaledObject says."""
        deployment, item = self.informers.deployment(workload), self.record(workload)
        if deployment is None or (replicas and scaled_up(deployment)):
            return ""
        if item is None:
            return f"there is no ScaledObject {workload}, so KEDA does not scale the Deployment {workload}"
        ready = condition(item, "Ready")
        said = ready.get("message", "") if ready.get("status") != "True" else ""
        why = (
            f"ScaledObject {workload}: {said}" if said else "check KEDA's operator, and whether it reaches the switcher"
        )
        undone = "scaled" if scaled_up(deployment) == (not replicas) else "confirmed the scale of"
        return f"KEDA has not {undone} the Deployment {workload} to {replicas}: {why}"

    def _repeat(self, writer: FencedWriter, item: Json) -> None:
        """Let KEDA carry out a pause again. It looks at changed annotations only, and PAUSED adds nothing to the pause."""
        workload, now = item["metadata"]["name"], time.monotonic()
        if now >= self._repeated.get(workload, -REPEAT) + REPEAT:
            self._repeated[workload] = now
            writer.note(item, {PAUSED: None if PAUSED in annotations(item) else "true"}, SCALED_OBJECTS)


def is_paused(item: Json) -> bool:
    """Whether a ScaledObject is paused at zero."""
    return annotations(item).get(PAUSED_REPLICAS) == "0"
