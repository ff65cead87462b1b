"""What the router reads of the switcher: output of engines, and events."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from hotseat.api.types import Json
from hotseat.cluster.router.demand_reporter import SwitcherClient
from hotseat.control.event_log import Event
from hotseat.core.errors import HotseatError

WAIT: Final = 15.0  # seconds that the switcher waits for events before it answers without any
PAUSE: Final = 1.0  # seconds after a failed read

log = logging.getLogger(__name__)


class RemoteLog:
    """A LogView (core/ports.py) of a model's engine. It is for one reader."""

    def __init__(self, client: SwitcherClient, model: str) -> None:
        self._client = client
        self._query = Json(read="logs", model=model)
        self._run = ""
        self._last: str | None = None  # line
        self._failing = False

    def tail(self, lines: int) -> list[str]:
        """Return the last lines, oldest first, without line ends. Raise HotseatError if the switcher has no answer."""
        return list(self._client.read({**self._query, "lines": lines}, 0.0)["lines"])

    def read_after(self, position: int, timeout: float) -> tuple[int, list[str]]:
        """Return the new position, and the lines after `position`. Wait up to `timeout` seconds for lines.

        While the switcher does not answer, nothing is new, but for one line that says so. After a change of the
        switcher it goes on after the last line, if the new one knows that line.
        """
        try:
            answer = self._client.read({**self._query, "after": position, "run": self._run, "wait": timeout}, timeout)
        except HotseatError as error:
            time.sleep(timeout)
            known, self._failing = self._failing, True
            return position, [] if known else [f"--- {error.message}; trying again ---"]
        lines: list[str] = answer["lines"]
        if self._run not in ("", answer["run"]) and self._last in lines:
            lines = lines[len(lines) - lines[::-1].index(self._last) :]
        self._run, self._failing = answer["run"], False
        self._last = lines[-1] if lines else self._last
        return answer["after"], lines


class EventFollower:
    """Publishes all events of the switcher in this router, also those from before its start that the switcher keeps."""

    def __init__(self, client: SwitcherClient, publish: Callable[[Event], None]) -> None:
        self._client = client
        self._publish = publish
        self._closed = threading.Event()

    def start(self) -> None:
        """Start to follow, unless the switcher cannot be reached directly."""
        if self._client.switcher:
            threading.Thread(target=self._run, name="switcher-events", daemon=True).start()

    def close(self) -> None:
        """Publish no more."""
        self._closed.set()

    def _run(self) -> None:
        run, after, failing = "", 0, False
        while not self._closed.is_set():
            try:
                answer = self._client.read({"read": "events", "after": after, "run": run, "wait": WAIT}, WAIT)
                if self._closed.is_set():
                    return
                for event in answer["events"]:
                    self._publish(event)
                run, after, failing = answer["run"], answer["after"], False
            except HotseatError as error:
                (log.debug if failing else log.warning)("cannot follow the switcher's events: %s", error.message)
                failing = True
                self._closed.wait(PAUSE)
            except Exception:
                log.exception("an answer of the switcher cannot be understood")
                self._closed.wait(PAUSE)
