"""Checks of `hotseat doctor`: objects of a cluster and settings of Knative in, findings out. No I/O."""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import ValidationError

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.units import Unreadable, parse_duration
from hotseat.api.workspace import DEFAULT_WORKSPACE
from hotseat.kube.components import API_KEY_SECRET, SETTINGS_MAP, Component
from hotseat.kube.constants import GROUP, VERSION, ClusterSettings
from hotseat.kube.containers import cpu_image
from hotseat.kube.pods import condition

NVIDIA: Final = "nvidia.com/gpu"
_GPUS: Final = (NVIDIA, "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe")
SERVING: Final = "knative-serving"
EVENTING: Final = "knative-eventing"

KUBERNETES_FROM: Final = (1, 29)  # the first version with stable CEL rules in CRDs
KNATIVE_FROM: Final = (1, 18)  # the oldest tested version

LLAMACPP_IMAGE: Final = "ghcr.io/ggml-org/llama.cpp:server-cuda"
INSTALL: Final = "kubectl apply -k knative/"
_KNATIVE_HELP = "https://knative.dev/docs/install/yaml-install/"
_EXPOSED: Final = ("LoadBalancer", "NodePort")  # types of core Services
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


class Verdict(StrEnum):
    """The result of a check. Only `wrong` makes the doctor fail."""

    OK = "ok"
    WRONG = "wrong"
    ADVICE = "advice"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Patch:
    """A change of one key of a ConfigMap."""

    namespace: str
    name: str
    key: str
    value: str

    @property
    def body(self) -> Json:
        """The merge patch for the ConfigMap."""
        return {"data": {self.key: self.value}}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. If it is not `ok`, it says what the subject is for and what to do, as a command if there is one."""

    subject: str
    verdict: Verdict
    seen: str
    why: str = ""
    remedy: str = ""
    patch: Patch | None = None


def ok(subject: str, seen: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(subject, Verdict.OK, seen)


def wrong(subject: str, seen: str, why: str, remedy: str) -> Finding:
    """Return a finding with which hotseat cannot work."""
    return Finding(subject, Verdict.WRONG, seen, why, remedy)


def advice(subject: str, seen: str, why: str, remedy: str) -> Finding:
    """Return a finding that should be changed."""
    return Finding(subject, Verdict.ADVICE, seen, why, remedy)


def unknown(subject: str, seen: str, remedy: str = "") -> Finding:
    """Return a finding about something that cannot be read."""
    return Finding(subject, Verdict.UNKNOWN, seen, remedy=remedy)


# Versions -------------------------------------------------------------------------------------------------------------


def kubernetes(version: Json) -> Finding:
    """Check the response of /version."""
    seen = str(version.get("gitVersion", "unknown"))
    if is_older(seen, KUBERNETES_FROM):
        why = "the API server validates documents with CEL rules"
        return wrong("Kubernetes", seen, why, f"upgrade to {written(KUBERNETES_FROM)} or newer")
    return ok("Kubernetes", seen)


def knative(title: str, crds: Mapping[str, bool], controller: Json | None, why: str) -> Finding:
    """Check Serving or Eventing by its CRDs (name to presence) and the Deployment of its controller."""
    if missing := [name for name, there in crds.items() if not there]:
        return wrong(title, f"no CRD {', '.join(missing)}", why, f"install {title}: {_KNATIVE_HELP}")
    if controller is None:
        return unknown(title, "its CRDs are installed, but its controller is not in the usual namespace")
    seen = controller["metadata"].get("labels", {}).get("app.kubernetes.io/version", "unknown")
    if condition(controller, "Available").get("status") != "True":
        meta = controller["metadata"]
        command = f"kubectl -n {meta['namespace']} describe deployment {meta['name']}"
        return wrong(title, f"{seen}, its controller is not available", why, command)
    if is_older(seen, KNATIVE_FROM):
        tried = f"hotseat is tested with {written(KNATIVE_FROM)} and newer"
        return advice(title, seen, tried, f"upgrade: {_KNATIVE_HELP}")
    return ok(title, seen)


def is_older(seen: str, least: tuple[int, int]) -> bool:
    """Whether a version is older than `least`; a build without a number (`devel`) is not."""
    match = re.match(r"v?(\d+)\.(\d+)", seen)
    return match is not None and (int(match[1]), int(match[2])) < least


def written(version: tuple[int, int]) -> str:
    """Return a version as text."""
    return ".".join(map(str, version))


# Ours -----------------------------------------------------------------------------------------------------------------


def own_crd(plural: str, found: Json | None, current: Json | None) -> Finding:
    """Check a CRD of hotseat. `current`: that of this version; None if unknown."""
    subject, why = f"CRD {plural}.{GROUP}", f"{plural} are documents of the API server"
    do = "kubectl apply --server-side -f crds/"
    if found is None:
        return wrong(subject, "missing", why, do)
    version = next((each for each in found["spec"]["versions"] if each["name"] == VERSION), None)
    if version is None or not version["served"]:
        return wrong(subject, f"does not serve {VERSION}", why, do)
    if condition(found, "Established").get("status") != "True":
        return wrong(subject, "not established", why, f"kubectl describe crd {plural}.{GROUP}")
    if current is not None:
        wanted = next(each for each in current["spec"]["versions"] if each["name"] == VERSION)
        if wanted["schema"] != version["schema"]:
            return wrong(subject, "belongs to another version of hotseat", "fields that it lacks are rejected", do)
    return ok(subject, VERSION)


def component(name: str, found: Component | None, namespace: str, install: str = INSTALL) -> Finding:
    """Check the router or the switcher. `install`: the command that installs it."""
    why = {"router": "receives the requests", "switcher": "decides which models are resident, and loads them"}[name]
    if found is None:
        return wrong(name, f"not in namespace {namespace}", why, f"{install} -n {namespace}")
    named = f"{_typed(found)} {found.name}"
    if not found.ready:
        command = f"kubectl -n {namespace} get pods -l {found.selector}; kubectl -n {namespace} describe {named}"
        return wrong(name, f"{named} is not ready: {found.not_ready_message}", why, command)
    return ok(name, f"{named} is ready")


def _typed(found: Component) -> str:
    return "ksvc" if found.resource.api.startswith("serving.") else "deployment"


def demand_secrets(components: Mapping[str, Component | None]) -> Iterator[Finding]:
    """Check that router and switcher mount the same Secret. This does not check that the Secret exists."""
    known = {name: each.demand_secret for name, each in components.items() if each is not None}
    why = "the switcher accepts only demand that is signed with the key that it shares with the router"
    for name, secret in known.items():
        if not secret:
            yield wrong(
                "demand key",
                f"the {name} mounts none",
                why,
                f"mount the Secret where HOTSEAT_DEMAND_KEY_FILE says: {INSTALL}",
            )
    if len({secret for secret in known.values() if secret}) > 1:
        seen = ", ".join(f"the {name} uses {secret}" for name, secret in known.items())
        yield wrong("demand key", seen, why, "mount the same Secret into both")


def demand_secret(name: str, found: Json | None, namespace: str) -> Finding:
    """Check the Secret with the key that signs demand."""
    make = f"kubectl -n {namespace} create secret generic {name} --from-literal=key=$(openssl rand -hex 32)"
    why = "router and switcher do not start without it"
    if found is None:
        return wrong("demand key", f"no Secret {name}", why, make)
    if not any(found.get("data", {}).values()):
        return wrong(
            "demand key", f"Secret {name} is empty", why, f"kubectl -n {namespace} delete secret {name}; {make}"
        )
    return ok("demand key", f"Secret {name}")


def client_keys(router: Component, service: Json | None, secret: Json | None, namespace: str) -> Finding:
    """Check that a public router has keys of clients. `service`: the core Service of its name; `secret`: with the keys."""
    subject, name = "client keys", router.api_key_secret
    if any((secret or {}).get("data", {}).values()):
        return ok(subject, f"Secret {name}")
    exposed = (service or {}).get("spec", {}).get("type") in _EXPOSED
    if not router.public and not exposed:
        return ok(subject, "none, and the router is reached inside the cluster only")
    seen = f"none, and the router is public: {router.url if router.public else f'Service {router.name}'}"
    make = f"kubectl -n {namespace} create secret generic {name or API_KEY_SECRET} --from-literal=keys=$(openssl rand -hex 32)"
    mount = "" if name else "mount a Secret with the keys and set HOTSEAT_API_KEY_FILE; "
    local = f"kubectl -n {namespace} label ksvc {router.name} networking.knative.dev/visibility=cluster-local"
    hide = local if router.public else f"make Service {router.name} a ClusterIP"
    why = "anybody who reaches it may use the models"
    return advice(subject, seen, why, f"{mount}{make}; or {hide}")


def admin_routes(router: Component, service: Json | None) -> Finding:
    """Check that admin routes are reached inside the cluster only. `service`: the core Service of the admin port."""
    subject, why = (
        "admin routes",
        "anybody who reaches them, and has a key if there are keys, may unload models and read logs",
    )
    if router.admin_port is None:
        if router.public:
            return advice(subject, f"public: {router.url}", why, "set HOTSEAT_ADMIN_PORT on the router: 8081")
        return ok(subject, "on the port for requests")
    if service is not None and service["spec"].get("type") in _EXPOSED:
        named = f"Service {service['metadata']['name']}"
        return advice(subject, f"{named} is a {service['spec']['type']}", why, f"make {named} a ClusterIP")
    return ok(subject, f"on port {router.admin_port} of the router, inside the cluster only")


# The cluster ----------------------------------------------------------------------------------------------------------


def storage(classes: Sequence[Json], models: Sequence[Json], configured: str = "") -> Finding:
    """Check the storage classes, from which the volumes of caches are made. `configured`: that of the switcher."""
    names = [each["metadata"]["name"] for each in classes]
    default = [each["metadata"]["name"] for each in classes if _is_default(each)]
    why = "weights of Models are stored on volumes"
    if not names:
        return wrong("storage class", "none", why, "install a CSI driver or another provisioner of volumes")
    caches = [model["spec"].get("cache") or {} for model in models]
    asked = {cache["storageClass"] for cache in caches if cache.get("storageClass")}
    if missing := sorted(asked - set(names)):
        return wrong("storage class", f"Models ask for {', '.join(missing)}", why, f"there are: {', '.join(names)}")
    if configured:
        if configured not in names:
            seen, do = f"HOTSEAT_STORAGE_CLASS is {configured}", f"set it to one of: {', '.join(names)}"
            return wrong("storage class", f"{seen}, which does not exist", why, do)
        return ok("storage class", f"{configured} (HOTSEAT_STORAGE_CLASS)")
    if not default:
        patch = f'{{"metadata":{{"annotations":{{"{_DEFAULT_CLASS}":"true"}}}}}}'
        mark = f"kubectl patch storageclass {names[0]} -p {shlex.quote(patch)}"
        explain = "without a default, each Model must set spec.cache.storageClass"
        do = f"{mark}; or set HOTSEAT_STORAGE_CLASS in the ConfigMap {SETTINGS_MAP}"
        return advice("storage class", f"{', '.join(names)}, none of them the default", explain, do)
    return ok("storage class", f"{default[0]} (default)")


def _is_default(storage_class: Json) -> bool:
    annotations = storage_class["metadata"].get("annotations") or {}
    return bool(annotations.get(_DEFAULT_CLASS) == "true")


def gpus(resource: str, nodes: Sequence[Json], workspaces: Sequence[Json], models: Sequence[Json]) -> Finding:
    """Check that the nodes have the GPUs of all Workspaces, and one node those of the largest Model."""
    usable = [node for node in nodes if _usable(node)]
    per_node = [_allocatable(node, resource) for node in usable]
    there, largest = sum(per_node), max(per_node, default=0)
    claimed = sum((each["spec"].get("capacity") or {}).get("gpus", 1) for each in workspaces)
    biggest = max(((each["spec"].get("resources") or {}).get("gpus", 1) for each in models), default=0)
    seen = f"{there} {resource} on {sum(map(bool, per_node))} of {len(nodes)} nodes; Workspaces share out {claimed}"
    command = "kubectl get nodes -o custom-columns=NAME:.metadata.name,GPUS:.status.allocatable." + resource.replace(
        ".", r"\."
    )
    others = sorted({name for name in _GPUS if name != resource for node in usable if _allocatable(node, name)})
    if not there and others:
        why = "Models request the resource that is configured in their Workspace or in the switcher"
        do = f"set HOTSEAT_GPU_RESOURCE={others[0]} on the switcher, or spec.placement.resourceName of the Workspaces"
        return wrong("GPUs", f"{seen}; there is {others[0]}", why, do)
    if claimed > there:
        why = "a Model that claims more than the nodes have stays Pending until its start fails"
        do = f"lower spec.capacity.gpus of the Workspaces, or check that the device plugin runs: {command}"
        return wrong("GPUs", seen, why, do)
    if biggest > largest:
        return wrong(
            "GPUs", f"a Model takes {biggest}, no node has more than {largest}", "a pod is on one node", command
        )
    if not there:
        return advice(
            "GPUs", "none", "Models with resources.gpus above 0 stay Pending", f"install a device plugin: {command}"
        )
    return ok("GPUs", seen)


def images_without_gpu(image: str, models: Iterable[Json]) -> Iterator[Finding]:
    """Check Models with GPUs whose engine runs in hotseat's own image."""
    for each in models:
        try:
            model = Model.model_validate({"metadata": {"name": each["metadata"]["name"]}, "spec": each["spec"]})
        except ValidationError:
            continue  # another version's
        if seen := cpu_image(model, ClusterSettings(image, "")):
            why = "its GPUs are reserved and not used"
            remedy = f"set spec.image of the Model, for example {LLAMACPP_IMAGE}"
            yield advice(f"Model {model.name}", seen, why, remedy)


