"""What routers read of the switcher, for `kubectl hotseat logs` and `kubectl hotseat events`."""

import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from hotseat.api.types import Json
from hotseat.control.event_log import EventLog
from hotseat.core.errors import BadRequest, Unavailable, UnknownModel
from hotseat.core.ports import LogView

MAX_WAIT: Final = 30.0  # seconds that a read may wait for news


class RemoteReads:
    """Answers reads. Each has what is new after a position, and waits up to `wait` seconds for it.

    Positions are those of one run of the switcher, which `run` names. Those of another run count as 0.
    """

    def __init__(self, logs: Callable[[str], LogView | None], events: EventLog, leading: Callable[[], bool]) -> None:
        self._logs = logs
        self._events = events
        self._leading = leading
        self._run = uuid.uuid4().hex

    def read(self, query: Json) -> Json:
        """Answer a read. Raise the HotseatError for the router if that is not possible."""
        known: dict[str, Callable[[Json], Json]] = {"logs": self._read_logs, "events": self._read_events}
        kind = str(query.get("read"))
        if kind not in known:
            raise BadRequest(f"the read is {kind!r}; allowed: {', '.join(known)}")
        if not self._leading():
            raise Unavailable("this switcher is not the leader", code="not_leading", retry_after=1.0)
        return {**known[kind](query), "run": self._run}

    def _read_logs(self, query: Json) -> Json:
        model = str(query.get("model"))
        view = self._logs(model)
        if view is None:
            raise UnknownModel(f"model {model} does not exist")
        if "lines" in query:
            return {"lines": view.tail(int(query["lines"]))}
        after, lines = view.read_after(self._after(query), _wait(query))
        return {"after": after, "lines": lines}

    def _read_events(self, query: Json) -> Json:
        after = self._after(query)
        news = self._events.after(after, _wait(query))
        return {"after": news[-1][0] if news else after, "events": [event for _, event in news]}

    def _after(self, query: Json) -> int:
        return int(query.get("after", 0)) if query.get("run") == self._run else 0


def _wait(query: Mapping[str, Any]) -> float:
    return min(float(query.get("wait", 0)), MAX_WAIT)
