"""The router reports its demand to the switcher, through the Broker or directly."""

import json
import logging
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import urllib3

from hotseat.api.types import Json
from hotseat.api.units import format_time
from hotseat.cluster.demand_keys import DemandKeys
from hotseat.coalesce import CoalescingWorker
from hotseat.control.codec import demand_to_json, to_rfc3339
from hotseat.control.event_log import Event
from hotseat.core.errors import NotFound, Unavailable
from hotseat.core.events import event_type
from hotseat.core.messages import Demand

if TYPE_CHECKING:
    from hotseat.telemetry.spans import Tracing

log = logging.getLogger(__name__)


SIGNATURE = "signature"  # extension attribute of our events
_TIMEOUT = 2.0  # seconds for one delivery
_READ_TIMEOUT = 20.0  # seconds beyond the wait of a read: the switcher asks a node for output
_SHOWN = 200  # bytes of a refusal that are logged
_CONNECTIONS = 32  # that are kept; each follower of a log may use one


class SwitcherClient:
    """Sends snapshots and commands. An empty `broker` or `switcher` is not used.

    Sources of events begin with `source`. `sink` gets each snapshot, too.
    """

    def __init__(
        self,
        broker: str,
        switcher: str,
        key: DemandKeys,
        *,
        source: str = "",
        sink: Callable[[Event], None] | None = None,
    ) -> None:
        self.broker = broker
        self.switcher = switcher.rstrip("/")
        self.sink = sink
        self._key = key
        self._source = source
        self._http = urllib3.PoolManager(retries=False, maxsize=_CONNECTIONS)

    def _event(self, workspace: str, kind: str, data: Json) -> Event:
        """Return a signed event. It belongs to the first of the traces that its data has."""
        traces = Json(data.get("traces") or {})
        return {
            "specversion": "1.0",
            "id": uuid.uuid4().hex,
            "source": f"{self._source}/workspaces/{workspace}",
            "type": event_type(kind),
            "time": format_time(time.time()),
            "epoch": data.get("seen_epoch", 0),
            "datacontenttype": "application/json",
            SIGNATURE: self._key.sign(data),
            **({"traceparent": next(iter(traces.values()))} if traces else {}),
            "data": data,
        }

    def event_headers(self, workspace: str, kind: str, data: Json) -> dict[str, str]:
        """Return the HTTP headers of a signed event."""
        event = self._event(workspace, kind, data)
        headers = {f"ce-{name}": str(event[name]) for name in event.keys() - {"data", "datacontenttype"}}
        return headers | {"Content-Type": event["datacontenttype"]}

    def to_sink(self, workspace: str, kind: str, data: Json) -> None:
        """Queue an event for the sink, if there is one."""
        if self.sink is not None:
            self.sink(self._event(workspace, kind, data))

    def through_broker(self, workspace: str, kind: str, data: Json) -> str:
        """Publish an event. Return why the Broker did not accept it; empty if it did."""
        return self._post(self.broker, workspace, kind, data)

    def directly(self, workspace: str, kind: str, data: Json) -> str:
        """Send an event to the switcher. Return why it did not accept it; empty if it did."""
        return self._post(f"{self.switcher}/demand", workspace, kind, data)

    def send_command(self, command: Json, timeout: float | None) -> tuple[int, Json]:
        """Send a command to the switcher and return status and body of its answer.

        Raise Unavailable if it cannot be reached.
        """
        return self._post_signed("orders", command, None if timeout is None else timeout + _TIMEOUT)

    def read(self, query: Json, wait: float) -> Json:
        """Read logs or events of the switcher, which waits up to WAIT seconds for news.

        Raise Unavailable if it cannot be reached or does not know the answer, and NotFound if there is no such object.
        """
        query = {**query, "at": to_rfc3339(time.monotonic())}
        status, answer = self._post_signed("reads", query, wait + _READ_TIMEOUT)
        if status >= 300:  # noqa: PLR2004
            error = answer.get("error", {})
            message, code = error.get("message", f"the switcher answered HTTP {status}"), error.get("code")
            if status == 404:  # noqa: PLR2004
                raise NotFound(message, code=code)
            raise Unavailable(message, code=code, retry_after=5.0)
        return answer

    def _post_signed(self, path: str, data: Json, timeout: float | None) -> tuple[int, Json]:
        headers = {"Content-Type": "application/json", "X-Hotseat-Signature": self._key.sign(data)}
        limit = urllib3.Timeout(connect=_TIMEOUT, read=timeout)
        try:
            status, body = self._request(f"{self.switcher}/{path}", data, headers, limit)
            answer: Any = json.loads(body or b"{}")
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            message = f"the switcher cannot be reached: {error}"
            raise Unavailable(message, code="switcher_unreachable", retry_after=5.0) from error
        return status, answer

    def _post(self, url: str, workspace: str, kind: str, data: Json) -> str:
        headers = self.event_headers(workspace, kind, data)
        try:
            status, answer = self._request(url, data, headers, urllib3.Timeout(connect=_TIMEOUT, read=_TIMEOUT))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return f"{url}: {error}"
        if status < 300:  # noqa: PLR2004
            return ""
        if status == 403:  # noqa: PLR2004
            self._key.refused()
        return f"{url}: HTTP {status} {answer[:_SHOWN].decode(errors='replace')}".strip()

    def _request(self, url: str, data: Json, headers: dict[str, str], timeout: urllib3.Timeout) -> tuple[int, bytes]:
        """Return status and body of the answer. A refused request's connection is closed: it may lead to the wrong server.

        A Service can lead to a standby, or elsewhere while it is new, and a kept connection stays there.
        """
        response = self._http.request(
            "POST", url, body=json.dumps(data), headers=headers, timeout=timeout, preload_content=False
        )
        connection = response.connection  # reading the whole body gives it back to the pool
        body = response.read()
        if response.status >= 300 and connection is not None:  # noqa: PLR2004
            connection.close()
        return response.status, body


