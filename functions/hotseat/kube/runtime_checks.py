"""Checks of `hotseat doctor` about runtimes, rights, and what the switcher says of documents. No I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hotseat.api.types import Json
from hotseat.kube.checks import Finding, advice, is_older, ok, unknown, written, wrong
from hotseat.kube.components import Component
from hotseat.kube.pods import condition

# Values of spec.runtime and status.runtime of a Workspace.
KNATIVE: Final = "Knative"
KEDA: Final = "KEDA"
DEPLOYMENT: Final = "Deployment"
_AUTO: Final = "Auto"

# Directories of the repository that install hotseat, and those that add a runtime to a switcher that is there.
FOLDERS: Final[Mapping[str, str]] = {KNATIVE: "knative", KEDA: "keda", DEPLOYMENT: "deployment"}
_ROLES: Final[Mapping[str, str]] = {
    KNATIVE: "kubectl apply -k knative/",
    KEDA: "kubectl apply -k deployment/role && kubectl apply -k keda/role",
    DEPLOYMENT: "kubectl apply -k deployment/role",
}

KEDA_FROM: Final = (2, 20)  # the oldest tested version
KEDA_CRDS: Final = ("scaledobjects.keda.sh", "triggerauthentications.keda.sh")
SCALER: Final = "hotseat-scaler"  # Service of the external scaler, and Secret with its certificate
_KEDA_HELP: Final = "https://keda.sh/docs/latest/deploy/"

_READ = ("get", "list", "watch")
_OF_DEPLOYMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "apps/deployments": (*_READ, "create", "patch", "delete"),
    "apps/replicasets": ("list",),
    "/services": (*_READ, "create", "patch", "delete"),
    "autoscaling/horizontalpodautoscalers": ("list",),
}
# What the switcher may do to run Models, by runtime: group, resource and verbs, as in the Roles of the manifests.
RIGHTS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    KNATIVE: {
        "serving.knative.dev/services": (*_READ, "create", "patch", "delete"),
        "autoscaling.internal.knative.dev/podautoscalers": ("list", "watch"),
        "autoscaling.internal.knative.dev/podautoscalers/status": ("patch",),
        "autoscaling.internal.knative.dev/podautoscalers/finalizers": ("update",),
        "networking.internal.knative.dev/serverlessservices": ("list", "watch", "create", "patch"),
        "apps/deployments": (*_READ, "patch"),
        "apps/replicasets": ("list", "watch", "patch", "delete"),
    },
    KEDA: {**_OF_DEPLOYMENTS, "keda.sh/scaledobjects": (*_READ, "create", "patch", "delete")},
    DEPLOYMENT: _OF_DEPLOYMENTS,
}


# Runtimes -------------------------------------------------------------------------------------------------------------


def auto_choice(*, serving: bool, keda: bool) -> str:
    """Return the runtime that Auto takes, by what is installed."""
    return KNATIVE if serving else KEDA if keda else DEPLOYMENT


def runtimes_of(workspaces: Iterable[Json], auto: str) -> set[str]:
    """Return the runtimes that Workspaces have or would choose; without any Workspace, what the first one would."""
    found = {name for each in workspaces for name in (_wanted(each), _current(each)) if name}
    undecided = [each for each in workspaces if not _wanted(each) and not _current(each)]
    return found | {auto} if undecided or not found else found


def _current(workspace: Json) -> str:
    return str((workspace.get("status") or {}).get("runtime") or "")


def _wanted(workspace: Json) -> str:
    """Return the runtime that the document names; empty for Auto."""
    name = str((workspace.get("spec") or {}).get("runtime") or _AUTO)
    return "" if name == _AUTO else name


def missing_rights(runtime: str, denied: Sequence[str], namespace: str) -> Finding:
    """Check what the switcher may do for a runtime. `denied`: what it may not."""
    subject = f"rights for {runtime}"
    if not denied:
        return ok(subject, "the switcher has them")
    why = f"a Workspace has the runtime {runtime}, or would choose it"
    return wrong(subject, f"the switcher may not {'; '.join(denied)}", why, f"{_ROLES[runtime]} -n {namespace}")


# KEDA -----------------------------------------------------------------------------------------------------------------


def keda(crds: Mapping[str, bool], operators: Sequence[Json]) -> Finding:
    """Check KEDA by its CRDs (name to presence) and the Deployments of its operator."""
    why = "KEDA scales the Models of Workspaces with the runtime KEDA"
    if missing := [name for name, there in crds.items() if not there]:
        return wrong("KEDA", f"no CRD {', '.join(missing)}", why, f"install KEDA: {_KEDA_HELP}")
    if not operators:
        return wrong("KEDA", "its CRDs are installed, but no keda-operator", why, f"install KEDA: {_KEDA_HELP}")
    meta = operators[0]["metadata"]
    seen = (meta.get("labels") or {}).get("app.kubernetes.io/version", "unknown version")
    if condition(operators[0], "Available").get("status") != "True":
        command = f"kubectl -n {meta['namespace']} describe deployment {meta['name']}"
        return wrong("KEDA", f"{seen}, its operator is not available", why, command)
    if is_older(seen, KEDA_FROM):
        return advice("KEDA", seen, f"hotseat is tested with {written(KEDA_FROM)} and newer", f"upgrade: {_KEDA_HELP}")
    return ok("KEDA", seen)


def scaler(service: Json | None, slices: Iterable[Json], secret: Json | None, namespace: str) -> Finding:
    """Check how KEDA reaches the switcher: the Service of the external scaler, its endpoints, and the Secret, if there is one."""
    subject, why = (
        "external scaler",
        "KEDA asks the switcher there which Models have a place, and starts none without it",
    )
    if service is None:
        return wrong(subject, f"no Service {SCALER}", why, f"kubectl apply -k keda/role -n {namespace}")
    ready = [
        address
        for each in slices
        for end in each.get("endpoints") or ()
        if (end.get("conditions") or {}).get("ready") is not False
        for address in end.get("addresses") or ()
    ]
    if not ready:
        command = f"kubectl -n {namespace} describe service {SCALER}; the switcher must be ready and have its labels"
        return wrong(subject, f"Service {SCALER} has no ready endpoint", why, command)
    if secret is None:
        return ok(subject, f"Service {SCALER}, without TLS")
    if missing := sorted({"tls.crt", "tls.key"} - (secret.get("data") or {}).keys()):
        do = f"kubectl -n {namespace} create secret generic {SCALER} --from-file=tls.crt --from-file=tls.key --from-file=ca.crt"
        return wrong(subject, f"Secret {SCALER} has no {', '.join(missing)}", "it is for TLS with KEDA", do)
    return ok(subject, f"Service {SCALER}, with TLS")


def external_metrics(service: Json | None) -> Finding:
    """Check the APIService through which the HorizontalPodAutoscaler reads KEDA's metrics."""
    subject, why = "external metrics", "without them, servers of keda/autoscaling stay at one replica"
    name = "v1beta1.external.metrics.k8s.io"
    available = condition(service or {}, "Available")
    if available.get("status") == "True":
        return ok(subject, f"APIService {name}")
    seen = f"no APIService {name}" if service is None else f"{name} is not available: {available.get('message', '')}"
    do = "check keda-metrics-apiserver, and the API server's flags --requestheader-… and --proxy-client-…"
    return advice(subject, seen, why, f"{do}: kubectl describe apiservice {name}")


