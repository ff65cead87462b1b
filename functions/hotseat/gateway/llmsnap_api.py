"""Admin routes by the names that llama-swap and llmsnap have for them: unload, sleep, and logs as plain text."""

import logging
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Protocol

from flask import Blueprint, Response, request

from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import Forbidden, NotFound
from hotseat.core.ports import LogView
from hotseat.gateway.auth import OPERATE
from hotseat.gateway.limits import ConcurrencyLimit
from hotseat.gateway.openapi import documented
from hotseat.gateway.unloading import park, unload_all_models
from hotseat.gateway.wsgi_threads import DEPARTED
from hotseat.runtimes.local.logs import ModelLog

POLL = 0.5  # seconds between looks for new lines
ALL_EACH = 10  # looks, of which one is for the logs of models that are not loaded too
LINES = 100  # of each log that are sent first
PROXY = "hotseat"  # the name of hotseat's own log


class Views(Protocol):
    """Returns logs by name."""

    def __call__(self, *, loaded: bool) -> dict[str, LogView]:
        """With `loaded`: only those of loaded models, because each costs a request on a cluster."""


class OwnLog(logging.Handler):
    """Keeps the last lines of hotseat's own log."""

    def __init__(self) -> None:
        super().__init__()
        self.view = ModelLog()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the lines of a record."""
        self.view.write(self.format(record).splitlines())


OWN_LOG = OwnLog()  # of this process


def add_llmsnap_routes(blueprint: Blueprint, registry: ModelRegistry, concurrency: ConcurrencyLimit) -> None:
    """Add the routes."""
    logging.getLogger().addHandler(OWN_LOG)
    _add_commands(blueprint, registry, concurrency)
    _add_logs(blueprint, registry, concurrency)


def _add_commands(blueprint: Blueprint, registry: ModelRegistry, concurrency: ConcurrencyLimit) -> None:
    @documented("Unload all Models", content=["text/plain"], operation=OPERATE)
    def unload_all() -> Response:
        _refuse_web_pages("unload")
        unload_all_models(registry, concurrency, None)
        return _text(["OK"])

    for path in ("/unload", "/models/unload"):
        blueprint.add_url_rule(path, f"llmsnap {path}", unload_all, methods=["GET", "POST"])

    @blueprint.route("/models/sleep/<model:name>", methods=["GET", "POST"])
    @documented("Put a Model to sleep", 404, 409, content=["text/plain"], operation=OPERATE)
    def sleep(name: str) -> Response:
        _refuse_web_pages("park")
        park(registry, name, concurrency, None)
        return _text(["OK"])


def _refuse_web_pages(verb: str) -> None:
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Forbidden(f"Web pages cannot {verb} models by GET or from another origin.")


def _add_logs(blueprint: Blueprint, registry: ModelRegistry, concurrency: ConcurrencyLimit) -> None:
    own: LogView = OWN_LOG.view

    def engines(*, loaded: bool = False) -> dict[str, LogView]:
        routes = registry.routes().values()
        models = [r.model for r in routes if not loaded or r.handle.status(r.model.name).state != "unloaded"]
        views = {model.shown_name: registry.logs(model.name) for model in models}
        return {name: view for name, view in views.items() if view is not None}

    def everything(*, loaded: bool = False) -> dict[str, LogView]:
        return {PROXY: own, **engines(loaded=loaded)}

    @blueprint.get("/logs")
    @documented("Return the last lines of all logs", content=["text/plain"], operation=OPERATE)
    def all_logs() -> Response:
        return _text(f"{name}: {line}" for name, view in everything().items() for line in view.tail(LINES))

    def stream(views: Views, *, named: bool) -> Response:
        concurrency.in_thread.take()
        followed = _follow(views, named=named, history="no-history" not in request.args, registry=registry)
        departed = request.environ.get(DEPARTED, lambda: False)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        response = Response(_until(departed, followed), mimetype="text/plain", headers=headers)
        response.call_on_close(concurrency.in_thread.give_back)
        return response

    @blueprint.get("/logs/stream")
    @documented("Follow all logs", content=["text/plain"], operation=OPERATE)
    def stream_all() -> Response:
        return stream(everything, named=True)

    @blueprint.get("/logs/stream/proxy")
    @documented("Follow hotseat's own log", content=["text/plain"], operation=OPERATE)
    def stream_own() -> Response:
        return stream(lambda **_: {PROXY: own}, named=False)

    @blueprint.get("/logs/stream/upstream")
    @documented("Follow the logs of all engines", content=["text/plain"], operation=OPERATE)
    def stream_engines() -> Response:
        return stream(engines, named=True)

    @blueprint.get("/logs/stream/<model:name>")
    @documented("Follow the log of an engine", 404, content=["text/plain"], operation=OPERATE)
    def stream_one(name: str) -> Response:
        model = registry.find(name).model
        view = registry.logs(model.name)
        if view is None:
            raise NotFound(f"{model.name} has no log: its engine is {model.spec.engine}, which hotseat does not run")
        return stream(lambda **_: {model.shown_name: view}, named=False)


def _text(lines: Iterator[str] | list[str]) -> Response:
    return Response("".join(f"{line}\n" for line in lines), mimetype="text/plain")


def _follow(views: Views, *, named: bool, history: bool, registry: ModelRegistry) -> Iterator[bytes]:
    """Yield the lines of logs as they come; with `named`, each after the name of its log. Empty pieces are looks without news."""
    known: dict[str, tuple[LogView, int]] = {}
    for number in count():
        first, news = number == 0, []
        if not first and not registry.ready:
            return
        # An engine can start and end between two looks.
        for name, found in views(loaded=number % ALL_EACH != 0).items():
            view, position = known.get(name, (found, 0))
            position, lines = view.read_after(position, 0.0)
            known[name] = view, position
            if first:
                lines = lines[-LINES:] if history else []
            news += [f"{name}: {line}\n" if named else f"{line}\n" for line in lines]
        # The first byte brings the head of the response: after it, no line is missed.
        yield ("\n" * first + "".join(news)).encode()
        if not news:
            time.sleep(POLL)


def _until(departed: Callable[[], bool], pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces until the client has left."""
    for piece in pieces:
        if departed():
            return
        yield piece
