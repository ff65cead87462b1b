"""The composition root of one machine: it creates all adapters and connects them.

`App` lives in gunicorn's worker process. It owns the gates, the schedulers and the engines, which end with it.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from hotseat.api.workspace import PromptStorage, Workspace
from hotseat.control.active_profiles import ActiveProfiles
from hotseat.control.event_log import EventLog, HttpSink, Listener
from hotseat.control.history_recorder import HistoryRecorder
from hotseat.control.history_store import HistorySettings, HistoryStore
from hotseat.control.host_resources import port_conflicts
from hotseat.control.local_workspaces import LocalWorkspaces
from hotseat.control.owner import LoopOwner
from hotseat.control.scheduling_spec import prompt_budget
from hotseat.control.stats_file import StatsFile
from hotseat.engines.access import missing_secrets, secret_variables
from hotseat.gateway import gauges
from hotseat.gateway.captures import CaptureMode
from hotseat.gateway.key_file import KeySource
from hotseat.gateway.limits import MAX_BODY, MAX_FORM, ConcurrencyLimit
from hotseat.gateway.relay import Connections
from hotseat.gateway.spool import Spool
from hotseat.gateway.wsgi import Gateway, create_gateway
from hotseat.importing.loading import Inputs, load, snapshot
from hotseat.manifests.files import Debouncer
from hotseat.manifests.loading import Manifest
from hotseat.manifests.problems import ManifestErrors
from hotseat.private_files import make_directory
from hotseat.runtimes.local.gpu_figures import GpuFigures, GpuMonitor
from hotseat.runtimes.local.gpus import GpuLocks, find_accelerators, find_gpus
from hotseat.runtimes.local.memory import machine_memory
from hotseat.runtimes.local.prompt_store import PromptSettings, memory_room
from hotseat.runtimes.local.runtime import LocalRuntime
from hotseat.telemetry.logs import RequestLog
from hotseat.telemetry.metrics import Metrics, Reading
from hotseat.telemetry.tracing import start_tracing

log = logging.getLogger(__name__)

PARKED_SHARE = 0.5  # of the machine's memory, for parked models without a limit in the Workspace
SHUTDOWN_MARGIN = 10.0  # seconds for the parts of a shutdown without a timeout
APPLY_TIME = 5.0  # seconds after a reload until its message is printed anyway


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one machine."""

    inputs: Inputs  # what is served
    state_dir: Path
    cache_dir: Path
    keys: KeySource = field(default_factory=KeySource)
    sink: str | None = None
    max_body: int = MAX_BODY
    max_form: int = MAX_FORM  # 0: forms are held in memory, as all bodies
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    concurrency: ConcurrencyLimit = field(default_factory=lambda: ConcurrencyLimit(1000))  # of long requests
    watch: bool = True
    request_log: Path | None = None  # file to append a line to for each finished request
    admin_port: int | None = None  # the only port with admin routes; None: each port has them
    upstream_port: int | None = None  # that serves engines' own pages and nothing else
    capture: CaptureMode | None = None  # how bodies are captured; None: they are not
    history: HistorySettings | None = None  # what is kept over restarts of events, switches and requests; None: nothing


def _nothing(_manifest: Manifest) -> None:
    """No-op default."""


