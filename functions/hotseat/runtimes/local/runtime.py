"""Runtime of one machine: engines as child processes, each below a supervisor that proves its end."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from pathlib import Path

from hotseat.api.model import Model
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Fetch,
    InstanceFailed,
    InstanceReleased,
    LimitPrompts,
    Observation,
    Park,
    PromptCommand,
    RestorePrompts,
    SavePrompts,
    Start,
    Stop,
    Wake,
)
from hotseat.core.ports import LogView, Observe
from hotseat.engines.access import secret_variables
from hotseat.engines.base import Engine, is_remote, load_engine, prompt_saver, sources_of
from hotseat.private_files import make_directory
from hotseat.runtimes.local.engine_thread import PROOF_TIME, EngineThread, RuntimeContext
from hotseat.runtimes.local.gpus import Gpus, MemoryProof
from hotseat.runtimes.local.instance_prompts import instance_prompts
from hotseat.runtimes.local.launch import (
    CannotStart,
    PortReservations,
    WeightsMissing,
    base_environment,
    check_start,
    weights_of,
)
from hotseat.runtimes.local.logs import ModelLog
from hotseat.runtimes.local.memory import MemorySampler
from hotseat.runtimes.local.orphans import STATE_VARIABLE, SUPERVISOR_VARIABLE, StateDir
from hotseat.runtimes.local.prompt_store import PromptSettings, PromptStore, SavedSlot
from hotseat.runtimes.local.reused_threads import ReusedThreads
from hotseat.runtimes.local.supervisor_client import SupervisorPool
from hotseat.runtimes.local.weights import WeightsFetch
from hotseat.sources.base import SourceError, cached
from hotseat.sources.cache import CacheEntry, UseLocks, entries, prune

EXTERNAL = "external"  # the engine whose servers are neither started nor stopped
CLOSE_GRACE = 2.0  # seconds between SIGTERM and SIGKILL when the runtime ends

log = logging.getLogger(__name__)


def _never_received(_address: str) -> float:
    """Return the time of the last response if no requests are relayed."""
    return -inf


class LocalRuntime:
    """A Runtime (see core/ports.py).

    `observe` is called from its threads and from the caller's, and must not block. In `state_dir` a
    later hotseat finds what an earlier one left; only one may run with it at a time. `log_dir`
    None: no log files. `last_received` returns when bytes of a response came from an engine's
    address last, in monotonic seconds.
    """

    def __init__(
        self,
        state_dir: Path,
        cache_dir: Path,
        clock: Callable[[], float] = time.monotonic,
        log_dir: Path | None = None,
        *,
        accelerators: MemoryProof | None = None,
        gpus: Gpus | None = None,
        engines: Callable[[str], Engine] = load_engine,
        last_received: Callable[[str], float] = _never_received,
    ) -> None:
        self._cache_dir = cache_dir
        self._clock = clock
        self._log_dir = log_dir
        self._load_engine = engines
        self._observe: Observe | None = None
        self._lock = threading.Lock()  # guards the tables below; `observe` is never called under it
        self._models: dict[str, Model] = {}
        self._hidden: frozenset[str] = frozenset()
        self._secret_variables: frozenset[str] = frozenset()
        self._engines: dict[str, Engine] = {}  # by name; loading an engine reads the metadata of all packages
        self._logs: dict[str, ModelLog] = {}
        self._instances: dict[str, EngineThread] = {}
        self._fetches: dict[str, WeightsFetch] = {}
        self._use_locks = UseLocks(cache_dir)
        self._checking: set[str] = set()  # models for which a thread checks whether they could be loaded
        self._unavailable: set[str] = set()  # models whose weights were not available at the last check
        self._threads: set[threading.Thread] = set()
        self._checks = ReusedThreads("check")
        self._state_dir = StateDir(state_dir)
        self._prompts = PromptStore(self._state_dir.path)
        marks = {STATE_VARIABLE: str(self._state_dir.path)}
        self._child_env = base_environment() | marks
        self._supervisors = SupervisorPool(self._child_env | {SUPERVISOR_VARIABLE: str(os.getpid())})
        self._context = RuntimeContext(
            self._report,
            clock,
            self._supervisors,
            PortReservations(),
            self._state_dir,
            cache_dir,
            accelerators,
            marks,
            self._remove,
            gpus or Gpus(),
            MemorySampler(self._report, clock, accelerators),
            last_received,
            self._prompts,
            lambda: self._secret_variables,
        )

    def begin(self, models: Iterable[Model], observe: Observe) -> None:
        """Kill what an earlier hotseat left, and start. Raise StateDirInUse if another hotseat runs."""
        models = list(models)
        self._state_dir.lock()
        if left := self._state_dir.clean_up():
            log.error("processes of an earlier run cannot be killed: %s", left)
        self._prompts.keep_models({model.name: model.spec.workspace for model in models})
        self._prompts.begin()
        self._observe = observe
        if self._log_dir is not None:
            make_directory(self._log_dir)
        self._supervisors.prepare()
        self.update(models)

    def update(self, models: Iterable[Model]) -> None:
        """Replace the documents; running instances continue unchanged.

        Report the cache state of each new or changed model, and of models whose weights were not
        available at the last check.
        """
        documents = {model.name: model for model in models}
        with self._lock:
            changed = [
                model
                for name, model in documents.items()
                if self._models.get(name) != model or name in self._unavailable
            ]
            self._models = documents
            self._secret_variables = frozenset().union(self._hidden, *map(secret_variables, documents.values()))
            self._prompts.keep_models({name: model.spec.workspace for name, model in documents.items()})
            self._unavailable &= documents.keys()
            for name in {model.spec.engine for model in changed} - self._engines.keys():
                self._add_engine(name)
            for name in [
                name for name, fetch in self._fetches.items() if not _wants(documents.get(name), fetch.sources)
            ]:
                self._fetches.pop(name).cancel()
            running = {instance.model.name for instance in self._instances.values()}
            for name in self._logs.keys() - documents.keys() - running:
                self._logs.pop(name).close()
            for name in documents.keys() - self._logs.keys():
                self._logs[name] = ModelLog(self._log_dir / f"{name}.log" if self._log_dir else None)
            unfetched = [model for model in changed if not self._is_fetching(model.name)]  # a fetch reports by itself
        self._hold_sources()
        for model in changed:
            self._drop_unfit_prompts(model)
        for state in [self._cache_state(model) for model in unfetched]:  # all together, so that they make one decision
            self._report(state)

    def _drop_unfit_prompts(self, model: Model) -> None:
        """Delete the saved prompts of a Model that an engine with its new document could not restore."""
        engine = self._engines.get(model.spec.engine)
        if engine is None or not self._prompts.of(model.name):
            return
        with contextlib.suppress(CannotStart):  # its weights are missing, so that it is looked at when it is loaded
            instance_prompts(self._prompts, model, engine, weights_of(model, engine, self._cache_dir), 0)

    def fetch(self, command: Fetch) -> None:
        """Check whether a load could begin, and fetch the weights if they are missing.

        A repetition while it runs does nothing.
        """
        with self._lock:
            model = self._model(command.model)
            if self._is_fetching(model.name) or model.name in self._checking:
                return
            problem = None
            self._checking.add(model.name)
            try:  # on its own thread, because the file system may hang
                self._checks.run(lambda: self._check_or_fetch(model))
            except RuntimeError as error:
                problem = error
                self._checking.discard(model.name)
        if problem is not None:
            self._report(CacheObserved(self._clock(), model.name, CacheState.FAILED, f"cannot fetch: {problem}"))

    def start(self, command: Start) -> None:
        """Load the model."""
        with self._lock:
            model = self._model(command.model)
            if model.spec.engine not in self._engines:
                raise ValueError(f"{command.model}: no installed package provides the engine {model.spec.engine}")
            if model.spec.engine == EXTERNAL:
                raise ValueError(f"{command.model} is served by {model.spec.url}, which hotseat does not start")
            if command.instance in self._instances:
                raise ValueError(f"the instance {command.instance} exists")
            problem = self._create_instance(command, model)
            instance = self._instances.get(command.instance)
        if instance is not None:
            instance.mailbox.give_way()
        if problem is not None:
            log.error("%s cannot start: %s", command.instance, problem)
            self._report(
                InstanceFailed(
                    self._clock(), command.instance, command.epoch, "CannotStart", f"cannot start: {problem}"
                )
            )
            self._report(InstanceReleased(self._clock(), command.instance, command.epoch))

    def stop(self, command: Stop) -> None:
        """Stop an instance, also while it loads, and prove that it is gone. A later Stop may shorten the grace."""
        with self._lock:
            instance = self._instances.get(command.instance)  # first: the document may have changed to engine external
            model = self._models.get(command.model)
        if instance is None and model is not None and model.spec.engine == EXTERNAL:
            raise ValueError(f"{command.model} is served by {model.spec.url}, which hotseat does not stop")
        if instance is None or not instance.mailbox.stop(command.grace):
            self._report(InstanceReleased(self._clock(), command.instance, command.epoch))
        else:
            instance.mailbox.give_way()

    def park(self, command: Park) -> None:
        """Put a ready engine to sleep, and prove that it sleeps."""
        self._put(command)

    def wake(self, command: Wake) -> None:
        """Wake a parked engine."""
        self._put(command)

    def handle_prompts(self, command: PromptCommand) -> None:
        """Save or restore the prompt cache of an engine, or limit what is kept of a Workspace."""
        if not isinstance(command, LimitPrompts):
            self._put(command)
        elif dropped := self._prompts.set_limit(command.workspace, command.size):
            size = sum(each.size for each in dropped)
            log.info("deleted %d bytes of saved prompts of %s: the limit is %d", size, command.workspace, command.size)

    def configure_prompts(self, settings: Mapping[str, PromptSettings]) -> None:
        """Set how the prompts of each Workspace are kept. Those that are missing keep none."""
        self._prompts.configure(settings)

    def hide(self, variables: frozenset[str]) -> None:
        """Set further variables that no engine gets. It counts from the next `update` on."""
        self._hidden = variables

    def saves_prompts(self, model: Model) -> bool:
        """Whether the engine of a Model can save its prompt cache."""
        with self._lock:
            if model.spec.engine not in self._engines:
                with contextlib.suppress(Exception):  # `update` logs what is wrong
                    self._engines[model.spec.engine] = self._load_engine(model.spec.engine)
            engine = self._engines.get(model.spec.engine)
        return engine is not None and prompt_saver(engine, model) is not None

    def saved_prompts(self) -> list[SavedSlot]:
        """Return the saved slots of all Models."""
        return self._prompts.all()

    def clear_prompts(self, model: str | None = None) -> list[SavedSlot]:
        """Delete the saved slots of a Model, or of all, and return them. Engines keep what they have in memory."""
        return self._prompts.drop([each for each in self._prompts.all() if model in (None, each.model)])

    def cached_weights(self) -> dict[str, tuple[str, int]]:
        """Return the path and the bytes of the weights of each Model that hotseat has fetched."""
        with self._lock:
            models = dict(self._models)
        found: dict[str, tuple[str, int]] = {}
        for name, model in models.items():
            with contextlib.suppress(SourceError, OSError):
                source = model.spec.source
                path = cached(source, self._cache_dir) if source is not None and is_remote(source) else None
                if path is not None:
                    files = path.rglob("*") if path.is_dir() else (path,)
                    found[name] = (str(path), sum(file.stat().st_size for file in files if file.is_file()))
        return found

    def cache_entries(self) -> list[CacheEntry]:
        """Return what is in the cache of weights, also of other documents."""
        return entries(self._cache_dir)

    def prune_cache(self, older_than: float, *, dry_run: bool) -> list[CacheEntry]:
        """Delete weights that nobody has used for so many seconds, and return them."""
        return prune(self._cache_dir, older_than, dry_run=dry_run)

    def _hold_sources(self) -> None:
        """Lock the cached sources of all Models, and of instances that run with an earlier document, against a prune.

        Not under the runtime's lock, because the file system may hang.
        """
        self._use_locks.hold(self._fetched_sources())

    def _fetched_sources(self) -> Iterator[str]:
        with self._lock:
            models = [*self._models.values(), *(instance.model for instance in self._instances.values())]
        for model in models:
            fetched = sources_of(model) if self._is_fetched(model) else [each.source for each in model.spec.loras]
            yield from filter(is_remote, fetched)

    def _is_fetched(self, model: Model) -> bool:
        engine = self._engines.get(model.spec.engine)
        with contextlib.suppress(Exception):  # of an engine from another package: see `_cache_state`
            return engine is not None and is_remote(model.spec.source) and engine.fetches(model)
        return False

    def _put(self, command: Park | Wake | SavePrompts | RestorePrompts) -> None:
        with self._lock:
            instance = self._instances.get(command.instance)
        if instance is None or not instance.mailbox.put(command):
            self._report(InstanceReleased(self._clock(), command.instance, command.epoch))

    def logs(self, model: str) -> LogView | None:
        """Return the output of a model's engine; None for an unknown model."""
        with self._lock:
            return self._logs.get(model)

    def close(self) -> None:
        """Stop all engines, and return when nothing is left. Processes that cannot be killed are logged."""
        with self._lock:
            self._context.closing.set()
            instances, fetches, threads = (
                list(self._instances.values()),
                list(self._fetches.values()),
                list(self._threads),
            )
        for instance in instances:
            instance.mailbox.stop(CLOSE_GRACE)
        for fetch in fetches:
            fetch.cancel()
        self._supervisors.close()
        end = time.monotonic() + 2 * CLOSE_GRACE + PROOF_TIME
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                log.error("thread %s did not end in time", thread.name)
        for model_log in self._logs.values():
            model_log.close()
        self._prompts.close()
        self._use_locks.close()
        self._state_dir.unlock()

    def _model(self, name: str) -> Model:
        if self._observe is None or self._context.closing.is_set():
            raise ValueError("the runtime has not started, or is closed")
        if name not in self._models:
            raise ValueError(f"unknown model {name}")
        return self._models[name]

    def _start_thread(self, thread: threading.Thread) -> None:
        thread.start()  # before it is recorded: a thread that could not start cannot be joined
        self._threads = {other for other in self._threads if other.is_alive()} | {thread}

    def _create_instance(self, command: Start, model: Model) -> Exception | None:
        """Create the instance and its thread; return why that failed (no descriptor, no thread), and leave nothing."""
        instance = None
        try:
            instance = EngineThread(
                command, model, self._engines[model.spec.engine], self._logs[model.name], self._context
            )
            self._start_thread(instance)
        except Exception as problem:
            if instance is not None:
                instance.mailbox.close()
            return problem
        self._instances[command.instance] = instance  # the thread cannot have ended: that needs the lock, which we hold
        return None

    def _check_or_fetch(self, model: Model) -> None:
        """Report whether a load could begin, or start a fetch."""
        try:
            self._check(model)
        finally:
            with self._lock:
                self._checking.discard(model.name)

    def _check(self, model: Model) -> None:
        try:
            observation = self._cache_state(model)
            if observation.state is CacheState.CACHED:
                observation = self._check_start(model)
            elif observation.state is CacheState.ABSENT and (
                missing := self._missing(model, self._engines[model.spec.engine])
            ):
                self._hold_sources()  # again, if somebody has deleted the directory
                self._start_fetch(model, missing)
                return
        except Exception as problem:
            log.exception("cannot check whether %s could be loaded", model.name)
            observation = CacheObserved(self._clock(), model.name, CacheState.FAILED, f"cannot fetch: {problem}")
        self._report(observation)

    def _start_fetch(self, model: Model, sources: tuple[str, ...]) -> None:
        with self._lock:
            if self._context.closing.is_set() or self._is_fetching(model.name):
                return
            if not _wants(self._models.get(model.name), sources):
                return  # the document has changed, and its cache state was reported
            first, *more = sources
            fetch = WeightsFetch(
                model.name,
                first,
                self._cache_dir,
                self._child_env,
                self._report,
                clock=self._clock,
                more=tuple(more),
            )
            self._start_thread(fetch)
            self._fetches[model.name] = fetch

    def _is_fetching(self, model: str) -> bool:
        return model in self._fetches and not self._fetches[model].ended

    def _check_start(self, model: Model) -> CacheObserved:
        """Return whether the engine of a cached model could be started now."""
        state, message, reason = CacheState.CACHED, "", "FetchFailed"
        if model.spec.engine != EXTERNAL:
            try:
                check_start(model, self._engines[model.spec.engine], self._cache_dir, self._state_dir)
            except WeightsMissing:
                state = CacheState.ABSENT
            except CannotStart as problem:
                state, message, reason = CacheState.FAILED, str(problem), problem.reason
        return CacheObserved(self._clock(), model.name, state, message, reason=reason)

    def _cache_state(self, model: Model) -> CacheObserved:
        """Return whether the weights are in the cache. No network is used."""
        engine = self._engines.get(model.spec.engine)
        state, message = CacheState.CACHED, ""
        try:
            if engine is None:
                state, message = CacheState.FAILED, f"no installed package provides the engine {model.spec.engine}"
            elif model.spec.engine != EXTERNAL and self._missing(model, engine):
                state = CacheState.ABSENT
        except SourceError as problem:
            state, message = CacheState.FAILED, str(problem)
        except Exception as problem:  # of an engine from another package: only this model fails
            log.exception("cannot look up the weights of %s", model.name)
            state, message = CacheState.FAILED, f"cannot look up the weights: {problem!r}"
        (self._unavailable.add if state is CacheState.FAILED else self._unavailable.discard)(model.name)
        return CacheObserved(self._clock(), model.name, state, message)

    def _missing(self, model: Model, engine: Engine) -> tuple[str, ...]:
        """Return the sources that must be fetched. Raise SourceError for one that cannot be."""
        own = None if is_remote(model.spec.source) and not engine.fetches(model) else model.spec.source
        wanted = (*(() if own is None else (own,)), *(each.source for each in model.spec.loras))
        return tuple(each for each in wanted if cached(each, self._cache_dir) is None)

    def _add_engine(self, name: str) -> None:
        try:
            self._engines[name] = self._load_engine(name)
        except KeyError:
            log.warning("no installed package provides the engine %s", name)
        except Exception:  # of an engine from another package
            log.exception("cannot load the engine %s", name)

    def _remove(self, instance: EngineThread) -> None:
        with self._lock:
            del self._instances[instance.instance]

    def _report(self, observation: Observation) -> None:
        if self._observe is not None:
            try:
                self._observe(observation)
            except Exception:
                log.exception("the observer failed to handle %s", observation)


def _wants(model: Model | None, sources: tuple[str, ...]) -> bool:
    """Whether a Model has these sources."""
    return model is not None and {*sources} <= {*sources_of(model)}