def by_gpu_resource(
    workspaces: Sequence[Json], models: Sequence[Json], default: str
) -> dict[str, tuple[list[Json], list[Json]]]:
    """Return the Workspaces and Models by the extended resource that stands for their GPUs."""
    resources = {
        _key(each, each["metadata"]["name"]): (each["spec"].get("placement") or {}).get("resourceName") or default
        for each in workspaces
    }
    found: dict[str, tuple[list[Json], list[Json]]] = {name: ([], []) for name in resources.values() or (default,)}
    for each in workspaces:
        found[resources[_key(each, each["metadata"]["name"])]][0].append(each)
    for each in models:
        found.setdefault(resources.get(_key(each, _workspace(each, workspaces)), default), ([], []))[1].append(each)
    return found


def _key(item: Json, name: str) -> tuple[str | None, str]:
    return item["metadata"].get("namespace"), name


def _workspace(model: Json, workspaces: Sequence[Json]) -> str:
    """Return the Workspace of a Model: the stated one, the only one of its namespace, or `default`."""
    there = [each["metadata"]["name"] for each in workspaces if _key(each, "") == _key(model, "")]
    return str(model["spec"].get("workspace") or (there[0] if len(there) == 1 else DEFAULT_WORKSPACE))


def placement(
    nodes: Sequence[Json], resource: str, workspaces: Sequence[Json], models: Sequence[Json]
) -> Iterator[Finding]:
    """Check that the weights of Models land on nodes with GPUs, where a volume is bound to the node of the fetch."""
    usable = [node for node in nodes if _usable(node)]
    if all(_allocatable(node, resource) for node in usable) or not any(_allocatable(node, resource) for node in usable):
        return
    placed = {
        _key(each, each["metadata"]["name"])
        for each in workspaces
        if {"nodeSelector", "affinity"} & (each["spec"].get("placement") or {}).keys()
    }
    loose = [
        each["metadata"]["name"]
        for each in models
        if _has_claim(each)
        and _key(each, _workspace(each, workspaces)) not in placed
        and (each["spec"].get("resources") or {}).get("gpus", 1)
        and (each["spec"].get("cache") or {}).get("accessMode") != "ReadWriteMany"
        and not {"nodeSelector", "affinity"} & set(_pod_fields(each))
    ]
    if loose:
        seen = f"not every node has {resource}, and nothing says where the weights of {', '.join(loose)} are fetched"
        why = "a volume can be bound to a node or zone without GPUs, where the engine never starts"
        yield advice(
            "placement",
            seen,
            why,
            "set spec.placement.nodeSelector of the Workspace, or cache.accessMode: ReadWriteMany",
        )


