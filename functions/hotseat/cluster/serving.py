"""Serves the router and the switcher function."""

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
