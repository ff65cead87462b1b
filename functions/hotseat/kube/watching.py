"""A cache of one kind of objects that follows the API server, with word of every change."""

import logging
import threading
from collections.abc import Callable
from enum import StrEnum

from hotseat.kube.client import GONE, Json, Kube, KubeError
from hotseat.kube.constants import Resource

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts while the API server is away


class Change(StrEnum):
    """What happened to an object."""

    PUT = "put"  # it is there, or is different
    GONE = "gone"  # it was deleted; what is given is the last that was seen of it


OnChange = Callable[[Change, Json], None]


class Watcher:
    """Objects of a kind in a namespace ("" for all), by uid. `on_change` is called in order, on this watcher's thread.

    An object that is deleted and made again under its name is two objects. After an outage everything is listed again; what
    is missing then is told as GONE.
    """

    def __init__(
        self, kube: Kube, resource: Resource, namespace: str, on_change: OnChange, *, selector: str = ""
    ) -> None:
        self._kube = kube
        self._path = resource.path(namespace)
        self._resource = resource
        self._on_change = on_change
        self._selector = selector
        self._objects: dict[str, Json] = {}  # replaced, never changed: readers take no lock
        self._stopped = threading.Event()
        self._synced = threading.Event()
        self.connected = False
        self._thread = threading.Thread(target=self._run, name=f"watch-{resource.plural}", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def wait_synced(self, timeout: float) -> bool:
        """Wait until everything that was there has been told; False after `timeout` seconds."""
        return self._synced.wait(timeout)

    def stop(self) -> None:
        """End; the thread follows when its connection says something next."""
        self._stopped.set()

    @property
    def objects(self) -> list[Json]:
        """All that are there."""
        return list(self._objects.values())

    def named(self, name: str, namespace: str = "") -> Json | None:
        """Give the object of that name."""
        for each in self._objects.values():
            meta = each["metadata"]
            if meta["name"] == name and namespace in ("", meta.get("namespace", "")):
                return each
        return None

    def _run(self) -> None:
        pause = FIRST_PAUSE
        version: str | None = None
        while not self._stopped.is_set():
            try:
                if version is None:
                    version = self._list()
                self.connected, pause = True, FIRST_PAUSE
                for event in self._kube.watch(self._path, version, selector=self._selector):
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._take(event)
                    if self._stopped.is_set():
                        return
            except KubeError as error:
                self.connected = False
                if error.status == GONE:
                    version = None
                    continue
                log.warning("watch of %s: %s", self._resource.plural, error)
                self._stopped.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            except Exception:
                log.exception("watch of %s", self._resource.plural)
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
                self._tell(Change.GONE, old)
        for uid, item in items.items():
            old_version = self._objects.get(uid, {}).get("metadata", {}).get("resourceVersion")
            self._objects[uid] = item
            if old_version != item["metadata"]["resourceVersion"]:
                self._tell(Change.PUT, item)
        self._synced.set()
        return str(found["metadata"]["resourceVersion"])

    def _take(self, event: Json) -> None:
        item = event["object"]
        if event["type"] == "BOOKMARK":
            return
        if event["type"] == "DELETED":
            self._objects.pop(item["metadata"]["uid"], None)
            self._tell(Change.GONE, item)
        else:
            self._objects[item["metadata"]["uid"]] = item
            self._tell(Change.PUT, item)

    def _tell(self, change: Change, item: Json) -> None:
        try:
            self._on_change(change, item)
        except Exception:
            log.exception("%s %s: %s", change, self._resource.kind, item["metadata"].get("name"))
