"""Runtime of one namespace: instances are pods of Knative Services, brought up by scale and taken down by uid."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from hotseat.api.model import Model
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Fetch,
    InstanceAdopted,
    InstanceFailed,
    InstanceReady,
    InstanceReleased,
    InstanceUnproven,
    Observation,
    Park,
    SleepFailed,
    Start,
    Stop,
    Wake,
)
from hotseat.core.ports import LogView, Observe
from hotseat.kube import pods
from hotseat.kube.client import Json, Kube, KubeError
from hotseat.kube.constants import DEPLOYMENTS, POD_AUTOSCALERS, PODS, SERVERLESS_SERVICES, SERVICE, Resource
from hotseat.kube.watching import Change
from hotseat.runtimes.knative.adoption import (
    address_of,
    adopt,
    fingerprint_of,
    gpus_of,
    holds_a_seat,
    revisions_that_hold,
    scaled_up,
)
from hotseat.runtimes.knative.autoscaler_status import PodAutoscalerReconciler
from hotseat.runtimes.knative.informers import Informers, labels, revision_of
from hotseat.runtimes.knative.instance import FOREIGN_GRACE, UNOWNED, InstanceTable, PodInstance
from hotseat.runtimes.knative.logs import PodLog
from hotseat.runtimes.knative.readiness_probe import Ask, ReadinessProbe, ask_queue
from hotseat.runtimes.knative.replicaset_guard import ReplicaSetGuard
from hotseat.runtimes.knative.scale_down import UNPROVEN_PAUSE, ScaleDown
from hotseat.runtimes.knative.scale_up import ScaleUp
from hotseat.runtimes.knative.weights import WeightsFetcher
from hotseat.runtimes.knative.writes import FencedWriter, SupersededError

RETRY = 0.25  # seconds after an error of the API server
EXTERNAL = "external"
_WITH_OUTPUT = frozenset({"Exited", "ExitedWhileLoading", "OutOfMemory", "CrashLoopBackOff"})

T = TypeVar("T")

log = logging.getLogger(__name__)


class KnativeRuntime:
    """A Runtime (see core/ports.py) of one namespace, for as long as this switcher leads.

    One thread does all the work; watches, probes and callers only give it something to do. `clock` is used for deadlines too.
    `identity` names this run of the switcher: whoever begins later takes the Deployments over, and this one may change nothing
    any more (`superseded`).
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        fetcher: WeightsFetcher,
        *,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
        ask: Ask = ask_queue,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._fetcher = fetcher
        self._clock = clock
        self._ask = ask
        self._hands = FencedWriter(kube, namespace, identity)
        self._watched = Informers(kube, namespace, self._heard)
        self._scaler = PodAutoscalerReconciler(kube, namespace, self._watched)
        self._freezer = ReplicaSetGuard(kube, namespace)
        self._releases = ScaleDown(self._hands, self._freezer, self._watched)
        self._bringing = ScaleUp(self._hands, self._watched)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._holdings = InstanceTable()
        self._lock = threading.Lock()  # of the three below, between callers and the worker
        self._models: dict[str, Model] = {}
        self._logs: dict[str, PodLog] = {}
        self._closed = False
        self._probes: dict[str, ReadinessProbe] = {}  # by instance
        self._observe: Observe | None = None
        self._worker = threading.Thread(target=self._run, name="knative-runtime", daemon=True)
        self.superseded = threading.Event()

    # The port ---------------------------------------------------------------------------------------------------------

    def begin(self, models: Iterable[Model], observe: Observe) -> None:
        """Adopt what runs, tell the cache state of each model, and listen from now on. Waits for the API server as long as it must."""
        self._observe = observe
        self._watched.start()
        while not self._watched.wait_synced(1.0):
            if self._closed:
                return
            log.warning("waiting for the API server")
        for deployment in self._watched.deployments.objects:
            if self._watched.ours(deployment):
                self._insist(partial(self._hands.take_over, deployment), None)
        for pod in self._watched.pods.objects:
            if pods.terminal(pod):
                self._holdings.assign(pod, UNOWNED)
        frozen = self._insist(self._freezer.frozen, set[str]())
        for revision in sorted(frozen | revisions_that_hold(self._watched)):
            if not self._adopt(revision, frozen=revision in frozen) and revision in frozen:
                self._insist(partial(self._freezer.thaw, revision), None)  # nothing else is left of it
        self._fetcher.begin(self._tell)
        self.update(models)
        self._scaler.start()
        self._worker.start()

    def update(self, models: Iterable[Model]) -> None:
        """Replace the documents; tells the cache state of each new or changed one."""
        new = {model.name: model for model in models}
        with self._lock:
            old, self._models = self._models, new
        for name, model in new.items():
            if old.get(name) != model:
                self._tell_cache(model, self._fetcher.tell)

    def fetch(self, order: Fetch) -> None:
        """Bring the weights, without touching the accelerator."""
        self._tell_cache(self._known(order.model), self._fetcher.fetch)

    def start(self, order: Start) -> None:
        """Load the model."""
        if self._known(order.model).spec.engine == EXTERNAL:
            raise ValueError(f"{order.model} is external")
        self._holdings.add(PodInstance(order.model, order.instance, order.epoch, self._clock()))
        self._log_of(order.model).note(_started(order.instance))
        self._wake()

    def stop(self, order: Stop) -> None:
        """Stop and prove; also while loading."""
        model = self._models.get(order.model)
        if order.instance in self._holdings:
            self._inbox.put(partial(self._stop, order, self._clock()))
        elif model is not None and model.spec.engine == EXTERNAL:
            raise ValueError(f"{order.model} is external")
        else:
            self._tell(InstanceReleased(self._clock(), order.instance, order.epoch))

    def park(self, order: Park) -> None:
        """Refuse: a parked pod would keep its GPU claim, so that no other could come."""
        self._refuse(order)

    def wake(self, order: Wake) -> None:
        """Refuse: nothing is parked."""
        self._refuse(order)

    def _refuse(self, order: Park | Wake) -> None:
        if order.instance in self._holdings:
            message = "a parked pod would keep its GPU"
            self._tell(SleepFailed(self._clock(), order.instance, order.epoch, order.turn, message))
        else:
            self._tell(InstanceReleased(self._clock(), order.instance, order.epoch))

    def logs(self, model: str) -> LogView | None:
        """Give the engine's output; None for a model it does not know."""
        return self._log_of(model) if model in self._models else None

    def close(self) -> None:
        """Let go: models stay as they are, for the next switcher to adopt."""
        with self._lock:
            self._closed = True
        self._watched.stop()
        self._scaler.stop()
        self._fetcher.close()
        for probe in list(self._probes.values()):
            probe.cancel()
        self._wake()
        if self._worker.is_alive():
            self._worker.join(2.0)

    def settle(self, uids: Iterable[str]) -> None:
        """Take a person's word that these pods are gone (annotation hotseat.dev/settled of a Workspace)."""
        self._inbox.put(partial(self._settle, frozenset(uids)))

    # The worker -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            try:
                self._do(self._inbox.get(timeout=self._pause()))
                while True:
                    self._do(self._inbox.get_nowait())
            except queue.Empty:
                pass
            for holding in self._holdings.all():
                if not self._closed and not self.superseded.is_set():
                    self._do(partial(self._advance, holding))

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        except SupersededError as error:
            log.error("%s: this switcher has stopped acting", error)  # noqa: TRY400 - it says all
            self.superseded.set()
        except Exception:
            log.exception("knative runtime")

    def _pause(self) -> float | None:
        now = self._clock()
        looks = [max(each.look_at, each.retry_at) for each in self._holdings.all() if each.look_at is not None]
        return max(0.0, min(looks) - now) if looks else None

    def _advance(self, holding: PodInstance) -> None:
        now = self._clock()
        if now >= holding.retry_at:
            holding.look_at = None
            try:
                if not holding.stopping:
                    self._bring_up(holding, now)
                if holding.stopping:
                    self._take_down(holding, now)
            except KubeError as error:
                log.warning("%s: %s", holding.id, error)
                holding.retry_at = now + RETRY
                holding.look_again(holding.retry_at)
            except Exception:  # a mistake of ours, or another switcher's rights: told where all jobs' are
                holding.look_again(now + UNPROVEN_PAUSE)
                raise
        if holding.stopping:
            self._conclude(holding, now)

    def _bring_up(self, holding: PodInstance, now: float) -> None:
        if not holding.scaled and any(each.model == holding.model and each.scaled for each in self._holdings.all()):
            holding.look_again(now + RETRY)  # somebody else scaled the model up: what came of that goes first
            return
        failure = self._bringing.step(holding, now)
        main = holding.main
        if failure is not None:
            self._fail(holding, failure)
        elif (
            main is not None
            and not holding.ready
            and (ip := pods.address(main.last))
            and holding.id not in self._probes
        ):
            say = partial(self._inbox.put, partial(self._answered, holding, main.uid))
            self._probes[holding.id] = ReadinessProbe(ip, self._ask, say)
        if main is not None:
            self._log_of(holding.model).follow(main.last)
            if failure is None:
                self._bringing.mark(holding, main)

    def _answered(self, holding: PodInstance, uid: str) -> None:
        """Tell that its pod serves, unless something else has happened to it meanwhile."""
        main = holding.main
        if (
            holding.stopping
            or holding.ready
            or main is None
            or main.uid != uid
            or (address := address_of(main)) is None
        ):
            return
        if (failure := holding.trouble(self._clock())) is not None:
            self._fail(holding, failure)
            return
        holding.ready = True
        self._tell(InstanceReady(self._clock(), holding.id, holding.epoch, address))

    def _fail(self, holding: PodInstance, failure: pods.PodFailure) -> None:
        """Tell why at once, and have it end."""
        message, first = failure.message, next(iter(holding.pods.values()), None)
        if failure.reason in _WITH_OUTPUT and first is not None:
            output = self._log_of(holding.model)
            output.follow(first.last)
            if words := output.last_words(_started(holding.id)):
                message = f"{message}; it said: {words}"
        now, code = self._clock(), failure.exit_code
        self._tell(InstanceFailed(now, holding.id, holding.epoch, failure.reason, message, exit_code=code))
        holding.stop(self._clock(), FOREIGN_GRACE if failure.reason == "PodDeleted" else 0.0)

    def _take_down(self, holding: PodInstance, now: float) -> None:
        if (probe := self._probes.pop(holding.id, None)) is not None:
            probe.cancel()
        self._releases.step(holding, now)

    def _conclude(self, holding: PodInstance, now: float) -> None:
        """Tell that it is released, or cannot be proven to be."""
        if holding.released:
            self._holdings.remove(holding)
            self._log_of(holding.model).note(f"--- {holding.id} ended ---")
            self._tell(InstanceReleased(now, holding.id, holding.epoch))
            if holding.unproven:
                self._releases.remember(holding)  # that nothing is left
            return
        if self._releases.overdue(holding, now):
            holding.unproven = True
            self._tell(InstanceUnproven(now, holding.id, holding.epoch, holding.unproven_because()))
        if holding.unproven and not holding.remembered:
            self._releases.remember(holding)
        often = holding.unproven or holding.lost or now >= holding.suspect_at
        holding.look_again(now + UNPROVEN_PAUSE if often else holding.suspect_at)

    # What it hears ----------------------------------------------------------------------------------------------------

    def _heard(self, resource: Resource, change: Change, item: Json) -> None:
        """Take word from a watch, on its thread."""
        if resource in (POD_AUTOSCALERS, SERVERLESS_SERVICES):
            self._scaler.touch(item["metadata"]["name"])
        elif resource in (DEPLOYMENTS, PODS):
            self._scaler.touch(revision_of(item))
        if resource is PODS:
            self._inbox.put(partial(self._note_pod, change, item))
        elif resource in (DEPLOYMENTS, POD_AUTOSCALERS):  # whose class may be heard of after what was scaled up
            self._inbox.put(partial(self._note_deployment, revision_of(item)))
        else:
            self._wake()

    def _note_pod(self, change: Change, pod: Json) -> None:
        gone = change is Change.GONE
        if not self._holdings.knows(pod):
            holding = self._holdings.of_revision(revision_of(pod))
            if holding is not None or pods.terminal(pod):
                self._holdings.assign(pod, holding.id if holding else UNOWNED)
            elif holds_a_seat(pod) and self._watched.ours(pod):
                self._adopt(revision_of(pod), *([pod] if gone else []))
        if (holding := self._holdings.owner(pod)) is not None:
            holding.see(pod, gone=gone)
        elif gone:
            self._holdings.forget(pod)

    def _note_deployment(self, revision: str) -> None:
        """Adopt what somebody else scaled up. The newest that is known counts, not the one that was told."""
        deployment = self._watched.deployment(revision)
        if deployment is None or not scaled_up(deployment) or not self._watched.ours(deployment):
            return
        model = labels(deployment).get(SERVICE)
        starting = any(each.model == model and each.revision is None for each in self._holdings.all())
        if not starting and self._holdings.of_revision(revision) is None:
            self._adopt(revision)

    def _adopt(self, revision: str, *more: Json, frozen: bool = False) -> bool:
        """Take in an instance that somebody else made, and tell of it; False: there is none."""
        now = self._clock()
        holding = adopt(self._watched, revision, now, *more, frozen=frozen)
        if holding is None:
            return False
        if holding.id in self._holdings or self._worker.is_alive():  # the name was another's before
            holding.id = f"{holding.id}-{next(iter(holding.pods), revision)[:8]}"
        self._holdings.add(holding)
        address = address_of(holding.main) if holding.ready and holding.main else None
        self._tell(
            InstanceAdopted(
                now,
                holding.model,
                holding.id,
                holding.epoch,
                address,
                releasing=holding.stopping,
                fingerprint=fingerprint_of(holding),
                gpus=gpus_of(holding),
            )
        )
        return True

    def _stop(self, order: Stop, asked: float) -> None:
        holding = self._holdings.get(order.instance)
        if holding is None:
            self._tell(InstanceReleased(self._clock(), order.instance, order.epoch))
        else:
            holding.stop(asked, order.grace)
            holding.retry_at = 0.0

    def _settle(self, uids: frozenset[str]) -> None:
        for holding in self._holdings.all():
            for uid in uids & holding.pods.keys():
                holding.settle(uid)

    # Small things -----------------------------------------------------------------------------------------------------

    def _insist(self, job: Callable[[], T], otherwise: T) -> T:
        """Do it until the API server answers; `otherwise` where that is not waited for any more."""
        while not self._closed:
            try:
                return job()
            except KubeError as error:
                log.warning("to begin: %s", error)
                time.sleep(RETRY)
        return otherwise

    def _tell_cache(self, model: Model, otherwise: Callable[[Model], None]) -> None:
        if self._fetcher.needs_fetch(model):
            otherwise(model)
        else:
            self._tell(CacheObserved(self._clock(), model.name, CacheState.CACHED))

    def _known(self, model: str) -> Model:
        with self._lock:
            if self._closed or self._observe is None or model not in self._models:
                raise ValueError(f"no model {model} here")
            return self._models[model]

    def _log_of(self, model: str) -> PodLog:
        with self._lock:
            return self._logs.setdefault(model, PodLog(self._kube, self._namespace))

    def _wake(self) -> None:
        self._inbox.put(lambda: None)

    def _tell(self, observation: Observation) -> None:
        if self._observe is not None and not self._closed:
            try:
                self._observe(observation)
            except Exception:
                log.exception("observer of %s", observation)


def _started(instance: str) -> str:
    return f"--- {instance} started ---"
