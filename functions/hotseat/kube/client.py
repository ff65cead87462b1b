"""A small client of the API server: JSON in and out, watches as iterators.

The `kubernetes` package provides credentials. The package's own client turns every object into
Python classes and back. That loses unknown fields, and costs milliseconds on the path of a switch.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

import urllib3
from kubernetes import client as library
from kubernetes import config as library_config
from urllib3.connection import HTTPConnection

from hotseat.api.types import Json
from hotseat.kube.constants import MANAGER

_TIMEOUT = urllib3.Timeout(connect=5.0, read=15.0)
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CONFLICT, GONE, NOT_FOUND = 409, 410, 404

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
    """A client of one API server with one identity. Thread-safe. Every method may raise KubeError."""

    def __init__(self, configuration: library.Configuration, namespace: str = "default") -> None:
        self.namespace = namespace
        self._configuration = configuration
        self._url = configuration.host.rstrip("/")
        self._http = urllib3.PoolManager(
            maxsize=16,
            timeout=_TIMEOUT,
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

    # Reading ----------------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: str) -> Json:
        """Return an object or a list."""
        return self._call("GET", path, query=query)

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
        response = self._open("GET", path, query, timeout=urllib3.Timeout(connect=5.0, read=seconds + 10.0))
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
        timeout: urllib3.Timeout = _TIMEOUT,
    ) -> urllib3.BaseHTTPResponse:
        url = f"{self._url}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": "hotseat"}
        for setting in self._configuration.auth_settings().values():  # which refreshes expired credentials
            headers[setting["key"]] = setting["value"]
        data = json.dumps(body) if body is not None else None
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
        raise _error(response.status, text)


def _error(status: int, text: bytes) -> KubeError:
    try:
        body = json.loads(text)
        return KubeError(status, body.get("message", ""), body.get("reason", ""))
    except ValueError:
        return KubeError(status, text.decode(errors="replace")[:500])
