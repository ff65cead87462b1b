"""Comments in a stream of events, for clients that ask to be told of the loading of their Model."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from hotseat.core.admission.fallback import NOT_LOADING
from hotseat.gateway.fallback_routing import RoutedRequest
from hotseat.gateway.http.response import Response, encode_fields

INTERVAL = 0.25  # seconds between two comments
# Seconds before the first comment. Reverse proxies in Go, such as Knative's, may abort an answer that starts while they
# still read the request (golang/go issue 40747).
DELAY = 0.1
_EVENT_STREAM = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
]


class LoadingComments:
    """Comments for one request. `shown_name` returns the displayed name for a metadata.name."""

    def __init__(self, response: Response, routed: RoutedRequest, shown_name: Callable[[str], str]) -> None:
        self._response, self._routed, self._shown_name = response, routed, shown_name
        self._next = DELAY  # seconds after the arrival of the request

    def tell(self, elapsed: float) -> float:
        """Send a comment if it is time for one. Return the seconds until the next. `elapsed`: since the arrival."""
        if elapsed >= self._next:
            self._next = elapsed + INTERVAL
            self._send(elapsed)
        return self._next - elapsed

    def tell_fallback(self) -> None:
        """Send a comment that another Model answers, because a stream that has started has sent its headers."""
        used = self._routed.fallback_used
        if not self._response.begun or used is None:
            return
        state = {
            "model": used.wanted.shown_name,
            "state": "fallback",
            "fallback": self._routed.route.model.shown_name,
            "reason": used.reason.lower(),
            "elapsed": round(time.monotonic() - self._routed.began, 2),
        }
        self._comment(state)

    def _send(self, elapsed: float) -> None:
        if not self._response.begun:
            fields = encode_fields([*_EVENT_STREAM, *self._routed.queue_headers])
            self._response.begin("200 OK", fields, counted=False)
        model, handle = self._routed.route.model, self._routed.route.handle
        status = handle.status(model.name)
        position, estimate = handle.gate.queue_position(self._routed.pending_request)
        residents = [r.model for r in handle.gate.residency.residents if r.model != model.name and r.on_accelerator]
        state = {
            "model": model.shown_name,
            "state": "waiting" if status.state in NOT_LOADING else status.state,
            "position": position,
            "estimate": None if estimate is None else round(estimate, 1),
            "elapsed": round(elapsed, 2),
            "progress": None if status.done is None else {"done": status.done, "total": status.total},
            "resident": self._shown_name(residents[0]) if residents else None,
        }
        self._comment(state)

    def _comment(self, state: Mapping[str, Any]) -> None:
        self._response.write(b": hotseat " + json.dumps(state).encode() + b"\n\n")
