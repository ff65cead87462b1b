"""The composition root: the one place that knows all adapters and puts them together.

`App` lives in gunicorn's worker process: it owns the desks, the switchers and the engines, which die with it.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import watchfiles

from hotseat.control.bus import Bus, HttpSink, Listener
from hotseat.control.house import House
from hotseat.control.learned import LearnedFile
from hotseat.control.portclashes import port_clashes
from hotseat.gateway import readings
from hotseat.gateway.auth import Keys
from hotseat.gateway.places import Places
from hotseat.gateway.relay import Connections
from hotseat.gateway.wsgi import Gateway, create_gateway
from hotseat.manifests.loading import Manifest, load
from hotseat.manifests.problems import ManifestErrors
from hotseat.runtimes.local.accelerators import find_accelerators
from hotseat.runtimes.local.gpulocks import GpuLocks
from hotseat.runtimes.local.gpus import find_gpus
from hotseat.runtimes.local.memory import machine_memory
from hotseat.runtimes.local.runtime import LocalRuntime
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
    places: Places = field(default_factory=lambda: Places(1000))  # for requests that may take long
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
        self.bus = Bus()
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
        self._learned = LearnedFile(settings.state_dir / "learned.json")
        share = int(PARKED_SHARE * machine_memory())
        self.house = House(
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
        self.metrics = Metrics(self._read)
        self.bus.subscribe(self.metrics.event)
        self._sink = HttpSink(settings.sink) if settings.sink else None
        for each in (listener, self._sink):
            if each is not None:
                self.bus.subscribe(each)
        self._request_log = RequestLog(settings.request_log) if settings.request_log else None
        self._lock = threading.Lock()  # one reload, or the end, at a time
        self._closed = False
        self._stop_watching = threading.Event()
        self.gateway: Gateway = create_gateway(
            self.house,
            self.bus,
            self.metrics,
            Keys(settings.keys),
            self._connections,
            max_body=settings.max_body,
            cors=frozenset(settings.cors),
            places=settings.places,
            request_log=self._request_log,
        )

    def begin(self) -> None:
        """Take down what an earlier run left, take in the documents, and watch the files."""
        self._apply()
        if self.settings.watch and self.settings.files:
            threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def reload(self) -> None:
        """Read the documents again and apply the difference; with an error in them everything stays as it is."""
        with self._lock:
            if self._closed:
                return
            if not self.settings.files:
                self._tell("not reloaded: the documents came from the standard input")
                return
            try:
                manifest = load(self.settings.files)
            except ManifestErrors as errors:
                self._tell(f"not reloaded, all goes on as before:\n{errors}")
                return
            old, self.manifest = self.manifest, manifest
            if (old.models, old.workspaces) == (manifest.models, manifest.workspaces):
                return
            self._apply()
            self._tell(f"reloaded: {_difference(old, manifest)}")

    def _apply(self) -> None:
        self._ends_in(shutdown_time(self.manifest))
        self._taken_in(self.manifest)
        self.house.apply(self.manifest.workspaces, self.manifest.models)
        for clash in port_clashes(self.manifest.models, self.manifest.workspaces):
            self._tell(f"WARNING: {clash}.")
        self._lock_gpus()

    def _lock_gpus(self) -> None:
        """Say where another hotseat uses the same GPUs: neither knows what the other loads."""
        using = {
            m.spec.workspace for m in self.manifest.models if m.spec.resources.gpus and m.spec.engine != "external"
        }
        named = {self._gpus.uuid(each, self._uuids): each for each in sorted(self.house.devices(using))}
        others = self._gpu_locks.hold(uuid for uuid in named if uuid is not None)
        for uuid, owner in others.items():
            self._tell(
                f"WARNING: another hotseat ({owner}) uses GPU {named[uuid]} ({uuid}), too: each loads models there as if it were "
                "alone. Stop one of them, or give each its own GPUs with capacity.devices of their Workspaces."
            )

    def close(self) -> None:
        """Send away what waits, let what is in flight finish, stop the engines. Each Model's own timeouts bound it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._stop_watching.set()
        self.house.close(shutdown_time(self.manifest))
        self._connections.close()
        self._learned.close()
        self._gpu_locks.close()
        for each in (self._sink, self._request_log):
            if each is not None:
                each.close()

    def _watch(self) -> None:
        # Editors replace files: their folders are what can be watched.
        folders = {path if path.is_dir() else path.parent for path in map(Path.absolute, self.settings.files)}
        files = {path.absolute() for path in self.settings.files}

        def ours(_change: Any, name: str) -> bool:
            return Path(name) in files or Path(name).parent in files

        changes = watchfiles.watch(
            *folders,
            watch_filter=ours,
            stop_event=self._stop_watching,
            recursive=False,
            rust_timeout=1000,
            yield_on_timeout=True,
        )
        unread = True  # what changed between the first reading and the beginning of the watch
        for change in changes:
            if not change and not unread:
                continue
            unread = False
            try:
                self.reload()
            except Exception:
                log.exception("reload failed")

    def _read(self) -> Iterator[Reading]:
        """Values of the gauges that are read when scraped."""
        yield from readings.of_requests(self.house)
        yield from readings.of_memory(self.house, self.house.memory())
        for room in self.house.rooms:
            yield from readings.of_seats(room.workspace, room.desk.residency.residents, room.effective_max_wait)
            mine = [place.model.name for place in self.house.places().values() if place.room is room]
            yield from readings.of_pins(room.workspace, map(room.status, mine))
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
