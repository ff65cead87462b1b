"""Runtime of one machine: models as child processes, each below a supervisor that proves its end."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from math import inf
from pathlib import Path

from hotseat.api.model import Model
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Fetch,
    InstanceFailed,
    InstanceReleased,
    Observation,
    Park,
    Start,
    Stop,
    Wake,
)
from hotseat.core.ports import LogView, Observe
from hotseat.engines.base import Engine, is_remote, load_engine
from hotseat.runtimes.local.engine_thread import PROOF_TIME, EngineThread, RuntimeContext
from hotseat.runtimes.local.launch import CannotStart, PortReservations, WeightsMissing, base_environment, check_start
from hotseat.runtimes.local.logs import ModelLog
from hotseat.runtimes.local.memory_sampler import MemorySampler
from hotseat.runtimes.local.nvml import MemoryProof
from hotseat.runtimes.local.orphans import STATE_VARIABLE, SUPERVISOR_VARIABLE, StateDir
from hotseat.runtimes.local.supervisor_client import SupervisorPool
from hotseat.runtimes.local.visible_devices import Gpus
from hotseat.runtimes.local.weights import Fetching
from hotseat.sources.base import SourceError, cached

EXTERNAL = "external"  # the engine whose servers are neither started nor stopped
CLOSE_GRACE = 2.0  # seconds between SIGTERM and SIGKILL when everything ends

log = logging.getLogger(__name__)


def _silence(_address: str) -> float:
    """Stand for nobody who talks to engines."""
    return -inf


class LocalRuntime:
    """A Runtime (see core/ports.py). `observe` is called from its threads and from the caller's; it must only hand on.

    `state_dir` is how one instance after another finds what was left: one living instance each. `log_dir` None: no files.
    `heard` says when bytes of an answer came from an engine's address last, on the monotonic clock: while they come it lives.
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
        heard: Callable[[str], float] = _silence,
    ) -> None:
        self._cache_dir = cache_dir
        self._clock = clock
        self._log_dir = log_dir
        self._load_engine = engines
        self._observe: Observe | None = None
        self._lock = threading.Lock()  # guards the tables below; nothing is observed under it
        self._models: dict[str, Model] = {}
        self._engines: dict[str, Engine] = {}  # by name: finding one reads the metadata of all packages
        self._logs: dict[str, ModelLog] = {}
        self._instances: dict[str, EngineThread] = {}
        self._fetches: dict[str, Fetching] = {}
        self._looks: set[str] = set()  # models at which a thread looks, whether they could be loaded
        self._uncached: set[str] = set()  # models whose weights could not be had when it last looked
        self._threads: set[threading.Thread] = set()
        self._state = state = StateDir(state_dir)
        marks = {STATE_VARIABLE: str(state.path)}
        self._child_env = base_environment() | marks
        self._supervisors = SupervisorPool(self._child_env | {SUPERVISOR_VARIABLE: str(os.getpid())})
        self._around = RuntimeContext(
            self._tell,
            clock,
            self._supervisors,
            PortReservations(),
            state,
            cache_dir,
            accelerators,
            marks,
            self._forget,
            gpus or Gpus(),
            MemorySampler(self._tell, clock, accelerators),
            heard,
        )

    def begin(self, models: Iterable[Model], observe: Observe) -> None:
        """Take down what an earlier instance left, and start. StateDirInUse if another instance lives."""
        self._state.lock()
        if left := self._state.take_down():
            log.error("processes of an earlier run cannot be killed: %s", left)
        self._observe = observe
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True)
        self._supervisors.prepare()
        self.update(models)

    def update(self, models: Iterable[Model]) -> None:
        """Replace the documents; instances that run go on as they are.

        Tells the cache state of each new or changed model, and of those whose weights could not be had when it last looked.
        """
        wanted = {model.name: model for model in models}
        with self._lock:
            changed = [
                model for name, model in wanted.items() if self._models.get(name) != model or name in self._uncached
            ]
            self._models = wanted
            self._uncached &= wanted.keys()
            for name in {model.spec.engine for model in changed} - self._engines.keys():
                self._find_engine(name)
            for name in [name for name, fetch in self._fetches.items() if _source(wanted.get(name)) != fetch.source]:
                self._fetches.pop(name).cancel()
            running = {instance.model.name for instance in self._instances.values()}
            for name in self._logs.keys() - wanted.keys() - running:
                self._logs.pop(name).close()
            for name in wanted.keys() - self._logs.keys():
                self._logs[name] = ModelLog(self._log_dir / f"{name}.log" if self._log_dir else None)
            looked_at = [model for model in changed if not self._is_fetching(model.name)]  # a fetch tells by itself
        for state in [self._cache_state(model) for model in looked_at]:  # all at once: that may be one decision then
            self._tell(state)

    def fetch(self, order: Fetch) -> None:
        """Look whether a load could begin, and bring the weights if they are what is missing. Repeating it while it runs does nothing."""
        with self._lock:
            model = self._known(order.model)
            if self._is_fetching(model.name) or model.name in self._looks:  # a look may hang, with its file system
                return
            problem = None
            self._looks.add(model.name)
            try:  # on a thread of its own: a file system may hang
                self._run(threading.Thread(target=self._see_to, args=(model,), name=f"look-{model.name}", daemon=True))
            except RuntimeError as error:
                problem = error
                self._looks.discard(model.name)
        if problem is not None:
            self._tell(CacheObserved(self._clock(), model.name, CacheState.FAILED, f"cannot fetch: {problem}"))

    def start(self, order: Start) -> None:
        """Load the model."""
        with self._lock:
            model = self._known(order.model)
            if model.spec.engine not in self._engines:
                raise ValueError(f"{order.model}: no installed package provides the engine {model.spec.engine}")
            if model.spec.engine == EXTERNAL:
                raise ValueError(f"{order.model} is served by {model.spec.url}, which hotseat does not start")
            if order.instance in self._instances:
                raise ValueError(f"the instance {order.instance} exists")
            problem = self._hold(order, model)
        if problem is not None:
            log.error("%s cannot start: %s", order.instance, problem)
            self._tell(
                InstanceFailed(self._clock(), order.instance, order.epoch, "CannotStart", f"cannot start: {problem}")
            )
            self._tell(InstanceReleased(self._clock(), order.instance, order.epoch))

    def stop(self, order: Stop) -> None:
        """Stop and prove; also while loading. A second one with a shorter grace shortens it."""
        with self._lock:
            instance = self._instances.get(order.instance)  # first: its document may say external only since it runs
            model = self._models.get(order.model)
        if instance is None and model is not None and model.spec.engine == EXTERNAL:
            raise ValueError(f"{order.model} is served by {model.spec.url}, which hotseat does not stop")
        if instance is None or not instance.orders.stop(order.grace):
            self._tell(InstanceReleased(self._clock(), order.instance, order.epoch))

    def park(self, order: Park) -> None:
        """Have a ready engine sleep, and prove that it does."""
        self._turn(order)

    def wake(self, order: Wake) -> None:
        """Have a parked engine serve again."""
        self._turn(order)

    def _turn(self, order: Park | Wake) -> None:
        with self._lock:
            instance = self._instances.get(order.instance)
        if instance is None or not instance.orders.give(order):
            self._tell(InstanceReleased(self._clock(), order.instance, order.epoch))

    def logs(self, model: str) -> LogView | None:
        """Give the engine's output; None for a model it does not know."""
        with self._lock:
            return self._logs.get(model)

    def close(self) -> None:
        """Stop whatever runs and return when nothing is left; what cannot be killed is logged."""
        with self._lock:
            self._around.closing.set()
            instances, fetches, threads = (
                list(self._instances.values()),
                list(self._fetches.values()),
                list(self._threads),
            )
        for instance in instances:
            instance.orders.stop(CLOSE_GRACE)
        for fetch in fetches:
            fetch.cancel()
        self._supervisors.close()
        end = time.monotonic() + 2 * CLOSE_GRACE + PROOF_TIME
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                log.error("%s did not end", thread.name)
        for model_log in self._logs.values():
            model_log.close()
        self._state.unlock()

    def _known(self, name: str) -> Model:
        if self._observe is None or self._around.closing.is_set():
            raise ValueError("the runtime has not started, or is closed")
        if name not in self._models:
            raise ValueError(f"unknown model {name}")
        return self._models[name]

    def _run(self, thread: threading.Thread) -> None:
        thread.start()  # before it is noted: one that could not start cannot be joined
        self._threads = {each for each in self._threads if each.is_alive()} | {thread}

    def _hold(self, order: Start, model: Model) -> Exception | None:
        """Make the instance and its thread; on failure (no descriptor, no thread) nothing of it stays."""
        instance = None
        try:
            instance = EngineThread(
                order, model, self._engines[model.spec.engine], self._logs[model.name], self._around
            )
            self._run(instance)
        except Exception as problem:
            if instance is not None:
                instance.orders.close()
            return problem
        self._instances[order.instance] = instance  # its thread cannot have ended: that takes the lock, which we have
        return None

    def _see_to(self, model: Model) -> None:
        """Tell whether a load could begin, or start a fetch."""
        try:
            self._look(model)
        finally:
            with self._lock:
                self._looks.discard(model.name)

    def _look(self, model: Model) -> None:
        try:
            seen = self._cache_state(model)
            if seen.state is CacheState.CACHED:
                seen = self._readiness(model)
            elif seen.state is CacheState.ABSENT and model.spec.source is not None:
                self._start_fetch(model, model.spec.source)
                return
        except Exception as problem:
            log.exception("look for %s", model.name)
            seen = CacheObserved(self._clock(), model.name, CacheState.FAILED, f"cannot fetch: {problem}")
        self._tell(seen)

    def _start_fetch(self, model: Model, source: str) -> None:
        with self._lock:
            if self._around.closing.is_set() or self._is_fetching(model.name):
                return
            if _source(self._models.get(model.name)) != source:
                return  # its document has changed, which has been told of
            fetch = Fetching(model.name, source, self._cache_dir, self._child_env, self._tell, clock=self._clock)
            self._run(fetch)
            self._fetches[model.name] = fetch

    def _is_fetching(self, model: str) -> bool:
        return model in self._fetches and not self._fetches[model].over

    def _readiness(self, model: Model) -> CacheObserved:
        """Say whether its engine could be started now."""
        state, message, reason = CacheState.CACHED, "", "FetchFailed"
        if model.spec.engine != EXTERNAL:
            try:
                check_start(model, self._engines[model.spec.engine], self._cache_dir, self._state)
            except WeightsMissing:
                state = CacheState.ABSENT
            except CannotStart as problem:
                state, message, reason = CacheState.FAILED, str(problem), problem.reason
        return CacheObserved(self._clock(), model.name, state, message, reason=reason)

    def _cache_state(self, model: Model) -> CacheObserved:
        """Look where the weights are. No network."""
        source, engine = model.spec.source, self._engines.get(model.spec.engine)
        state, message = CacheState.CACHED, ""
        try:
            if engine is None:
                state, message = CacheState.FAILED, f"no installed package provides the engine {model.spec.engine}"
            elif (
                source is not None and model.spec.engine != EXTERNAL and self._is_absent(source, engine.fetches(model))
            ):
                state = CacheState.ABSENT
        except SourceError as problem:
            state, message = CacheState.FAILED, str(problem)
        except Exception as problem:  # of an engine of somebody else's: this model fails, the others are served
            log.exception("cannot look up the weights of %s", model.name)
            state, message = CacheState.FAILED, f"cannot look up the weights: {problem!r}"
        (self._uncached.add if state is CacheState.FAILED else self._uncached.discard)(model.name)
        return CacheObserved(self._clock(), model.name, state, message)

    def _is_absent(self, source: str, fetches: bool) -> bool:
        return (fetches or not is_remote(source)) and cached(source, self._cache_dir) is None

    def _find_engine(self, name: str) -> None:
        try:
            self._engines[name] = self._load_engine(name)
        except KeyError:
            log.warning("no installed package provides the engine %s", name)
        except Exception:  # likewise
            log.exception("cannot load the engine %s", name)

    def _forget(self, instance: EngineThread) -> None:
        with self._lock:
            del self._instances[instance.order.instance]

    def _tell(self, observation: Observation) -> None:
        if self._observe is not None:
            try:
                self._observe(observation)
            except Exception:
                log.exception("observer of %s", observation)


def _source(model: Model | None) -> str | None:
    return None if model is None else model.spec.source
