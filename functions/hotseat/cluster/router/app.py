"""The router function: queues requests and relays them to pods. It only reads Workspaces."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from tempfile import gettempdir

from hotseat.api.types import Json
from hotseat.cluster.functions import FunctionSettings, read_settings, serve
from hotseat.cluster.router.demand_reporter import SwitcherClient
from hotseat.cluster.router.reads import EventFollower
from hotseat.cluster.router.workspaces import RemoteWorkspaces
from hotseat.control.event_log import EventLog, HttpSink
from hotseat.control.history_recorder import HistoryRecorder
from hotseat.control.history_store import HistoryStore
from hotseat.control.owner import LoopOwner
from hotseat.gateway.gauges import of_requests, of_sinks, of_upstreams, with_shown_names
from hotseat.gateway.key_file import KeySource
from hotseat.gateway.limits import ConcurrencyLimit
from hotseat.gateway.relay import Connections
from hotseat.gateway.spool import Spool
from hotseat.gateway.wsgi import create_gateway
from hotseat.kube.client import Change, Kube, Watcher
from hotseat.kube.constants import WORKSPACES
from hotseat.telemetry.logs import RequestLog
from hotseat.telemetry.metrics import Metrics, Reading
from hotseat.telemetry.tracing import start_tracing

GRACEFUL = 240.0  # seconds for requests in flight at the end; the pod's own grace must be longer
SYNC = 30.0


class RouterApp:
    """Everything of one router."""

    def __init__(self, settings: FunctionSettings, concurrency: ConcurrencyLimit) -> None:
        kube = Kube.connect()
        owner = LoopOwner()
        self._connections = Connections(owner)
        self._demand_key = settings.key
        namespace = settings.namespace or kube.namespace
        self._sink = HttpSink(settings.sink) if settings.sink else None
        switcher_client = SwitcherClient(
            settings.broker_of(namespace),
            settings.switcher,
            settings.key,
            source=f"/namespaces/{namespace}",
            sink=self._sink,
        )
        self._events = EventLog()  # for followers of this router; the switcher publishes to the Broker and the sink
        self._tracing = start_tracing("hotseat-router")
        if self._tracing is not None:
            self._events.subscribe(self._tracing.event_seen)
        self._event_follower = EventFollower(switcher_client, self._events.publish)
        self.registry = RemoteWorkspaces(
            settings.pod, switcher_client, self._connections.forget, self._events, owner, tracing=self._tracing
        )
        self._metrics = Metrics(self._gauges)
        self._watcher = Watcher(kube, WORKSPACES, namespace, self._workspace_changed)
        self._request_log = RequestLog(settings.request_log) if settings.request_log else None
        self._history = HistoryStore(settings.history) if settings.history else None
        if self._history is not None:
            self._events.subscribe(HistoryRecorder(self._history).event)
        self._key_source = KeySource((), settings.key_file, optional=True)
        self._key_source.read()
        self.gateway = create_gateway(
            self.registry,
            self._events,
            self._metrics,
            self._key_source.keys,
            self._connections,
            max_body=settings.max_body,
            cors=frozenset(settings.cors),
            concurrency=concurrency,
            request_log=self._request_log,
            admin_port=settings.admin_port,
            capture=settings.capture,
            spool=Spool(Path(gettempdir()), settings.max_form) if settings.max_form else None,
            history=self._history,
            tracing=self._tracing,
        )

    def begin(self) -> None:
        """Start to watch the Workspaces."""
        self._demand_key.watch()
        self._watcher.start()
        if not self._watcher.wait_synced(SYNC):
            raise RuntimeError(
                "cannot list Workspaces; check that the CRDs and the router's Role are installed (hotseat doctor)"
            )
        self.registry.begin()
        self._key_source.watch(lambda: self.registry.set_key_weights(self._key_source.keys.weights))
        self._event_follower.start()

    def reload(self) -> None:
        """Do nothing: documents come from the API server."""

    def close(self) -> None:
        """Let requests in flight finish, and leave."""
        self.registry.close(GRACEFUL)
        self._watcher.stop()
        self._event_follower.close()
        self._events.close()
        self._connections.close()
        for each in (self._sink, self._request_log, self._history, self._tracing):
            if each is not None:
                each.close()

    def _gauges(self) -> Iterator[Reading]:
        own = chain(of_requests(self.registry), of_upstreams(self.registry))
        yield from with_shown_names(own, self._events.shown_name)
        yield from of_sinks([self._sink] if self._sink else [])

    def _workspace_changed(self, change: Change, workspace: Json) -> None:
        if change is Change.GONE:
            self.registry.delete(workspace["metadata"]["name"])
        else:
            self.registry.apply(workspace)


def main() -> None:
    """Serve."""
    settings = read_settings()
    serve(
        settings,
        RouterApp,
        up="router %s serves",
        max_requests=settings.max_requests,
        graceful=GRACEFUL + 5,
        admin_port=settings.admin_port,
    )


if __name__ == "__main__":
    main()