HEARTBEAT = 1.0  # seconds between reports without a change
SOON = 0.05  # seconds between a change that is not urgent and its report
ECHO = 0.5  # seconds until the echo of a report is overdue
KIND = "demand.reported"


class DemandReporter(CoalescingWorker):
    """Reports the demand of one gate: at once after urgent changes, soon after others, and every second.

    Without a Broker, reports go to the switcher directly. Else they go through the Broker, and the Workspace's status has the
    last snapshot that arrived that way, as an echo. If a router with queued requests sees no echo within half a second, it
    also sends to the switcher directly, until echoes arrive again.
    `pod` is the name of this process's pod. `tracing`: None if requests are not traced.
    `enrolled`: the switcher knows this router. `broker_ok`: snapshots arrive through the Broker, as far as is known.
    """

    def __init__(
        self,
        workspace: str,
        pod: str,
        switcher_client: SwitcherClient,
        demand: Callable[[], Demand],
        tracing: "Tracing | None" = None,
    ) -> None:
        super().__init__(f"demand of {workspace}", self.report)
        self._workspace = workspace
        self._pod = pod
        self._switcher_client = switcher_client
        self._demand = demand
        self._tracing = tracing
        self._snapshot = Json()  # the newest
        self._awaited: tuple[int, float] | None = None  # the oldest snapshot without an echo, and when it was sent
        self.enrolled = False
        self.broker_ok = bool(switcher_client.broker)
        self._problems: dict[str, str] = {}  # by receiver: why it did not accept the last snapshot
        self.direct = 0  # snapshots that were sent directly
        self._through_broker = CoalescingWorker(f"demand of {workspace}, broker", self._send_through_broker)
        self._directly = CoalescingWorker(f"demand of {workspace}, direct", self._send_directly)

    def demand_changed(self, urgent: bool) -> None:
        """Report demand now, or within SOON seconds."""
        self.mark(0.0 if urgent else SOON)

    def echoed(self, enrolled: bool, broker_seq: int) -> None:
        """Update from the status: whether this router is enrolled, and the last snapshot that the Broker delivered."""
        changed = enrolled != self.enrolled
        self.enrolled = enrolled
        if self._awaited is not None and broker_seq >= self._awaited[0]:
            self._awaited = None
            self.broker_ok = True
        if changed:
            self.mark()

    def close(self, timeout: float = 0.0) -> None:
        """Report no more."""
        for worker in (self._through_broker, self._directly):
            worker.close()
        super().close(timeout)

    def report(self) -> float:
        """Send a snapshot. Return the seconds until the next one: fewer while an echo is awaited."""
        interval = ECHO / 2 if self._awaited is not None or not self.enrolled else HEARTBEAT
        demand = self._demand()
        self._snapshot = demand_to_json(self._workspace, demand) | {"pod": self._pod}
        if self._tracing is not None and (traces := self._tracing.demand(self._workspace)):
            self._snapshot["traces"] = traces  # by model: of the request that asks for it
        self._switcher_client.to_sink(self._workspace, KIND, self._snapshot)
        now = time.monotonic()
        if not demand.waiting or not self._switcher_client.broker:  # without a Broker there is no echo to wait for
            self._awaited = None
        elif self._awaited is None:
            self._awaited = (demand.seq, now)
        elif now - self._awaited[1] > ECHO:
            self.broker_ok = False
        if self._switcher_client.broker:
            self._through_broker.mark()
        if not self.broker_ok or not self.enrolled:
            self.direct += 1
            self._directly.mark()
        return interval

    def _send_through_broker(self) -> None:
        problem = self._switcher_client.through_broker(self._workspace, KIND, self._snapshot)
        self._log(problem, "Broker")
        if problem and self.broker_ok:
            self.broker_ok = False
            self.mark()

    def _send_directly(self) -> None:
        self._log(self._switcher_client.directly(self._workspace, KIND, self._snapshot), "switcher")

    def _log(self, problem: str, receiver: str) -> None:
        """Log a refusal once, because reports are sent every second."""
        if problem and problem != self._problems.get(receiver):
            log.warning("the %s does not accept the demand of Workspace %s: %s", receiver, self._workspace, problem)
        elif not problem and self._problems.get(receiver):
            log.info("the %s accepts the demand of Workspace %s again", receiver, self._workspace)
        self._problems[receiver] = problem
