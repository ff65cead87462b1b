"""What the router and the switcher share: their settings from the environment, and how they are served."""

import logging
import math
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from hotseat.api.units import Unreadable, format_bytes, parse_bytes, parse_duration
from hotseat.cluster.demand_keys import DemandKeys, read_key
from hotseat.control.history_store import DAYS, LEAST_SIZE, SIZE, HistorySettings, history_at
from hotseat.gateway.captures import CaptureMode
from hotseat.gateway.http.interfaces import HttpLimits
from hotseat.gateway.limits import MAX_BODY, ConcurrencyLimit, thread_cap
from hotseat.gateway.server import Bounds, Served, Server
from hotseat.gateway.threads import MOST, Threads
from hotseat.kube.constants import ADMIN_PORT, SCALER_ADDRESS, SCALER_PORT, USER, ClusterSettings
from hotseat.telemetry.logs import set_up_logging
from hotseat.telemetry.tracing import TracingError, check_tracing

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FunctionSettings:
    """Settings of both functions. docs/cluster.md has a table of them, and a test compares it with `VARIABLES`."""

    namespace: str | None
    broker: str
    switcher: str
    key: DemandKeys
    objects: ClusterSettings  # without a namespace. Its image is empty for that of the switcher's own pod
    port: int
    admin_port: int | None  # of the router; None: admin routes are on `port`
    pod: str
    log_level: str
    max_requests: int
    max_body: int = MAX_BODY
    max_form: int = 0  # of the router; 0: forms are held in memory
    limits: HttpLimits = field(default_factory=HttpLimits)
    key_file: Path | None = None  # with keys of clients; None: none is required
    cors: tuple[str, ...] = ()  # of the router: origins whose pages may send requests
    sink: str = ""  # URL to which all events are sent, beside the Broker
    request_log: str = ""
    history: HistorySettings | None = None  # of the router: what is kept over restarts; None: nothing
    capture: CaptureMode | None = None  # of the router: how bodies are captured; None: they are not
    scaler_port: int = 0  # of the switcher, for KEDA; 0: any
    scaler_tls: Path | None = None  # directory with its certificate; None: no TLS

    def broker_of(self, namespace: str) -> str:
        """Return the URL to which events of a namespace are published. Empty: nowhere."""
        return self.broker.replace("{namespace}", namespace)


