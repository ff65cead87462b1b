"""How hotseat reaches the engine of a Model: headers with its key, where a URL leads, TLS, and time limits. Read from its document."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from hotseat.api.model import Capability, Model
from hotseat.api.secrets import secrets_of
from hotseat.secret_values import SecretMissing, SecretReader

EXTERNAL = "external"
MOCK_ADDRESS = "mock://response"  # of a Model with mockResponse and without url
_AUTHORIZATION = "authorization"
# Of engine external, for kinds of requests that the document does not limit.
DEFAULT_LIMIT = 300.0
_LIMITS: Mapping[Capability, float] = {
    Capability.EMBEDDING: 60.0,
    Capability.RERANK: 60.0,
    Capability.SPEECH: 120.0,
    Capability.TRANSCRIPTION: 600.0,
}
_ORIGIN = re.compile(r"http://[^/?#@]+/?")  # that is connected to, and no path
_V1 = b"/v1"
# What stands for /v1 in the path of a URL: a version, wherever it is, or a deployment of Azure's.
_VERSION = re.compile(r"/(v[0-9]+[a-z0-9]*|deployments/[^/]+)(?=/|$)")


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How a certificate is verified. `ca_file` None: by the authorities of the system. `server_name` None: the host of the URL."""

    ca_file: str | None = None
    server_name: str | None = None
    verify: bool = True


class DialAddress(str):
    """Scheme, host and port to connect to. With https also how: connections are shared only where that is the same too."""

    __slots__ = ("tls",)
    tls: TlsSettings

    def __new__(cls, origin: str, tls: TlsSettings) -> Self:
        """Return the address, which has a digest of the settings at its end."""
        digest = hashlib.sha256(repr(tls).encode()).hexdigest()[:16]
        self = super().__new__(cls, f"{origin}#{digest}")
        self.tls = tls
        return self


class EngineAccess:
    """How the requests for one Model reach its engine. It has what its document has, and is replaced with that."""

    def __init__(self, model: Model) -> None:
        spec = model.spec
        where = f"Model/{model.name}: spec"
        self._external = spec.engine == EXTERNAL
        self._headers: list[tuple[bytes, str, SecretReader]] = []
        if (key := spec.engine_key) is not None:
            bearer = "Bearer " if key.header.lower() == _AUTHORIZATION else ""
            self._headers.append((key.header.encode(), bearer, SecretReader(key, f"{where}.engineKey")))
        for index, header in enumerate(spec.headers):
            reader = SecretReader(header, f"{where}.headers[{index}]")
            self._headers.append((header.name.encode(), "", reader))
        self.names = frozenset(name.lower() for name, _, _ in self._headers)  # that clients cannot set
        self.mock_response = spec.mock_response
        self.allows_mock_response = spec.allow_mock_response
        stated, limit = spec.lifecycle.response_start_timeouts, spec.lifecycle.response_start_timeout
        self._limits = {each: its for each in Capability if (its := getattr(stated, each.value, None)) is not None}
        if limit is None and self._external:
            self._limits = {**_LIMITS, **self._limits}
        self._limit = limit if limit is not None or not self._external else DEFAULT_LIMIT
        self._limit_of = {each: self._limit_for(each) for each in (None, *Capability)}
        # Whether requests go to the address of the engine as they are, with no more than a time limit.
        urls = (*([spec.url] if spec.url is not None else []), *spec.failover_urls)
        origins = bool(urls) and all(_ORIGIN.fullmatch(url) for url in urls)
        mocks = spec.mock_response is not None or spec.allow_mock_response
        self.as_it_is = not self._headers and not mocks and (origins or not self._external)
        tls = spec.tls
        self._tls = (
            TlsSettings() if tls is None else TlsSettings(tls.ca_file, tls.server_name, not tls.insecure_skip_verify)
        )

    def headers(self) -> bytes:
        """Return the lines of the headers that are added. Raise SecretMissing if one cannot be read."""
        return b"".join(
            b"%b: %b\r\n" % (name, (before + reader.read()).encode()) for name, before, reader in self._headers
        )

    def limit(self, capability: Capability | None) -> tuple[float | None, str]:
        """Return the seconds until the response to a request of a kind must have started, and the field that says so. None: no limit."""
        return self._limit_of[capability]

    def _limit_for(self, capability: Capability | None) -> tuple[float | None, str]:
        limit = self._limits.get(capability) if capability is not None else None
        if limit is None or capability is None:
            return self._limit or None, "responseStartTimeout"
        return limit or None, f"responseStartTimeouts.{capability}"

    def dial(self, address: str) -> str:
        """Return what to connect to, for the address of the engine, which may have a path."""
        if not self._external or "://" not in address:
            return address
        parts = urlsplit(address)
        origin = f"{parts.scheme}://{parts.netloc}"
        return DialAddress(origin, self._tls) if parts.scheme == "https" else origin

    def target(self, address: str, target: bytes) -> bytes:
        """Return the path and query of a request at the address of the engine.

        The path of the address goes before it. If that has a version, it stands for the `/v1` of the request. Paths without `/v1` go
        below what is before the version then.
        """
        if not self._external:
            return target
        parts = urlsplit(address)
        base, query = parts.path.rstrip("/"), parts.query.encode()
        path, _, own = target.partition(b"?")
        version = _VERSION.search(base)
        if version is None:
            path = base.encode() + path
        elif path == _V1 or path.startswith(_V1 + b"/"):
            path = base.encode() + path[len(_V1) :]
        else:
            path = base[: version.start()].encode() + path
        queries = [each for each in (query, own) if each]
        return path + (b"?" + b"&".join(queries) if queries else b"")


def access_of(model: Model) -> EngineAccess | None:
    """Return how the engine of a Model is reached. None: requests are sent as they are, to its address, with one limit for all."""
    spec = model.spec
    plain = spec.engine != EXTERNAL and spec.engine_key is None and not spec.headers
    if plain and spec.lifecycle.response_start_timeouts == type(spec.lifecycle.response_start_timeouts)():
        return None
    return EngineAccess(model)


def engine_headers(model: Model) -> bytes:
    """Return the lines of the headers for the engine of a Model. Raise SecretMissing if one cannot be read."""
    access = access_of(model)
    return b"" if access is None else access.headers()


def key_environment(model: Model, variable: str) -> dict[str, str]:
    """Return the environment by which an engine gets its key, in VARIABLE. Empty if there is none. Raise SecretMissing."""
    key = model.spec.engine_key
    if key is None or not variable:
        return {}
    return {variable: SecretReader(key, f"Model/{model.name}: spec.engineKey").read()}


def secret_variables(document: object) -> frozenset[str]:
    """Return the environment variables of hotseat that have the secrets of a document."""
    return frozenset(secret.env for secret in secrets_of(document) if secret.env is not None)


def missing_secrets(model: Model) -> str:
    """Return which of the key and the headers of a Model cannot be read now. Empty: none."""
    try:
        engine_headers(model)
    except SecretMissing as problem:
        return str(problem)
    return ""
