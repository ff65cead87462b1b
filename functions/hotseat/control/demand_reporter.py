"""A router's sign of life: its demand, told to the switcher at every edge, soon after other changes, and once a second.

It goes through the Broker. The Workspace's status echoes the last snapshot that came that way; where a router with waiting
requests sees no echo in half a second, it goes to the switcher directly, until echoes come again.
"""

import threading
import time
from collections.abc import Callable

from hotseat.api.types import Json
from hotseat.control.codec import demand_to_json
from hotseat.control.switcher_client import LatestValueSender, SwitcherClient
from hotseat.core.messages import Demand

HEARTBEAT = 1.0  # seconds
SOON = 0.05
ECHO = 0.5  # seconds within which the Broker must have delivered
KIND = "demand.reported"


class DemandReporter(threading.Thread):
    """Tells the switcher one gate's demand. `pod` is this process's pod; `enrolled` says whether the switcher knows us."""

    def __init__(self, workspace: str, pod: str, switcher_client: SwitcherClient, demand: Callable[[], Demand]) -> None:
        super().__init__(name=f"demand-{workspace}", daemon=True)
        self._workspace = workspace
        self._pod = pod
        self._switcher_client = switcher_client
        self._demand = demand
        self._news = threading.Condition()
        self._due = 0.0  # monotonic; when the next snapshot is taken
        self._closed = False
        self._awaited: tuple[int, float] | None = None  # the oldest snapshot that lacks an echo, and when it was sent
        self.enrolled = False
        self.broker_ok = bool(switcher_client.broker)
        self.direct = 0  # snapshots that went directly
        self._broker = LatestValueSender(f"broker-{workspace}", self._publish)
        self._direct = LatestValueSender(f"direct-{workspace}", self._hand_over)

    def changed(self, urgent: bool) -> None:
        """Take a snapshot: now, or soon."""
        due = time.monotonic() + (0.0 if urgent else SOON)
        with self._news:
            if due < self._due:
                self._due = due
                self._news.notify()

    def echoed(self, enrolled: bool, broker_seq: int) -> None:
        """Take in what the status says of us: whether we are known, and the last snapshot that the Broker delivered."""
        news = enrolled != self.enrolled
        self.enrolled = enrolled
        if self._awaited is not None and broker_seq >= self._awaited[0]:
            self._awaited = None
            self.broker_ok = True
        if news:
            self.changed(urgent=True)

    def close(self) -> None:
        """Say goodbye: nothing is in flight here any longer."""
        with self._news:
            self._closed = True
            self._news.notify()
        for each in (self._broker, self._direct):
            each.close()

    def run(self) -> None:
        """Report until closed."""
        self._broker.start()
        self._direct.start()
        while True:
            with self._news:
                while not self._closed and (rest := self._due - time.monotonic()) > 0:
                    self._news.wait(rest)
                if self._closed:
                    return
                self._due = time.monotonic() + self._interval()
            self._report(self._demand())

    def _interval(self) -> float:
        """Seconds until the next look: sooner where an echo is awaited."""
        return ECHO / 2 if self._awaited is not None or not self.enrolled else HEARTBEAT

    def _report(self, demand: Demand) -> None:
        data = demand_to_json(self._workspace, demand) | {"pod": self._pod}
        now = time.monotonic()
        if not demand.waiting:
            self._awaited = None
        elif self._awaited is None:
            self._awaited = (demand.seq, now)
        elif now - self._awaited[1] > ECHO:
            self.broker_ok = False
        if self._switcher_client.broker:
            self._broker.put(data)
        if not self.broker_ok or not self.enrolled:
            self.direct += 1
            self._direct.put(data)

    def _publish(self, data: Json) -> None:
        if not self._switcher_client.through_broker(self._workspace, KIND, data) and self.broker_ok:
            self.broker_ok = False
            self.changed(urgent=True)

    def _hand_over(self, data: Json) -> None:
        self._switcher_client.directly(self._workspace, KIND, data)
