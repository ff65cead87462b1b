"""Output of a model's engine: read from the kubelet on request, and kept when its pods are gone."""

import logging
import threading
import time

from hotseat.api.types import Json
from hotseat.kube import pods
from hotseat.kube.client import Kube, KubeError
from hotseat.kube.constants import PODS
from hotseat.runtimes.local.logs import ModelLog

POLL = 0.5  # seconds between reads while a client follows the output
LAST_OUTPUT_TIME = 0.5  # seconds to wait for the last lines of an engine that has failed
LAST_LINES = 10  # lines that are shown of them
FIRST_LINES = 500  # lines that are read of a new pod

log = logging.getLogger(__name__)


class PodLog:
    """A LogView (core/ports.py). Thread-safe."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._output = ModelLog()
        self._lock = threading.Lock()  # allows one read at a time
        self._pod: Json | None = None
        self._last_time = ""  # time stamp of the last line that was read of this pod
        self._at_last_time: set[str] = set()  # lines with that time stamp

    def write(self, line: str) -> None:
        """Add a line of hotseat's own."""
        self._output.write([line])

    def set_pod(self, pod: Json) -> None:
        """Read from this pod from now on."""
        if self._pod is None or pods.uid(self._pod) != pods.uid(pod):
            self._last_time, self._at_last_time = "", set()
        self._pod = pod

    def read_new(self) -> None:
        """Read new lines. If that is not possible (no running container, no response of the node), add none."""
        with self._lock:
            pod = self._pod
            if pod is None or pods.node(pod) is None:
                return
            since = {"sinceTime": self._last_time[:19] + "Z"} if self._last_time else {"tailLines": str(FIRST_LINES)}
            try:
                path = PODS.path(self._namespace, pod["metadata"]["name"], "log")
                text = self._kube.text(path, container=pods.engine_container(pod), timestamps="true", **since)
            except KubeError as error:
                log.debug("cannot read the output of %s: %s", pod["metadata"]["name"], error)
                return
            self._append_new(text)

    def _append_new(self, text: str) -> None:
        new: list[str] = []
        for line in text.splitlines():
            stamp, _, text = line.partition(" ")
            if stamp < self._last_time or (stamp == self._last_time and line in self._at_last_time):
                continue
            if stamp != self._last_time:
                self._last_time, self._at_last_time = stamp, set()
            self._at_last_time.add(line)
            new.append(text)
        self._output.write(new)

    def last_output(self, after: str) -> str:
        """Return the last lines after the line `after`, as far as they can be read without blocking."""
        reader = threading.Thread(target=self.read_new, name="last-words", daemon=True)
        reader.start()
        reader.join(LAST_OUTPUT_TIME)
        lines = self._output.tail(FIRST_LINES)
        begin = max((number for number, line in enumerate(lines, 1) if line == after), default=0)
        return "\n".join(lines[begin:][-LAST_LINES:])

    def tail(self, lines: int) -> list[str]:
        """Return the last lines, oldest first, without line ends."""
        self.read_new()
        return self._output.tail(lines)

    def read_after(self, position: int, timeout: float) -> tuple[int, list[str]]:
        """Return the new position, and the lines after `position`. Wait up to `timeout` seconds for lines."""
        deadline = time.monotonic() + timeout
        while True:
            self.read_new()
            left = deadline - time.monotonic()
            found = self._output.read_after(position, max(0.0, min(POLL, left)))
            if found[1] or left <= POLL:
                return found
