"""What a new switcher makes of pods and Deployments that it finds."""

from hotseat.core.messages import instance_id
from hotseat.kube import pods
from hotseat.kube.client import Json
from hotseat.kube.constants import FINGERPRINT, QUEUE_PORT, SERVICE, WORKSPACE
from hotseat.runtimes.knative.informers import EPOCH, INSTANCE, Informers, annotations, labels, revision_of
from hotseat.runtimes.knative.instance import FOREIGN_GRACE, PodInstance, TrackedPod

UNPROVEN = (
    "hotseat.dev/unproven"  # annotation on a Deployment: pods that nobody saw end, as uid/name/node, comma separated
)


def holds_a_seat(pod: Json) -> bool:
    """Whether a pod may occupy a device."""
    return pods.node(pod) is not None and not pods.terminal(pod)


def scaled_up(deployment: Json | None) -> bool:
    """Whether pods are wanted of a Deployment."""
    return deployment is not None and int(deployment["spec"].get("replicas", 0)) > 0


def revisions_that_hold(watched: Informers) -> set[str]:
    """Name the Revisions of models that are scaled up, or of which something is left."""
    found = [each for each in watched.pods.objects if holds_a_seat(each)]
    found += [each for each in watched.deployments.objects if scaled_up(each) or UNPROVEN in annotations(each)]
    return {revision_of(each) for each in found if watched.ours(each)}


def adopt(watched: Informers, revision: str, now: float, *more: Json, frozen: bool = False) -> PodInstance | None:
    """Make a holding of all that is there of a Revision; None: nothing. `more`: pods whose objects are gone already.

    `frozen`: its release had begun, and nobody makes another pod of it.
    """
    deployment = watched.deployment(revision)
    there = sorted(
        (pod for pod in watched.pods_of(revision) if not pods.terminal(pod)),
        key=lambda pod: (pods.going(pod), pod["metadata"].get("creationTimestamp", "")),
    )
    items = [*there, *more, *([deployment] if deployment else [])]
    if not items:
        return None
    marks = next((annotations(each) for each in items if INSTANCE in annotations(each)), {})
    all_labels = [labels(each) for each in items]
    model = next((each[SERVICE] for each in all_labels if SERVICE in each), revision)
    if (service := watched.services.named(model)) is not None:  # one made by hand may have the label there only
        all_labels.append(labels(service))
    workspace = next((each[WORKSPACE] for each in all_labels if WORKSPACE in each), "workspace")
    epoch = int(marks[EPOCH]) if marks.get(EPOCH, "").isdecimal() else 1  # anybody may write there
    holding = PodInstance(
        model, marks.get(INSTANCE, instance_id(workspace, model, epoch)), epoch, now, revision, scaled=True
    )
    for pod in there:
        holding.see(pod).marked = INSTANCE in annotations(pod)
    for pod in more:
        holding.see(pod, gone=True)
    for uid, name, node in unproven_pods(deployment):
        holding.pods.setdefault(uid, TrackedPod(uid, name, node, present=False))
    main = holding.main
    if (
        not scaled_up(deployment)
        or (main is None and (holding.pods or frozen))
        or (main is not None and pods.going(main.last))
    ):
        holding.stop(now, FOREIGN_GRACE)
    holding.ready = main is not None and not holding.stopping and pods.ready(main.last) and bool(address_of(main))
    return holding


def address_of(pod: TrackedPod) -> str | None:
    """Give the URL of a pod's queue-proxy, once it has an IP."""
    ip = pods.address(pod.last)
    return None if ip is None else f"http://{f'[{ip}]' if ':' in ip else ip}:{QUEUE_PORT}"


def fingerprint_of(holding: PodInstance) -> str | None:
    """Give the mark of the documents that its pods were made from."""
    return next((annotations(pod.last)[FINGERPRINT] for pod in holding.pods.values() if _marked(pod.last)), None)


def gpus_of(holding: PodInstance) -> int | None:
    """Count what it occupies; None where no pod tells: what it needs then is what the documents say."""
    return next((count for pod in holding.pods.values() if pod.last and (count := pods.gpus(pod.last))), None)


def unproven_pods(deployment: Json | None) -> list[tuple[str, str, str]]:
    """Read which pods an earlier switcher could not prove gone: uid, name, node."""
    rows = annotations(deployment).get(UNPROVEN, "").split(",") if deployment else []
    return [(uid, name, node) for uid, name, node in (row.split("/") for row in rows if row.count("/") == 2)]  # noqa: PLR2004


def unproven_mark(holding: PodInstance) -> str | None:
    """Write them for the next; None: there are none."""
    return ",".join(f"{pod.uid}/{pod.name}/{pod.node}" for pod in holding.pods.values() if pod.holds) or None


def _marked(pod: Json) -> bool:
    return bool(pod) and FINGERPRINT in annotations(pod)
