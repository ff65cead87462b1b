"""The runtimes of a cluster behind one port: each Workspace's Models are served by the one that it has chosen."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import ClusterRuntime, Workspace
from hotseat.cluster.switcher.external_scaler import ExternalScaler
from hotseat.core.messages import (
    CacheObserved,
    Fetch,
    InstanceReleased,
    LimitPrompts,
    Park,
    PromptCommand,
    Residency,
    RestorePrompts,
    SavePrompts,
    Start,
    Stop,
    Wake,
)
from hotseat.core.ports import LogView, Observe, WeightsFetcher
from hotseat.kube.client import NOT_FOUND, Change, Kube, KubeError, Watcher
from hotseat.kube.constants import (
    CORE_SERVICES,
    DEPLOYMENTS,
    MODEL,
    NOT_OF_KNATIVE,
    SCALED_OBJECTS,
    SERVICES,
    WORKSPACE,
    Resource,
)
from hotseat.runtimes.deployment.runtime import DeploymentRuntime
from hotseat.runtimes.keda.runtime import KedaRuntime
from hotseat.runtimes.knative.runtime import KnativeRuntime
from hotseat.runtimes.kubernetes.pod_prompts import PromptFiles
from hotseat.runtimes.kubernetes.runtime import PodRuntime

log = logging.getLogger(__name__)

OnChange = Callable[[Change, Json], None]
Made = TypeVar("Made", bound=PodRuntime)
_FORBIDDEN = 403
# What each runtime makes of a Model, beside the claim of its cache: kind, and the selector by which it is watched.
# Those that were made by hand are adopted. A Deployment needs no label if its ScaledObject has one.
OBJECTS: Mapping[ClusterRuntime, tuple[tuple[Resource, str], ...]] = {
    ClusterRuntime.KNATIVE: ((SERVICES, ""),),
    ClusterRuntime.KEDA: ((SCALED_OBJECTS, WORKSPACE), (DEPLOYMENTS, NOT_OF_KNATIVE), (CORE_SERVICES, MODEL)),
    ClusterRuntime.DEPLOYMENT: ((DEPLOYMENTS, NOT_OF_KNATIVE), (CORE_SERVICES, MODEL)),
}  # in the order of Auto
_MISSING: Mapping[ClusterRuntime, str] = {
    ClusterRuntime.KNATIVE: "Knative Serving is not installed, or the switcher may not list Knative Services",
    ClusterRuntime.KEDA: "KEDA is not installed, or the switcher may not list ScaledObjects, Deployments and Services; "
    "apply deployment/role and keda/role",
    ClusterRuntime.DEPLOYMENT: "the switcher may not list Deployments and Services; apply deployment/role",
}


class _Started:
    """The fetcher of one of several runtimes, which is started and closed by those who share it."""

    def __init__(self, fetcher: WeightsFetcher) -> None:
        self.needs_fetch, self.tell, self.fetch = fetcher.needs_fetch, fetcher.tell, fetcher.fetch

    def begin(self, observe: Callable[[CacheObserved], None]) -> None:
        """Do nothing: it has begun."""

    def close(self) -> None:
        """Do nothing: another closes it."""


class ClusterRuntimes:
    """A Runtime (see core/ports.py) that gives each command to the runtime of its Model's Workspace.

    A runtime is opened if the API server serves the objects that it makes, and the switcher may list
    them. What runs is adopted from every open runtime, and stopped by the one that has it. So a
    Workspace that has moved to another runtime is released under the old one. `runtime_of` and
    `fingerprint` are those of a Model's newest document. `demand_of` returns the requests of a Model
    that are queued or in flight, and how many of its pods must stay because of requests in flight.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        fetcher: WeightsFetcher,
        *,
        identity: str,
        fingerprint: Callable[[str], str | None],
        runtime_of: Callable[[str], ClusterRuntime],
        on_change: OnChange,
        demand_of: Callable[[str], tuple[int, int]] = lambda _model: (0, 0),
        scaler_port: int = 0,
        scaler_tls: Path | None = None,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._fetcher = fetcher
        self._runtime_of = runtime_of
        shared, self._prompts = _Started(fetcher), PromptFiles()
        self._fingerprint_of = fingerprint

        def make(runtime_type: Callable[..., Made], name: ClusterRuntime) -> Made:
            fingerprint_of = partial(self._fingerprint, name)
            return runtime_type(
                kube, namespace, shared, identity=identity, fingerprint=fingerprint_of, prompts=self._prompts
            )

        self._keda = make(KedaRuntime, ClusterRuntime.KEDA)
        self._runtimes: dict[ClusterRuntime, PodRuntime] = {
            ClusterRuntime.KNATIVE: make(KnativeRuntime, ClusterRuntime.KNATIVE),
            ClusterRuntime.KEDA: self._keda,
            ClusterRuntime.DEPLOYMENT: make(DeploymentRuntime, ClusterRuntime.DEPLOYMENT),
        }
        self._demand_of = demand_of
        self._scaler = ExternalScaler(self._keda.has_place, self._demanded, namespace, scaler_port, scaler_tls)
        self._scaler_problem = ""
        self._keda.on_place(self._scaler.changed)
        self._watchers: dict[Resource, Watcher] = {
            resource: Watcher(kube, resource, namespace, on_change, selector=selector)
            for objects in OBJECTS.values()
            for resource, selector in objects
        }
        self.superseded = threading.Event()
        for runtime in self._runtimes.values():
            runtime.superseded = self.superseded
            runtime.is_taken = self._is_taken
        self._open: set[ClusterRuntime] = set()
        self._chosen: dict[str, ClusterRuntime] = {}  # by Workspace
        self._problems: dict[str, str] = {}  # by Workspace: why the runtime that it names cannot be used
        self._by_model: dict[str, ClusterRuntime] = {}
        self._models: tuple[Model, ...] = ()
        self._observe: Observe | None = None
        self._closed = False

    # Objects and choice ---------------------------------------------------------------------------------------------------

    def watcher(self, resource: Resource) -> Watcher:
        """Return the watcher of a kind of objects. It has none while its runtime is not open."""
        return self._watchers[resource]

    def open_watchers(self) -> None:
        """Start to watch the objects of each runtime that is available. Raise KubeError if the API server does not say."""
        for name in OBJECTS:
            if name not in self._open and self._is_available(name):
                self._open_watchers(name)

    def choose(self, workspace: Workspace, status: Mapping[str, Any]) -> tuple[ClusterRuntime, str]:
        """Return the runtime of a Workspace, and why it cannot be used; empty if it can.

        What Auto has chosen once is kept (in `status`), whatever is installed later. A Workspace
        whose new runtime cannot be used stays with the one that it has.
        """
        name, wanted = workspace.name, workspace.spec.runtime
        current = self._chosen.get(name) or _known(status.get("runtime"))
        if wanted is ClusterRuntime.AUTO:
            best = next((each for each in OBJECTS if each in self._open), ClusterRuntime.DEPLOYMENT)
            wanted = current or best
        problem = self._problems[name] = self._open_if_available(wanted)
        if problem and current in self._open:
            wanted, problem = current or wanted, ""
        if self._chosen.get(name) != wanted:
            log.info("the runtime of Workspace %s is %s", name, wanted)
        self._chosen[name] = wanted
        return wanted, problem

    def choice_of(self, workspace: str) -> tuple[str, str]:
        """Return the runtime that a Workspace has chosen, and why the one that it names cannot be used, for its status."""
        chosen = self._chosen.get(workspace, "")
        of_scaler = self._scaler_problem if chosen is ClusterRuntime.KEDA else ""
        return chosen, self._problems.get(workspace, "") or of_scaler

    def _open_if_available(self, name: ClusterRuntime) -> str:
        """Open a runtime; return why it cannot be used, or empty."""
        if name in self._open:
            return ""
        try:
            if not self._is_available(name):
                return f"runtime {name}: {_MISSING[name]}"
        except KubeError as error:
            return f"runtime {name}: {error}"
        self._open_watchers(name)
        if self._observe is not None:
            self._begin(name, self._observe)
        return ""

    def _begin(self, name: ClusterRuntime, observe: Observe) -> None:
        self._runtimes[name].begin(self._models_of(name), observe)
        if name is ClusterRuntime.KEDA and (why := self._scaler.start()):
            self._scaler_problem = f"runtime {name}: the external scaler cannot serve, so KEDA starts no Model: {why}"
            log.error("%s", self._scaler_problem)

    def left_over(self, model: str, uid: str, name: ClusterRuntime) -> list[tuple[Resource, Json]]:
        """Return the objects of a Model that another runtime than `name` made, once nothing of it runs there."""
        others = [each for each in OBJECTS if each is not name and each in self._open]
        if any(self._runtimes[other].has_instance_of(model) for other in others):
            return []
        kept = {resource for resource, _ in OBJECTS[name]}
        kinds = dict.fromkeys(resource for other in others for resource, _ in OBJECTS[other] if resource not in kept)
        items = [(resource, self._watchers[resource].named(model)) for resource in kinds]
        return [(resource, item) for resource, item in items if item is not None and _is_made_of(item, uid)]

    def _is_available(self, name: ClusterRuntime) -> bool:
        for resource, _ in OBJECTS[name]:
            try:
                self._kube.get(resource.path(self._namespace), limit="1")
            except KubeError as error:
                if error.status in (NOT_FOUND, _FORBIDDEN):
                    return False
                raise
        return True

    def _open_watchers(self, name: ClusterRuntime) -> None:
        shared = {resource for other in self._open for resource, _ in OBJECTS[other]}
        watchers = [self._watchers[resource] for resource, _ in OBJECTS[name] if resource not in shared]
        for each in watchers:
            each.start()
        for each in watchers:
            while not each.wait_synced(5.0) and not self._closed:
                log.warning("waiting for the API server")
        self._open.add(name)

    def has_place(self, model: str) -> bool:
        """Whether KEDA may scale a Model up."""
        return bool(self._keda.has_place(model))

    def replicas_of(self, model: str) -> int:
        """Return how many pods a Model that KEDA scales has claimed GPUs for; 0 without a place."""
        return self._keda.replicas_of(model)

    def _demanded(self, model: str, concurrency: int) -> int:
        """Return the requests by which KEDA sizes a Model: for no more pods than it has claimed, and for those in use."""
        requests, busy = self._demand_of(model)
        return min(max(requests, busy * concurrency), self._keda.replicas_of(model) * concurrency)

    # The port -------------------------------------------------------------------------------------------------------------

    def begin(self, models: Iterable[Model], observe: Observe) -> None:
        """Adopt running instances of every open runtime, and report the cache state of each model."""
        self._observe = observe
        self._models = tuple(models)
        self._by_model = self._runtimes_of_models()
        self._fetcher.begin(observe)
        for name in sorted(self._open):
            self._begin(name, observe)

    def update(self, models: Iterable[Model]) -> None:
        """Replace the documents. A model that moves is known to both runtimes meanwhile, as a command may come for either."""
        self._models = tuple(models)
        self._prompts.keep_models({each.name for each in self._models})
        before, after = self._by_model, self._runtimes_of_models()
        moved = {name for name, runtime in after.items() if before.get(name, runtime) is not runtime}
        if moved:
            for name in self._open:
                known = {each for each, runtime in before.items() if runtime is name}
                known |= {each for each, runtime in after.items() if runtime is name}
                self._runtimes[name].update([each for each in self._models if each.name in known])
        self._by_model = after
        for name in self._open:
            self._runtimes[name].update(self._models_of(name))

    def adopt_running(self) -> None:
        """Adopt what runs already of Models that are new, once the schedulers know these."""
        for name in self._open:
            self._runtimes[name].adopt_running()

    def _runtimes_of_models(self) -> dict[str, ClusterRuntime]:
        return {each.name: self._runtime_of(each.name) for each in self._models}

    def _models_of(self, name: ClusterRuntime) -> list[Model]:
        return [each for each in self._models if self._of(each.name) is name]

    def fetch(self, command: Fetch) -> None:
        """Fetch the weights."""
        self._runtimes[self._of(command.model)].fetch(command)

    def start(self, command: Start) -> None:
        """Load the model under the runtime of its Workspace."""
        self._runtimes[self._of(command.model)].start(command)

    def stop(self, command: Stop) -> None:
        """Stop an instance under the runtime that has it."""
        if holder := self._holder(command.instance, command.model):
            holder.stop(command)
        else:
            self._report_released(command)

    def residency_changed(self, residency: Residency) -> None:
        """Let the runtimes prepare what a residency announces."""
        for name in self._open:
            self._runtimes[name].residency_changed(residency)

    def park(self, command: Park) -> None:
        """Park an instance."""
        if holder := self._holder(command.instance, command.model):
            holder.park(command)
        else:
            self._report_released(command)

    def wake(self, command: Wake) -> None:
        """Wake an instance."""
        if holder := self._holder(command.instance, command.model):
            holder.wake(command)
        else:
            self._report_released(command)

    def handle_prompts(self, command: PromptCommand) -> None:
        """Save or restore the prompt cache of an instance, or limit what is kept of a Model."""
        if isinstance(command, LimitPrompts):
            self._prompts.set_limit(command.workspace, command.size)
        elif holder := self._holder(command.instance, command.model):
            holder.handle_prompts(command)
        else:
            self._report_released(command)

    def prompt_sizes(self) -> dict[tuple[str, str], int]:
        """Return the known bytes of saved prompt caches, by Workspace and Model."""
        sizes = self._prompts.sizes()
        return {(each.spec.workspace, each.name): sizes[each.name] for each in self._models if each.name in sizes}

    def _report_released(self, command: Stop | Park | Wake | SavePrompts | RestorePrompts) -> None:
        if self._observe is not None:
            self._observe(InstanceReleased(time.monotonic(), command.instance, command.epoch))

    def logs(self, model: str) -> LogView | None:
        """Return the output of a model's engine; None for an unknown model."""
        return self._runtimes[self._of(model)].logs(model)

    def close(self) -> None:
        """End all runtimes. Instances run on, for the next switcher to adopt."""
        self._closed = True
        for each in self._watchers.values():
            each.stop()
        self._fetcher.close()
        self._scaler.close()
        for runtime in self._runtimes.values():
            runtime.close()

    def mark_gone(self, uids: Iterable[str]) -> None:
        """Accept a user's statement that these pods are gone."""
        gone = tuple(uids)
        for runtime in self._runtimes.values():
            runtime.mark_gone(gone)

    def _fingerprint(self, runtime: ClusterRuntime, model: str) -> str | None:
        """Return the fingerprint of a Model's newest document; None if it is not known, or for another runtime."""
        return self._fingerprint_of(model) if self._runtime_of(model) is runtime else None

    def _of(self, model: str) -> ClusterRuntime:
        return self._by_model.get(model, ClusterRuntime.KNATIVE)

    def _holder(self, instance: str, model: str) -> PodRuntime | None:
        """Return the runtime that has an instance, else that of its model; None if that is not open."""
        found = next((each for each in self._runtimes.values() if each.has(instance)), None)
        of_model = self._of(model)
        return found or (self._runtimes[of_model] if of_model in self._open else None)

    def _is_taken(self, instance: str) -> bool:
        return any(each.has(instance) for each in self._runtimes.values())


def _known(text: object) -> ClusterRuntime | None:
    """Return the runtime that a status names; None if it names none, or one of a later version."""
    return next((each for each in OBJECTS if each.value == text), None)


def _is_made_of(item: Json, uid: str) -> bool:
    owners = item["metadata"].get("ownerReferences") or []
    return "deletionTimestamp" not in item["metadata"] and any(each["uid"] == uid for each in owners)