VARIABLES = {
    "HOTSEAT_NAMESPACE": "Namespace whose Workspaces and Models are served (default: the pod's own namespace).",
    "HOTSEAT_BROKER_URL": "URL of the Broker to publish events to. {namespace} is replaced. Empty: no Broker is used, and "
    "routers send demand to the switcher directly.",
    "K_SINK": "URL to send all events to as CloudEvents, beside the Broker or without one (default: none). A SinkBinding of "
    "Knative sets it.",
    "HOTSEAT_SWITCHER_URL": "URL at which the router reaches the switcher directly.",
    "HOTSEAT_DEMAND_KEY_FILE": "File with the key that signs demand. Router and switcher must have the same key. It is read again when it "
    "changes.",
    "HOTSEAT_API_KEY_FILE": "File with API keys of clients: a list of keys with what each may do, or one key per line. It is read again "
    "when it changes. While there is none, the router requires no key.",
    "HOTSEAT_CORS_ORIGINS": "Origins whose web pages may send requests to the router, separated by commas. * allows any origin (default: "
    "none).",
    "HOTSEAT_SECRETS_DIR": "Folder below which the Secrets of upstreams are mounted, as NAME/KEY (`engineKey.secret` of a Model). The "
    "router and the switcher need it.",
    "HOTSEAT_IMAGE": "Image of hotseat, for fetch Jobs and for engines without an image of their own "
    "(default: the image of the switcher's own pod).",
    "HOTSEAT_POD_NAME": "Name of the function's own pod (default: the host name, which is the pod's name unless the pod "
    "uses the network of its node).",
    "HOTSEAT_GPU_RESOURCE": "Extended resource that stands for a GPU (default nvidia.com/gpu).",
    "HOTSEAT_IMAGE_PULL_SECRETS": "Secrets for pulling images, separated by commas, for the pods of all Models and of their "
    "fetch Jobs, in addition to imagePullSecrets of a Model.",
    "HOTSEAT_STORAGE_CLASS": "Storage class of the caches of Models without cache.storageClass (default: the cluster's).",
    "HOTSEAT_CACHE_SIZE": "Size of the caches of Models without cache.size (default 50Gi).",
    "HOTSEAT_REQUEST_TIMEOUT": "Duration that a request to a Model's Knative Service may take, and grace period of its pods "
    "(default 1h). At most max-revision-timeout-seconds of Knative.",
    "HOTSEAT_PROGRESS_DEADLINE": "Duration after which Knative gives up a Revision that is not ready (default 10m). A Model "
    "with a longer lifecycle.startTimeout gets that and a minute.",
    "HOTSEAT_FETCH_ENVIRONMENT": "ConfigMap whose values are environment variables of fetch Jobs, such as HTTPS_PROXY, "
    "NO_PROXY and HF_ENDPOINT (default hotseat-fetch). It need not exist.",
    "HOTSEAT_SERVICE_ACCOUNTS": "ServiceAccounts that a Model's podTemplate may name, separated by commas (default: only default).",
    "HOTSEAT_SCALER_PORT": "Port of the switcher on which KEDA calls it (gRPC, default 8090).",
    "HOTSEAT_SCALER_ADDRESS": "Address at which KEDA calls the switcher (default hotseat-scaler.{namespace}.svc:8090). {namespace} "
    "is replaced.",
    "HOTSEAT_SCALER_TLS": "Directory with tls.crt and tls.key, by which the switcher serves KEDA with TLS, and ca.crt if KEDA has to "
    "show a certificate of that authority. Without tls.crt in it: no TLS (default /etc/hotseat/scaler).",
    "HOTSEAT_SCALER_AUTHENTICATION": "TriggerAuthentication with the certificates that KEDA uses to call the switcher (default: none).",
    "HOTSEAT_LOG_LEVEL": "Log level: debug, info, warning or error (default info).",
    "HOTSEAT_MAX_REQUESTS": "Maximum number of requests at once, including queued requests (default 10000).",
    "HOTSEAT_MAX_BODY": "Maximum size of a request body (default 64Mi).",
    "HOTSEAT_MAX_FORM": "Maximum size of a form (multipart/form-data). The router keeps forms above 256Ki in files in /tmp until they are "
    "answered, all together at most four times this size. 0: forms are held in memory, within HOTSEAT_MAX_BODY (default 256Mi).",
    "HOTSEAT_MAX_HEADER": "Maximum size of the headers of a request (default 64Ki).",
    "HOTSEAT_HEADER_TIMEOUT": "Time in which the headers of a request must arrive (default 60s).",
    "HOTSEAT_BODY_TIMEOUT": "Time between two parts of a request body (default 60s).",
    "HOTSEAT_KEEPALIVE_TIMEOUT": "Time after which a connection without a request is closed (default 75s).",
    "HOTSEAT_REQUEST_LOG": "File to which the router appends a line for each finished request, or - for the "
    "pod's log (default: none).",
    "HOTSEAT_HISTORY": "File in which the router keeps events, switches and requests over restarts (SQLite), for /api/history. Each router "
    "needs a file of its own, on a volume that outlives it (default: none).",
    "HOTSEAT_HISTORY_DAYS": "Days after which they are deleted (default 7).",
    "HOTSEAT_HISTORY_SIZE": "Maximum size of the file, with its write-ahead log. The oldest are deleted first (default 256Mi, at least "
    "16Mi).",
    "HOTSEAT_CAPTURE": "Capture the bodies of requests and answers in the router's memory, for GET /api/captures/{id}: redacted "
    "(texts become their lengths) or full (default: not captured).",
    "HOTSEAT_RUN_AS_USER": "User and group of the containers of Models and fetch Jobs, and group of their volumes (default 65532). Empty: "
    "none is stated, for a cluster that assigns them, such as OpenShift.",
    "PORT": "Port to listen on (default 8080).",
    "HOTSEAT_ADMIN_PORT": "Port of the router for admin routes: all routes but inference, lists of models, /health and /ready "
    "(default 8081). Empty: they are on PORT.",
}


