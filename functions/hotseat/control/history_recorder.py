"""What the history stores of events: the events themselves, and a row for each switch that has ended."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from hotseat.api.units import format_time
from hotseat.control.event_log import Event
from hotseat.control.history_store import HistoryStore, Kind, Row
from hotseat.core.events import event_type

_LEFT_OUT: Final = frozenset(map(event_type, ("demand.reported", "model.fetching")))  # frequent, and of no use later
_STARTED, _READY = event_type("switch.started"), event_type("model.ready")
_OUTCOMES: Final = {event_type(f"switch.{outcome}"): outcome for outcome in ("completed", "failed", "cancelled")}
_SAVED, _RESTORED = event_type("model.prompts_saved"), event_type("model.prompts_restored")


@dataclass(slots=True)
class HistoryRecorder:
    """Gives events to the store. Subscribe `event` to the EventLog.

    The row of a switch has the fields of `GET /api/switches`. It is put together from the events of the switch, so that a router,
    which gets the events of the switcher, stores the same.
    """

    store: HistoryStore
    # Of switches that have not ended. The next two are for the writing thread.
    _waiting: dict[str, int] = field(default_factory=dict)  # queued requests at its start, by its id
    _moved: dict[tuple[str, str], int] = field(default_factory=dict)  # bytes of prompts, by type of event and model

    def event(self, event: Event) -> None:
        """Store an event, and the switch that it ends. It takes about a microsecond."""
        if event["type"] not in _LEFT_OUT:
            self.store.add(self._rows, event)

    def _rows(self, event: Event) -> Iterator[Row]:
        kind, model = event["type"], event.get("metadataname")
        at = datetime.fromisoformat(event["time"]).timestamp()
        yield Row(Kind.EVENTS, at, model, json.dumps(event), event["id"])
        data = event["data"]
        if kind == _STARTED:
            self._waiting[data["switch"]] = data["waiting"]
        elif kind in (_SAVED, _RESTORED):
            self._moved[kind, event["subject"]] = data["bytes"]
        elif kind == _READY:  # what it saved before was for no switch: its unload was ordered, or it was idle
            self._moved.pop((_SAVED, event["subject"]), None)
        elif kind in _OUTCOMES:
            row = self._switch(_OUTCOMES[kind], at, data)
            yield Row(Kind.SWITCHES, at, model, json.dumps(row), event["id"])

    def _switch(self, outcome: str, ended: float, data: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": data["switch"],
            "workspace": data["workspace"],
            "from": data["from"],
            "to": data["to"],
            "reason": data["reason"],
            "outcome": outcome,
            "started_at": format_time(ended - data["phases"]["total"]),
            "waiting": self._waiting.pop(data["switch"], 0),
            "phases": data["phases"],
            "saved": sum(self._moved.pop((_SAVED, model), 0) for model in data["from"]),
            "restored": self._moved.pop((_RESTORED, data["to"]), 0),
            "message": data.get("message", ""),
        }
