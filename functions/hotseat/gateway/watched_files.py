"""Files that are read again when they change: API keys and certificates."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hotseat.manifests.files import Debouncer, snapshot

log = logging.getLogger(__name__)


def watch(paths: Sequence[Path], changed: Callable[[], None], name: str) -> None:
    """Call `changed` soon, in a thread of this name, and again when one of the files has changed. Links are followed.

    The first call is for what has changed between the first reading and now.
    """
    threading.Thread(target=_watch, args=(paths, changed), name=name, daemon=True).start()


def _watch(paths: Sequence[Path], changed: Callable[[], None]) -> None:
    debouncer = Debouncer()
    while True:
        if debouncer.update(snapshot(paths), time.monotonic()):
            try:
                changed()
            except Exception:
                log.exception("internal error (a bug in hotseat): files could not be reloaded")
        time.sleep(debouncer.pause)
