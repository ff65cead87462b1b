"""An inference request, from arrival to end: read, admit, queue, relay and count.

Every completion takes this path, so it works on the WSGI environ, without the framework.
"""

import contextlib
import json
import logging
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from hotseat.api.model import Capability
from hotseat.control.registry import ModelRegistry, ModelRoute
from hotseat.control.request_gate import ClientDisconnectedError, WaitingClient
from hotseat.core.admission.fallback import NOT_LOADING
from hotseat.core.errors import BadRequest, HotseatError, Unreachable
from hotseat.gateway import relay
from hotseat.gateway.body import Body, body_length, check_encoding, parse_body, read_body, rename_model
from hotseat.gateway.errors import INTERNAL, UPSTREAM_FAILED, api_kind, error_body, error_event
from hotseat.gateway.fallback_routing import RoutedRequest
from hotseat.gateway.limits import BodyBudget, ConcurrencyLimit
from hotseat.gateway.wait_headers import wait_options
from hotseat.telemetry.logs import RequestLog, RequestRecord
from hotseat.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

LOADING_HEADER = "HTTP_X_HOTSEAT_LOADING"
_LOADING_INTERVAL = 0.25  # seconds between two comments
# Seconds before the first comment. Reverse proxies in Go, such as Knative's, may abort an answer that starts while they
# still read the request (golang/go issue 40747).
_LOADING_DELAY = 0.1
_CLIENT_LEFT = 499
_RECONNECT = 0.05, 1.0  # shortest and longest seconds between two attempts to reach an external server

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Route:
    """An inference route: its label in metrics, and the capability that it needs. The routes are in openai.py."""

    label: str
    capability: Capability