def scaled_objects(found: Iterable[Json], namespace: str) -> Iterator[Finding]:
    """Check the ScaledObjects of Models that KEDA does not accept."""
    for each in found:
        ready = condition(each, "Ready")
        if ready.get("status") == "False":
            name = each["metadata"]["name"]
            why = "KEDA does not scale it, so the Model is not loaded, or a switch does not complete"
            do = f"kubectl -n {namespace} describe scaledobject {name}; kubectl logs -n keda deploy/keda-operator"
            yield wrong(f"ScaledObject {name}", f"{ready.get('reason', '')}: {ready.get('message', '')}", why, do)


# Events ---------------------------------------------------------------------------------------------------------------


def without_broker(sinks: Mapping[str, str]) -> Finding:
    """Say how events go where no Broker is used. `sinks`: K_SINK of router and switcher."""
    urls = {url for url in sinks.values() if url}
    seen = "no Broker: routers send demand to the switcher directly"
    if len(set(sinks.values())) > 1:
        given = ", ".join(f"the {name} has {url or 'none'}" for name, url in sinks.items())
        why = "the router sends demand to the sink, and the switcher sends all else"
        return advice("events", f"{seen}; K_SINK differs: {given}", why, "set K_SINK in the ConfigMap hotseat-settings")
    return ok("events", f"{seen}; sink: {urls.pop()}" if urls else f"{seen}; no sink")


