"""The composition root: the one route that knows all adapters and puts them together.

`App` lives in gunicorn's worker process: it owns the gates, the switchers and the engines, which die with it.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from hotseat.control.event_log import EventLog, HttpSink, Listener
from hotseat.control.file_watch import Settling, look
from hotseat.control.local_workspaces import LocalWorkspaces
from hotseat.control.port_conflicts import port_clashes
from hotseat.control.stats_file import StatsFile
from hotseat.gateway import gauges as readings
from hotseat.gateway.auth import Keys
from hotseat.gateway.concurrency import ConcurrencyLimit
from hotseat.gateway.relay import Connections
from hotseat.gateway.wsgi import Gateway, create_gateway
from hotseat.manifests.loading import Manifest, load
from hotseat.manifests.problems import ManifestErrors
from hotseat.runtimes.local.gpu_locks import GpuLocks
from hotseat.runtimes.local.memory import machine_memory
from hotseat.runtimes.local.nvml import find_accelerators
from hotseat.runtimes.local.runtime import LocalRuntime
from hotseat.runtimes.local.visible_devices import find_gpus
from hotseat.telemetry.metrics import Metrics, Reading
from hotseat.telemetry.requests import RequestLog

log = logging.getLogger(__name__)

MAX_BODY = 64 * 2**20
PARKED_SHARE = 0.5  # of the machine's memory, for parked models where no Workspace says how much
SHUTDOWN_MARGIN = 10.0  # seconds for everything at the end that has no timeout of its own


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve on one machine. `files` are documents, or folders of them; none: what was read cannot be read again."""

    files: tuple[Path, ...]
    state_dir: Path
    cache_dir: Path
    keys: tuple[str, ...] = ()
    sink: str | None = None
    max_body: int = MAX_BODY
    cors: tuple[str, ...] = ()
    concurrency: ConcurrencyLimit = field(
        default_factory=lambda: ConcurrencyLimit(1000)
    )  # for requests that may take long
    watch: bool = True
    request_log: Path | None = None  # a line for each request that ended is appended to it


def _nothing(_manifest: Manifest) -> None:
    """Stand for nobody who wants to know."""


