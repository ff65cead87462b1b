"""How the two functions of a cluster are served."""

import logging
from collections.abc import Callable

from hotseat.cluster.settings import Settings
from hotseat.gateway.server import Served, Server
from hotseat.telemetry.logs import set_up_logging

log = logging.getLogger(__name__)


def serve(settings: Settings, create: Callable[[Settings], Served], *, up: str, threads: int, graceful: float) -> None:
    """Serve what `create` makes, until told to stop. `up` is logged, with the pod's name in it, once requests are taken."""
    set_up_logging(settings.log_level, json_lines=True)
    bind = f"0.0.0.0:{settings.port}"
    Server(
        lambda: create(settings),
        lambda: log.info(up, settings.pod),
        bind=bind,
        threads=threads,
        graceful=lambda: graceful,
    ).run()
