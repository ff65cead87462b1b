"""Fetches the weights of Models on a cluster: a Job per source writes them to the Model's claim, before a GPU is used.

The Job pulls the images of the engine as well. What keeps it from running is read from its pod, and
from Events where a pod does not say it, and is told with the state.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.core.messages import CacheObserved, CacheState
from hotseat.kube.adoption import is_foreign
from hotseat.kube.client import CONFLICT, NOT_FOUND, Change, Kube, KubeError, Watcher
from hotseat.kube.constants import EVENTS, FINGERPRINT, GROUP, JOBS, MODEL, PODS, ClusterSettings
from hotseat.kube.containers import CannotMake, needs_fetch
from hotseat.kube.jobs import (
    CONTAINER,
    FetchOutcome,
    blocking_object,
    fetches,
    is_fetching,
    job_name,
    job_of,
    must_replace,
    needs_job,
    outcome_of,
    parse_progress,
    problem_of,
)
from hotseat.kube.objects import NOT_OURS, MergeError

log = logging.getLogger(__name__)

JOB = "batch.kubernetes.io/job-name"
CONTROLLER = "batch.kubernetes.io/controller-uid"  # an earlier Job of the same name may still have pods
PATH = f"{GROUP}/path"  # annotation on a Job: the path of the weights, as its pod reported
PROGRESS = 2.0  # seconds between reads of a fetch's log, or of the Events of one that does not run
STUCK_TIMEOUT = 900.0  # seconds after which a fetch that cannot run has failed; a cluster autoscaler needs some minutes
DELETE_TIMEOUT = 30.0  # seconds for an old Job to be deleted


@dataclass(frozen=True, slots=True)
class BlockingEvent:
    """What the Events of an object say about why a Job does not run."""

    object: tuple[str, str]  # kind and name
    reason: str
    message: str


class JobFetcher:
    """The Fetcher of KnativeRuntime.

    `settings_for` returns the settings of a Model's Workspace. `changed(model)` is called when the
    path of a Model's weights becomes known.
    """

    def __init__(  # noqa: PLR0917
        self,
        kube: Kube,
        namespace: str,
        settings_for: Callable[[Model], ClusterSettings],
        uids: Callable[[str], str | None],
        changed: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._settings_for = settings_for
        self._uids = uids
        self._changed = changed
        self._clock = clock
        self._lock = threading.Lock()
        self._models: dict[str, Model] = {}
        self._states: dict[str, CacheObserved] = {}
        self._paths: dict[str, str] = {}  # by Job
        self._blocking_events: dict[str, BlockingEvent] = {}  # by Model
        self._stuck_since: dict[str, float] = {}  # by Model
        # By Model: what `needs_fetch` has answered. It is asked for each status.
        self._needs: dict[str, tuple[Model, ClusterSettings, bool]] = {}
        self._refused: dict[str, str] = {}  # by Model: fingerprint of the Job that could not be created
        self._creating: set[str] = set()  # Models whose Jobs are being created
        self._observe: Callable[[CacheObserved], None] | None = None
        self._jobs = Watcher(kube, JOBS, namespace, self._object_changed, selector=MODEL)
        self._pods = Watcher(kube, PODS, namespace, self._object_changed, selector=JOB)
        self._closed = threading.Event()

    # The protocol ---------------------------------------------------------------------------------------------------------

    def begin(self, observe: Callable[[CacheObserved], None]) -> None:
        """Watch the Jobs."""
        self._observe = observe
        for each in (self._jobs, self._pods):
            each.start()
        for each in (self._jobs, self._pods):
            each.wait_synced(30.0)
        threading.Thread(target=self._poll_progress, name="fetch-progress", daemon=True).start()

    def needs_fetch(self, model: Model) -> bool:
        """Whether a Job fetches the weights of MODEL, or pulls its images."""
        settings, known = self._settings_for(model), self._needs.get(model.name)
        if known is not None and known[0] is model and known[1] == settings:
            return known[2]
        try:
            needs = needs_job(model, settings)
        except (CannotMake, MergeError):
            needs = False  # its start reports why
        self._needs[model.name] = model, settings, needs
        return needs

    def tell(self, model: Model) -> None:
        """Report the state of the weights of MODEL, now and whenever it changes."""
        self._models[model.name] = model
        self._states.pop(model.name, None)
        self._update(model)

    def fetch(self, model: Model) -> None:
        """Create the Job of MODEL. Replace one that has failed, or that differs from what the Model needs now."""
        self._models[model.name] = model
        with self._lock:
            if model.name in self._creating:
                return
            self._creating.add(model.name)
        threading.Thread(target=self._create_job, args=(model,), name=f"fetch-{model.name}", daemon=True).start()

    def reconcile(self) -> None:
        """Replace Jobs that differ from what their Models need now, because a Model or its Workspace has changed."""
        for model in list(self._models.values()):
            found, refused = self._jobs.named(job_name(model)), self._refused.get(model.name)
            if found is None:
                wanted = None if refused is None else self._wanted(model)
                needed = wanted is not None and wanted["metadata"]["annotations"][FINGERPRINT] != refused
            else:
                needed = self._is_outdated(model, found)
            if needed:
                log.info("Job %s: its Model needs another one now", job_name(model))
                self.fetch(model)

    def _wanted(self, model: Model) -> Json | None:
        """Return the Job that a Model needs now; None if it needs none, or is invalid, which its condition says."""
        try:
            return job_of(model, self._settings_for(model), self._uids(model.name) or "")
        except (CannotMake, MergeError):
            return None

    def _is_outdated(self, model: Model, job: Json) -> bool:
        wanted = self._wanted(model)
        return wanted is not None and must_replace(job, wanted, done=self._is_done(job))

    def close(self) -> None:
        """Report no more."""
        self._closed.set()
        self._jobs.stop()
        self._pods.stop()

    # Reading --------------------------------------------------------------------------------------------------------------

    def path(self, model: Model) -> str | None:
        """Return the path of the weights of MODEL. None: not fetched yet, or not known."""
        try:
            return self._paths.get(job_name(model)) if needs_fetch(model) else None
        except CannotMake:
            return None

    def paths(self) -> Mapping[str, str]:
        """Return the paths of weights that are known, by Job."""
        return dict(self._paths)

    def states(self) -> Mapping[str, CacheObserved]:
        """Return the last reported state by Model. Models without a fetch are missing."""
        return dict(self._states)

    # Jobs -----------------------------------------------------------------------------------------------------------------

    def _create_job(self, model: Model) -> None:
        name = model.name
        job: Json | None = None
        try:
            end = time.monotonic() + DELETE_TIMEOUT
            while not self._closed.is_set() and time.monotonic() < end:
                model = self._models[name]  # it may have changed
                uid = self._uids(name)
                job = job_of(model, self._settings_for(model), uid or "")
                if job is None or uid is None or self._create_once(model, job):
                    return
                self._closed.wait(0.5)
            self._set_state(name, CacheState.FAILED, f"the old Job {job_name(model)} is not deleted yet")
        except (KubeError, CannotMake, MergeError) as error:
            self._set_state(name, CacheState.FAILED, str(error))
            self._refused[name] = job["metadata"]["annotations"][FINGERPRINT] if job is not None else ""
        else:
            self._refused.pop(name, None)
        finally:
            with self._lock:
                self._creating.discard(name)

    def _create_once(self, model: Model, job: Json) -> bool:
        """Create the Job. Return False while an older one is being deleted."""
        path = JOBS.path(self._namespace, job["metadata"]["name"])
        try:
            self._kube.create(JOBS.path(self._namespace), job)
        except KubeError as error:
            if error.status != CONFLICT:
                raise
            found = self._kube.find(path)
            if found is None:
                return False
            if is_foreign(found, job["metadata"]["labels"][MODEL]):
                raise CannotMake(f"Job {job['metadata']['name']}: {NOT_OURS}") from None
            if "deletionTimestamp" not in found["metadata"]:
                if self._may_stay(model, found, job):
                    self._states.pop(model.name, None)  # the state is reported again
                    self._update(model)
                    return True
                with contextlib.suppress(KubeError):
                    self._kube.delete(path, uid=found["metadata"]["uid"], background=True)
            return False
        self._forget_problems(model.name)
        return True

    def _may_stay(self, model: Model, found: Json, wanted: Json) -> bool:
        """Whether an existing Job has done, or does, what is wanted."""
        done = self._is_done(found)
        state = self._states.get(model.name)
        failed = state is not None and state.state is CacheState.FAILED  # or it has been stuck for too long
        ended = outcome_of(found, self._pods_of(found)).state is not CacheState.FETCHING
        return (done or not (failed or ended)) and not must_replace(found, wanted, done=done)

    def _is_done(self, job: Json) -> bool:
        """Whether a Job has cached what it fetches, and the path of the weights is known."""
        if PATH in (job["metadata"].get("annotations") or {}):
            return True
        outcome = outcome_of(job, self._pods_of(job))
        return outcome.state is CacheState.CACHED and (outcome.path is not None or not fetches(job))

    def _pods_of(self, job: Json) -> list[Json]:
        meta = job["metadata"]
        labelled = ((pod, pod["metadata"]["labels"]) for pod in self._pods.objects)
        return [pod for pod, its in labelled if (its.get(JOB), its.get(CONTROLLER)) == (meta["name"], meta["uid"])]

    def _object_changed(self, _change: Change, item: Json) -> None:
        model = self._models.get(item["metadata"].get("labels", {}).get(MODEL, ""))
        if model is not None:
            self._update(model)

    def _update(self, model: Model) -> None:
        name = job_name(model)
        job = self._jobs.named(name)
        if job is None:
            self._forget_problems(model.name)
            self._set_state(model.name, CacheState.ABSENT)
            return
        pods = self._pods_of(job)
        outcome = outcome_of(job, pods)
        path = outcome.path or job["metadata"].get("annotations", {}).get(PATH)
        if outcome.state is CacheState.FETCHING:
            self._report_fetching(model, job, pods, outcome)
        elif outcome.state is CacheState.FAILED and path is None:
            self._set_state(model.name, outcome.state, outcome.message)
        elif path is None and fetches(job):
            self._set_state(model.name, CacheState.ABSENT, "the location of the weights is no longer known")
        elif self._is_outdated(model, job):
            self._set_state(model.name, CacheState.ABSENT, "the volume or the image is another")
        else:
            if path is not None and self._paths.get(name) != path:
                self._paths[name] = path
                self._annotate_path(name, path)
                self._changed(model.name)
            self._set_state(model.name, CacheState.CACHED)

    def _report_fetching(self, model: Model, job: Json, pods: list[Json], outcome: FetchOutcome) -> None:
        """Report a fetch that runs, or what keeps it from running. It has failed after STUCK_TIMEOUT."""
        reason, messages = outcome.reason, [outcome.message] * bool(outcome.message)
        note = self._blocking_events.get(model.name)
        if note is not None and note.object == blocking_object(job, pods):
            reason = reason or note.reason
            messages.append(f"{' '.join(note.object)}: {note.message}")
        message = "; ".join(messages)
        if not reason:
            self._stuck_since.pop(model.name, None)
            self._set_state(model.name, CacheState.FETCHING, message)
            return
        stuck = self._clock() - self._stuck_since.setdefault(model.name, self._clock()) >= STUCK_TIMEOUT
        self._set_state(model.name, CacheState.FAILED if stuck else CacheState.FETCHING, message, reason=reason)

    def _forget_problems(self, model: str) -> None:
        self._blocking_events.pop(model, None)
        self._stuck_since.pop(model, None)

    def _annotate_path(self, job: str, path: str) -> None:
        try:
            self._kube.merge(JOBS.path(self._namespace, job), {"metadata": {"annotations": {PATH: path}}})
        except KubeError as error:
            if error.status != NOT_FOUND:
                log.warning("Job %s: %s", job, error)

    # Progress -------------------------------------------------------------------------------------------------------------

    def _poll_progress(self) -> None:
        while not self._closed.wait(PROGRESS):
            for name, state in list(self._states.items()):
                model = self._models.get(name)
                if model is not None and (state.state is CacheState.FETCHING or name in self._stuck_since):
                    self.look(model)

    def look(self, model: Model) -> None:
        """Read the progress of a fetch, or why it does not run."""
        job = self._jobs.named(job_name(model))
        if job is None:
            return
        pods = self._pods_of(job)
        running = next((pod for pod in pods if is_fetching(pod)), None)
        if running is not None:
            self._forget_problems(model.name)
            self._read_progress(model, running)
        else:
            self._read_events(model, job, pods)
            self._update(model)

    def _read_progress(self, model: Model, pod: Json) -> None:
        path = PODS.path(self._namespace, pod["metadata"]["name"], "log")
        with contextlib.suppress(KubeError):
            line = self._kube.text(path, container=CONTAINER, tailLines="1")
            if progress := parse_progress(line.strip()):
                self._set_state(model.name, CacheState.FETCHING, "", done=progress.done, total=progress.total)

    def _read_events(self, model: Model, job: Json, pods: list[Json]) -> None:
        blocking = blocking_object(job, pods)
        if blocking is None:
            return
        kind, name = blocking
        try:
            selector = f"involvedObject.kind={kind},involvedObject.name={name}"
            events, _ = self._kube.list(EVENTS.path(self._namespace), fieldSelector=selector)
        except KubeError as error:
            log.debug("Events of %s %s: %s", kind, name, error)
            return
        uid = job["metadata"]["uid"] if kind == "Job" else None  # an earlier Job had the same name
        objects = [each.get("involvedObject", {}) for each in events]
        known = [
            event
            for event, of in zip(events, objects, strict=True)
            if (of.get("kind"), of.get("name")) == blocking and uid in (None, of.get("uid"))
        ]
        if (problem := problem_of(kind, known)) is None:
            self._blocking_events.pop(model.name, None)
        else:
            self._blocking_events[model.name] = BlockingEvent(blocking, *problem)

    def _set_state(
        self,
        model: str,
        state: CacheState,
        message: str = "",
        *,
        reason: str = "",
        done: int | None = None,
        total: int | None = None,
    ) -> None:
        with self._lock:
            last = self._states.get(model)
            if last is not None and last.state is state is CacheState.FETCHING and done is None:
                done, total = last.done, last.total
            new = CacheObserved(self._clock(), model, state, message, done, total, reason or "FetchFailed")
            if last is not None and replace(new, now=last.now) == last:
                return
            self._states[model] = new
            if self._observe is not None and not self._closed.is_set():
                self._observe(new)
