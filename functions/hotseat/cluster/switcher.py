"""The switcher function: decides which models are resident, and makes the cluster follow. It goes on from what it observes."""

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping

from hotseat.api.workspace import Workspace
from hotseat.cluster import status_objects as statuses
from hotseat.cluster.commands import PinAnnotations, RemoteCommands
from hotseat.cluster.fetch_jobs import JobFetcher
from hotseat.cluster.http_api import create_inbox
from hotseat.cluster.model_objects import ModelObject, ModelObjects, read
from hotseat.cluster.model_status import ModelStatusWriter
from hotseat.cluster.pending_observations import PendingObservations
from hotseat.cluster.serving import serve
from hotseat.cluster.settings import FunctionSettings, read_settings
from hotseat.cluster.workspace_controller import WorkspaceController
from hotseat.control.event_log import Event, EventLog, HttpSink
from hotseat.core.errors import Unavailable
from hotseat.core.messages import CacheObserved, CacheState, Demand, Observation
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.gauges import of_instances, of_pins, with_shown_names
from hotseat.kube import pods
from hotseat.kube.client import Json, Kube, KubeError
from hotseat.kube.constants import CLAIMS, MODEL, MODELS, PODS, SERVICES, SETTLED, WORKSPACES, ClusterSettings, Resource
from hotseat.kube.leader import Leader
from hotseat.kube.objects import drifted
from hotseat.kube.watching import Change, Watcher
from hotseat.runtimes.knative.runtime import KnativeRuntime
from hotseat.telemetry.metrics import Metrics, Reading

log = logging.getLogger(__name__)

GATHER = 0.05  # seconds in which changes of documents gather
RESYNC = 30.0  # seconds between looks at everything, whatever was said
LEASE = "hotseat-switcher"
ROUTERS = "app.kubernetes.io/part-of=hotseat,app.kubernetes.io/component=router"


