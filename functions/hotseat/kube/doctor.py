"""Checks of everything in a cluster that hotseat needs. Only `repair` changes anything, one key at a time."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from hotseat.api.types import Json
from hotseat.kube import checks
from hotseat.kube.checks import EVENTING, KOURIER, SERVING, Finding, Patch, judge, settings, unknown, wrong
from hotseat.kube.client import NOT_FOUND, Kube, KubeError
from hotseat.kube.components import DEMAND_SECRET, ROUTER, SETTINGS_MAP, SWITCHER, Component, find_component
from hotseat.kube.constants import (
    BROKERS,
    CONFIG_MAPS,
    CRDS,
    DEPLOYMENTS,
    GROUP,
    MODELS,
    NODES,
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
_SECRETS: Final = Resource("v1", "Secret", "secrets")
_CORE_SERVICES: Final = Resource("v1", "Service", "services")

Check = Callable[[], Iterator[Finding]]


class Doctor:
    """All checks of a cluster, for one namespace. What may not be read is `unknown`, never an error."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._components: dict[str, Component | None] = {}

    def examine(self) -> list[Finding]:
        """Run all checks; only the first if the API server does not answer."""
        self._components.clear()
        try:
            found = [checks.kubernetes(self._kube.get("/version"))]
        except KubeError as error:
            why = "nothing can be checked without it"
            return [wrong("API server", str(error), why, "check --kubeconfig and --context: kubectl cluster-info")]
        subjects: list[tuple[str, Check]] = [
            ("Knative Serving", self._serving),
            ("Knative Eventing", self._eventing),
            ("settings of Knative", self._settings),
            ("setting of Kourier", self._kourier),
            ("our CRDs", self._crds),
            ("storage class", self._storage),
            ("Broker", self._broker),
            ("Trigger", self._triggers),
            (ROUTER, lambda: self._component(ROUTER)),
            (SWITCHER, lambda: self._component(SWITCHER)),
            ("demand key", self._secret),
            ("client keys", self._client_keys),
            ("admin routes", self._admin_routes),
            ("GPUs", self._gpus),
            ("images of engines", self._images_without_gpu),
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
        yield checks.component(component, self._find(component), self._namespace)

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