def _allocatable(node: Json, resource: str) -> int:
    return int(node.get("status", {}).get("allocatable", {}).get(resource, "0"))


def _usable(node: Json) -> bool:
    cordoned = node.get("spec", {}).get("unschedulable", False)
    return not cordoned and condition(node, "Ready").get("status") == "True"


def broker(found: Sequence[Json], namespace: str) -> Finding:
    """Check the Broker, which takes events from the router to the switcher."""
    why = "the router sends events through it; without it, demand takes a slower path and no other service gets events"
    if not found:
        return wrong("Broker", f"none in namespace {namespace}", why, f"{INSTALL} -n {namespace}")
    return _all_ready("Broker", found, namespace, why)


def triggers(found: Iterable[Json], namespace: str) -> Finding:
    """Check the Trigger, which delivers demand to the switcher."""
    why = "it delivers the router's demand to the switcher"
    ours = [each for each in found if "hotseat" in str(each["spec"].get("filter") or each["spec"].get("filters"))]
    if not ours:
        return wrong(
            "Trigger", f"none for dev.hotseat events in namespace {namespace}", why, f"{INSTALL} -n {namespace}"
        )
    return _all_ready("Trigger", ours, namespace, why)


def _all_ready(kind: str, found: Sequence[Json], namespace: str, why: str) -> Finding:
    for each in found:
        state = condition(each, "Ready")
        if state.get("status") != "True":
            name = each["metadata"]["name"]
            message = state.get("message") or state.get("reason") or "no condition yet"
            describe = f"kubectl -n {namespace} describe {kind.lower()} {name}"
            return wrong(kind, f"{name} is not ready: {message}", why, describe)
    return ok(kind, ", ".join(each["metadata"]["name"] for each in found))