def read_settings() -> FunctionSettings:
    """Read the environment. Exit with a message if a required setting is missing."""
    env = os.environ
    try:
        check_tracing(env)
    except TracingError as error:
        sys.exit(str(error))
    key_file = Path(env.get("HOTSEAT_DEMAND_KEY_FILE", "/etc/hotseat/demand/key"))
    try:
        key = DemandKeys(read_key(key_file), key_file)
    except (OSError, ValueError) as error:
        sys.exit(f"HOTSEAT_DEMAND_KEY_FILE: {error}")
    api = Path(env["HOTSEAT_API_KEY_FILE"]) if env.get("HOTSEAT_API_KEY_FILE") else None
    tls = Path(env.get("HOTSEAT_SCALER_TLS") or "/etc/hotseat/scaler")
    scaler_tls = tls if (tls / "tls.crt").exists() else None
    return FunctionSettings(
        namespace=env.get("HOTSEAT_NAMESPACE") or None,
        broker=env.get("HOTSEAT_BROKER_URL", ""),
        sink=env.get("K_SINK", ""),
        switcher=env.get("HOTSEAT_SWITCHER_URL", "http://hotseat-switcher"),
        key=key,
        key_file=api,
        objects=ClusterSettings(
            image=env.get("HOTSEAT_IMAGE", ""),
            namespace="",
            gpu_resource=env.get("HOTSEAT_GPU_RESOURCE", "nvidia.com/gpu"),
            pull_secrets=_names(env.get("HOTSEAT_IMAGE_PULL_SECRETS", "")),
            service_accounts=_names(env.get("HOTSEAT_SERVICE_ACCOUNTS", "")),
            storage_class=env.get("HOTSEAT_STORAGE_CLASS", ""),
            cache_size=_read("HOTSEAT_CACHE_SIZE", "50Gi", parse_bytes),
            request_timeout=_read("HOTSEAT_REQUEST_TIMEOUT", "1h", _seconds),
            progress_deadline=_read("HOTSEAT_PROGRESS_DEADLINE", "10m", _seconds),
            fetch_environment=env.get("HOTSEAT_FETCH_ENVIRONMENT", "hotseat-fetch"),
            scaler_address=env.get("HOTSEAT_SCALER_ADDRESS") or SCALER_ADDRESS,
            scaler_tls=scaler_tls is not None,
            user=_user(env.get("HOTSEAT_RUN_AS_USER", str(USER))),
            scaler_authentication=env.get("HOTSEAT_SCALER_AUTHENTICATION", ""),
        ),
        port=_read("PORT", "8080", _port),
        admin_port=_read("HOTSEAT_ADMIN_PORT", str(ADMIN_PORT), _port) if env.get("HOTSEAT_ADMIN_PORT") != "" else None,
        pod=env.get("HOTSEAT_POD_NAME") or env.get("HOSTNAME") or socket.gethostname(),
        log_level=env.get("HOTSEAT_LOG_LEVEL", "info"),
        max_requests=_read("HOTSEAT_MAX_REQUESTS", "10000", int),
        max_body=_read("HOTSEAT_MAX_BODY", "64Mi", parse_bytes),
        max_form=_read("HOTSEAT_MAX_FORM", "256Mi", parse_bytes),
        limits=HttpLimits(
            _read("HOTSEAT_MAX_HEADER", "64Ki", parse_bytes),
            _read("HOTSEAT_HEADER_TIMEOUT", "60s", parse_duration),
            _read("HOTSEAT_BODY_TIMEOUT", "60s", parse_duration),
            _read("HOTSEAT_KEEPALIVE_TIMEOUT", "75s", parse_duration),
        ),
        cors=_names(env.get("HOTSEAT_CORS_ORIGINS", "")),
        request_log=env.get("HOTSEAT_REQUEST_LOG", ""),
        history=_history(env.get("HOTSEAT_HISTORY", "")),
        capture=_read("HOTSEAT_CAPTURE", "", _capture_mode),
        scaler_port=_read("HOTSEAT_SCALER_PORT", str(SCALER_PORT), _port),
        scaler_tls=scaler_tls,
    )