class App:
    """hotseat on one machine. `report` gets messages for the terminal, `listener` every event.

    `on_apply` and `on_shutdown_time` are called whenever documents are applied, with the documents and with the
    seconds that a graceful shutdown may take.
    """

    def __init__(
        self,
        settings: Settings,
        manifest: Manifest,
        *,
        on_shutdown_time: Callable[[float], None],
        listener: Listener | None = None,
        report: Callable[[str], None] = log.info,
        on_apply: Callable[[Manifest], None] = _nothing,
    ) -> None:
        self.settings = settings
        self.manifest = manifest
        self._report, self._on_shutdown_time, self._on_apply = report, on_shutdown_time, on_apply
        self._tracing = start_tracing("hotseat")
        self.bus = EventLog(tracing=self._tracing)
        logs = settings.state_dir / "logs"
        for folder in (settings.state_dir, logs):
            make_directory(folder)
        accelerators = find_accelerators()
        gpus = self._gpus = find_gpus(accelerators)
        self._uuids = accelerators.uuids() if accelerators else ()
        self._gpu_monitor = GpuMonitor(accelerators.figures, self._uuids) if accelerators else None
        self._gpu_locks = GpuLocks(f"pid {os.getpid()}, state directory {settings.state_dir}")
        owner = LoopOwner()
        self._connections = Connections(owner)
        self.runtime = LocalRuntime(
            settings.state_dir,
            settings.cache_dir,
            log_dir=logs,
            accelerators=accelerators,
            gpus=gpus,
            last_received=self._connections.heard,
        )
        self._stats_file = StatsFile(settings.state_dir / "learned.json")
        share = int(PARKED_SHARE * machine_memory())
        self.registry = LocalWorkspaces(
            self.runtime,
            self.bus,
            time.monotonic,
            self._connections.forget,
            devices=gpus.names,
            device_ids=gpus.ids,
            host_memory=share,
            stats_file=self._stats_file,
            owner=owner,
            saves_prompts=self.runtime.saves_prompts,
            prompt_room=memory_room(),
            profiles=ActiveProfiles(settings.state_dir / "profiles.json"),
        )
        self.metrics = Metrics(lambda: gauges.with_shown_names(self._read(), self.bus.shown_name))
        self.bus.subscribe(self.metrics.event)
        self._sink = HttpSink(settings.sink) if settings.sink else None
        for each in (listener, self._sink):
            if each is not None:
                self.bus.subscribe(each)
        self._request_log = RequestLog(settings.request_log) if settings.request_log else None
        self._history = HistoryStore(settings.history) if settings.history else None
        if self._history is not None:
            self.bus.subscribe(HistoryRecorder(self._history).event)
        self._lock = threading.Lock()  # one reload or shutdown at a time
        self._closed = False
        self._reloads: SimpleQueue[None] = SimpleQueue()  # requests; signal handlers may put
        settings.keys.report = report
        settings.keys.reload()  # the file may have changed since the first worker
        self.gateway: Gateway = create_gateway(
            self.registry,
            self.bus,
            self.metrics,
            settings.keys.keys,
            self._connections,
            max_body=settings.max_body,
            cors=frozenset(settings.cors),
            hosts=frozenset(host.lower() for host in settings.hosts),
            concurrency=settings.concurrency,
            request_log=self._request_log,
            admin_port=settings.admin_port,
            caches=self.runtime,
            capture=settings.capture,
            upstream_port=settings.upstream_port,
            spool=Spool(settings.state_dir, settings.max_form) if settings.max_form else None,
            history=self._history,
            gpus=self._gpu_rows,
            tracing=self._tracing,
        )

    def begin(self) -> None:
        """Stop engines of an earlier run, apply the documents, and watch their files."""
        before = snapshot(self.settings.inputs)
        self._apply(self.manifest)
        source = self.settings.keys
        source.watch(lambda: self.registry.set_key_weights(source.keys.weights), poll=self.settings.watch)
        threading.Thread(target=self._watch_files, args=(before,), name="documents", daemon=True).start()

    def reload(self) -> None:
        """Request a reload of the documents. Returns immediately. Several calls may cause one reload."""
        self._reloads.put(None)

    def _watch_files(self, before: Hashable) -> None:
        """Reload the documents on request, or when their files have changed.

        `before` is the state of the files when they were first read.
        """
        debouncer = Debouncer() if self.settings.watch and self.settings.inputs.can_reload else None
        while not self._closed:
            requested = self._wait_for_reload(None if debouncer is None else debouncer.pause)
            try:
                if requested and not self._closed:
                    self.settings.keys.reload()
                state = snapshot(self.settings.inputs) if debouncer is not None else before
                if requested or (debouncer is not None and debouncer.update(state, time.monotonic())):
                    self._reload(force=requested or state != before)
            except Exception as error:
                log.exception("reload failed")
                self._report(f"the reload failed or is incomplete: {error}; save the file again to retry")

    def _wait_for_reload(self, timeout: float | None) -> bool:
        """Wait for a request, and return whether there was one. All requests until then are merged."""
        try:
            self._reloads.get(timeout=timeout)
        except Empty:
            return False
        while not self._reloads.empty():
            self._reloads.get()
        return True

    def _reload(self, *, force: bool) -> None:
        """Read the documents and apply them. If they have a problem, the previous ones stay in use.

        With `force` unchanged documents are applied too: what was missing before, such as weights, may exist now.
        """
        with self._lock:
            if self._closed:
                return
            if not self.settings.inputs.can_reload:
                self._report("not reloaded: the documents were read from standard input")
                return
            try:
                manifest = load(self.settings.inputs, known=self.manifest)
            except ManifestErrors as errors:
                self._report(f"not reloaded; the previous documents stay in use:\n{errors}")
                return
            if manifest is self.manifest and not force:
                return
            self._apply(manifest)
            for note in manifest.notes:
                if note not in self.manifest.notes:
                    self._report(note)
            old, self.manifest = self.manifest, manifest
        if (old.models, old.workspaces) != (manifest.models, manifest.workspaces):
            self.registry.wait_applied(APPLY_TIME)  # who reads the message may send a request at once
            self._report(f"reloaded: {_difference(old, manifest)}")

    def _apply(self, manifest: Manifest) -> None:
        self._on_shutdown_time(shutdown_time(manifest))
        self._on_apply(manifest)
        self.runtime.configure_prompts({w.name: settings for w in manifest.workspaces if (settings := _prompts(w))})
        self.runtime.hide(secret_variables(manifest.workspaces))
        self.registry.apply(manifest.workspaces, manifest.models)
        for conflict in port_conflicts(manifest.models, manifest.workspaces):
            self._report(f"WARNING: {conflict}.")
        for missing in filter(None, map(missing_secrets, manifest.models)):
            self._report(f"WARNING: {missing}.")
        self._lock_gpus(manifest)

    def _lock_gpus(self, manifest: Manifest) -> None:
        """Warn if another hotseat uses the same GPUs."""
        using = {m.spec.workspace for m in manifest.models if m.spec.resources.gpus and m.spec.engine != "external"}
        named = {self._gpus.uuid(each, self._uuids): each for each in sorted(self.registry.devices(using))}
        others = self._gpu_locks.hold(uuid for uuid in named if uuid is not None)
        for uuid, owner in others.items():
            self._report(
                f"WARNING: another hotseat ({owner}) also uses GPU {named[uuid]} ({uuid}), and neither knows what the other loads. "
                "Stop one of them, or give each its own GPUs (capacity.devices of the Workspaces)."
            )

    def close(self) -> None:
        """Reject queued requests, drain, and stop the engines, within the timeouts of the Models."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._reloads.put(None)
        self.registry.close(shutdown_time(self.manifest))
        self._connections.close()
        self._stats_file.close()
        self._gpu_locks.close()
        for each in (self._sink, self._request_log, self._history, self._tracing):
            if each is not None:
                each.close()

    def _gpu_figures(self) -> Sequence[GpuFigures]:
        return self._gpu_monitor.figures() if self._gpu_monitor else ()

    def _gpu_rows(self) -> list[dict[str, Any]]:
        """Return the figures of each GPU, with the Workspace that uses it."""
        users: dict[str | None, str] = {}
        for handle in self.registry.handles:
            for device in self.registry.devices([handle.name]):
                users.setdefault(self._gpus.uuid(device, self._uuids), handle.name)
        return [{**asdict(gpu), "workspace": gpu.uuid and users.get(gpu.uuid)} for gpu in self._gpu_figures()]

    def _prompt_sizes(self) -> dict[tuple[str, str], int]:
        sizes: dict[tuple[str, str], int] = {}
        for each in self.runtime.saved_prompts():
            key = (each.workspace, each.model)
            sizes[key] = sizes.get(key, 0) + each.size
        return sizes

    def _read(self) -> Iterator[Reading]:
        """Yield the gauges for a scrape."""
        yield from gauges.of_requests(self.registry)
        yield from gauges.of_upstreams(self.registry)
        yield from gauges.of_memory(self.registry, self.registry.memory())
        for handle in self.registry.handles:
            yield from gauges.of_instances(handle.workspace, handle.gate.residency.residents, handle.effective_max_wait)
            mine = [route.model.name for route in self.registry.routes().values() if route.handle is handle]
            rows = [handle.status(name) for name in mine]
            yield from gauges.of_pins(handle.workspace, rows)
            yield from gauges.of_backoff(rows)
        for workspace, totals in self.registry.accelerator_seconds().items():
            yield from gauges.of_accelerator(workspace, totals)
        yield from gauges.of_prompts(self._prompt_sizes())
        yield from gauges.of_gpus(self._gpu_figures())
        yield from gauges.of_sinks([self._sink] if self._sink else [])


def _prompts(workspace: Workspace) -> PromptSettings | None:
    """Return how the prompts of a Workspace are kept; None if they are not."""
    stated = workspace.spec.prompt_cache
    if not prompt_budget(workspace, workspace.spec.capacity.host_memory, memory_room()):
        return None
    return PromptSettings(stated.storage is PromptStorage.DISK, stated.keep, stated.keep_at_exit)


def shutdown_time(manifest: Manifest) -> float:
    """Return the seconds that a graceful shutdown may take."""
    times = [m.spec.lifecycle.drain_timeout + m.spec.lifecycle.stop_timeout for m in manifest.models]
    saves = [w.spec.prompt_cache.timeout for w in manifest.workspaces if w.spec.prompt_cache.keep_at_exit]
    return max(times, default=0.0) + max(saves, default=0.0) + SHUTDOWN_MARGIN


def _difference(old: Manifest, new: Manifest) -> str:
    before, after = {m.name: m for m in old.models}, {m.name: m for m in new.models}
    parts = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
    }
    texts = [f"{what} {', '.join(names)}" for what, names in parts.items() if names]
    return "; ".join(texts) or "workspaces changed"
