"""Checks of everything in a cluster that hotseat needs. Only `repair` changes anything, one key at a time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from hotseat.api.types import Json
from hotseat.kube import checks
from hotseat.kube import runtime_checks as runtimes
from hotseat.kube.checks import EVENTING, KOURIER, SERVING, Finding, Patch, judge, settings, unknown, wrong
from hotseat.kube.client import NOT_FOUND, Kube, KubeError
from hotseat.kube.components import DEMAND_SECRET, ROUTER, SETTINGS_MAP, SWITCHER, Component, find_component
from hotseat.kube.constants import (
    BROKERS,
    CONFIG_MAPS,
    CRDS,
    DEPLOYMENTS,
    GROUP,
    MODEL,
    MODELS,
    NODES,
    SERVICES,
    STORAGE_CLASSES,
    WORKSPACES,
    Resource,
)
from hotseat.manifests.crd import definition

_FORBIDDEN = (401, 403)
_SERVING_CRDS = (
    "services.serving.knative.dev",
    "revisions.serving.knative.dev",
    "podautoscalers.autoscaling.internal.knative.dev",
    "serverlessservices.networking.internal.knative.dev",
)
_EVENTING_CRDS = ("brokers.eventing.knative.dev", "triggers.eventing.knative.dev")
_TRIGGERS: Final = Resource("eventing.knative.dev/v1", "Trigger", "triggers")
_SINK: Final = "K_SINK"
_SCALED_OBJECTS: Final = Resource("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
_ENDPOINT_SLICES: Final = Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
_API_SERVICES: Final = Resource("apiregistration.k8s.io/v1", "APIService", "apiservices", namespaced=False)
_NAMESPACES: Final = Resource("v1", "Namespace", "namespaces", namespaced=False)
_POLICIES: Final = Resource(
    "admissionregistration.k8s.io/v1",
    "ValidatingAdmissionPolicy",
    "validatingadmissionpolicies",
    namespaced=False,
)
_ACCESS_REVIEWS: Final = Resource(
    "authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews", namespaced=False
)
_SECRETS: Final = Resource("v1", "Secret", "secrets")
_CORE_SERVICES: Final = Resource("v1", "Service", "services")

Check = Callable[[], Iterator[Finding]]


class Doctor:
    """All checks of a cluster, for one namespace. What may not be read is `unknown`, never an error."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._components: dict[str, Component | None] = {}
        self._auto = runtimes.KNATIVE  # what a Workspace with the runtime Auto would choose
        self._used: set[str] = set()  # runtimes that Workspaces have or would choose

    def examine(self) -> list[Finding]:
        """Run all checks; only the first if the API server does not answer."""
        self._components.clear()
        try:
            found = [checks.kubernetes(self._kube.get("/version"))]
        except KubeError as error:
            why = "nothing can be checked without it"
            return [wrong("API server", str(error), why, "check --kubeconfig and --context: kubectl cluster-info")]
        self._look_for_runtimes()
        knative: list[tuple[str, Check]] = [
            ("Knative Serving", self._serving),
            ("settings of Knative", self._settings),
            ("setting of Kourier", self._kourier),
        ]
        eventing: list[tuple[str, Check]] = [
            ("Knative Eventing", self._eventing),
            ("Broker", self._broker),
            ("Trigger", self._triggers),
        ]
        keda: list[tuple[str, Check]] = [
            ("KEDA", self._keda),
            ("external scaler", self._scaler),
            ("external metrics", self._external_metrics),
            ("ScaledObjects", self._scaled_objects),
        ]
        subjects: list[tuple[str, Check]] = [
            *(knative if runtimes.KNATIVE in self._used else []),
            *(keda if runtimes.KEDA in self._used else []),
            ("our CRDs", self._crds),
            ("storage class", self._storage),
            *(eventing if self._uses_broker() else [("events", self._events)]),
            (ROUTER, lambda: self._component(ROUTER)),
            (SWITCHER, lambda: self._component(SWITCHER)),
            ("demand key", self._secret),
            ("client keys", self._client_keys),
            ("admin routes", self._admin_routes),
            ("GPUs", self._gpus),
            ("images of engines", self._images_without_gpu),
            ("rights of the switcher", self._rights),
            ("pull secrets", self._pull_secrets),
            ("policy for Models", self._policy),
            ("Workspaces", self._workspace_statuses),
            ("Models", self._model_statuses),
        ]
        for subject, check in subjects:
            found += self._run(subject, check)
        return found

    def repair(self, patch: Patch) -> None:
        """Set one key of a ConfigMap. Raise KubeError if that is refused."""
        self._kube.merge(CONFIG_MAPS.path(patch.namespace, patch.name), patch.body)

    @staticmethod
    def _run(subject: str, check: Check) -> Iterator[Finding]:
        try:
            yield from check()
        except KubeError as error:
            remedy = "request permission to read it" if error.status in _FORBIDDEN else "try again"
            yield unknown(subject, str(error), remedy)

    # Runtimes ---------------------------------------------------------------------------------------------------------

    def _look_for_runtimes(self) -> None:
        """Find out which runtimes are used. If CRDs or Workspaces may not be read, Knative is assumed."""
        try:
            serving, keda = self._has_crds(_SERVING_CRDS[:1]), self._has_crds(runtimes.KEDA_CRDS[:1])
        except KubeError:
            serving, keda = True, False
        self._auto = runtimes.auto_choice(serving=serving, keda=keda)
        found: list[Json] = []
        with suppress(KubeError):
            found = self._items(WORKSPACES, self._namespace)
        self._used = runtimes.runtimes_of(found, self._auto)
        for name in (ROUTER, SWITCHER):
            with suppress(KubeError):
                component = self._find(name)
                if component is not None and component.resource is SERVICES:
                    self._used.add(runtimes.KNATIVE)

    def _has_crds(self, names: Iterable[str]) -> bool:
        return all(self._kube.find(CRDS.path(name=name)) is not None for name in names)

    def _uses_broker(self) -> bool:
        """Whether router or switcher publish to a Broker, or would, if they were installed. If unknown: yes."""
        try:
            found = [each for name in (ROUTER, SWITCHER) if (each := self._find(name)) is not None]
            if found:
                return any(each.variable("HOTSEAT_BROKER_URL", "") for each in found)
            return self._auto == runtimes.KNATIVE and self._has_crds(_EVENTING_CRDS)
        except KubeError:
            return True

    def _events(self) -> Iterator[Finding]:
        config = self._kube.find(CONFIG_MAPS.path(self._namespace, SETTINGS_MAP))
        shared = str(((config or {}).get("data") or {}).get(_SINK, ""))
        there = {name: each for name in (ROUTER, SWITCHER) if (each := self._find(name)) is not None}
        yield runtimes.without_broker({name: each.variable(_SINK, shared) for name, each in there.items()})

    def _keda(self) -> Iterator[Finding]:
        there = {name: self._kube.find(CRDS.path(name=name)) is not None for name in runtimes.KEDA_CRDS}
        operators: list[Json] = []
        for selector in ("app.kubernetes.io/name=keda-operator", "app=keda-operator"):
            operators = operators or self._kube.get(DEPLOYMENTS.path(), labelSelector=selector)["items"]
        yield runtimes.keda(there, operators)

    def _scaler(self) -> Iterator[Finding]:
        slices = self._kube.get(
            _ENDPOINT_SLICES.path(self._namespace), labelSelector=f"kubernetes.io/service-name={runtimes.SCALER}"
        )
        secret = self._kube.find(_SECRETS.path(self._namespace, runtimes.SCALER))
        yield runtimes.scaler(self._core_service(runtimes.SCALER), slices["items"], secret, self._namespace)

    def _external_metrics(self) -> Iterator[Finding]:
        yield runtimes.external_metrics(self._kube.find(_API_SERVICES.path(name="v1beta1.external.metrics.k8s.io")))

    def _scaled_objects(self) -> Iterator[Finding]:
        if self._has_crds(runtimes.KEDA_CRDS[:1]):
            found = self._kube.get(_SCALED_OBJECTS.path(self._namespace), labelSelector=MODEL)["items"]
            yield from runtimes.scaled_objects(found, self._namespace)

    def _rights(self) -> Iterator[Finding]:
        switcher = self._find(SWITCHER)
        if switcher is None:
            return
        user = runtimes.service_account(switcher, self._namespace)
        for runtime in sorted(self._used & runtimes.RIGHTS.keys()):
            try:
                yield runtimes.missing_rights(runtime, self._denied(user, runtime), self._namespace)
            except KubeError as error:
                yield runtimes.not_asked(f"rights for {runtime}", error)

    def _denied(self, user: str, runtime: str) -> list[str]:
        denied = []
        for what, verbs in runtimes.RIGHTS[runtime].items():
            reviews = {verb: runtimes.access_review(user, self._namespace, what, verb) for verb in verbs}
            answers = {verb: self._kube.create(_ACCESS_REVIEWS.path(), review) for verb, review in reviews.items()}
            lacking = [verb for verb, answer in answers.items() if not answer.get("status", {}).get("allowed")]
            denied += [f"{', '.join(lacking)} {what.removeprefix('/')}"] if lacking else []
        return denied

    def _pull_secrets(self) -> Iterator[Finding]:
        text = self._switcher_setting("HOTSEAT_IMAGE_PULL_SECRETS")
        names = [name.strip() for name in text.split(",") if name.strip()]
        there = {name: self._kube.find(_SECRETS.path(self._namespace, name)) is not None for name in names}
        yield from runtimes.pull_secrets(names, there, self._namespace)

    def _policy(self) -> Iterator[Finding]:
        namespace = self._kube.find(_NAMESPACES.path(name=self._namespace))
        if runtimes.is_restricted(namespace):
            yield runtimes.policy(self._kube.find(_POLICIES.path(name="hotseat-models")))

    def _workspace_statuses(self) -> Iterator[Finding]:
        yield from runtimes.workspaces(self._items(WORKSPACES, self._namespace), self._auto, self._namespace)

    def _model_statuses(self) -> Iterator[Finding]:
        yield from runtimes.models(self._items(MODELS, self._namespace), self._namespace)

    # Checks -----------------------------------------------------------------------------------------------------------

    def _serving(self) -> Iterator[Finding]:
        why = "each Model is a Knative Service"
        yield self._knative("Knative Serving", _SERVING_CRDS, SERVING, "controller", why)

    def _eventing(self) -> Iterator[Finding]:
        why = "router and switcher talk in CloudEvents"
        yield self._knative("Knative Eventing", _EVENTING_CRDS, EVENTING, "eventing-controller", why)

    def _knative(self, title: str, crds: tuple[str, ...], namespace: str, controller: str, why: str) -> Finding:
        there = {name: self._kube.find(CRDS.path(name=name)) is not None for name in crds}
        return checks.knative(title, there, self._kube.find(DEPLOYMENTS.path(namespace, controller)), why)

    def _settings(self) -> Iterator[Finding]:
        configs: dict[str, Json | None] = {}
        for setting in settings(self._models(), self._images(), self._workspaces()):
            name = setting.config
            if name not in configs:
                configs[name] = self._kube.find(CONFIG_MAPS.path(SERVING, name))
            config = configs[name]
            subject = f"{name} {setting.key}"
            yield judge(setting, config) if config else unknown(subject, f"no ConfigMap {name} in {SERVING}")

    def _kourier(self) -> Iterator[Finding]:
        config = self._kube.find(CONFIG_MAPS.path(SERVING, KOURIER.config))
        if config is not None:  # else another ingress is installed
            yield judge(KOURIER, config)

    def _crds(self) -> Iterator[Finding]:
        for resource in (MODELS, WORKSPACES):
            found = self._kube.find(CRDS.path(name=f"{resource.plural}.{GROUP}"))
            yield checks.own_crd(resource.plural, found, definition(resource.kind))

    def _storage(self) -> Iterator[Finding]:
        configured = self._switcher_setting("HOTSEAT_STORAGE_CLASS")
        yield checks.storage(self._kube.get(STORAGE_CLASSES.path())["items"], self._models(), configured)

    def _gpus(self) -> Iterator[Finding]:
        switcher = self._components.get(SWITCHER)
        resource = switcher.variable("HOTSEAT_GPU_RESOURCE", checks.NVIDIA) if switcher else checks.NVIDIA
        nodes = self._kube.get(NODES.path())["items"]
        workspaces, models = self._items(WORKSPACES), self._items(MODELS)
        by_resource = checks.by_gpu_resource(workspaces, models, resource)
        for name, (sharing, claiming) in by_resource.items():
            if name:  # else pods request no GPUs
                yield checks.gpus(name, nodes, sharing, claiming)
                yield from checks.placement(nodes, name, sharing, claiming)

    def _images_without_gpu(self) -> Iterator[Finding]:
        switcher = self._components.get(SWITCHER)
        if switcher is not None and switcher.variable("HOTSEAT_GPU_RESOURCE", checks.NVIDIA):
            image = switcher.variable("HOTSEAT_IMAGE", "") or next(iter(switcher.images), "")
            yield from checks.images_without_gpu(image, self._models())

    def _broker(self) -> Iterator[Finding]:
        yield checks.broker(self._items(BROKERS, self._namespace), self._namespace)

    def _triggers(self) -> Iterator[Finding]:
        yield checks.triggers(self._items(_TRIGGERS, self._namespace), self._namespace)

    def _component(self, component: str) -> Iterator[Finding]:
        install = f"kubectl apply -k {runtimes.FOLDERS[self._auto]}/"
        yield checks.component(component, self._find(component), self._namespace, install)

    def _find(self, component: str) -> Component | None:
        if component not in self._components:
            self._components[component] = find_component(self._kube, self._namespace, component)
        return self._components[component]

    def _images(self) -> list[str]:
        """Return the images of router and switcher, as far as they may be read."""
        images: list[str] = []
        for component in (ROUTER, SWITCHER):
            with suppress(KubeError):
                found = self._find(component)
                images += found.images if found else []
        return images

    def _secret(self) -> Iterator[Finding]:
        yield from checks.demand_secrets(self._components)
        names = {each.demand_secret for each in self._components.values() if each is not None and each.demand_secret}
        for name in sorted(names or {DEMAND_SECRET}):
            found = self._kube.find(_SECRETS.path(self._namespace, name))
            yield checks.demand_secret(name, found, self._namespace)

    def _client_keys(self) -> Iterator[Finding]:
        router = self._find(ROUTER)
        if router is not None:
            name = router.api_key_secret
            secret = self._kube.find(_SECRETS.path(self._namespace, name)) if name else None
            yield checks.client_keys(router, self._core_service(router.name), secret, self._namespace)

    def _admin_routes(self) -> Iterator[Finding]:
        router = self._find(ROUTER)
        if router is not None:
            yield checks.admin_routes(router, self._core_service(f"{router.name}-admin"))

    def _switcher_setting(self, name: str) -> str:
        """Return a variable of the switcher, from its pod or the ConfigMap; empty if neither has it or may be read."""
        value = ""
        with suppress(KubeError):
            if (config := self._kube.find(CONFIG_MAPS.path(self._namespace, SETTINGS_MAP))) is not None:
                value = str((config.get("data") or {}).get(name, ""))
            if (switcher := self._find(SWITCHER)) is not None:
                value = switcher.variable(name, value)
        return value

    def _core_service(self, name: str) -> Json | None:
        return self._kube.find(_CORE_SERVICES.path(self._namespace, name))

    def _models(self) -> list[Json]:
        """Return the Models; none if they may not be read, because their checks are possible without them."""
        return self._items_if_allowed(MODELS)

    def _workspaces(self) -> list[Json]:
        """Return the Workspaces; none if they may not be read."""
        return self._items_if_allowed(WORKSPACES)

    def _items_if_allowed(self, resource: Resource) -> list[Json]:
        try:
            return self._items(resource)
        except KubeError as error:
            if error.status in _FORBIDDEN:
                return []
            raise

    def _items(self, resource: Resource, namespace: str = "") -> list[Json]:
        """Return the objects of a kind, from all namespaces if permitted, else from ours; none without the kind."""
        try:
            items: list[Json] = self._kube.get(resource.path(namespace))["items"]
        except KubeError as error:
            if error.status == NOT_FOUND:
                return []
            if error.status in _FORBIDDEN and not namespace:
                return self._items(resource, self._namespace)
            raise
        return items