class App:
    """Everything of one hotseat. `tell` gets messages for people, `listener` every event.

    `ends_in` hears how many seconds an orderly end may take by the documents, whenever they are taken in; `taken_in` hears of
    the documents themselves then.
    """

    def __init__(
        self,
        settings: Settings,
        manifest: Manifest,
        *,
        ends_in: Callable[[float], None],
        listener: Listener | None = None,
        tell: Callable[[str], None] = log.info,
        taken_in: Callable[[Manifest], None] = _nothing,
    ) -> None:
        self.settings = settings
        self.manifest = manifest
        self._tell, self._ends_in, self._taken_in = tell, ends_in, taken_in
        self.bus = EventLog()
        logs = settings.state_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        accelerators = find_accelerators()
        gpus = self._gpus = find_gpus(accelerators)
        self._uuids = accelerators.uuids() if accelerators else ()
        self._gpu_locks = GpuLocks(f"pid {os.getpid()}, state directory {settings.state_dir}")
        self._connections = Connections()
        self.runtime = LocalRuntime(
            settings.state_dir,
            settings.cache_dir,
            log_dir=logs,
            accelerators=accelerators,
            gpus=gpus,
            heard=self._connections.heard,
        )
        self._learned = StatsFile(settings.state_dir / "learned.json")
        share = int(PARKED_SHARE * machine_memory())
        self.registry = LocalWorkspaces(
            self.runtime,
            self.bus,
            time.monotonic,
            self._connections.forget,
            devices=gpus.names,
            device_ids=gpus.ids,
            host_memory=share,
            learned=self._learned.note,
            remembered=lambda: self._learned.lessons,
        )
        self.metrics = Metrics(lambda: readings.with_shown_names(self._read(), self.bus.shown_name))
        self.bus.subscribe(self.metrics.event)
        self._sink = HttpSink(settings.sink) if settings.sink else None
        for each in (listener, self._sink):
            if each is not None:
                self.bus.subscribe(each)
        self._request_log = RequestLog(settings.request_log) if settings.request_log else None
        self._lock = threading.Lock()  # one reload, or the end, at a time
        self._closed = False
        self._asked: SimpleQueue[None] = (
            SimpleQueue()
        )  # for a reload, or for the end of its thread; signal handlers may put
        self.gateway: Gateway = create_gateway(
            self.registry,
            self.bus,
            self.metrics,
            Keys(settings.keys),
            self._connections,
            max_body=settings.max_body,
            cors=frozenset(settings.cors),
            concurrency=settings.concurrency,
            request_log=self._request_log,
        )

    def begin(self) -> None:
        """Take down what an earlier run left, take in the documents, and look after their files."""
        before = look(self.settings.files)
        self._apply(self.manifest)
        threading.Thread(target=self._look_after_files, args=(before,), name="documents", daemon=True).start()

    def reload(self) -> None:
        """Have the documents read again, soon, and the difference applied. Returns at once; many calls may cost one reading."""
        self._asked.put(None)

    def _look_after_files(self, before: Hashable) -> None:
        """Take them in again when somebody asks for it, or when they have changed.

        `before` is how they looked at the start, when they had just been read: what changed in between is found by reading them once.
        """
        settling = Settling() if self.settings.watch and self.settings.files else None
        while not self._closed:
            asked = self._is_asked(None if settling is None else settling.pause)
            try:
                state = look(self.settings.files) if settling is not None else before
                if asked or (settling is not None and settling.see(state, time.monotonic())):
                    self._take_in(anyway=asked or state != before)
            except Exception as error:
                log.exception("reload failed")
                self._tell(f"the reload failed or is incomplete: {error}; save the file again to retry")

    def _is_asked(self, timeout: float | None) -> bool:
        """Wait for somebody who asks for a reload; all who have asked by then get one."""
        try:
            self._asked.get(timeout=timeout)
        except Empty:
            return False
        while not self._asked.empty():
            self._asked.get()
        return True

    def _take_in(self, *, anyway: bool) -> None:
        """Read the documents and apply the difference; with an error in them everything stays as it is.

        `anyway`: also where they hold what they held. What could not be had then, weights or a thread, may be there now.
        """
        with self._lock:
            if self._closed:
                return
            if not self.settings.files:
                self._tell("not reloaded: the documents were read from standard input")
                return
            try:
                manifest = load(self.settings.files, known=self.manifest)
            except ManifestErrors as errors:
                self._tell(f"not reloaded; the previous documents stay in use:\n{errors}")
                return
            if manifest is self.manifest and not anyway:
                return
            self._apply(manifest)
            old, self.manifest = self.manifest, manifest
        if (old.models, old.workspaces) != (manifest.models, manifest.workspaces):
            self._tell(f"reloaded: {_difference(old, manifest)}")

    def _apply(self, manifest: Manifest) -> None:
        self._ends_in(shutdown_time(manifest))
        self._taken_in(manifest)
        self.registry.apply(manifest.workspaces, manifest.models)
        for clash in port_clashes(manifest.models, manifest.workspaces):
            self._tell(f"WARNING: {clash}.")
        self._lock_gpus(manifest)

    def _lock_gpus(self, manifest: Manifest) -> None:
        """Say where another hotseat uses the same GPUs: neither knows what the other loads."""
        using = {m.spec.workspace for m in manifest.models if m.spec.resources.gpus and m.spec.engine != "external"}
        named = {self._gpus.uuid(each, self._uuids): each for each in sorted(self.registry.devices(using))}
        others = self._gpu_locks.hold(uuid for uuid in named if uuid is not None)
        for uuid, owner in others.items():
            self._tell(
                f"WARNING: another hotseat ({owner}) also uses GPU {named[uuid]} ({uuid}), and neither knows what the other loads. "
                "Stop one of them, or give each its own GPUs (capacity.devices of the Workspaces)."
            )

    def close(self) -> None:
        """Send away what waits, let what is in flight finish, stop the engines. Each Model's own timeouts bound it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._asked.put(None)
        self.registry.close(shutdown_time(self.manifest))
        self._connections.close()
        self._learned.close()
        self._gpu_locks.close()
        for each in (self._sink, self._request_log):
            if each is not None:
                each.close()

    def _read(self) -> Iterator[Reading]:
        """Values of the gauges that are read when scraped."""
        yield from readings.of_requests(self.registry)
        yield from readings.of_memory(self.registry, self.registry.memory())
        for handle in self.registry.handles:
            yield from readings.of_instances(
                handle.workspace, handle.gate.residency.residents, handle.effective_max_wait
            )
            mine = [route.model.name for route in self.registry.places().values() if route.handle is handle]
            yield from readings.of_pins(handle.workspace, map(handle.status, mine))
        yield Reading("hotseat_events_undelivered", {}, self._sink.dropped if self._sink else 0)


def shutdown_time(manifest: Manifest) -> float:
    """Seconds that an orderly end may take."""
    times = [m.spec.lifecycle.drain_timeout + m.spec.lifecycle.stop_timeout for m in manifest.models]
    return max(times, default=0.0) + SHUTDOWN_MARGIN


def _difference(old: Manifest, new: Manifest) -> str:
    before, after = {m.name: m for m in old.models}, {m.name: m for m in new.models}
    parts = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
    }
    said = [f"{what} {', '.join(names)}" for what, names in parts.items() if names]
    return "; ".join(said) or "workspaces changed"
