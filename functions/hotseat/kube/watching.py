"""A cache of the objects of one kind, kept current by a watch of the API server."""

import logging
import threading
from collections.abc import Callable
from enum import StrEnum

from hotseat.api.types import Json
from hotseat.kube.client import GONE, Kube, KubeError
from hotseat.kube.constants import Resource

log = logging.getLogger(__name__)

MIN_PAUSE, MAX_PAUSE = 0.05, 2.0  # seconds between attempts while the API server is not reachable; doubled each time


class Change(StrEnum):
    """What happened to an object."""

    PUT = "put"  # it was created or changed
    GONE = "gone"  # it was deleted; its last known version is given


OnChange = Callable[[Change, Json], None]


class Watcher:
    """The objects of a kind in a namespace ("" for all), by uid.

    `on_change` is called in order, on this watcher's thread. An object that is deleted and created
    again under its name is two objects. After an outage all objects are listed again, and missing
    ones are reported as GONE.
    """

    def __init__(
        self, kube: Kube, resource: Resource, namespace: str, on_change: OnChange, *, selector: str = ""
    ) -> None:
        self._kube = kube
        self._path = resource.path(namespace)
        self._resource = resource
        self._on_change = on_change
        self._selector = selector
        self._objects: dict[str, Json] = {}  # by uid; objects are replaced, never changed, so readers need no lock
        self._stopped = threading.Event()
        self._synced = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{resource.plural}", daemon=True)

    def start(self) -> None:
        """Start the watch."""
        self._thread.start()

    def wait_synced(self, timeout: float) -> bool:
        """Wait until all existing objects have been reported; return False after `timeout` seconds."""
        return self._synced.wait(timeout)

    def stop(self) -> None:
        """Stop the watch; the thread ends at the next event of its connection."""
        self._stopped.set()

    @property
    def objects(self) -> list[Json]:
        """All objects that exist."""
        return list(self._objects.values())

    def named(self, name: str, namespace: str = "") -> Json | None:
        """Return the object with this name; None if there is none."""
        for item in list(self._objects.values()):
            meta = item["metadata"]
            if meta["name"] == name and namespace in ("", meta.get("namespace", "")):
                return item
        return None

    def _run(self) -> None:
        pause = MIN_PAUSE
        version: str | None = None
        while not self._stopped.is_set():
            try:
                if version is None:
                    version = self._list()
                pause = MIN_PAUSE
                for event in self._kube.watch(self._path, version, selector=self._selector):
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._handle(event)
                    if self._stopped.is_set():
                        return
            except KubeError as error:
                if error.status == GONE:
                    version = None
                    continue
                log.warning("the watch of %s was interrupted: %s", self._resource.plural, error)
                self._stopped.wait(pause)
                pause = min(2 * pause, MAX_PAUSE)
            except Exception:
                log.exception("the watch of %s failed", self._resource.plural)
                version = None
                self._stopped.wait(pause)

    def _list(self) -> str:
        found = self._kube.get(self._path, **({"labelSelector": self._selector} if self._selector else {}))
        items: dict[str, Json] = {}
        for item in found["items"]:
            item.setdefault("apiVersion", self._resource.api)
            item.setdefault("kind", self._resource.kind)
            items[item["metadata"]["uid"]] = item
        for uid, old in list(self._objects.items()):
            if uid not in items:
                del self._objects[uid]
                self._notify(Change.GONE, old)
        for uid, item in items.items():
            old_version = self._objects.get(uid, {}).get("metadata", {}).get("resourceVersion")
            self._objects[uid] = item
            if old_version != item["metadata"]["resourceVersion"]:
                self._notify(Change.PUT, item)
        self._synced.set()
        return str(found["metadata"]["resourceVersion"])

    def _handle(self, event: Json) -> None:
        item = event["object"]
        if event["type"] == "BOOKMARK":
            return
        if event["type"] == "DELETED":
            self._objects.pop(item["metadata"]["uid"], None)
            self._notify(Change.GONE, item)
        else:
            self._objects[item["metadata"]["uid"]] = item
            self._notify(Change.PUT, item)

    def _notify(self, change: Change, item: Json) -> None:
        try:
            self._on_change(change, item)
        except Exception:
            log.exception("cannot handle %s of %s %s", change, self._resource.kind, item["metadata"].get("name"))
