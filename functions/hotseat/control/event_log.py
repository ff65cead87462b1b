"""Events: a bounded history to follow, listeners in this process, and a sink over HTTP.

An event is a CloudEvent in structured JSON form (a dict). Publishing takes microseconds and never waits. The sink has a queue
and a thread of its own, retries, and drops the oldest events when the queue is full.
"""

import json
import logging
import os
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import urllib3
from cloudevents.core.bindings.http import to_binary_event
from cloudevents.core.v1.event import CloudEvent

from hotseat.api.units import format_time
from hotseat.core.events import Emit, event_type, with_shown_names
from hotseat.sources.base import redacted
from hotseat.sources.http_client import explain

if TYPE_CHECKING:
    from hotseat.telemetry.spans import Tracing

log = logging.getLogger(__name__)

HISTORY = 1000
Event = dict[str, Any]
Listener = Callable[[Event], None]


class EventLog:
    """All events of this process, numbered from 1. Thread-safe. `tracing` makes the spans of switches, if there is one."""

    def __init__(self, source: str = "", tracing: "Tracing | None" = None) -> None:
        self._source = source
        self._tracing = tracing
        self._history: deque[tuple[int, Event]] = deque(maxlen=HISTORY)
        self._changed = threading.Condition()
        self._count = 0
        self._listeners: list[Listener] = []
        self._closed = False
        self._names: Mapping[str, str] = {}

    def add_shown_names(self, names: Mapping[str, str]) -> None:
        """Add names to show, by metadata.name. Those of deleted Models stay, for the events about their end."""
        self._names = {**self._names, **names}

    def shown_name(self, model: str) -> str:
        """Return the name to show for a Model by its metadata.name."""
        return self._names.get(model, model)

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with every later event, in order, on the publishing thread.

        It must be quick and must not raise.
        """
        self._listeners.append(listener)

    def emit(self, workspace: str, epoch: int, emit: Emit) -> None:
        """Publish an event of a scheduler. Names in it are replaced by the names to show."""
        model = emit.subject
        trace = {} if self._tracing is None else self._tracing.event(workspace, emit.type, emit.data)
        emit = with_shown_names(emit, self.shown_name)
        event: Event = {
            "specversion": "1.0",
            "id": uuid.uuid4().hex,
            "source": f"{self._source}/workspaces/{workspace}",
            "type": event_type(emit.type),
            **({"subject": _without_controls(emit.subject)} if emit.subject else {}),  # an empty subject is not allowed
            **({"metadataname": model} if model else {}),
            "time": format_time(time.time(), "microseconds"),
            "epoch": epoch,
            **trace,
            "datacontenttype": "application/json",
            "data": dict(emit.data),
        }
        self.publish(event)

    def publish(self, event: Event) -> None:
        """Publish an event as it is."""
        with self._changed:
            self._count += 1
            self._history.append((self._count, event))
            for listener in self._listeners:
                try:
                    listener(event)
                except Exception:
                    log.exception("a listener failed to handle event %s", event["type"])
            self._changed.notify_all()

    def after(self, number: int, timeout: float | None = 0.0) -> list[tuple[int, Event]]:
        """Return the events after a number, oldest first.

        Wait up to `timeout` seconds for one. Dropped events are missing.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._count > number or self._closed, timeout)
            return [(n, event) for n, event in self._history if n > number]

    @property
    def count(self) -> int:
        """Return the number of the newest event."""
        return self._count

    @property
    def closed(self) -> bool:
        """Whether the log is closed, and followers should stop."""
        return self._closed

    def close(self) -> None:
        """Close the log, so that followers stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class HttpSink:
    """Sends every event to a URL as a binary-mode CloudEvent, from a thread of its own, in order, with retries.

    `K_CE_OVERRIDES`, as Knative's SinkBinding sets it, adds extension attributes.
    """

    def __init__(
        self, url: str, *, attempts: int = 6, first_pause: float = 0.2, capacity: int = 1000, timeout: float = 5.0
    ) -> None:
        self.url = url
        self.sent = 0
        self.dropped = 0
        self._attempts = attempts
        self._first_pause = first_pause
        self._queue: deque[Event] = deque()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._extensions = _overrides(os.environ.get("K_CE_OVERRIDES", ""))
        self._http = urllib3.PoolManager(timeout=timeout, retries=False)
        self._thread = threading.Thread(target=self._run, name="event-sink", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Queue an event."""
        with self._changed:
            if len(self._queue) >= self._capacity:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(event)
            self._changed.notify()

    @property
    def queued(self) -> int:
        """Return the number of events that wait to be delivered."""
        return len(self._queue)

    def close(self, timeout: float = 2.0) -> None:
        """Send the queued events, for at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue, timeout)
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=1)
        self._http.clear()

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stop.is_set())
                if self._stop.is_set():
                    return
                event = self._queue[0]
            try:
                delivered = self._deliver(event)
            except Exception:
                log.exception("event %s could not be sent", event["type"])
                delivered = False
            with self._changed:
                if self._queue and self._queue[0] is event:  # else it was dropped and counted meanwhile
                    self._queue.popleft()
                    self.dropped += not delivered
                self.sent += delivered
                self._changed.notify_all()

    def _deliver(self, event: Event) -> bool:
        message = to_binary_event(_cloud_event(event, self._extensions))
        pause = self._first_pause
        for attempt in range(self._attempts):
            try:
                status = self._http.request("POST", self.url, body=message.body, headers=message.headers).status
            except (urllib3.exceptions.HTTPError, OSError) as error:
                problem = explain(error)
            else:
                if status < 300:  # noqa: PLR2004
                    return True
                problem = f"HTTP {status}"
                if 400 <= status < 500 and status not in (404, 408, 409, 429):  # noqa: PLR2004 — as Knative: a retry would fail, too
                    break
            if attempt + 1 < self._attempts and self._stop.wait(pause):
                break
            pause *= 2
        log.warning("event %s was not delivered to %s: %s", event["type"], redacted(self.url), problem)
        return False


def _without_controls(text: str) -> str:
    """Percent-encode control characters. Names of Models may have them; attributes of CloudEvents may not."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: quote(match[0]), text)


def _cloud_event(event: Event, extensions: Mapping[str, str]) -> CloudEvent:
    attributes = {name: value for name, value in event.items() if name != "data"}
    attributes["time"] = datetime.fromisoformat(event["time"])
    attributes["epoch"] = str(event["epoch"])
    return CloudEvent(attributes | dict(extensions), event["data"])


def _overrides(text: str) -> dict[str, str]:
    try:
        return {str(k): str(v) for k, v in json.loads(text or "{}").get("extensions", {}).items()}
    except (ValueError, AttributeError):
        log.warning("ignoring K_CE_OVERRIDES: it is not a JSON object with `extensions`")
        return {}
