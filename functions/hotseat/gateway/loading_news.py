"""What the client of a stream is told while its request is queued: comments, or text in `reasoning_content`."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from hotseat.api.workspace import Loading
from hotseat.control.registry import ModelRoute
from hotseat.core.admission.fallback import NOT_LOADING
from hotseat.gateway.fallback_routing import RoutedRequest
from hotseat.gateway.filters import may_end_stream
from hotseat.gateway.http.response import Response, encode_fields

CHAT = "/v1/chat/completions"  # whose streams have `reasoning_content`
REPEAT = 5.0  # seconds after which the same text is sent again: clients give up a stream without bytes
_EVENT_STREAM = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
]


class LoadingNews:
    """News for one request. `shown_name` returns the displayed name for a metadata.name."""

    interval = 0.25  # seconds between two looks
    # Seconds before the first news. Reverse proxies in Go, such as Knative's, may abort an answer that starts while they
    # still read the request (golang/go issue 40747).
    delay = 0.1

    def __init__(self, response: Response, routed: RoutedRequest, shown_name: Callable[[str], str]) -> None:
        self._response, self._routed, self._shown_name = response, routed, shown_name
        self._next = self.delay  # seconds after the arrival of the request

    def tell(self, elapsed: float) -> float:
        """Send news if it is time for them. Return the seconds until the next. `elapsed`: since the arrival."""
        if elapsed >= self._next:
            self._next = elapsed + self.interval
            if not self._response.begun:
                fields = encode_fields([*_EVENT_STREAM, *self._routed.queue_headers])
                self._response.begin("200 OK", fields, counted=False)
            self._send(self._state(elapsed))
        return self._next - elapsed

    def end(self) -> None:
        """End the news, because the answer follows. A stream that has started has sent its headers, so a fallback is told here."""
        if not self._response.begun:
            return
        used = self._routed.fallback_used
        elapsed = round(time.monotonic() - self._routed.began, 2)
        if used is None:
            self._send_ready(elapsed)
            return
        state = {
            "model": used.wanted.shown_name,
            "state": "fallback",
            "fallback": self._routed.route.model.shown_name,
            "reason": used.reason.lower(),
            "elapsed": elapsed,
        }
        self._send(state)

    def _state(self, elapsed: float) -> Mapping[str, Any]:
        model, handle = self._routed.route.model, self._routed.route.handle
        status = handle.status(model.name)
        position, estimate = handle.gate.queue_position(self._routed.pending_request)
        residents = [r.model for r in handle.gate.residency.residents if r.model != model.name and r.on_accelerator]
        return {
            "model": model.shown_name,
            "state": "waiting" if status.state in NOT_LOADING else status.state,
            "position": position,
            "estimate": None if estimate is None else round(estimate, 1),
            "elapsed": round(elapsed, 2),
            "progress": status.progress(),
            "resident": self._shown_name(residents[0]) if residents else None,
        }

    def _send(self, state: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _send_ready(self, elapsed: float) -> None:
        """Send that the model answers now, after so many seconds."""


class LoadingComments(LoadingNews):
    """Comments in a stream of events. Clients ignore them, unless they know them."""

    def _send(self, state: Mapping[str, Any]) -> None:
        self._response.write(b": hotseat " + json.dumps(state).encode() + b"\n\n")


class LoadingReasoning(LoadingNews):
    """Chunks of a chat's stream with lines of text in `reasoning_content`, which many clients show."""

    delay = 0.5

    def __init__(self, response: Response, routed: RoutedRequest, shown_name: Callable[[str], str]) -> None:
        super().__init__(response, routed, shown_name)
        self._told: object = None
        self._repeat = 0.0  # seconds after the arrival at which the same is told again
        self._chunk: dict[str, Any] = {}

    def _send(self, state: Mapping[str, Any]) -> None:
        told = state["state"], state.get("resident"), state["model"]
        if told != self._told or state["elapsed"] >= self._repeat:
            self._told, self._repeat = told, state["elapsed"] + REPEAT
            self._write(_sentence(state))

    def _send_ready(self, elapsed: float) -> None:
        self._write(f"{self._routed.route.model.shown_name} is ready after {elapsed:.1f} s.\n")

    def _write(self, text: str) -> None:
        delta: dict[str, str] = {} if self._chunk else {"role": "assistant"}
        if not self._chunk:
            name = self._routed.requested_name or self._routed.route.model.shown_name
            self._chunk = {"id": f"chatcmpl-{uuid4().hex}", "object": "chat.completion.chunk"}
            self._chunk |= {"created": int(time.time()), "model": name}
        choice = {"index": 0, "delta": {**delta, "reasoning_content": f"{text}\n"}, "finish_reason": None}
        self._response.write(b"data: " + json.dumps({**self._chunk, "choices": [choice]}).encode() + b"\n\n")


def _sentence(state: Mapping[str, Any]) -> str:
    """Return a state in words."""
    model, elapsed = state["model"], f"{state['elapsed']:.0f} s so far"
    if state["state"] == "fallback":
        return f"{state['fallback']} answers instead of {model} ({state['reason']}).\n"
    details = [elapsed]
    if state["state"] == "fetching":
        does, progress = "is being fetched", state["progress"]
        if progress and progress["total"]:
            details.insert(0, f"{100 * progress['done'] // progress['total']}%")
        if progress and progress.get("remaining"):
            details.append(f"about {progress['remaining']} s left")
    elif state["state"] in _DOES:
        does = _DOES[state["state"]]
    else:
        does = f"waits for {state['resident']} to finish" if state["resident"] else "waits for its turn"
        if state["position"]:
            details.insert(0, f"position {state['position']} in its queue")
    if state["estimate"]:
        details.append(f"about {state['estimate']:.0f} s left")
    return f"{model} {does} ({', '.join(details)})."


_DOES = {
    "loading": "is loading",
    "waking": "is waking",
    "restoring": "is restoring its prompt cache",
    "ready": "is busy",
    "releasing": "is being stopped, and is loaded again",
}


def loading_of(requested: Loading | None, target: ModelRoute) -> Loading:
    """Return what a request for a Model gets while that is not ready: what its header says, else the Model, else the Workspace."""
    spec = target.model.spec
    loading = requested or spec.loading or target.handle.workspace.spec.loading
    if spec.filters is not None and loading is not Loading.REFUSE and may_end_stream(spec.filters):
        return Loading.HOLD
    return loading


def loading_news(
    loading: Loading, path: str, response: Response, routed: RoutedRequest, shown_name: Callable[[str], str]
) -> LoadingNews | None:
    """Return the news for the client of a stream, or None. Streams without `reasoning_content` get comments instead."""
    if loading is Loading.REASONING and path == CHAT:
        return LoadingReasoning(response, routed, shown_name)
    return LoadingComments(response, routed, shown_name) if loading in (Loading.COMMENTS, Loading.REASONING) else None
