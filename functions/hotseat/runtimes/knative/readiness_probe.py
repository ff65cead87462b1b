"""The question to a pod's queue-proxy whether it serves: asked often at first, because each pause delays a switch."""

import threading
import time
from collections.abc import Callable

import urllib3

from hotseat.kube.constants import QUEUE_PORT

SHORTEST, LONGEST = 0.01, 0.25  # seconds between questions
SHARE = 0.02  # of the time that it has taken so far: a load is never found to be over much later than it was
TIMEOUT = 1.0  # seconds for one answer
_HEADERS = {"User-Agent": "Knative-Activator-Probe", "K-Network-Probe": "queue"}
_OK = 200

Ask = Callable[[str], bool]


def ask_queue(ip: str) -> bool:
    """Ask once whether the container behind a pod's queue-proxy is ready. A proxy that is not there yet is a no."""
    host = f"[{ip}]" if ":" in ip else ip
    try:
        timeout = urllib3.Timeout(TIMEOUT)
        with urllib3.PoolManager(retries=False, timeout=timeout) as http:
            answer = http.request("GET", f"http://{host}:{QUEUE_PORT}/", headers=_HEADERS)
    except (urllib3.exceptions.HTTPError, OSError):
        return False
    return answer.status == _OK and answer.data == b"queue"


class ReadinessProbe:
    """Asks until the answer is yes, then says so, once, from its own thread; or until it is cancelled."""

    def __init__(self, ip: str, ask: Ask, say: Callable[[], None]) -> None:
        self._ip = ip
        self._ask = ask
        self._say = say
        self._cancelled = threading.Event()
        threading.Thread(target=self._run, name=f"probe-{ip}", daemon=True).start()

    def cancel(self) -> None:
        """Ask no more."""
        self._cancelled.set()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._cancelled.is_set():
            if self._ask(self._ip):
                self._say()
                return
            taken = time.monotonic() - began
            self._cancelled.wait(min(max(SHORTEST, SHARE * taken), LONGEST))