# Settings -------------------------------------------------------------------------------------------------------------


def pull_secrets(names: Iterable[str], found: Mapping[str, bool], namespace: str) -> Iterator[Finding]:
    """Check that the Secrets of HOTSEAT_IMAGE_PULL_SECRETS exist."""
    for name in names:
        if not found[name]:
            do = f"kubectl -n {namespace} create secret docker-registry {name} --docker-server=… --docker-username=… --docker-password=…"
            why = "HOTSEAT_IMAGE_PULL_SECRETS names it, and images of Models are pulled with it"
            yield wrong("pull secrets", f"no Secret {name}", why, do)


def is_restricted(namespace: Json | None) -> bool:
    """Whether a label of the namespace asks for the policy for Models."""
    labels = ((namespace or {}).get("metadata") or {}).get("labels") or {}
    return bool(labels.get("hotseat.dev/restrict-models") == "true")


def policy(found: Json | None) -> Finding:
    """Check that the policy that a label of the namespace asks for is installed."""
    subject, name = "policy for Models", "ValidatingAdmissionPolicy hotseat-models"
    if found is None:
        why = "the label hotseat.dev/restrict-models of the namespace does nothing without it"
        return wrong(subject, f"no {name}", why, "kubectl apply -k knative/policy")
    return ok(subject, name)


# What the switcher says -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Case:
    """What a reason of a condition means, and what to do. {name}: of the object, {n}: the namespace option, {workspace}."""

    why: str
    remedy: str
    verdict: str = "wrong"


_DESCRIBE = "kubectl{n} describe {kind} {name}"
_SPEC = _Case("the last valid version stays in force; without one it is not served", f"correct spec, see {_DESCRIBE}")
_RUNTIME = _Case(
    "what its runtime needs is missing, so nothing moves to it",
    "install it, or change spec.runtime of the Workspace; the findings about the runtime say more",
)
_READY: Final[Mapping[str, _Case]] = {
    "InvalidSpec": _SPEC,
    "RuntimeUnavailable": _RUNTIME,
    "ApplyFailed": _Case(
        "the API server, an admission webhook or a quota refuses an object of it; it is tried again every two seconds",
        "correct what the message says",
    ),
    "NameConflict": _Case(
        "hotseat does not change what it has not made", "delete the object that the message names, or rename the Model"
    ),
    "UnknownWorkspace": _Case(
        "a Model is served in a Workspace", "create the Workspace, or set spec.workspace of the Model"
    ),
    "Failed": _Case("the last load failed, and is tried again with the next request", "kubectl hotseat{n} logs {name}"),
    "ReleaseUnproven": _Case(
        "its accelerators are not given to another model until its pod is proven gone",
        "check that the pod and its process are gone, then: kubectl{n} annotate --overwrite workspace {workspace} "
        "hotseat.dev/settled=UID (the message has the UID)",
    ),
    "UnknownPolicy": _SPEC,
    "UnknownMember": _Case("nothing outside of groups and sets is loaded", "correct groups and sets of the Workspace"),
}
_FETCH: Final[Mapping[str, _Case]] = {
    "Unschedulable": _Case(
        "its weights are not fetched: no node takes the Job, or its claim is not bound",
        "kubectl{n} get pods,pvc; check storage class, spec.placement of the Workspace, and taints",
    ),
    "ImagePull": _Case(
        "an image cannot be pulled, so the model is not loaded",
        "check the image and HOTSEAT_IMAGE_PULL_SECRETS of the ConfigMap hotseat-settings",
    ),
    "CreateContainerConfigError": _Case(
        "a Secret or ConfigMap of the Job is missing", "create it, or correct credentials"
    ),
    "FailedCreate": _Case("a quota, a LimitRange or a webhook refuses the Job's pod", "correct what the message says"),
    "ProvisioningFailed": _Case("its claim is not bound", "kubectl{n} describe pvc; check cache.storageClass"),
    "FailedMount": _Case("its claim cannot be mounted", "kubectl{n} describe pvc; check cache.accessMode"),
}
_NORMAL_FETCH = frozenset({"Fetching", "Absent", "Unknown", "Cached", ""})
_CHANGES: Final[Mapping[tuple[str, str], _Case]] = {
    ("ClaimUpToDate", "False"): _Case(
        "the claim stays as it is", "undo the change of cache, or make a new claim", "advice"
    ),
    ("NamesConflict", "True"): _Case("the older Model has the name", "change spec.names of one of them", "advice"),
    ("EventsDelivered", "False"): _Case(
        "demand takes the direct way after half a second, and other services miss events",
        "kubectl{n} get broker,trigger",
        "advice",
    ),
    ("ActiveModelLoaded", "False"): _Case(
        "spec.activeModel was not loaded", "correct spec.activeModel, or what the message says", "advice"
    ),
}


