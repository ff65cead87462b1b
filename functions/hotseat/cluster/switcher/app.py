"""The switcher: decides which Models are resident, makes the cluster follow, and continues from what it observes."""

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import ClusterRuntime, Workspace
from hotseat.cluster.functions import FunctionSettings, read_settings, serve
from hotseat.cluster.switcher import status_objects as statuses
from hotseat.cluster.switcher.adopted_objects import AdoptionProblems, Autoscalers
from hotseat.cluster.switcher.applied_objects import RETRY, ObjectApplier, Refused
from hotseat.cluster.switcher.fetch_jobs import JobFetcher
from hotseat.cluster.switcher.http_api import PinAnnotations, RemoteCommands, create_http_api
from hotseat.cluster.switcher.model_objects import NOTHING_READ, SHOW_STATE, ModelObject, read
from hotseat.cluster.switcher.observations import CachedWeights, PendingObservations
from hotseat.cluster.switcher.own_image import own_image
from hotseat.cluster.switcher.reads import RemoteReads
from hotseat.cluster.switcher.runtimes import ClusterRuntimes
from hotseat.cluster.switcher.status_writer import ModelStatusWriter, ObjectKey
from hotseat.cluster.switcher.workspace import ClusterWorkspace
from hotseat.coalesce import CoalescingWorker
from hotseat.control.event_log import Event, EventLog, HttpSink
from hotseat.core.errors import Unavailable
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    Observation,
    workspace_of,
)
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.gauges import (
    of_accelerator,
    of_backoff,
    of_instances,
    of_pins,
    of_prompts,
    of_sinks,
    with_shown_names,
)
from hotseat.kube import pods
from hotseat.kube.adoption import NAME_CONFLICT
from hotseat.kube.client import Change, Kube, KubeError, Watcher
from hotseat.kube.constants import (
    CLAIMS,
    DEPLOYMENT,
    DEPLOYMENTS,
    MODEL,
    MODELS,
    PODS,
    SCALED_OBJECTS,
    SERVICES,
    SETTLED,
    WORKSPACE,
    WORKSPACES,
    ClusterSettings,
    Resource,
)
from hotseat.kube.containers import cpu_image
from hotseat.kube.jobs import job_name
from hotseat.kube.leader import Leader
from hotseat.kube.placement import in_workspace
from hotseat.telemetry.metrics import Metrics, Reading
from hotseat.telemetry.tracing import start_tracing

log = logging.getLogger(__name__)


THREADS = 500  # commands that wait, and reads that wait for news
GATHER = 0.05  # seconds in which changes of documents gather
RESYNC = 30.0  # seconds after which everything is reconciled without a change
LEASE = "hotseat-switcher"
ROUTERS = "app.kubernetes.io/part-of=hotseat,app.kubernetes.io/component=router"


