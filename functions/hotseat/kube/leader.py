"""Leader election by a Lease: only one switcher of a namespace acts.

A process that restarts in its pod continues at once.
"""

import logging
import threading
import time
from collections.abc import Callable

from hotseat.api.types import Json
from hotseat.api.units import format_time
from hotseat.kube.client import CONFLICT, Kube, KubeError
from hotseat.kube.constants import LEASES

log = logging.getLogger(__name__)

DURATION = 15  # seconds without a renewal after which another switcher may take over
RENEW = 3.0  # seconds between renewals
DEADLINE = 10.0  # seconds without a renewal after which this switcher stops: before another one may take over
RETRY = 1.0  # seconds between attempts to lead, and to renew after one has failed
MIN_CALL = 0.1  # seconds for a call, if there is less time


def _clock() -> float:
    """Return seconds that go on while this machine sleeps, where it can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Leader(threading.Thread):
    """Waits for leadership and keeps it.

    Calls `leads` once it is won, and `lost` once it is lost. `identity`: this pod.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        identity: str,
        *,
        leads: Callable[[], None],
        lost: Callable[[], None],
        clock: Callable[[], float] = _clock,
    ) -> None:
        super().__init__(name="leader", daemon=True)
        self._kube = kube
        self._path = LEASES.path(namespace, name)
        self._collection = LEASES.path(namespace)
        self._name = name
        self._identity = identity
        self._leads = leads
        self._lost = lost
        self._clock = clock
        self._round = threading.Lock()  # over a look at the Lease and the write that follows
        self._version = ""  # of the Lease, as it was written last
        self._renewed = 0.0
        self._closed = threading.Event()
        self._seen: tuple[str, float] = ("", 0.0)  # last renewal by another switcher, and when it was first seen here
        self.leading = False

    def close(self) -> None:
        """Release the Lease, so that the next leader need not wait for its end."""
        self._closed.set()
        if self.leading:
            try:
                with self._round:
                    self._write({"holderIdentity": ""}, self._version, DEADLINE)
            except KubeError as error:
                if error.status != CONFLICT:  # else another switcher has it already
                    log.warning("cannot release the Lease %s: %s", self._name, error)

    def run(self) -> None:
        """Lead, or wait for leadership, until it is lost or this is closed."""
        while not self._closed.is_set():
            pause = self.step()
            if pause is None:
                return
            self._closed.wait(pause)

    def step(self) -> float | None:
        """Take the Lease, or renew it. Return the seconds until the next step, or None once leadership is lost."""
        now = self._clock()
        left = self._renewed + DEADLINE - now if self.leading else DEADLINE
        try:
            with self._round:
                mine = left > 0 and not self._closed.is_set() and self._try(left)
        except KubeError as error:
            log.warning("cannot renew the Lease %s: %s", self._name, error)
            mine = self.leading and self._clock() < self._renewed + DEADLINE
            pause = RETRY
        else:
            self._renewed = now if mine else self._renewed  # as of before the calls: another one counts from the write
            pause = RENEW if mine else RETRY
        if self._closed.is_set():
            return None
        if mine and not self.leading:
            self.leading = True
            self._leads()
        elif self.leading and not mine:
            self.leading = False
            self._lost()
            return None
        return pause

    def _try(self, seconds: float) -> bool:
        ends = self._clock() + seconds
        now = format_time(time.time(), "microseconds")
        spec: Json = {"holderIdentity": self._identity, "leaseDurationSeconds": DURATION, "renewTime": now}
        lease = self._kube.within(seconds).find(self._path)
        left = max(MIN_CALL, ends - self._clock())
        try:
            if lease is None:
                body = {"apiVersion": LEASES.api, "kind": LEASES.kind, "metadata": {"name": self._name}}
                made = self._kube.within(left).create(self._collection, {**body, "spec": {**spec, "acquireTime": now}})
                self._version = made["metadata"]["resourceVersion"]
                return True
            found = lease.get("spec", {})
            if found.get("holderIdentity") not in ("", None, self._identity) and not self._run_out(found):
                return False
            self._write(spec, lease["metadata"]["resourceVersion"], left)
        except KubeError as error:
            if error.status != CONFLICT or self.leading:  # while it leads, another look tells who has it
                raise
            return False
        return True

    def _write(self, spec: Json, version: str, seconds: float) -> None:
        change = {"metadata": {"resourceVersion": version}, "spec": spec}
        self._version = self._kube.within(seconds).merge(self._path, change)["metadata"]["resourceVersion"]

    def _run_out(self, spec: Json) -> bool:
        """Whether another's Lease has expired, measured by the clock of this machine only."""
        renewed = str(spec.get("renewTime"))
        if renewed != self._seen[0]:
            self._seen = (renewed, self._clock())
        return bool(self._clock() - self._seen[1] > spec.get("leaseDurationSeconds", DURATION))
