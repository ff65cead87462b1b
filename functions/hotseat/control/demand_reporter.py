"""Reports a router's demand to the switcher: at once after urgent changes, soon after others, and every second.

Reports go through the Broker. The Workspace's status has the last snapshot that arrived that way, as an echo. If a router with
queued requests sees no echo within half a second, it also sends to the switcher directly, until echoes arrive again.
"""

import time
from collections.abc import Callable

from hotseat.api.types import Json
from hotseat.coalesce import CoalescingWorker
from hotseat.control.codec import demand_to_json
from hotseat.control.switcher_client import SwitcherClient
from hotseat.core.messages import Demand

HEARTBEAT = 1.0  # seconds between reports without a change
SOON = 0.05  # seconds between a change that is not urgent and its report
ECHO = 0.5  # seconds until the echo of a report is overdue
KIND = "demand.reported"


class DemandReporter(CoalescingWorker):
    """Reports the demand of one gate. `pod` is the name of this process's pod.

    `enrolled`: the switcher knows this router. `broker_ok`: snapshots arrive through the Broker, as far as is known.
    """

    def __init__(self, workspace: str, pod: str, switcher_client: SwitcherClient, demand: Callable[[], Demand]) -> None:
        super().__init__(f"demand of {workspace}", self.report)
        self._workspace = workspace
        self._pod = pod
        self._switcher_client = switcher_client
        self._demand = demand
        self._snapshot = Json()  # the newest
        self._awaited: tuple[int, float] | None = None  # the oldest snapshot without an echo, and when it was sent
        self.enrolled = False
        self.broker_ok = bool(switcher_client.broker)
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
        now = time.monotonic()
        if not demand.waiting:
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
        if not self._switcher_client.through_broker(self._workspace, KIND, self._snapshot) and self.broker_ok:
            self.broker_ok = False
            self.mark()

    def _send_directly(self) -> None:
        self._switcher_client.directly(self._workspace, KIND, self._snapshot)