class SwitcherApp:
    """Everything of one switcher."""

    def __init__(self, settings: FunctionSettings) -> None:
        self._kube = Kube.connect()
        namespace = settings.namespace or self._kube.namespace
        self.namespace = namespace
        self._settings = ClusterSettings(settings.image, namespace, settings.gpu_resource)
        self._identity = settings.pod
        self._bus = EventLog(f"/namespaces/{namespace}")
        self._metrics = Metrics(lambda: with_shown_names(self._gauges(), self._bus.shown_name))
        self._bus.subscribe(self._metrics.event)
        self._sink = HttpSink(settings.broker_of(namespace)) if settings.broker else None
        if self._sink is not None:
            self._bus.subscribe(self._sink)
        self._dirty = threading.Event()
        self._marks: dict[str, tuple[object, ...]] = {}
        self._closed = False
        self._controllers: dict[str, WorkspaceController] = {}
        self._handover = PendingObservations(self._controllers)
        self._documents = ModelObjects({}, {})
        self._uids: Mapping[str, str] = {}
        self._homes: dict[str, str] = {}  # Workspace by Model
        self._fetcher = JobFetcher(self._kube, self._settings, self._uid, lambda _model: self._dirty.set())
        self._runtime = KnativeRuntime(
            self._kube, namespace, self._fetcher, identity=f"{settings.pod}-{uuid.uuid4().hex[:8]}"
        )
        self._status_writer = ModelStatusWriter(self._kube, namespace, self._view)
        self._bus.subscribe(self._record)

        def follow(resource: Resource, selector: str = "") -> Watcher:
            return Watcher(self._kube, resource, namespace, self._heard, selector=selector)

        self._workspaces, self._models = follow(WORKSPACES), follow(MODELS)
        self._services, self._claims = follow(SERVICES), follow(CLAIMS, MODEL)
        self._routers = Watcher(self._kube, PODS, namespace, self._see_router, selector=ROUTERS)
        self._watchers = (self._workspaces, self._models, self._services, self._claims, self._routers)
        self._leader = Leader(self._kube, namespace, LEASE, settings.pod, leads=self._lead, lost=_die)
        self._leading = False
        orders = RemoteCommands(self._controllers, PinAnnotations(self._kube, namespace, lambda: self._documents))
        self.gateway = create_inbox(
            settings.key, self._demand, orders.carry_out, lambda: not self._closed, self._metrics
        )

    def begin(self) -> None:
        """Wait to lead."""
        self._leader.start()

    def reload(self) -> None:
        """Look at everything again."""
        self._dirty.set()

    def close(self) -> None:
        """Let go; what is resident stays, and the next switcher goes on with it."""
        self._closed = True
        self._dirty.set()
        for controller in self._controllers.values():
            controller.stop()
        self._status_writer.close()
        self._runtime.close()
        self._leader.close()
        if self._sink is not None:
            self._sink.close()

    # Leading --------------------------------------------------------------------------------------------------------------

    def _lead(self) -> None:
        threading.Thread(target=self._run, name="documents", daemon=True).start()

    def _run(self) -> None:
        try:
            self._start()
        except Exception:
            log.exception("the switcher cannot start")
            os._exit(1)
        while not self._closed:
            self._dirty.wait(RESYNC)
            self._dirty.clear()
            time.sleep(GATHER)
            try:
                self._apply()
            except KubeError as error:
                log.warning("documents: %s", error)
                threading.Timer(1.0, self._dirty.set).start()
            except Exception:
                log.exception("documents")

    def _start(self) -> None:
        for each in self._watchers:
            each.start()
        for each in self._watchers:
            while not each.wait_synced(5.0) and not self._closed:
                log.warning("waiting for the API server")
        self._status_writer.start()
        self._read()
        self._enter()
        self._runtime.begin([r.model for r in self._documents.models.values()], self._observe)
        for (
            controller
        ) in self._controllers.values():  # only now: routers shall not hear of a Workspace without its residents
            controller.start()
        threading.Thread(target=self._watch_successor, name="successor", daemon=True).start()
        self._forget_routers()
        self._leading = True
        self._dirty.set()
        log.info("this switcher leads %s", self.namespace)

    def _watch_successor(self) -> None:
        self._runtime.superseded.wait()
        _die()

    def _apply(self) -> None:
        """Bring everything into line with the documents: objects first, so that a restart finds the new Revision."""
        self._read()
        for each in self._documents.models.values():
            for item in each.objects:
                self._make(item)
        self._runtime.update([r.model for r in self._documents.models.values()])
        self._enter()
        self._settle()
        self._status_writer.mark()

    def _read(self) -> None:
        models = self._models.objects
        paths = {name: path for name, r in self._documents.models.items() if (path := self._fetcher.path(r.model))}
        self._documents = read(self._workspaces.objects, models, self._services.objects, self._settings, paths)
        found = {f"Model/{m['metadata']['name']}": m["metadata"]["uid"] for m in models}
        found |= {f"Workspace/{w['metadata']['name']}": w["metadata"]["uid"] for w in self._workspaces.objects}
        for name in {key for key, uid in found.items() if self._uids.get(key) != uid}:
            self._status_writer.forget(name.partition("/")[2])
        self._uids = found
        self._homes = {name: r.model.spec.workspace for name, r in self._documents.models.items()}

    def _enter(self) -> None:
        """Give each Workspace its documents, and a new one its controller."""
        models = self._documents.models
        for name, (workspace, document) in self._documents.workspaces.items():
            controller = self._controllers.get(name) or self._controller(workspace, document)
            mine = [r for r in models.values() if r.model.spec.workspace == name and not (r.problem and r.uid)]
            marks = {r.model.name: r.mark for r in mine}
            controller.change(workspace, document["metadata"]["generation"], [r.model for r in mine], marks)
            if name not in self._controllers:
                self._handover.open(controller)
                if self._leading:
                    controller.start()
        for name in self._controllers.keys() - self._documents.workspaces.keys():
            controller = self._controllers[name]
            controller.change(controller.workspace, controller.generation, (), {})

    def _controller(self, workspace: Workspace, document: Json) -> WorkspaceController:
        status = document.get("status") or {}
        controller = WorkspaceController(
            workspace, status, runtime=self._runtime, bus=self._bus, kube=self._kube, namespace=self.namespace
        )
        controller.turned = self._status_writer.mark
        return controller

    def _make(self, item: Json) -> None:
        resource, watcher = (SERVICES, self._services) if item["kind"] == SERVICES.kind else (CLAIMS, self._claims)
        name = item["metadata"]["name"]
        found = watcher.named(name)
        if found is not None and ("deletionTimestamp" in found["metadata"] or not drifted(item, found)):
            return
        if found is not None and resource is CLAIMS:
            return  # most of a claim cannot be changed
        try:
            self._kube.apply(resource.path(self.namespace, name), item)
            log.info("%s %s applied", item["kind"], name)
        except KubeError as error:
            log.warning("%s %s: %s", item["kind"], name, error)
            threading.Timer(2.0, self._dirty.set).start()

    def _settle(self) -> None:
        uids = [
            uid.strip()
            for _, document in self._documents.workspaces.values()
            for uid in (document["metadata"].get("annotations") or {}).get(SETTLED, "").split(",")
            if uid.strip()
        ]
        if uids:
            self._runtime.settle(uids)

    # What it hears --------------------------------------------------------------------------------------------------------

    def _heard(self, _change: Change, item: Json) -> None:
        """Look again, unless only a status of ours has changed: those would keep us busy with ourselves."""
        meta = item["metadata"]
        mark = (meta["uid"], meta.get("generation"), str(meta.get("annotations")), meta.get("deletionTimestamp"))
        key = f"{item.get('kind')}/{meta['name']}"
        if _change is Change.GONE or self._marks.get(key) != mark:
            self._marks[key] = mark
            self._dirty.set()

    def _observe(self, observation: Observation) -> None:
        if isinstance(observation, CacheObserved):
            name = self._homes.get(observation.model, "")
            self._status_writer.mark()
        else:
            name = observation.instance.partition("/")[0]
        self._handover.tell(name, observation)

    def _demand(self, workspace: str, demand: Demand, pod: str, through_broker: bool) -> None:
        if not self._leading:
            raise Unavailable("this switcher is not the leader", code="not_leading", retry_after=1.0)
        if controller := self._controllers.get(workspace):
            controller.report(demand, pod, through_broker=through_broker)

    def _see_router(self, change: Change, pod: Json) -> None:
        if change is Change.GONE or pods.terminal(pod):
            for controller in list(self._controllers.values()):
                for router in controller.routers:
                    if router.pod == pod["metadata"]["name"]:
                        controller.leave(router.id)

    def _forget_routers(self) -> None:
        """Routers of an earlier time whose pods are gone."""
        there = {pod["metadata"]["name"] for pod in self._routers.objects if not pods.terminal(pod)}
        for controller in self._controllers.values():
            for router in controller.routers:
                if router.pod and router.pod not in there:
                    controller.leave(router.id)

    # What it shows --------------------------------------------------------------------------------------------------------

    def _view(self) -> tuple[dict[str, Json], dict[str, str]]:
        """Make statuses of Models, and states of ksvcs."""
        shown: dict[str, Json] = {}
        states: dict[str, str] = {}
        told = self._fetcher.told()
        for name, each in self._documents.models.items():
            controller = self._controllers.get(each.model.spec.workspace)
            rows = {row.name: row for row in controller.switcher.status()} if controller else {}
            status = rows.get(name, ModelStatus(name, "unloaded"))
            if each.model.spec.url is None:
                states[name] = status.state
            if each.uid is not None:
                shown[name] = self._status_of(each, controller, status, told.get(name))
        return shown, states

    def _status_of(
        self, each: ModelObject, controller: WorkspaceController | None, status: ModelStatus, told: CacheObserved | None
    ) -> Json:
        name = each.model.name
        problem = each.problem or ("" if controller else f"Workspace {each.model.spec.workspace} does not exist")
        residents = controller.residency.residents if controller else ()
        cache = (told.state, told.message, told.done, told.total) if told else None
        if cache is None and not self._fetcher.needs_fetch(each.model):
            cache = (CacheState.CACHED, "", None, None)
        made = statuses.model_status(
            status,
            model=each.model,
            generation=each.generation,
            resident=next((r for r in residents if r.model == name), None),
            cache=cache,
            switches=controller.switcher.switches() if controller else (),
            problem=problem,
        )
        made["conditions"] = statuses.keep_times(made["conditions"], self._before(each))
        return made

    def _before(self, each: ModelObject) -> list[Json]:
        document = self._models.named(each.model.name)
        status = (document or {}).get("status") or each.status
        found: list[Json] = status.get("conditions") or []
        return found

    def _record(self, event: Event) -> None:
        self._status_writer.event(event, self._uids)

    def _uid(self, model: str) -> str | None:
        return self._uids.get(f"Model/{model}")

    def _gauges(self) -> Iterator[Reading]:
        for controller in list(self._controllers.values()):
            yield from of_instances(
                controller.workspace, controller.residency.residents, controller.switcher.effective_max_wait
            )
            yield from of_pins(controller.workspace, controller.switcher.status())
        yield Reading("hotseat_events_undelivered", {}, self._sink.dropped if self._sink else 0)


def _die() -> None:
    log.error("lost leadership; this process exits")
    os._exit(1)


def main() -> None:
    """Serve."""
    settings = read_settings()
    serve(settings, lambda its, _: SwitcherApp(its), up="switcher %s is waiting for leadership", places=64, graceful=10)


if __name__ == "__main__":
    main()
