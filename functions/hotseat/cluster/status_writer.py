"""Writes the status of one object: the newest, one write at a time, soon after it is asked for."""

import logging
import threading
import time
from collections.abc import Callable

from hotseat.api.types import Json
from hotseat.kube.client import NOT_FOUND, Kube, KubeError

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between attempts while the API server is away


class StatusWriter(threading.Thread):
    """Merges what `build` gives into `path` whenever it is `mark`ed; what has not changed is not written."""

    def __init__(self, kube: Kube, path: str, build: Callable[[], Json]) -> None:
        super().__init__(name=f"status-{path.rsplit('/', 2)[-2]}", daemon=True)
        self._kube = kube
        self._path = path
        self._build = build
        self._news = threading.Condition()
        self._due: float | None = None
        self._closed = False
        self._written: Json = {}

    def mark(self, delay: float = 0.0) -> None:
        """Write within `delay` seconds."""
        due = time.monotonic() + delay
        with self._news:
            if self._due is None or due < self._due:
                self._due = due
                self._news.notify()

    def close(self) -> None:
        """End after what is being written."""
        with self._news:
            self._closed = True
            self._news.notify()

    def run(self) -> None:
        """Write until closed."""
        pause = FIRST_PAUSE
        while self._wait():
            try:
                self._write()
                pause = FIRST_PAUSE
            except KubeError as error:
                if error.status == NOT_FOUND:  # it has been deleted
                    continue
                log.warning("status %s: %s", self._path, error)
                self.mark(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            except Exception:
                log.exception("status %s", self._path)

    def _wait(self) -> bool:
        with self._news:
            while not self._closed:
                rest = None if self._due is None else self._due - time.monotonic()
                if rest is not None and rest <= 0:
                    self._due = None
                    return True
                self._news.wait(rest)
        return False

    def _write(self) -> None:
        status = self._build()
        changed = {key: value for key, value in status.items() if self._written.get(key, ...) != value}
        if changed:
            self._kube.merge(self._path, {"status": changed})
            self._written = status