class _ClientConnection(WaitingClient):
    """The connection of a client, as the gate sees it."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._sock = relay.client_socket(environ)

    def fileno(self) -> int:
        return -1 if self._sock is None else self._sock.fileno()

    def departed(self) -> bool:
        return self._sock is not None and relay.departed(self._sock)


class Inference:
    """Handles inference requests. `max_body` is in bytes.

    Every request is counted. Requests that reach a Model are written to `request_log`, if there is one.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        connections: relay.Connections,
        metrics: Metrics,
        *,
        max_body: int,
        concurrency: ConcurrencyLimit,
        body_budget: BodyBudget,
        request_log: RequestLog | None = None,
    ) -> None:
        self._registry = registry
        self._connections = connections
        self._metrics = metrics
        self._max_body = max_body
        self._concurrency = concurrency
        self._body_budget = body_budget
        self._request_log = request_log

    def handle(
        self,
        environ: Mapping[str, Any],
        route: Route,
        extra: Headers = (),
        *,
        authenticate: Callable[[Mapping[str, Any]], str],
    ) -> relay.ClientStream:
        """Answer a request, and return after the end of the stream.

        Raise HotseatError if nothing has been sent. `authenticate` authenticates the request, and returns the name
        of its key.
        """
        started = time.monotonic()
        model, routed, status, body_bytes = "", None, INTERNAL, 0
        try:
            key = authenticate(environ)
            check_encoding(environ)
            with self._concurrency:
                body_bytes = self._body_budget.take(body_length(environ, self._max_body))
                raw = read_body(environ, self._max_body)
                body_bytes += self._body_budget.take(len(raw) - body_bytes)
                body = parse_body(raw)
                target = self._model_route(body)
                model = target.model.shown_name
                routed = RoutedRequest(self._registry, target, body.model, route.capability, len(body.raw))
                options = wait_options(environ, routed.route.handle.workspace.spec.tenants, key)
                routed.submit(options)
                job = _AdmittedRequest(environ, body, routed, relay.client_stream(environ))
                status = self._serve(job, options.limit, extra)
        except HotseatError as error:
            status = api_kind(error).status
            raise
        finally:
            self._body_budget.give_back(body_bytes)
            if routed is None:
                self._metrics.refused(model, route.label, status)
            else:
                self._end(routed, route, status, time.monotonic() - started)
        return job.stream

    def _end(self, routed: RoutedRequest, route: Route, status: int, seconds: float) -> None:
        routed.finish()
        name = routed.route.model.shown_name
        self._metrics.request(name, route.label, status, seconds, routed.waited)
        if routed.fallback_used is not None:
            self._metrics.fallback(routed.fallback_used.wanted.shown_name, name, routed.fallback_used.reason)
        if self._request_log is not None:
            self._request_log.write(_log_entry(routed, route, status, seconds))

    def _model_route(self, body: Body) -> ModelRoute:
        target = self._registry.default() if body.model is None else self._registry.find(body.model)
        if target is None:
            raise BadRequest("The request body has no `model`, and the Workspace has no defaultModel.", param="model")
        return target

    def _serve(self, job: "_AdmittedRequest", limit: float | None, extra: Headers) -> int:
        """Queue and relay the request.

        Return the status that the client got. Raise HotseatError only if nothing has been sent.
        """
        try:
            outcome = self._answer(job, limit, extra)
        except (ClientDisconnectedError, relay.ClientGone):
            job.stream.abort()
            return _CLIENT_LEFT
        except HotseatError as error:
            if not job.stream.begun:
                raise
            with contextlib.suppress(relay.ClientGone):
                job.stream.end(error_event(error_body(error)))
            return api_kind(error).status
        except Exception:
            if not job.stream.begun:
                raise
            log.exception("a response of %s ended early", job.routed.route.model.name)
            job.stream.abort()  # the client must not take a truncated answer for complete
            return INTERNAL
        if outcome.how is relay.How.CLIENT_GONE:
            return _CLIENT_LEFT
        return (api_kind(outcome.error).status if outcome.error else outcome.status) or UPSTREAM_FAILED

    def _answer(self, job: "_AdmittedRequest", limit: float | None, extra: Headers) -> relay.Outcome:
        """Relay the dispatched request.

        If no engine accepts it, try a fallback. Comments of a started stream report it.
        """
        while True:
            if job.routed.pending_request.dispatched is None:
                _Wait(job, limit, self._registry.shown_name).run()
            if job.stream.begun and job.routed.fallback_used is not None:
                _comment(job, _fallback_comment(job.routed))
            try:
                return self._relay(job, extra)
            except HotseatError as error:
                # If the engine has ended meanwhile, `error` says so, and its cause is Unreachable.
                unreachable = error if isinstance(error, Unreachable) else error.__cause__
                if not isinstance(unreachable, Unreachable):
                    raise
                if job.routed.fail_over(unreachable) or job.routed.wait_again():
                    continue
                if error is not unreachable or not _hold(job, limit):
                    raise

    def _relay(self, job: "_AdmittedRequest", extra: Headers) -> relay.Outcome:
        routed, spec = job.routed, job.routed.route.model.spec
        # An engine of hotseat has one name for its model. An external server gets the name that the client sent.
        name = routed.route.model.engine_model_name
        if spec.url and routed.requested_name and not spec.engine_model_name:
            name = routed.requested_name
        raw = job.body.raw if name == job.body.model else rename_model(job.body, name)
        call = relay.Call(
            routed.pending_request.address,
            "POST",
            relay.request_target(job.environ),
            relay.RequestHeaders(job.environ),
            raw,
            patience=spec.lifecycle.response_start_timeout or None,
        )
        exchange = relay.Exchange(self._connections, call)
        routed.pending_request.on_abort(exchange.cancel)
        return exchange.run(job.stream, extra=(*routed.headers, *extra))


@dataclass(frozen=True, slots=True)
class _AdmittedRequest:
    """An admitted request."""

    environ: Mapping[str, Any]
    body: Body
    routed: RoutedRequest
    stream: relay.ClientStream