class SwitcherApp:
    """The parts of one switcher."""

    def __init__(self, settings: FunctionSettings) -> None:
        self._kube = Kube.connect()
        namespace = settings.namespace or self._kube.namespace
        self.namespace = namespace
        image = settings.objects.image or own_image(self._kube, settings.pod)
        self._settings = replace(settings.objects, image=image, namespace=namespace)
        self._identity = settings.pod
        self._tracing = start_tracing("hotseat-switcher")
        self._events = EventLog(f"/namespaces/{namespace}", self._tracing)
        self._metrics = Metrics(lambda: with_shown_names(self._gauges(), self._events.shown_name))
        self._events.subscribe(self._metrics.event)
        self._has_broker = bool(settings.broker)
        self._sinks = [HttpSink(url) for url in (settings.broker_of(namespace), settings.sink) if url]
        for sink in self._sinks:
            self._events.subscribe(sink)
        self._worker = CoalescingWorker(
            "documents", self._reconcile, expected=KubeError, paused=True, measured=self._measured("documents")
        )
        self._versions: dict[str, tuple[object, ...]] = {}
        self._closed = False
        self._controllers: dict[str, ClusterWorkspace] = {}
        self._pending = PendingObservations(self._controllers)
        self._documents = NOTHING_READ
        self._paths: Mapping[str, str] = {}  # of weights, by fetch Job
        self._cached = CachedWeights(self._pending.send)
        self._refusals: dict[str, Refused | None] = {}  # by Model that was applied: what could not be
        self._invalid_told: dict[str, Json] = {}  # by Workspace: conditions
        self._uids: Mapping[ObjectKey, str] = {}
        self._involved: Mapping[ObjectKey, Json] = {}  # objects of Kubernetes Events
        self._workspace_by_model: dict[str, str] = {}
        self._fetcher = JobFetcher(self._kube, namespace, self._settings_for, self._uid, lambda _model: self.reload())
        self._runtime = ClusterRuntimes(
            self._kube,
            namespace,
            self._fetcher,
            identity=f"{settings.pod}-{uuid.uuid4().hex[:8]}",
            fingerprint=self._fingerprint,
            runtime_of=self._runtime_of,
            on_change=self._object_changed,
            demand_of=self._demand_of,
            scaler_port=settings.scaler_port,
            scaler_tls=settings.scaler_tls,
        )
        self._status_writer = ModelStatusWriter(self._kube, namespace, self._statuses, self._measured("model_status"))
        self._autoscalers = Autoscalers(self._kube, namespace)
        self._adoption_problems = AdoptionProblems(self._status_writer.warn)
        self._events.subscribe(self._record_event)

        def watch(resource: Resource, selector: str = "") -> Watcher:
            return Watcher(self._kube, resource, namespace, self._object_changed, selector=selector)

        self._workspaces, self._models = watch(WORKSPACES), watch(MODELS)
        self._services, self._claims = self._runtime.watcher(SERVICES), watch(CLAIMS, MODEL)
        self._routers = Watcher(self._kube, PODS, namespace, self._router_changed, selector=ROUTERS)
        self._watchers = (self._workspaces, self._models, self._claims, self._routers)
        self._applier = ObjectApplier(self._kube, namespace, self._runtime, self._claims, retry=self._worker.mark)
        self._leader = Leader(self._kube, namespace, LEASE, settings.pod, leads=self._lead, lost=_exit)
        self._leading = False
        commands = RemoteCommands(self._controllers, PinAnnotations(self._kube, namespace, lambda: self._documents))
        self._demand_key = settings.key
        self.gateway = create_http_api(
            self._demand_key,
            self._report_demand,
            commands.execute,
            lambda: not self._closed,
            self._metrics,
            on_traces=None if self._tracing is None else self._tracing.demand_reported,
            on_read=RemoteReads(self._runtime.logs, self._events, lambda: self._leading and not self._closed).read,
        )

    def begin(self) -> None:
        """Start the election. The switcher works once it leads."""
        self._demand_key.watch()
        self._leader.start()

    def reload(self) -> None:
        """Apply the documents again, soon."""
        self._worker.mark(GATHER)

    def close(self) -> None:
        """End. Instances stay, and the next switcher adopts them."""
        self._closed = True
        self._events.close()  # routers that wait for events get an answer
        self._worker.close()
        for controller in self._controllers.values():
            controller.stop()
        self._status_writer.close()
        self._runtime.close()
        self._leader.close()
        for sink in self._sinks:
            sink.close()
        if self._tracing is not None:
            self._tracing.close()

    # Leading --------------------------------------------------------------------------------------------------------------

    def _lead(self) -> None:
        self.reload()
        self._worker.start()

    def _reconcile(self) -> float:
        """Bring everything in line with the documents. Return the seconds until the next time."""
        if not self._leading:
            try:
                self._start()
            except Exception:
                log.exception("the switcher cannot start")
                os._exit(1)
            return GATHER
        self._apply()
        return RESYNC

    def _start(self) -> None:
        for each in self._watchers:
            each.start()
        for each in self._watchers:
            while not each.wait_synced(5.0) and not self._closed:
                log.warning("waiting for the API server")
        self._runtime.open_watchers()
        self._read_documents()
        self._apply_workspaces()
        self._runtime.begin([r.model for r in self._documents.models.values()], self._observe)
        for controller in self._controllers.values():  # only now: a status without the adopted instances would be wrong
            controller.start()
        self._status_writer.start()
        threading.Thread(target=self._watch_successor, name="successor", daemon=True).start()
        self._remove_lost_routers()
        self._leading = True
        log.info("this switcher leads %s", self.namespace)

    def _watch_successor(self) -> None:
        self._runtime.superseded.wait()
        _exit()

    def _apply(self) -> None:
        """Apply the documents. Objects come first, so that a restart finds the new Revision."""
        self._read_documents()
        self._refusals = {name: self._applier.apply(each) for name, each in self._documents.models.items()}
        for each in self._documents.models.values():
            self._applier.remove_left_over(each)
        self._runtime.update([r.model for r in self._documents.models.values()])
        self._fetcher.reconcile()
        self._apply_workspaces()
        self._runtime.adopt_running()
        self._cached.applied(self._paths, self._workspace_by_model)
        self._settle()
        self._status_writer.mark()

    def _read_documents(self) -> None:
        models, deployments = self._models.objects, self._runtime.watcher(DEPLOYMENTS).objects
        self._paths = paths = self._fetcher.paths()
        self._documents = read(
            self._workspaces.objects,
            models,
            self._services.objects,
            self._settings,
            paths,
            choose=self._runtime.choose,
            deployments=deployments,
            scaled_objects=self._runtime.watcher(SCALED_OBJECTS).objects,
            autoscalers=self._autoscalers.read(deployments),
            last=self._documents,
        )
        found = {(MODELS.kind, m["metadata"]["name"]): m["metadata"]["uid"] for m in models}
        found |= {(WORKSPACES.kind, w["metadata"]["name"]): w["metadata"]["uid"] for w in self._workspaces.objects}
        found |= {(item["kind"], item["metadata"]["name"]): uid for uid, (item, _) in self._documents.adopted.items()}
        for _, name in {key for key, uid in found.items() if self._uids.get(key) != uid}:
            self._status_writer.forget(name)
        self._uids = found
        adopted = {
            (MODELS.kind, name): self._documents.adopted[each.adopted_from][0]
            for name, each in self._documents.models.items()
            if each.adopted_from in self._documents.adopted
        }
        documents = [*models, *self._workspaces.objects]
        self._involved = adopted | {(each["kind"], each["metadata"]["name"]): each for each in documents}
        self._adoption_problems.update(self._documents.adopted)
        self._workspace_by_model = {name: r.model.spec.workspace for name, r in self._documents.models.items()}

    def _apply_workspaces(self) -> None:
        """Configure each Workspace. Create controllers of new ones."""
        models = self._documents.models
        for name, (workspace, document, problem) in self._documents.workspaces.items():
            controller = self._controllers.get(name) or self._controller(workspace, document)
            controller.runtime_name, controller.runtime_problem = self._runtime.choice_of(name)
            mine = [r for r in models.values() if r.model.spec.workspace == name]
            fingerprints = {r.model.name: r.fingerprint for r in mine}
            controller.apply_config(
                workspace,
                document["metadata"]["generation"],
                [r.model for r in mine],
                fingerprints,
                pods={r.model.name: r.most_pods for r in mine},
                problem=problem,
                refusals={r.model.name: str(it) for r in mine if (it := self._refusals.get(r.model.name))},
                prompts={r.model.name: r.unkept_prompts for r in mine if r.unkept_prompts is not None},
                origins={r.model.name: statuses.origin(r.in_force, r.created) for r in mine},
            )
            if name not in self._controllers:
                self._pending.attach(controller)
                if self._leading:
                    controller.start()
        for name in self._controllers.keys() - self._documents.workspaces.keys():
            if name not in self._documents.invalid_workspaces:
                controller = self._controllers[name]
                controller.apply_config(controller.workspace, controller.generation, (), {})
        self._report_invalid_workspaces()

    def _report_invalid_workspaces(self) -> None:
        """Write the condition of Workspaces that have no controller, because they were never valid."""
        for name, (document, problem) in self._documents.invalid_workspaces.items():
            ready = statuses.condition("Ready", False, "InvalidSpec", problem, document["metadata"]["generation"])
            if self._invalid_told.get(name) != ready:
                earlier = (document.get("status") or {}).get("conditions") or ()
                conditions = statuses.keep_transition_times([dict(ready)], earlier)
                try:
                    self._kube.merge(
                        WORKSPACES.path(self.namespace, name, "status"), {"status": {"conditions": conditions}}
                    )
                    self._invalid_told[name] = ready
                except KubeError as error:
                    log.warning("Workspace %s: %s", name, error)
                    self._worker.mark(RETRY)

    def _controller(self, workspace: Workspace, document: Json) -> ClusterWorkspace:
        status = document.get("status") or {}
        return ClusterWorkspace(
            workspace,
            status,
            runtime=self._runtime,
            events=self._events,
            kube=self._kube,
            namespace=self.namespace,
            on_step=self._status_writer.mark,
            on_residency=self._runtime.residency_changed,
            on_reconciled=self._measured("workspace_status"),
            has_broker=self._has_broker,
        )

    def _runtime_of(self, model: str) -> ClusterRuntime:
        """Return the runtime of a Model. That of an adopted object is by its kind, whatever its Workspace has chosen."""
        found = self._documents.models.get(model)
        return found.runtime if found else ClusterRuntime.KNATIVE

    def _fingerprint(self, model: str) -> str | None:
        """Return the fingerprint of a Model's newest document; None if it is not known."""
        found = self._documents.models.get(model)
        return found.fingerprint or None if found else None

    def _demand_of(self, model: str) -> tuple[int, int]:
        """Return the requests of a Model that are queued or in flight, and how many pods must stay. From any thread."""
        controller = self._controllers.get(self._workspace_by_model.get(model, ""))
        return controller.scheduler.demand_of(model) if controller else (0, 0)

    def _settle(self) -> None:
        uids = [
            uid.strip()
            for _, document, _ in self._documents.workspaces.values()
            for uid in (document["metadata"].get("annotations") or {}).get(SETTLED, "").split(",")
            if uid.strip()
        ]
        if uids:
            self._runtime.mark_gone(uids)

    # Changes -------------------------------------------------------------------------------------------------------------

    def _object_changed(self, _change: Change, item: Json) -> None:
        """Reconcile, unless only a status has changed: the switcher itself writes those."""
        meta = item["metadata"]
        if DEPLOYMENT in (meta.get("labels") or {}):
            self._status_writer.mark()  # the Model's status has that of its Deployment
        home = (meta.get("labels") or {}).get(WORKSPACE)
        version = (
            meta["uid"],
            meta.get("generation"),
            home,
            str(meta.get("annotations")),
            meta.get("deletionTimestamp"),
        )
        key = f"{item.get('apiVersion')}/{item.get('kind')}/{meta['name']}"
        if _change is Change.GONE or self._versions.get(key) != version:
            self._versions[key] = version
            self.reload()

    def _observe(self, observation: Observation) -> None:
        if isinstance(observation, CacheObserved):
            self._status_writer.mark()
            model = self._documents.models.get(observation.model)
            job = job_name(model.model) if model and self._fetcher.path(model.model) else None
            self._cached.observe(observation, job, self._workspace_by_model.get(observation.model, ""))
        else:
            self._pending.send(workspace_of(observation.instance), observation)

    def _report_demand(self, workspace: str, demand: Demand, pod: str, through_broker: bool) -> None:
        if not self._leading:
            raise Unavailable("this switcher is not the leader", code="not_leading", retry_after=1.0)
        if controller := self._controllers.get(workspace):
            controller.report_demand(demand, pod, through_broker=through_broker)

    def _router_changed(self, change: Change, pod: Json) -> None:
        if change is Change.GONE or pods.terminal(pod):
            for controller in list(self._controllers.values()):
                for router in controller.routers:
                    if router.pod == pod["metadata"]["name"]:
                        controller.remove_router(router.id)

    def _remove_lost_routers(self) -> None:
        """Remove routers of an earlier run whose pods have ended."""
        there = {pod["metadata"]["name"] for pod in self._routers.objects if not pods.terminal(pod)}
        for controller in self._controllers.values():
            for router in controller.routers:
                if router.pod and router.pod not in there:
                    controller.remove_router(router.id)

    # Statuses -------------------------------------------------------------------------------------------------------------

    def _statuses(self) -> tuple[dict[str, Json], dict[str, str]]:
        """Return the statuses of Models, and the states by path of the object that serves each."""
        shown: dict[str, Json] = {}
        states: dict[str, str] = {}
        caches, refusals = self._fetcher.states(), self._refusals
        for name, each in self._documents.models.items():
            controller = self._controllers.get(each.model.spec.workspace)
            rows = {row.name: row for row in controller.scheduler.status()} if controller else {}
            status = rows.get(name, ModelStatus(name, "unloaded"))
            refused = refusals.get(name)
            theirs = name not in refusals or (refused is not None and refused.reason == NAME_CONFLICT)  # or may be
            if not each.model.is_external and not theirs:
                states |= dict.fromkeys(each.shown_at(self.namespace), status.state)
            if each.uid is not None:
                shown[name] = self._status_of(each, controller, status, caches.get(name))
        for name, (document, problem) in self._documents.invalid.items():
            earlier = (document.get("status") or {}).get("conditions") or ()
            shown[name] = statuses.invalid_status(document["metadata"]["generation"], problem, earlier)
        return shown, states

    def _status_of(
        self,
        each: ModelObject,
        controller: ClusterWorkspace | None,
        status: ModelStatus,
        observed: CacheObserved | None,
    ) -> Json:
        name = each.model.name
        problem = self._problem_of(each, controller)
        residents = controller.scheduler.residency.residents if controller else ()
        if observed is None and not self._fetcher.needs_fetch(each.model):
            observed = CacheObserved(0.0, name, CacheState.CACHED)
        made = statuses.model_status(
            status,
            model=each.model,
            generation=each.generation,
            resident=next((r for r in residents if r.model == name), None),
            cache=observed,
            switches=controller.switches() if controller else (),
            problem=problem,
            names_conflict=each.names_conflict,
            deployment=self._deployment_of(each),
            claim_problems=self._applier.claim_problems.get(name, ()),
            cpu_image=cpu_image(each.model, self._settings_for(each.model)),
            pods=each.most_pods,
            capacity=controller.capacity if controller else statuses.NOT_COUNTED,
        )
        made["conditions"] = statuses.keep_transition_times(made["conditions"], self._earlier_conditions(each))
        return made

    def _deployment_of(self, each: ModelObject) -> Json | None:
        is_one = DEPLOYMENTS in SHOW_STATE[each.runtime]
        return self._runtime.watcher(DEPLOYMENTS).named(each.model.name) if is_one else None

    def _problem_of(self, each: ModelObject, controller: ClusterWorkspace | None) -> statuses.ModelProblem | None:
        if each.problem and each.in_force is not None:
            version = f"generation {each.in_force}" if each.in_force else "an earlier generation"
            return statuses.ModelProblem("InvalidSpec", f"{each.problem}; {version} is in force", fatal=False)
        if controller is None:
            workspace = each.model.spec.workspace
            why = "is invalid" if workspace in self._documents.invalid_workspaces else "does not exist"
            return statuses.ModelProblem("UnknownWorkspace", f"Workspace {workspace} {why}")
        refused = self._refusals.get(each.model.name)
        return statuses.ModelProblem(refused.reason, f"{refused.what}: {refused.message}") if refused else None

    def _earlier_conditions(self, each: ModelObject) -> list[Json]:
        document = self._models.named(each.model.name)
        status = (document or {}).get("status") or each.status
        found: list[Json] = status.get("conditions") or []
        return found

    def _record_event(self, event: Event) -> None:
        self._status_writer.record(event, self._involved)

    def _uid(self, model: str) -> str | None:
        return self._uids.get((MODELS.kind, model))

    def _settings_for(self, model: Model) -> ClusterSettings:
        """Return the settings of a Model's Workspace."""
        found = self._documents.workspaces.get(model.spec.workspace)
        return in_workspace(self._settings, found.workspace if found else None)

    def _measured(self, kind: str) -> Callable[[float], None]:
        """Return what counts the durations of a kind of reconciliation."""
        return partial(self._metrics.reconciled, kind)

    def _gauges(self) -> Iterator[Reading]:
        for controller in list(self._controllers.values()):
            yield from of_instances(
                controller.workspace, controller.scheduler.residency.residents, controller.effective_max_wait
            )
            rows = controller.scheduler.status()
            yield from of_pins(controller.workspace, rows)
            yield from of_backoff(rows)
            yield from of_accelerator(controller.name, controller.accelerator_seconds.totals())
        yield from of_prompts(self._runtime.prompt_sizes())
        yield from of_sinks(self._sinks)
        yield Reading("hotseat_leader", {}, int(self._leading and not self._closed))


def _exit() -> None:
    log.error("lost leadership; this process exits")
    os._exit(1)


def main() -> None:
    """Serve."""
    settings = read_settings()
    serve(
        settings,
        lambda its, _: SwitcherApp(its),
        up="switcher %s is waiting for leadership",
        max_requests=64,
        threads=THREADS,
        graceful=10,
    )


if __name__ == "__main__":
    main()
