"""Runtime of one namespace: instances are pods of Deployments, which are scaled up and deleted by uid."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    EndpointsChanged,
    Fetch,
    InstanceAdopted,
    InstanceFailed,
    InstancePending,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    InstanceUnproven,
    LimitPrompts,
    Observation,
    Park,
    PromptCommand,
    Residency,
    RestorePrompts,
    SavePrompts,
    SleepFailed,
    Start,
    Stop,
    Wake,
)
from hotseat.core.ports import LogView, Observe, WeightsFetcher
from hotseat.kube import pods
from hotseat.kube.client import Change, Kube, KubeError
from hotseat.kube.constants import DEPLOYMENTS, PODS, Resource
from hotseat.runtimes.kubernetes.adapter import Fingerprint, Probe, WorkloadAdapter, unknown
from hotseat.runtimes.kubernetes.informers import INSTANCE, annotations, labels
from hotseat.runtimes.kubernetes.instance import (
    UNOWNED,
    InstanceTable,
    PodInstance,
    TrackedPod,
    active_workloads,
    adopt,
    fingerprint_of,
    gpus_of,
    holds_devices,
    scaled_up,
)
from hotseat.runtimes.kubernetes.logs import PodLog
from hotseat.runtimes.kubernetes.pod_prompts import PromptFiles, pod_prompts, restorable, transfer
from hotseat.runtimes.kubernetes.scale_down import UNPROVEN_PAUSE, ScaleDown
from hotseat.runtimes.kubernetes.scale_up import NODE_CHECK_PAUSE, ReadinessProbe, ScaleUp
from hotseat.runtimes.kubernetes.writes import FencedWriter, SupersededError
from hotseat.runtimes.prompt_transfer import PromptTransfer

SLOW_SCALE = 3.0  # seconds in which another controller should have scaled a Deployment
RETRY = 0.25  # seconds after an error of the API server
EXTERNAL = "external"
_REASONS_WITH_OUTPUT = frozenset({"Exited", "ExitedWhileLoading", "OutOfMemory", "CrashLoopBackOff"})

T = TypeVar("T")

log = logging.getLogger(__name__)


class PodRuntime:
    """A Runtime (see core/ports.py) of one namespace, for as long as this switcher leads. `adapter_type` says what its pods are made by.

    One thread does all the work; watches, probes and callers only queue jobs for it. `clock` is
    used for deadlines too. `identity` is that of this run of the switcher. A later run takes the
    Deployments over; then `superseded` is set, and this one changes nothing any more. `fingerprint`
    tells that of a Model's newest objects, which must be applied first.
    """

    adapter_type: type[WorkloadAdapter]

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        fetcher: WeightsFetcher,
        *,
        identity: str,
        fingerprint: Fingerprint = unknown,
        clock: Callable[[], float] = time.monotonic,
        probe: Probe | None = None,
        prompts: PromptFiles | None = None,
    ) -> None:
        adapter = self.adapter_type(kube, namespace, probe, fingerprint)
        self._kube = kube
        self._namespace = namespace
        self._fetcher = fetcher
        self._clock = clock
        self._prompts = prompts or PromptFiles()
        self._writer = FencedWriter(kube, namespace, identity)
        self._adapter = adapter
        adapter.open(self._handle_change)
        self._informers = adapter.informers
        self._scale_down = ScaleDown(self._writer, adapter)
        self._scale_up = ScaleUp(self._writer, adapter)
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._instances = InstanceTable()
        self._lock = threading.Lock()  # guards the three attributes below
        self._models: dict[str, Model] = {}
        self._logs: dict[str, PodLog] = {}
        self._closed = False
        self._probes: dict[str, ReadinessProbe] = {}  # by instance
        self._observe: Observe | None = None
        self._worker = threading.Thread(target=self._run, name=f"runtime-{adapter.name}", daemon=True)
        self.superseded = threading.Event()
        self.is_taken: Callable[[str], bool] = lambda _instance: (
            False
        )  # whether another runtime has an instance of this id

    # The port ---------------------------------------------------------------------------------------------------------

    def begin(self, models: Iterable[Model], observe: Observe) -> None:
        """Adopt running instances, report the cache state of each model, and start.

        Wait for the API server without a limit.
        """
        self._observe = observe
        self._informers.start()
        while not self._informers.wait_synced(1.0):
            if self._closed:
                return
            log.warning("waiting for the API server")
        for take_over in self._adapter.take_over(self._writer):
            self._retry(take_over, None)
        for pod in self._informers.pods.objects:
            if pods.terminal(pod):
                self._instances.assign(pod, UNOWNED)
        suspended = self._retry(self._adapter.replica_sets.suspended, set[str]())
        for workload in sorted(suspended | active_workloads(self._adapter)):
            if not self._adopt(workload, suspended=workload in suspended) and workload in suspended:
                self._retry(partial(self._adapter.replica_sets.resume, workload), None)  # no instance of it is left
        self._fetcher.begin(self._report)
        self.update(models)
        self._adapter.start()
        self._worker.start()

    def update(self, models: Iterable[Model]) -> None:
        """Replace the documents; report the cache state of each new or changed model."""
        new = {model.name: model for model in models}
        with self._lock:
            old, self._models = self._models, new
        for name, model in new.items():
            if old.get(name) != model:
                self._report_cache(model, self._fetcher.tell)

    def adopt_running(self) -> None:
        """Adopt what runs already of Models that are new."""
        for deployment in self._informers.deployments.objects:
            workload = self._informers.workload_of(deployment)
            if scaled_up(deployment) and self._instances.of_workload(workload) is None:
                self._jobs.put(partial(self._handle_deployment, workload))

    def fetch(self, command: Fetch) -> None:
        """Fetch the weights, without using the accelerator."""
        self._report_cache(self._model(command.model), self._fetcher.fetch)

    def start(self, command: Start) -> None:
        """Load the model."""
        if self._model(command.model).spec.engine == EXTERNAL:
            raise ValueError(f"{command.model} is external, which hotseat does not start")
        instance = PodInstance(command.model, command.instance, command.epoch, self._clock(), replicas=command.pods)
        self._instances.add(instance)
        self._log(command.model).write(_started(command.instance))
        self._wake()

    def stop(self, command: Stop) -> None:
        """Stop an instance, also while it loads, and prove that it is gone."""
        model = self._models.get(command.model)
        if command.instance in self._instances:
            self._jobs.put(partial(self._stop, command, self._clock()))
        elif model is not None and model.spec.engine == EXTERNAL:
            raise ValueError(f"{command.model} is external, which hotseat does not stop")
        else:
            self._report(InstanceReleased(self._clock(), command.instance, command.epoch))

    def residency_changed(self, residency: Residency) -> None:
        """Prepare the release of instances that drain."""
        if self._adapter.replica_sets.suspends:
            self._jobs.put(partial(self._set_draining, residency, self._clock()))

    def park(self, command: Park) -> None:
        """Report a failure: a parked pod would keep its GPUs, so that no other pod could be scheduled."""
        self._report_sleep_failed(command)

    def wake(self, command: Wake) -> None:
        """Report a failure: no instance is parked."""
        self._report_sleep_failed(command)

    def _report_sleep_failed(self, command: Park | Wake) -> None:
        if command.instance in self._instances:
            message = "a parked pod would keep its GPU"
            self._report(SleepFailed(self._clock(), command.instance, command.epoch, command.turn, message))
        else:
            self._report(InstanceReleased(self._clock(), command.instance, command.epoch))

    def handle_prompts(self, command: PromptCommand) -> None:
        """Save or restore the prompt cache of an instance's pod, or limit what is kept of a Model."""
        if isinstance(command, LimitPrompts):
            self._prompts.set_limit(command.workspace, command.size)
        else:
            self._jobs.put(partial(self._transfer_prompts, command))

    def logs(self, model: str) -> LogView | None:
        """Return the output of a model's engine; None for an unknown model."""
        return self._log(model) if model in self._models else None

    def has(self, instance: str) -> bool:
        """Whether an instance is not released yet."""
        return instance in self._instances

    def has_instance_of(self, model: str) -> bool:
        """Whether an instance of a model is not released yet."""
        return any(each.model == model for each in self._instances.all())

    def close(self) -> None:
        """End the runtime. Instances run on, for the next switcher to adopt."""
        with self._lock:
            self._closed = True
        self._informers.stop()
        self._adapter.stop()
        self._fetcher.close()
        for probe in list(self._probes.values()):
            probe.cancel()
        self._wake()
        if self._worker.is_alive():
            self._worker.join(2.0)
        for instance in self._instances.all():
            if instance.draining_since is not None and not instance.stopping and not self.superseded.is_set():
                instance.draining_since = None
                with contextlib.suppress(KubeError, SupersededError):  # the next switcher does it, too
                    self._scale_down.prepare(instance, self._clock())

    def mark_gone(self, uids: Iterable[str]) -> None:
        """Accept a user's statement that these pods are gone (annotation hotseat.dev/settled of a Workspace)."""
        self._jobs.put(partial(self._mark_gone, frozenset(uids)))

    # The worker -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            try:
                self._run_job(self._jobs.get(timeout=self._wait_time()))
                while True:
                    self._run_job(self._jobs.get_nowait())
            except queue.Empty:
                pass
            for instance in self._instances.all():
                if not self._closed and not self.superseded.is_set():
                    self._run_job(partial(self._advance, instance))

    def _run_job(self, job: Callable[[], None]) -> None:
        try:
            job()
        except SupersededError as error:
            log.error("%s: this switcher has stopped acting", error)  # noqa: TRY400 - a traceback would add nothing
            self.superseded.set()
        except Exception:
            log.exception("a job of the runtime %s failed", self._adapter.name)

    def _wait_time(self) -> float | None:
        now = self._clock()
        times = [max(other.next_step, other.retry_at) for other in self._instances.all() if other.next_step is not None]
        return max(0.0, min(times) - now) if times else None

    def _advance(self, instance: PodInstance) -> None:
        now = self._clock()
        if now >= instance.retry_at:
            instance.next_step = None
            try:
                if not instance.stopping:
                    self._step_up(instance, now)
                if instance.stopping:
                    self._step_down(instance, now)
            except KubeError as error:
                log.warning("cannot start or stop %s: %s; trying again", instance.id, error)
                instance.retry_at = now + RETRY
                instance.step_by(instance.retry_at)
            except Exception:  # a bug, or SupersededError: handled where all jobs' errors are
                instance.step_by(now + UNPROVEN_PAUSE)
                raise
        if instance.stopping:
            self._report_end(instance, now)

    def _step_up(self, instance: PodInstance, now: float) -> None:
        scaled = any(other.model == instance.model and other.scaled for other in self._instances.all())
        if not instance.scaled and scaled:
            instance.step_by(now + RETRY)  # another client scaled the model up: that instance ends first
            return
        failure = self._scale_up.step(instance, now)
        main = instance.main
        if failure is not None:
            self._fail(instance, failure)
        elif main is not None and not instance.ready and instance.serving:
            self._probe_succeeded(instance, main.uid)  # another than the one that is probed was ready first
        elif main is not None and not instance.ready and pods.ip(main.latest) and instance.id not in self._probes:
            self._probe(instance, main)
        if failure is None:
            self._report_pending(instance, now, instance.find_pending(now) or self._late(instance, now, 1))
        if main is not None:
            self._log(instance.model).set_pod(main.latest)
            if failure is None:
                for pod in instance.present if instance.replicas > 1 else [main]:
                    self._scale_up.annotate(instance, pod)
                self._report_endpoints(instance, now)
                self._scale_down.prepare(instance, now)

    def _report_endpoints(self, instance: PodInstance, now: float) -> None:
        """Report where a ready instance with several pods answers, if that has changed."""
        serving = instance.serving
        found = (self._adapter.address(pod.latest) for pod in serving)
        addresses = tuple(each for each in found if each is not None)
        if instance.ready and addresses:
            instance.last = serving[0].uid
            if addresses != instance.addresses:
                instance.addresses = addresses
                self._report(EndpointsChanged(now, instance.id, instance.epoch, addresses))
            self._instances.forget_ended(instance)

    def _probe(self, instance: PodInstance, main: TrackedPod) -> None:
        """Probe a pod until it is ready. Without a probe of ours, its condition says so."""
        target = self._adapter.probe_target(main.latest)
        if target is not None:
            on_ready = partial(self._jobs.put, partial(self._probe_succeeded, instance, main.uid))
            self._probes[instance.id] = ReadinessProbe(target, self._adapter.probe, on_ready)
        elif pods.ready(main.latest):
            self._probe_succeeded(instance, main.uid)

    def _probe_succeeded(self, instance: PodInstance, uid: str) -> None:
        """Report an instance as ready, unless something else has happened to it meanwhile."""
        main = instance.main
        if (
            instance.stopping
            or instance.ready
            or main is None
            or main.uid != uid
            or (address := self._adapter.address(main.latest)) is None
        ):
            return
        if (failure := instance.find_failure(self._clock())) is not None:
            self._fail(instance, failure)
            return
        instance.ready = main.was_ready = True
        instance.addresses = (address,)
        instance.next_node_check = self._clock() + NODE_CHECK_PAUSE  # the kubelet says that it is ready only later
        instance.step_by(instance.next_node_check)
        if (probe := self._probes.get(instance.id)) is not None:
            probe.cancel()
        kept = restorable(self._prompts, instance.model, main.latest)
        self._report(InstanceReady(self._clock(), instance.id, instance.epoch, address, prompts=kept))

    def _transfer_prompts(self, command: SavePrompts | RestorePrompts) -> None:
        """Begin to save or restore the prompts of the pod that serves or will serve."""
        instance = self._instances.get(command.instance)
        if instance is None:
            self._report(InstanceReleased(self._clock(), command.instance, command.epoch))
            return

        def done(it: PromptTransfer) -> None:
            instance.saving = it.cut_off and isinstance(command, SavePrompts)
            if instance.id in self._instances and not instance.stopping:
                for each in it.observations(self._clock()):
                    self._report(each)

        main = instance.main
        address = self._adapter.address(main.latest) if main else None
        model = self._models.get(command.model)
        prompts = pod_prompts(self._prompts, model, main.latest) if main and address else None
        instance.saving = isinstance(command, SavePrompts) and prompts is not None
        transfer(command, prompts, address or "", done)

    def _fail(self, instance: PodInstance, failure: pods.PodFailure) -> None:
        """Report a failure at once, and stop the instance."""
        message, first = failure.message, instance.decisive
        if failure.reason in _REASONS_WITH_OUTPUT and first is not None:
            output = self._log(instance.model)
            output.set_pod(first.latest)
            if output_end := output.last_output(_started(instance.id)):
                message = f"{message}; it said: {output_end}"
        now, code = self._clock(), failure.exit_code
        self._report(InstanceFailed(now, instance.id, instance.epoch, failure.reason, message, exit_code=code))
        end = self._adapter.time_to_end(first.latest if first else None, foreign=failure.reason == "PodDeleted")
        instance.stop(self._clock(), end)

    def _step_down(self, instance: PodInstance, now: float) -> None:
        if (probe := self._probes.pop(instance.id, None)) is not None:
            probe.cancel()
        self._scale_down.step(instance, now)
        self._report_pending(instance, now, self._late(instance, now, 0))

    def _report_pending(self, instance: PodInstance, now: float, message: str) -> None:
        if instance.pending != message:
            instance.pending = message
            self._report(InstancePending(now, instance.id, instance.epoch, message))

    def _late(self, instance: PodInstance, now: float, replicas: int) -> str:
        """Return why the workload of an instance is not scaled, if that takes long."""
        began = instance.started_at if replicas else instance.stopped_at
        if not instance.scaled or (instance.main if replicas else instance.zero_generation) is not None:
            return ""
        if now < began + SLOW_SCALE:
            instance.step_by(began + SLOW_SCALE)
            return ""
        return self._adapter.late(instance.workload or "", replicas)

    def _report_end(self, instance: PodInstance, now: float) -> None:
        """Report an instance as released, or as unproven."""
        if instance.released:
            self._instances.remove(instance)
            self._log(instance.model).write(f"--- {instance.id} ended ---")
            self._report(InstanceReleased(now, instance.id, instance.epoch))
            if instance.unproven:
                self._scale_down.record_unproven(instance)  # which removes the annotation
            return
        if self._scale_down.overdue(instance, now):
            instance.unproven = True
            self._report(InstanceUnproven(now, instance.id, instance.epoch, instance.unproven_detail()))
        if instance.unproven and not instance.recorded:
            self._scale_down.record_unproven(instance)
        often = instance.unproven or instance.lost or now >= instance.suspect_at
        instance.step_by(now + UNPROVEN_PAUSE if often else instance.suspect_at)

    # Changes ----------------------------------------------------------------------------------------------------------

    def _handle_change(self, resource: Resource, change: Change, item: Json) -> None:
        """Queue a job for a change, on the thread of its watch."""
        self._adapter.handle_change(resource, change, item)
        if resource is PODS:
            self._jobs.put(partial(self._handle_pod, change, item))
        elif (
            resource is DEPLOYMENTS or resource in self._adapter.related
        ):  # a class may be reported after its Deployment
            self._jobs.put(partial(self._handle_deployment, self._informers.workload_of(item)))
        else:
            self._wake()

    def _handle_pod(self, change: Change, pod: Json) -> None:
        gone = change is Change.GONE
        if not self._instances.has_owner(pod):
            instance = self._instances.of_workload(self._informers.workload_of(pod))
            if instance is not None or pods.terminal(pod):
                self._instances.assign(pod, instance.id if instance else UNOWNED)
            elif holds_devices(pod) and self._adapter.is_model(pod) and not self._is_of_another_runtime(pod):
                self._adopt(self._informers.workload_of(pod), *([pod] if gone else []))
        if (instance := self._instances.owner(pod)) is not None:
            instance.update(pod, gone=gone)
        elif gone:
            self._instances.remove_pod(pod)

    def _is_of_another_runtime(self, pod: Json) -> bool:
        """Whether another runtime has the instance of a pod. Its Deployment may be gone, which would say so."""
        instance = annotations(pod).get(INSTANCE, "")
        return instance not in self._instances and self.is_taken(instance)

    def _handle_deployment(self, workload: str) -> None:
        """Adopt what another client scaled up, according to the newest version of its Deployment."""
        deployment = self._informers.deployment(workload)
        if deployment is None or not scaled_up(deployment) or not self._adapter.is_model(deployment):
            return
        model = labels(deployment).get(self._adapter.model_label, workload)
        starting = any(other.model == model and other.workload is None for other in self._instances.all())
        if not starting and self._instances.of_workload(workload) is None:
            self._adopt(workload)

    def _adopt(self, workload: str, *more: Json, suspended: bool = False) -> bool:
        """Adopt the instance of a workload, and report it; return False if there is none.

        `more`: pods whose objects are gone.
        """
        now = self._clock()
        instance = adopt(self._adapter, workload, now, *more, suspended=suspended)
        if instance is None:
            return False
        if (
            instance.id in self._instances or self._worker.is_alive() or self.is_taken(instance.id)
        ):  # another instance had this id before
            instance.id = f"{instance.id}-{next(iter(instance.pods), workload)[:8]}"
        self._instances.add(instance)
        address = self._adapter.address(instance.main.latest) if instance.ready and instance.main else None
        instance.addresses = () if address is None else (address,)
        self._report(
            InstanceAdopted(
                now,
                instance.model,
                instance.id,
                instance.epoch,
                address,
                releasing=instance.stopping,
                fingerprint=fingerprint_of(instance),
                gpus=gpus_of(instance),
            )
        )
        return True

    def _stop(self, command: Stop, received: float) -> None:
        instance = self._instances.get(command.instance)
        if instance is None:
            self._report(InstanceReleased(self._clock(), command.instance, command.epoch))
        else:
            instance.stop(received, command.grace)
            instance.retry_at = 0.0

    def _set_draining(self, residency: Residency, now: float) -> None:
        for each in residency.residents:
            if (instance := self._instances.get(each.instance)) is not None:
                drains = each.state in (InstanceState.QUIESCING, InstanceState.DRAINING, InstanceState.SAVING)
                instance.draining_since = (instance.draining_since or now) if drains else None

    def _mark_gone(self, uids: frozenset[str]) -> None:
        for instance in self._instances.all():
            for uid in uids & instance.pods.keys():
                instance.mark_gone(uid)

    # Helpers ----------------------------------------------------------------------------------------------------------

    def _retry(self, job: Callable[[], T], default: T) -> T:
        """Run a job until the API server answers; return `default` if the runtime is closed before."""
        while not self._closed:
            try:
                return job()
            except KubeError as error:
                log.warning("the runtime cannot start yet: %s", error)
                time.sleep(RETRY)
        return default

    def _report_cache(self, model: Model, if_fetched: Callable[[Model], None]) -> None:
        """Report weights that need no fetch as cached; else call the fetcher's method `if_fetched`."""
        if self._fetcher.needs_fetch(model):
            if_fetched(model)
        else:
            self._report(CacheObserved(self._clock(), model.name, CacheState.CACHED))

    def _model(self, model: str) -> Model:
        with self._lock:
            if self._closed or self._observe is None or model not in self._models:
                raise ValueError(f"unknown model {model}, or the runtime has not started or is closed")
            return self._models[model]

    def _log(self, model: str) -> PodLog:
        with self._lock:
            return self._logs.setdefault(model, PodLog(self._kube, self._namespace))

    def _wake(self) -> None:
        self._jobs.put(lambda: None)

    def _report(self, observation: Observation) -> None:
        if self._observe is not None and not self._closed:
            try:
                self._observe(observation)
            except Exception:
                log.exception("the observer failed to handle %s", observation)


def _started(instance: str) -> str:
    return f"--- {instance} started ---"
