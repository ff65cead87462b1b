"""How the two functions of a cluster are served."""

import logging
from collections.abc import Callable

from hotseat.cluster.settings import FunctionSettings
from hotseat.gateway.concurrency import ConcurrencyLimit
from hotseat.gateway.server import Bounds, Served, Server
from hotseat.gateway.threads import MIN_THREADS, Threads
from hotseat.telemetry.logs import set_up_logging

log = logging.getLogger(__name__)


def serve(
    settings: FunctionSettings,
    create: Callable[[FunctionSettings, ConcurrencyLimit], Served],
    *,
    up: str,
    places: int,
    graceful: float,
) -> None:
    """Serve what `create` makes, until told to stop. `up` is logged, with the pod's name in it, once requests are taken.

    `places`: how many requests that may take long are served at once, if the limit on descriptors allows that.
    """
    set_up_logging(settings.log_level, json_lines=True)
    bounds = Bounds.of_this_process()
    threads = Threads(bounds.threads)
    if places > bounds.places:
        log.warning("serving at most %d requests at once, not %d: %s", bounds.places, places, bounds.why)
    handle = ConcurrencyLimit(min(places, bounds.places), lambda: threads.spare(MIN_THREADS))
    Server(
        lambda: create(settings, handle),
        lambda: log.info(up, settings.pod),
        bind=f"0.0.0.0:{settings.port}",
        threads=threads,
        connections=bounds.connections,
        graceful=lambda: graceful,
    ).run()
