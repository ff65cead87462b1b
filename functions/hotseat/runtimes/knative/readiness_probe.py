"""Probes of a pod's queue-proxy until its engine is ready.

They are frequent at first, because each pause delays a switch.
"""

import threading
import time
from collections.abc import Callable

from hotseat.kube.constants import QUEUE_PORT
from hotseat.runtimes.engine_http import get

MIN_PAUSE, MAX_PAUSE = 0.01, 0.25  # seconds between probes
PAUSE_SHARE = 0.02  # between those limits, the pause is this share of the time that loading has taken
TIMEOUT = 1.0  # seconds for one probe
_HEADERS = {"User-Agent": "Knative-Activator-Probe", "K-Network-Probe": "queue"}
_READY = (200, b"queue")

Probe = Callable[[str], bool]


def probe_queue_proxy(ip: str) -> bool:
    """Return whether the container behind a pod's queue-proxy is ready; False if the queue-proxy does not answer."""
    return get(f"{f'[{ip}]' if ':' in ip else ip}:{QUEUE_PORT}", "/", TIMEOUT, _HEADERS) == _READY


class ReadinessProbe:
    """Probes a pod from its own thread until it is ready, and then calls `on_ready` once, or until it is cancelled."""

    def __init__(self, ip: str, probe: Probe, on_ready: Callable[[], None]) -> None:
        self._ip = ip
        self._probe = probe
        self._on_ready = on_ready
        self._cancelled = threading.Event()
        threading.Thread(target=self._run, name=f"probe-{ip}", daemon=True).start()

    def cancel(self) -> None:
        """End the probes."""
        self._cancelled.set()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._cancelled.is_set():
            if self._probe(self._ip):
                self._on_ready()
                return
            taken = time.monotonic() - began
            self._cancelled.wait(min(max(MIN_PAUSE, PAUSE_SHARE * taken), MAX_PAUSE))