def models(found: Sequence[Json], namespace: str) -> Iterator[Finding]:
    """Say what the switcher says of Models: conditions that a person must act on."""
    problems = [finding for each in found for finding in _of_conditions("model", each, namespace)]
    yield from problems
    if found and not problems:
        yield ok("Models", f"{len(found)}, without a problem in their status")


def workspaces(found: Sequence[Json], auto: str, namespace: str) -> Iterator[Finding]:
    """Say the runtime of each Workspace, and what the switcher says of it."""
    for each in found:
        problems = list(_of_conditions("workspace", each, namespace))
        yield from problems
        if not problems:
            current, wanted = _current(each), _wanted(each)
            undecided = f"runtime {wanted}, not in use yet" if wanted else f"no runtime yet; Auto takes {auto}"
            moves = f", moves to {wanted}" if wanted and current and wanted != current else ""
            seen = f"runtime {current}{moves}" if current else undecided
            yield ok(f"Workspace {each['metadata']['name']}", seen)


def _of_conditions(kind: str, item: Json, namespace: str) -> Iterator[Finding]:
    meta, status = item["metadata"], item.get("status") or {}
    values = {
        "n": f" -n {meta.get('namespace', namespace)}",
        "kind": kind,
        "name": meta["name"],
        "workspace": status.get("workspace") or "default",
    }
    for each in status.get("conditions") or ():
        reason, message = each.get("reason", ""), each.get("message", "")
        case = _case(each["type"], each["status"], reason)
        if case is not None:
            make = advice if case.verdict == "advice" else wrong
            seen = f"{each['type']} is {each['status']}: {reason}" + (f": {message}" if message else "")
            yield make(f"{kind.capitalize()} {meta['name']}", seen, case.why, case.remedy.format(**values))


def _case(type_: str, status: str, reason: str) -> _Case | None:
    if type_ == "Ready":
        return _READY.get(reason) if status == "False" else None
    if type_ == "Cached" and status == "False" and reason not in _NORMAL_FETCH:
        return _FETCH.get(reason, _Case("its weights are not fetched", _DESCRIBE))
    return _CHANGES.get((type_, status))


def service_account(switcher: Component, namespace: str) -> str:
    """Return the user name of the switcher's ServiceAccount."""
    return f"system:serviceaccount:{namespace}:{switcher.service_account}"


def access_review(user: str, namespace: str, what: str, verb: str) -> Json:
    """Return the question whether a user may do something. `what`: group, resource and perhaps subresource."""
    group, _, resource = what.partition("/")
    resource, _, subresource = resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
            "resourceAttributes": attributes | ({"subresource": subresource} if subresource else {}),
        },
    }


def not_asked(subject: str, error: Exception) -> Finding:
    """Return the finding about rights that may not be asked for."""
    return unknown(subject, str(error), "request permission to create subjectaccessreviews")
