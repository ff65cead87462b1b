"""Writes the status of one object."""

from collections.abc import Callable

from hotseat.api.types import Json
from hotseat.coalesce import CoalescingWorker
from hotseat.kube.client import NOT_FOUND, Kube, KubeError

RETRY = (0.1, 2.0)  # seconds between attempts while the API server is away: the first and the longest


class StatusWriter(CoalescingWorker):
    """Merges what `build` returns into the status of the object at `path` after each `mark`. Writes changed fields only."""

    def __init__(self, kube: Kube, path: str, build: Callable[[], Json]) -> None:
        super().__init__(f"status of {path}", self.write, retry=RETRY, expected=KubeError, paused=True)
        self._kube = kube
        self._path = path
        self._build = build
        self._written: Json = {}

    def write(self) -> None:
        """Write what has changed. Raise KubeError if it cannot be written; a deleted object is ignored."""
        status = self._build()
        changed = {key: value for key, value in status.items() if self._written.get(key, ...) != value}
        if not changed:
            return
        try:
            self._kube.merge(self._path, {"status": changed})
        except KubeError as error:
            if error.status != NOT_FOUND:
                raise
        else:
            self._written = status