MAX_REQUEST_TIME: Final = 7200  # seconds: timeoutSeconds of the router, which waits and streams for so long
MIN_PROGRESS_DEADLINE: Final = 300  # seconds: the default time for loading
_OPERATOR: Final = "KnativeServing"  # kind of the operator's object; the operator reverts changes of its ConfigMaps


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a ConfigMap in Knative Serving's namespace."""

    config: str
    key: str
    default: str  # Knative's value if the key is missing
    wanted: str
    why: str
    good: Callable[[str], bool]
    advisory: bool = False  # a bad value is advice, not an error


def _feature(name: str, why: str, *, advisory: bool = False) -> Setting:
    def good(value: str) -> bool:
        return value.lower() in {"enabled", "allowed"}

    return Setting("config-features", f"kubernetes.podspec-{name}", "disabled", "enabled", why, good, advisory)


def settings(models: Sequence[Json], images: Sequence[str] = (), workspaces: Sequence[Json] = ()) -> Iterator[Setting]:
    """Yield the settings that Models and the images of hotseat need. Those that nothing uses are advisory."""
    used = {field for model in models for field in _pod_fields(model)}
    used |= {field for workspace in workspaces for field in workspace["spec"].get("placement") or {}}
    if any(_has_claim(model) for model in models):
        used.add("securityContext")
    yield _feature("persistent-volume-claim", "Models store their weights on a volume")
    yield _feature("persistent-volume-write", "engines write into their cache: compiled kernels, lock files")
    yield _feature("nodeselector", "pods of a Model must be scheduled to nodes with the right GPU")
    yield _feature("tolerations", "nodes with GPUs are often tainted")
    yield _feature("runtimeclassname", "some clusters offer GPUs only to the runtime class nvidia")
    yield _feature("init-containers", "a pod template may run init containers before its engine")
    why = "fsGroup makes the claim of a Model writable for its engine, which is not root; without it its Service is refused"
    yield _feature("securitycontext", why, advisory="securityContext" not in used)
    why = "a placement or a pod template may select nodes by affinity"
    yield _feature("affinity", why, advisory="affinity" not in used)
    why = "Models start at zero pods, and are loaded only when it is their turn"
    yield Setting("config-autoscaler", "allow-zero-initial-scale", "false", "true", why, _is_true)
    why = f"the router requests {MAX_REQUEST_TIME} seconds, so that long streams and queued requests are not cut"
    key = "max-revision-timeout-seconds"
    yield Setting(
        "config-defaults", key, "600", str(MAX_REQUEST_TIME), why, lambda value: int(value) >= MAX_REQUEST_TIME
    )
    why = "a pod that waits shortly for its GPU must not fail its Knative Service"
    yield Setting("config-deployment", "pod-is-always-schedulable", "false", "true", why, _is_true)
    why = f"Knative gives up what loads for longer, where a Knative Service says nothing of its own; at least {MIN_PROGRESS_DEADLINE}s"
    key = "progress-deadline"
    yield Setting(
        "config-deployment", key, "600s", "600s", why, lambda value: parse_duration(value) >= MIN_PROGRESS_DEADLINE
    )
    yield _tag_resolving([*images, *(str(model["spec"]["image"]) for model in models if model["spec"].get("image"))])


