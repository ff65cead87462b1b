"""Adoption: the instance that a new switcher derives from the pods and the Deployment of a Revision."""

from hotseat.api.types import Json
from hotseat.core.messages import instance_id
from hotseat.kube import pods
from hotseat.kube.constants import FINGERPRINT, QUEUE_PORT, SERVICE, WORKSPACE
from hotseat.runtimes.knative.informers import EPOCH, INSTANCE, Informers, annotations, labels, revision_of
from hotseat.runtimes.knative.instance import FOREIGN_GRACE, PodInstance, TrackedPod

# Annotation of a Deployment: pods that are not proven gone, as uid/name/node, separated by commas.
UNPROVEN = "hotseat.dev/unproven"


def holds_devices(pod: Json) -> bool:
    """Whether a pod may occupy devices of its node."""
    return pods.node(pod) is not None and not pods.terminal(pod)


def scaled_up(deployment: Json | None) -> bool:
    """Whether a Deployment requests pods."""
    return deployment is not None and int(deployment["spec"].get("replicas", 0)) > 0


def active_revisions(informers: Informers) -> set[str]:
    """Return the names of the Revisions of models that are scaled up, or have pods that may occupy devices."""
    active = [pod for pod in informers.pods.objects if holds_devices(pod)]
    active += [item for item in informers.deployments.objects if scaled_up(item) or UNPROVEN in annotations(item)]
    return {revision_of(item) for item in active if informers.is_model(item)}


def adopt(informers: Informers, revision: str, now: float, *more: Json, suspended: bool = False) -> PodInstance | None:
    """Return the instance of a Revision; None if it has neither pods nor a Deployment.

    `more`: pods whose objects are gone already. `suspended`: its ReplicaSets are suspended, so its
    release had begun.
    """
    deployment = informers.deployment(revision)
    found = sorted(
        (pod for pod in informers.pods_of(revision) if not pods.terminal(pod)),
        key=lambda pod: (pods.is_terminating(pod), pod["metadata"].get("creationTimestamp", "")),
    )
    items = [*found, *more, *([deployment] if deployment else [])]
    if not items:
        return None
    noted = next((annotations(item) for item in items if INSTANCE in annotations(item)), {})
    all_labels = [labels(item) for item in items]
    model = next((each[SERVICE] for each in all_labels if SERVICE in each), revision)
    if (service := informers.services.named(model)) is not None:  # a Service made by hand may have the only label
        all_labels.append(labels(service))
    workspace = next((each[WORKSPACE] for each in all_labels if WORKSPACE in each), "workspace")
    epoch = int(noted[EPOCH]) if noted.get(EPOCH, "").isdecimal() else 1  # other clients may write the annotation
    instance = PodInstance(
        model, noted.get(INSTANCE, instance_id(workspace, model, epoch)), epoch, now, revision, scaled=True
    )
    for pod in found:
        instance.update(pod).annotated = INSTANCE in annotations(pod)
    for pod in more:
        instance.update(pod, gone=True)
    for uid, name, node in unproven_pods(deployment):
        instance.pods.setdefault(uid, TrackedPod(uid, name, node, present=False))
    main = instance.main
    if (
        not scaled_up(deployment)
        or (main is None and (instance.pods or suspended))
        or (main is not None and pods.is_terminating(main.latest))
    ):
        instance.stop(now, FOREIGN_GRACE)
    instance.ready = main is not None and not instance.stopping and pods.ready(main.latest) and bool(address_of(main))
    return instance


def address_of(pod: TrackedPod) -> str | None:
    """Return the URL of a pod's queue-proxy; None while the pod has no IP."""
    ip = pods.ip(pod.latest)
    return None if ip is None else f"http://{f'[{ip}]' if ':' in ip else ip}:{QUEUE_PORT}"


def fingerprint_of(instance: PodInstance) -> str | None:
    """Return the fingerprint of the documents from which the pods were made."""
    return next(
        (annotations(pod.latest)[FINGERPRINT] for pod in instance.pods.values() if _has_fingerprint(pod.latest)), None
    )


def gpus_of(instance: PodInstance) -> int | None:
    """Return the number of GPUs that an instance occupies; None if its pods do not say, so that its document counts."""
    return next((count for pod in instance.pods.values() if pod.latest and (count := pods.gpus(pod.latest))), None)


def unproven_pods(deployment: Json | None) -> list[tuple[str, str, str]]:
    """Return the pods (uid, name, node) that an earlier switcher could not prove gone."""
    rows = annotations(deployment).get(UNPROVEN, "").split(",") if deployment else []
    return [(uid, name, node) for uid, name, node in (row.split("/") for row in rows if row.count("/") == 2)]  # noqa: PLR2004


def unproven_annotation(instance: PodInstance) -> str | None:
    """Return the annotation for the pods of an instance that are not proven gone; None if there are none."""
    return ",".join(f"{pod.uid}/{pod.name}/{pod.node}" for pod in instance.pods.values() if pod.holds_devices) or None


def _has_fingerprint(pod: Json) -> bool:
    return bool(pod) and FINGERPRINT in annotations(pod)
