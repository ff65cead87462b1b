"""A small client of the API server: JSON in and out, and watched caches of one kind of objects."""

import builtins
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from enum import StrEnum
from pathlib import Path
from random import random
from typing import Self
from urllib.parse import urlencode

import urllib3
from kubernetes import client as library
from kubernetes import config as library_config
from urllib3.connection import HTTPConnection

from hotseat.api.types import Json
from hotseat.kube.constants import MANAGER, Resource

log = logging.getLogger(__name__)


_CONNECT, _READ = 5.0, 15.0  # seconds
PAGE = 500  # objects of a list that are asked for at a time
LEAST_PAUSE = 0.25  # seconds, also if the API server says 0
PATIENCE = 30.0  # seconds for which a call is repeated that the API server has no room for
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CONFLICT, GONE, NOT_FOUND = 409, 410, 404
_NOT_NOW = (429, 503)  # with Retry-After: the request was not served

# A watch may be silent for minutes, so TCP keep-alive detects a dead peer, within some 20 s. The
# command line also runs on systems without some of these options. Values are in seconds;
# TCP_USER_TIMEOUT is in milliseconds.
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
_SOCKET_OPTIONS = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, key), value) for key, value in _KEEPALIVE.items() if hasattr(socket, key)),
]


class KubeError(Exception):
    """The API server refused a request, or could not be reached (status 0)."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Kube:
    """A client of one API server with one identity. Thread-safe. Every method may raise KubeError.

    A call that the API server has no room for (429, or 503 with Retry-After) is repeated when it says, for PATIENCE seconds.
    """

    def __init__(self, configuration: library.Configuration, namespace: str = "default") -> None:
        self.namespace = namespace
        self._configuration = configuration
        self._url = configuration.host.rstrip("/")
        self._limit: float | None = None  # seconds for a call with all that is repeated
        self._http = urllib3.PoolManager(
            maxsize=16,
            retries=False,
            cert_reqs="CERT_REQUIRED" if configuration.verify_ssl else "CERT_NONE",
            ca_certs=configuration.ssl_ca_cert,
            cert_file=configuration.cert_file,
            key_file=configuration.key_file,
            socket_options=_SOCKET_OPTIONS,
        )

    @classmethod
    def connect(cls, kubeconfig: Path | None = None, context: str | None = None) -> Self:
        """Return a client with the identity of the pod, or of a kubeconfig (also KUBECONFIG or ~/.kube).

        Raise KubeError with status 0 if there is neither.
        """
        configuration = library.Configuration()
        if kubeconfig is None and _NAMESPACE_FILE.exists():
            library_config.load_incluster_config(client_configuration=configuration)
            return cls(configuration, _NAMESPACE_FILE.read_text().strip())
        name = str(kubeconfig) if kubeconfig else None
        try:
            library_config.load_kube_config(name, context=context, client_configuration=configuration)
            contexts, current = library_config.list_kube_config_contexts(name)
        except (library_config.ConfigException, OSError) as error:
            raise KubeError(0, f"no usable kubeconfig: {error}") from error
        chosen = next((c for c in contexts if c["name"] == context), current)
        return cls(configuration, chosen["context"].get("namespace", "default"))

    def within(self, seconds: float) -> Self:
        """Return this client for calls that take so long at most."""
        other = copy(self)
        other._limit = seconds  # noqa: SLF001
        return other

    # Reading ----------------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: str) -> Json:
        """Return an object or a list."""
        return self._call("GET", path, query=query)

    def list(self, path: str, **query: str) -> tuple[builtins.list[Json], str]:
        """Return the objects of a list, and its resourceVersion. It is fetched in pages."""
        items: builtins.list[Json] = []
        page = {"limit": str(PAGE)}
        while True:
            try:
                found = self.get(path, **query, **page)
            except KubeError as error:
                if error.status != GONE or "continue" not in page:
                    raise
                items, page = [], {}  # it took so long that the rest is compacted: once more, as a whole
                continue
            items += found["items"]
            more = found["metadata"].get("continue")
            if not more:
                return items, str(found["metadata"]["resourceVersion"])
            page = {"limit": str(PAGE), "continue": more}

    def find(self, path: str) -> Json | None:
        """Return an object; None if it does not exist."""
        try:
            return self._call("GET", path)
        except KubeError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def text(self, path: str, **query: str) -> str:
        """Return a response that is not JSON, such as a pod's log."""
        response = self._open("GET", path, query)
        try:
            return response.read().decode(errors="replace")
        except urllib3.exceptions.HTTPError as error:
            raise KubeError(0, f"GET {path}: {error}") from error
        finally:
            response.release_conn()

    def watch(self, path: str, version: str, *, selector: str = "", seconds: int = 300) -> Iterator[Json]:
        """Yield events ({type, object}) after a resourceVersion, for at most `seconds`.

        Status 410: the caller must list again.
        """
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(seconds)}
        query |= {"allowWatchBookmarks": "true", **({"labelSelector": selector} if selector else {})}
        response = self._open("GET", path, query, read=seconds + 10.0)
        rest = b""
        try:
            for piece in response.stream(65536, decode_content=True):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event: Json = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise KubeError(status.get("code", 0), status.get("message", ""), status.get("reason", ""))
                    yield event
        except urllib3.exceptions.HTTPError as error:
            raise KubeError(0, str(error)) from error
        finally:
            response.close()

    # Writing ----------------------------------------------------------------------------------------------------------

    def create(self, path: str, body: Json) -> Json:
        """Create an object. Status 409: it exists."""
        return self._call("POST", path, body)

    def apply(self, path: str, body: Json, *, force: bool = True) -> Json:
        """Apply an object on the server's side.

        Fields that an earlier apply set, and this one does not, are removed.
        """
        query = {"fieldManager": MANAGER, "force": str(force).lower(), "fieldValidation": "Strict"}
        return self._call("PATCH", path, body, query, content_type="application/apply-patch+yaml")

    def merge(self, path: str, body: Json) -> Json:
        """Apply a JSON merge patch.

        With `metadata.resourceVersion` in it: only if the object is unchanged (else 409).
        """
        return self._call("PATCH", path, body, {"fieldManager": MANAGER}, content_type="application/merge-patch+json")

    def delete(
        self, path: str, *, uid: str = "", version: str = "", grace: int | None = None, background: bool = False
    ) -> None:
        """Delete an object, if it still has this uid and this resourceVersion (else 409). `grace`: seconds."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        preconditions = {"uid": uid, "resourceVersion": version}
        if given := {key: value for key, value in preconditions.items() if value}:
            options["preconditions"] = given
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if background:
            options["propagationPolicy"] = "Background"
        self._call("DELETE", path, options)

    # Requests ---------------------------------------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        response = self._open(method, path, query or {}, body, content_type)
        try:
            result: Json = json.loads(response.read())
        except (ValueError, urllib3.exceptions.HTTPError) as error:
            raise KubeError(0, f"{method} {path}: {error}") from error
        finally:
            response.release_conn()
        return result

    def _open(  # noqa: PLR0917
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Json | None = None,
        content_type: str = "application/json",
        read: float = _READ,
    ) -> urllib3.BaseHTTPResponse:
        url = f"{self._url}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": "hotseat"}
        data = json.dumps(body) if body is not None else None
        began = time.monotonic()
        ends = began + (PATIENCE if self._limit is None else self._limit)
        while True:
            total = None if self._limit is None else max(0.001, ends - time.monotonic())
            timeout = urllib3.Timeout(total, _CONNECT, read)
            for setting in self._configuration.auth_settings().values():  # which refreshes expired credentials
                headers[setting["key"]] = setting["value"]
            try:
                response = self._http.request(
                    method, url, body=data, headers=headers, timeout=timeout, preload_content=False
                )
                if response.status < 400:  # noqa: PLR2004
                    return response
                text = response.read()
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise KubeError(0, f"{method} {path}: {error}") from error
            response.release_conn()
            pause = _pause(response)
            if pause is None or time.monotonic() + pause >= ends:
                raise _error(response.status, text)
            time.sleep(pause)


def _pause(response: urllib3.BaseHTTPResponse) -> float | None:
    """Return the seconds after which a call that was not served is repeated. None: it was served."""
    after = response.headers.get("Retry-After", "")
    return max(LEAST_PAUSE, float(after)) * _spread() if response.status in _NOT_NOW and after.isdecimal() else None


def _spread() -> float:
    """Return a factor from 1 to 1.5, so that many clients that were refused at once do not come again at once."""
    return 1 + random() / 2  # noqa: S311


def _error(status: int, text: bytes) -> KubeError:
    try:
        body = json.loads(text)
        return KubeError(status, body.get("message", ""), body.get("reason", ""))
    except ValueError:
        return KubeError(status, text.decode(errors="replace")[:500])


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
                for event in self._kube.watch(self._path, version, selector=self._selector):
                    pause = MIN_PAUSE
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._handle(event)
                    if self._stopped.is_set():
                        return
            except KubeError as error:
                if error.status == GONE:
                    version = None
                else:
                    log.warning("the watch of %s was interrupted: %s", self._resource.plural, error)
            except Exception:
                log.exception("the watch of %s failed", self._resource.plural)
                version = None
            else:
                continue  # the API server ends each watch after a while
            self._stopped.wait(pause * _spread())
            pause = min(2 * pause, MAX_PAUSE)

    def _list(self) -> str:
        found, version = self._kube.list(self._path, **({"labelSelector": self._selector} if self._selector else {}))
        items: dict[str, Json] = {}
        for item in found:
            items[item["metadata"]["uid"]] = self._with_kind(item)
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
        return version

    def _handle(self, event: Json) -> None:
        item = self._with_kind(event["object"])
        if event["type"] == "BOOKMARK":
            return
        if event["type"] == "DELETED":
            self._objects.pop(item["metadata"]["uid"], None)
            self._notify(Change.GONE, item)
        else:
            self._objects[item["metadata"]["uid"]] = item
            self._notify(Change.PUT, item)

    def _with_kind(self, item: Json) -> Json:
        """Add what the items of a list lack."""
        return {"apiVersion": self._resource.api, "kind": self._resource.kind, **item}

    def _notify(self, change: Change, item: Json) -> None:
        try:
            self._on_change(change, item)
        except Exception:
            log.exception("cannot handle %s of %s %s", change, self._resource.kind, item["metadata"].get("name"))