KOURIER: Final = Setting(
    "config-kourier", "stream-idle-timeout", "0s", "0s",
    "a silent stream is cut after this time, and a queued request is silent; Kourier ends open requests some 15 s after a change",
    lambda value: parse_duration(value) == 0, advisory=True,
)  # fmt: skip


def judge(setting: Setting, config: Json) -> Finding:
    """Check the value in a ConfigMap, or the default if it has none."""
    subject = f"{setting.config} {setting.key}"
    value = str((config.get("data") or {}).get(setting.key, setting.default))
    seen = value if setting.key in (config.get("data") or {}) else f"{value} (default)"
    try:
        if setting.good(value):
            return ok(subject, seen)
    except (ValueError, Unreadable):
        seen += " (unreadable)"
    verdict = Verdict.ADVICE if setting.advisory else Verdict.WRONG
    owner = next((each for each in config["metadata"].get("ownerReferences", ()) if each["kind"] == _OPERATOR), None)
    if owner is not None:
        body = {"spec": {"config": {setting.config.removeprefix("config-"): {setting.key: setting.wanted}}}}
        remedy = (
            f"kubectl -n {SERVING} patch knativeserving {owner['name']} --type merge -p {shlex.quote(json.dumps(body))}"
        )
        return Finding(subject, verdict, seen, setting.why, remedy)
    patch = Patch(SERVING, setting.config, setting.key, setting.wanted)
    remedy = (
        f"kubectl -n {SERVING} patch configmap {setting.config} --type merge -p {shlex.quote(json.dumps(patch.body))}"
    )
    return Finding(subject, verdict, seen, setting.why, remedy, patch)


