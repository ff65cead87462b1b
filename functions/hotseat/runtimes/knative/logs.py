"""Output of a model's engine, read from the kubelet when somebody asks, and kept over the pods that come and go."""

import logging
import threading
import time

from hotseat.kube import pods
from hotseat.kube.client import Json, Kube, KubeError
from hotseat.kube.constants import PODS
from hotseat.runtimes.local.logs import ModelLog

POLL = 0.5  # seconds between looks, while somebody follows
LAST_WORDS = 0.5  # seconds that a failure waits for the engine's last lines
LAST_LINES = 10
FIRST_LINES = 500  # of a pod that is read for the first time

log = logging.getLogger(__name__)


class PodLog:
    """A LogView (core/ports.py). Thread-safe."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._kept = ModelLog()
        self._lock = threading.Lock()  # one reader of the kubelet at a time
        self._pod: Json | None = None
        self._until = ""  # time stamp of the last line that was read of this pod
        self._at_that_time: set[str] = set()  # lines with that very stamp

    def note(self, line: str) -> None:
        """Add a line of ours."""
        self._kept.write([line])

    def follow(self, pod: Json) -> None:
        """Read from this pod from now on; repeating it does nothing."""
        if self._pod is None or pods.uid(self._pod) != pods.uid(pod):
            self._until, self._at_that_time = "", set()
        self._pod = pod

    def pull(self) -> None:
        """Read what is new. What cannot be read is left out: a container that does not run, a node that does not answer."""
        with self._lock:
            pod = self._pod
            if pod is None or pods.node(pod) is None:
                return
            since = {"sinceTime": self._until[:19] + "Z"} if self._until else {"tailLines": str(FIRST_LINES)}
            try:
                path = PODS.path(self._namespace, pod["metadata"]["name"], "log")
                text = self._kube.text(path, container=pods.engine_container(pod), timestamps="true", **since)
            except KubeError as error:
                log.debug("output of %s: %s", pod["metadata"]["name"], error)
                return
            self._take(text)

    def _take(self, text: str) -> None:
        new: list[str] = []
        for line in text.splitlines():
            stamp, _, said = line.partition(" ")
            if stamp < self._until or (stamp == self._until and line in self._at_that_time):
                continue
            if stamp != self._until:
                self._until, self._at_that_time = stamp, set()
            self._at_that_time.add(line)
            new.append(said)
        self._kept.write(new)

    def last_words(self, after: str) -> str:
        """Give the last lines after a line of ours, as far as they can be had at once: others wait for whoever asks this."""
        reader = threading.Thread(target=self.pull, name="last-words", daemon=True)
        reader.start()
        reader.join(LAST_WORDS)
        lines = self._kept.tail(FIRST_LINES)
        begin = max((number for number, line in enumerate(lines, 1) if line == after), default=0)
        return "\n".join(lines[begin:][-LAST_LINES:])

    def tail(self, lines: int) -> list[str]:
        """Give the last lines, oldest first, without line ends."""
        self.pull()
        return self._kept.tail(lines)

    def read_after(self, position: int, timeout: float) -> tuple[int, list[str]]:
        """Give the lines after a position and the new position; waits up to `timeout` seconds for some."""
        until = time.monotonic() + timeout
        while True:
            self.pull()
            left = until - time.monotonic()
            found = self._kept.read_after(position, max(0.0, min(POLL, left)))
            if found[1] or left <= POLL:
                return found
