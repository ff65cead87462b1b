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
RETRY = 1.0  # seconds between attempts to lead


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
    ) -> None:
        super().__init__(name="leader", daemon=True)
        self._kube = kube
        self._path = LEASES.path(namespace, name)
        self._collection = LEASES.path(namespace)
        self._name = name
        self._identity = identity
        self._leads = leads
        self._lost = lost
        self._closed = threading.Event()
        self._seen: tuple[str, float] = ("", 0.0)  # last renewal by another switcher, and when it was first seen here
        self.leading = False

    def close(self) -> None:
        """Release the Lease, so that the next leader need not wait for its end."""
        self._closed.set()
        if self.leading:
            try:
                self._kube.merge(self._path, {"spec": {"holderIdentity": ""}})
            except KubeError as error:
                log.warning("cannot release the Lease %s: %s", self._name, error)

    def run(self) -> None:
        """Lead, or wait for leadership, until it is lost or this is closed."""
        renewed = 0.0
        while not self._closed.is_set():
            try:
                mine = self._try()
            except KubeError as error:
                log.warning("cannot renew the Lease %s: %s", self._name, error)
                mine = self.leading and time.monotonic() - renewed < DURATION - RENEW
            else:
                renewed = time.monotonic() if mine else renewed
            if mine and not self.leading:
                self.leading = True
                self._leads()
            elif self.leading and not mine:
                self.leading = False
                self._lost()
                return
            self._closed.wait(RENEW if mine else RETRY)

    def _try(self) -> bool:
        now = format_time(time.time(), "microseconds")
        spec: Json = {"holderIdentity": self._identity, "leaseDurationSeconds": DURATION, "renewTime": now}
        lease = self._kube.find(self._path)
        try:
            if lease is None:
                body = {"apiVersion": LEASES.api, "kind": LEASES.kind, "metadata": {"name": self._name}}
                self._kube.create(self._collection, {**body, "spec": {**spec, "acquireTime": now}})
                return True
            found = lease.get("spec", {})
            if found.get("holderIdentity") not in ("", None, self._identity) and not self._run_out(found):
                return False
            version = lease["metadata"]["resourceVersion"]
            self._kube.merge(self._path, {"metadata": {"resourceVersion": version}, "spec": spec})
        except KubeError as error:
            if error.status == CONFLICT:
                return False
            raise
        return True

    def _run_out(self, spec: Json) -> bool:
        """Whether another's Lease has expired, measured by the clock of this machine only."""
        renewed = str(spec.get("renewTime"))
        if renewed != self._seen[0]:
            self._seen = (renewed, time.monotonic())
        return bool(time.monotonic() - self._seen[1] > spec.get("leaseDurationSeconds", DURATION))
