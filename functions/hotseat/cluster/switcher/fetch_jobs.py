"""Fetches the weights of Models on a cluster: a Job per source writes them to the Model's claim, before a GPU is used."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.core.messages import CacheObserved, CacheState
from hotseat.kube.adoption import NAME_CONFLICT, is_foreign
from hotseat.kube.client import CONFLICT, NOT_FOUND, Change, Kube, KubeError, Watcher
from hotseat.kube.constants import GROUP, JOBS, MODEL, PODS, ClusterSettings
from hotseat.kube.containers import CannotMake, needs_fetch
from hotseat.kube.jobs import job_name, job_of, outcome_of, parse_progress
from hotseat.kube.objects import MergeError

log = logging.getLogger(__name__)

JOB = "batch.kubernetes.io/job-name"
PATH = f"{GROUP}/path"  # annotation on a Job: the path of the weights, as its pod reported
PROGRESS = 2.0  # seconds between reads of a fetch's log
DELETE_TIMEOUT = 30.0  # seconds for an old Job to be deleted


class JobFetcher:
    """The Fetcher of KnativeRuntime. `changed(model)` is called when the path of a Model's weights becomes known."""

    def __init__(
        self,
        kube: Kube,
        settings: ClusterSettings,
        uids: Callable[[str], str | None],
        changed: Callable[[str], None],
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._uids = uids
        self._changed = changed
        self._lock = threading.Lock()
        self._models: dict[str, Model] = {}
        self._states: dict[str, CacheObserved] = {}
        self._paths: dict[str, str] = {}  # by Job
        self._observe: Callable[[CacheObserved], None] | None = None
        self._jobs = Watcher(kube, JOBS, settings.namespace, self._object_changed, selector=MODEL)
        self._pods = Watcher(kube, PODS, settings.namespace, self._object_changed, selector=JOB)
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
        """Whether a Job fetches the weights of MODEL."""
        try:
            return needs_fetch(model)
        except CannotMake:
            return False  # its start reports why

    def tell(self, model: Model) -> None:
        """Report the state of the weights of MODEL, now and whenever it changes."""
        self._models[model.name] = model
        self._states.pop(model.name, None)
        self._update(model)

    def fetch(self, model: Model) -> None:
        """Create the Job of MODEL. Replace a failed one."""
        self._models[model.name] = model
        threading.Thread(target=self._create_job, args=(model,), name=f"fetch-{model.name}", daemon=True).start()

    def close(self) -> None:
        """Report no more."""
        self._closed.set()
        self._jobs.stop()
        self._pods.stop()

    # Reading --------------------------------------------------------------------------------------------------------------

    def path(self, model: Model) -> str | None:
        """Return the path of the weights of MODEL. None: not fetched yet, or not known."""
        return self._paths.get(job_name(model)) if self.needs_fetch(model) else None

    def paths(self) -> Mapping[str, str]:
        """Return the paths of weights that are known, by Job."""
        return dict(self._paths)

    def states(self) -> Mapping[str, CacheObserved]:
        """Return the last reported state by Model. Models without a fetch are missing."""
        return dict(self._states)

    # Jobs -----------------------------------------------------------------------------------------------------------------

    def _create_job(self, model: Model) -> None:
        try:
            uid = self._uids(model.name)
            job = job_of(model, self._settings, uid or "")
            if job is None or uid is None:
                return
            end = time.monotonic() + DELETE_TIMEOUT
            while not self._closed.is_set() and time.monotonic() < end:
                if self._create_once(job):
                    return
                self._closed.wait(0.5)
            self._set_state(model.name, CacheState.FAILED, f"the old Job {job['metadata']['name']} is not deleted yet")
        except (KubeError, CannotMake, MergeError) as error:
            self._set_state(model.name, CacheState.FAILED, str(error))

    def _create_once(self, job: Json) -> bool:
        """Create the Job. Return False while an older one is being deleted."""
        path = JOBS.path(self._settings.namespace, job["metadata"]["name"])
        try:
            self._kube.create(JOBS.path(self._settings.namespace), job)
        except KubeError as error:
            if error.status != CONFLICT:
                raise
            found = self._kube.find(path)
            if found is None:
                return False
            if is_foreign(found, job["metadata"]["labels"][MODEL]):
                taken = f"Job {job['metadata']['name']} exists and is not of this Model; delete it or rename the Model"
                raise KubeError(CONFLICT, taken, NAME_CONFLICT) from None
            failed = outcome_of(found, []).state is CacheState.FAILED
            if not failed and PATH not in found["metadata"].get("annotations", {}):
                return True  # the old one runs, and does the same
            with contextlib.suppress(KubeError):
                self._kube.delete(path, uid=found["metadata"]["uid"], background=True)
            return False
        return True

    def _object_changed(self, _change: Change, item: Json) -> None:
        model = self._models.get(item["metadata"].get("labels", {}).get(MODEL, ""))
        if model is not None:
            self._update(model)

    def _update(self, model: Model) -> None:
        name = job_name(model)
        job = self._jobs.named(name)
        if job is None:
            self._set_state(model.name, CacheState.ABSENT)
            return
        pods = [pod for pod in self._pods.objects if pod["metadata"]["labels"].get(JOB) == name]
        outcome = outcome_of(job, pods)
        path = outcome.path or job["metadata"].get("annotations", {}).get(PATH)
        if outcome.state is not CacheState.CACHED:
            self._set_state(model.name, outcome.state, outcome.message)
        elif path is None:
            self._set_state(model.name, CacheState.ABSENT, "the location of the weights is no longer known")
        else:
            if self._paths.get(name) != path:
                self._paths[name] = path
                self._annotate_path(name, path)
                self._changed(model.name)
            self._set_state(model.name, CacheState.CACHED)

    def _annotate_path(self, job: str, path: str) -> None:
        try:
            self._kube.merge(JOBS.path(self._settings.namespace, job), {"metadata": {"annotations": {PATH: path}}})
        except KubeError as error:
            if error.status != NOT_FOUND:
                log.warning("Job %s: %s", job, error)

    # Progress -------------------------------------------------------------------------------------------------------------

    def _poll_progress(self) -> None:
        while not self._closed.wait(PROGRESS):
            for name, state in list(self._states.items()):
                if state.state is CacheState.FETCHING and name in self._models:
                    self._read_progress(self._models[name])

    def _read_progress(self, model: Model) -> None:
        name = job_name(model)
        running = [
            pod
            for pod in self._pods.objects
            if pod["metadata"]["labels"].get(JOB) == name and pod["status"].get("phase") == "Running"
        ]
        for pod in running[:1]:
            path = PODS.path(self._settings.namespace, pod["metadata"]["name"], "log")
            with contextlib.suppress(KubeError):
                line = self._kube.text(path, tailLines="1")
                if progress := parse_progress(line.strip()):
                    self._set_state(model.name, CacheState.FETCHING, "", progress.done, progress.total)

    def _set_state(
        self, model: str, state: CacheState, message: str = "", done: int | None = None, total: int | None = None
    ) -> None:
        with self._lock:
            last = self._states.get(model)
            new = CacheObserved(time.monotonic(), model, state, message, done, total)
            if last is not None and (last.state, last.message, last.done) == (state, message, done):
                return
            if last is not None and last.state is state is CacheState.FETCHING and done is None:
                return
            self._states[model] = new
            if self._observe is not None and not self._closed.is_set():
                self._observe(new)
