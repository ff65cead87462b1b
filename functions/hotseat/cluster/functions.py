"""What the router and the switcher share: their settings from the environment, and how they are served."""

import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hotseat.gateway.limits import ConcurrencyLimit
from hotseat.gateway.server import Bounds, Served, Server
from hotseat.gateway.worker import MIN_THREADS, Threads
from hotseat.telemetry.logs import set_up_logging

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FunctionSettings:
    """Settings of both functions. docs/cluster.md has a table of them, and a test compares it with `VARIABLES`."""

    namespace: str | None
    broker: str
    switcher: str
    key: bytes
    keys: tuple[str, ...]
    image: str
    gpu_resource: str
    port: int
    pod: str
    log_level: str
    threads: int
    request_log: str = ""
    service_accounts: tuple[str, ...] = ()

    def broker_of(self, namespace: str) -> str:
        """Return the URL to which events of a namespace are published. Empty: nowhere."""
        return self.broker.replace("{namespace}", namespace)


VARIABLES = {
    "HOTSEAT_NAMESPACE": "Namespace whose Workspaces and Models are served (default: the pod's own namespace).",
    "HOTSEAT_BROKER_URL": "URL to publish events to (default: K_SINK). {namespace} is replaced. Empty: no Broker is used.",
    "HOTSEAT_SWITCHER_URL": "URL at which the router reaches the switcher directly.",
    "HOTSEAT_DEMAND_KEY_FILE": "File with the key that signs demand. Router and switcher must have the same key.",
    "HOTSEAT_API_KEY_FILE": "File with API keys of clients, one per line. Without it, the router requires no key.",
    "HOTSEAT_IMAGE": "Image of hotseat, for fetch Jobs and for engines without an image of their own.",
    "HOTSEAT_GPU_RESOURCE": "Extended resource that stands for a GPU (default nvidia.com/gpu).",
    "HOTSEAT_SERVICE_ACCOUNTS": "ServiceAccounts that a Model's podTemplate may name, separated by commas (default: only default).",
    "HOTSEAT_LOG_LEVEL": "Log level: debug, info, warning or error (default info).",
    "HOTSEAT_THREADS": "Maximum number of requests at once, including queued requests (default 1500).",
    "HOTSEAT_REQUEST_LOG": "File to which the router appends a line for each finished request, or - for the "
    "pod's log (default: none).",
    "PORT": "Port to listen on (default 8080).",
}


def read_settings() -> FunctionSettings:
    """Read the environment. Exit with a message if a required setting is missing."""
    env = os.environ
    key_file = Path(env.get("HOTSEAT_DEMAND_KEY_FILE", "/etc/hotseat/demand/key"))
    try:
        key = key_file.read_bytes().strip()
    except OSError as error:
        sys.exit(f"HOTSEAT_DEMAND_KEY_FILE: {error}")
    if len(key) < 16:  # noqa: PLR2004
        sys.exit(f"HOTSEAT_DEMAND_KEY_FILE: {key_file} has fewer than 16 characters")
    api = Path(env["HOTSEAT_API_KEY_FILE"]) if env.get("HOTSEAT_API_KEY_FILE") else None
    lines = api.read_text().splitlines() if api is not None and api.exists() else []
    return FunctionSettings(
        namespace=env.get("HOTSEAT_NAMESPACE") or None,
        broker=env.get("HOTSEAT_BROKER_URL", env.get("K_SINK", "")),
        switcher=env.get("HOTSEAT_SWITCHER_URL", "http://hotseat-switcher"),
        key=key,
        keys=tuple(line.strip() for line in lines if line.strip() and not line.startswith("#")),
        image=env.get("HOTSEAT_IMAGE", "hotseat"),
        gpu_resource=env.get("HOTSEAT_GPU_RESOURCE", "nvidia.com/gpu"),
        port=int(env.get("PORT", "8080")),
        pod=env.get("HOSTNAME") or socket.gethostname(),
        log_level=env.get("HOTSEAT_LOG_LEVEL", "info"),
        threads=int(env.get("HOTSEAT_THREADS", "1500")),
        request_log=env.get("HOTSEAT_REQUEST_LOG", ""),
        service_accounts=tuple(filter(None, map(str.strip, env.get("HOTSEAT_SERVICE_ACCOUNTS", "").split(",")))),
    )


def serve(
    settings: FunctionSettings,
    create: Callable[[FunctionSettings, ConcurrencyLimit], Served],
    *,
    up: str,
    places: int,
    graceful: float,
) -> None:
    """Serve what CREATE returns, until a signal ends it. UP is logged with the pod's name once requests are accepted.

    PLACES is the number of long requests that are served at once, if the limit on descriptors allows that many.
    """
    set_up_logging(settings.log_level, json_lines=True)
    bounds = Bounds.of_this_process()
    threads = Threads(bounds.threads)
    if places > bounds.places:
        log.warning("serving at most %d requests at once, not %d: %s", bounds.places, places, bounds.why)
    concurrency = ConcurrencyLimit(min(places, bounds.places), lambda: threads.spare(MIN_THREADS))
    Server(
        lambda: create(settings, concurrency),
        lambda: log.info(up, settings.pod),
        bind=f"0.0.0.0:{settings.port}",
        threads=threads,
        connections=bounds.connections,
        graceful=lambda: graceful,
    ).run()