class _Wait:
    """Waits until a request is dispatched, its limit (seconds) has passed, or its client disconnects.

    `shown_name` returns the displayed name for a metadata.name.
    """

    def __init__(self, job: _AdmittedRequest, limit: float | None, shown_name: Callable[[str], str]) -> None:
        self._job = job
        self._shown_name = shown_name
        self._routed = job.routed
        self._limit = limit
        self._client = _ClientConnection(job.environ)
        self._comments = job.body.stream and job.environ.get(LOADING_HEADER, "").lower() == "comments"

    def run(self) -> None:
        """Return once the request is dispatched. Raise ClientGone, or the HotseatError for the client."""
        while True:
            elapsed = time.monotonic() - self._routed.began
            rest = inf if self._limit is None else max(0.0, self._limit - elapsed)
            if self._comments and elapsed < _LOADING_DELAY:
                rest = min(rest, _LOADING_DELAY - elapsed)
            elif self._comments:
                self._send_comment(elapsed)
                rest = min(rest, _LOADING_INTERVAL)
            next_check = self._routed.check_fallback(self._limit)
            if self._wait_for_dispatch(rest if next_check is None else min(rest, next_check)):
                return
            if self._limit is not None and time.monotonic() - self._routed.began >= self._limit:
                self._routed.route.handle.gate.expire(self._routed.pending_request)

    def _wait_for_dispatch(self, rest: float) -> bool:
        """Wait for this many seconds. Return whether the request was dispatched."""
        try:
            return self._routed.route.handle.gate.wait(
                self._routed.pending_request, self._client, None if rest == inf else rest
            )
        except HotseatError as error:
            if not self._routed.fail_over(error):
                raise
            return self._routed.pending_request.dispatched is not None

    def _send_comment(self, elapsed: float) -> None:
        if not self._job.stream.begun:
            self._job.stream.begin("200 OK", [*_EVENT_STREAM, *self._routed.queue_headers])
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
        _comment(self._job, state)


def _hold(job: _AdmittedRequest, limit: float | None) -> bool:
    """Wait until an external server should be tried again. Return False if it has had its time. Raise ClientDisconnectedError.

    The request counts as in flight meanwhile, so an autoscaler sees it and starts the server.
    """
    now, spec = time.monotonic(), job.routed.route.model.spec
    since = job.routed.dispatched or now
    end = since + (spec.lifecycle.connect_timeout if spec.url else 0.0)
    if limit is not None:
        end = min(end, job.routed.began + limit)
    if now >= end:
        return False
    pause = min(max(_RECONNECT[0], (now - since) / 4), _RECONNECT[1], end - now)
    client = _ClientConnection(job.environ)
    if client.fileno() < 0:
        time.sleep(pause)
        return True
    poll = select.poll()
    poll.register(client.fileno(), select.POLLRDHUP)
    if poll.poll(pause * 1000) and client.departed():
        raise ClientDisconnectedError
    return True


def _comment(job: _AdmittedRequest, state: Mapping[str, Any]) -> None:
    job.stream.write(b": hotseat " + json.dumps(state).encode() + b"\n\n")


def _fallback_comment(routed: RoutedRequest) -> dict[str, Any]:
    """Return a comment for a fallback, because a stream that has started has sent its headers."""
    assert routed.fallback_used is not None  # noqa: S101
    return {
        "model": routed.fallback_used.wanted.shown_name,
        "state": "fallback",
        "fallback": routed.route.model.shown_name,
        "reason": routed.fallback_used.reason.lower(),
        "elapsed": round(time.monotonic() - routed.began, 2),
    }


def _log_entry(routed: RoutedRequest, route: Route, status: int, seconds: float) -> RequestRecord:
    """Return the line for the request log. The request has taken `seconds`."""
    model, begun = routed.route.model, routed.dispatched
    return RequestRecord(
        time.time() - seconds,
        model.name,
        route.label,
        None if begun is None else max(0.0, seconds - (time.monotonic() - begun)),
        seconds,
        status,
        routed.options.priority,
        routed.options.tenant or None,
        wanted=None if routed.fallback_used is None else routed.fallback_used.wanted.name,
    )


_EVENT_STREAM = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
]