def _history(path: str) -> HistorySettings | None:
    days, size = (
        _read("HOTSEAT_HISTORY_DAYS", str(DAYS), _days),
        _read("HOTSEAT_HISTORY_SIZE", str(SIZE), _history_size),
    )
    if path in ("", "off"):
        return None
    try:
        return history_at(Path(path), days, size)
    except ValueError as error:
        sys.exit(f"HOTSEAT_HISTORY: {error}")


def _days(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 100_000):  # noqa: PLR2004
        raise Unreadable("a number of days, at least 1")
    return int(text)


def _history_size(text: str) -> int:
    if (size := parse_bytes(text)) < LEAST_SIZE:
        raise Unreadable(f"a size of at least {format_bytes(LEAST_SIZE)}")
    return size


def _read(name: str, default: str, parse: Callable[[str], T]) -> T:
    """Return the value of a variable. Exit with a message if it cannot be parsed."""
    text = os.environ.get(name) or default
    try:
        return parse(text)
    except ValueError as error:
        allowed = str(error) if isinstance(error, Unreadable) else "a number"
        sys.exit(f"{name} is {text!r}; allowed: {allowed}")


def _seconds(text: str) -> int:
    """Return the whole seconds of a duration, at least one."""
    return max(1, math.ceil(parse_duration(text)))


def _user(text: str) -> int | None:
    """Return the id of a user. None: it is not stated."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and int(text)):
        sys.exit(f"HOTSEAT_RUN_AS_USER is {text!r}; allowed: a number from 1, or nothing")
    return int(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):  # noqa: PLR2004
        raise Unreadable("a port from 1 to 65535")
    return int(text)


def _capture_mode(text: str) -> CaptureMode | None:
    try:
        return CaptureMode(text) if text else None
    except ValueError:
        raise Unreadable("redacted or full") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def serve(
    settings: FunctionSettings,
    create: Callable[[FunctionSettings, ConcurrencyLimit], Served],
    *,
    up: str,
    max_requests: int,
    graceful: float,
    admin_port: int | None = None,
    threads: int = MOST,
) -> None:
    """Serve what CREATE returns, until a signal ends it. UP is logged with the pod's name once requests are accepted.

    MAX_REQUESTS is the number of long requests that are served at once, if the limit on descriptors allows that many.
    ADMIN_PORT is a second port to listen on. THREADS run the routes in Flask.
    """
    set_up_logging(settings.log_level, json_lines=True)
    bounds = Bounds.of_this_process()
    pool = Threads(threads, cap=thread_cap())
    if max_requests > bounds.max_requests:
        log.warning("serving at most %d requests at once, not %d: %s", bounds.max_requests, max_requests, bounds.why)
    concurrency = ConcurrencyLimit(min(max_requests, bounds.max_requests), pool)
    Server(
        lambda: create(settings, concurrency),
        lambda: log.info(up, settings.pod),
        bind=[f"0.0.0.0:{port}" for port in (settings.port, admin_port) if port is not None],
        threads=pool,
        limits=replace(settings.limits, connections=bounds.connections),
        graceful=lambda: graceful,
    ).run()