def _is_true(value: str) -> bool:
    return value.lower() == "true"


def _pod_fields(model: Json) -> Sequence[str]:
    return list(((model["spec"].get("podTemplate") or {}).get("spec") or {}).keys())


def _has_claim(model: Json) -> bool:
    """Whether the engine of a Model mounts a claim for its cache, as far as its fields tell."""
    spec = model["spec"]
    cache = spec.get("cache") or {}
    remote = "://" in (spec.get("source") or "") and not spec["source"].startswith(("file://", "pvc://"))
    return remote or any(cache.get(key) is not None for key in ("size", "storageClass", "existingClaim"))


def _tag_resolving(images: Sequence[str]) -> Setting:
    """Return the setting for images that exist on the nodes only, so that no registry has their digest."""
    default = "kind.local,ko.local,dev.local"
    local = sorted({image.split("/")[0] for image in images if _is_local(image)})
    why = "Knative looks up the digest of an image in its registry, which fails for images that are only on the nodes"

    def good(value: str) -> bool:
        return set(local) <= {each.strip() for each in value.split(",")}

    wanted = ",".join(dict.fromkeys([*default.split(","), *local]))
    return Setting("config-deployment", "registries-skipping-tag-resolving", default, wanted, why, good)


def _is_local(image: str) -> bool:
    """Whether the registry of an image is not on the network, by its name."""
    host, slash, _ = image.partition("/")
    return bool(slash) and "@sha256:" not in image and (host.endswith(".local") or host.split(":")[0] == "localhost")
