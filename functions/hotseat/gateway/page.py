"""The web page at /ui/. It is built from the sources in ui/, and asks the routes that all clients have."""

from importlib.resources import files

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from hotseat.core.errors import NotFound, shortened
from hotseat.gateway.openapi import documented

_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
# It loads nothing from another host, runs no inline script, is in no frame, and makes pictures and sounds of answers only.
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page_routes(blueprint: Blueprint) -> None:
    """Add the page and its parts. They hold no data, so no key is required."""
    parts = {
        part.name: (part.read_bytes(), _TYPES[part.name.rpartition(".")[2]])
        for part in (files("hotseat.ui") / "static").iterdir()
    }

    def answer(name: str) -> BaseResponse:
        if name not in parts:
            raise NotFound(f"The web page has no part {shortened(name)}.")
        body, kind = parts[name]
        response = Response(body, content_type=f"{kind}; charset=utf-8", headers=_HEADERS)
        # Browsers ignore it, and say so as an error, where the connection is not secure.
        if request.is_secure or request.host.rsplit(":", 1)[0] in _LOOPBACK:
            response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.add_etag()
        return response.make_conditional(request)

    @blueprint.get("/ui")
    @documented("Redirect to the web page", ok=(308,), content=["text/html"], keyless=True)
    def page() -> BaseResponse:
        return redirect("ui/", 308)  # relative, so that it is right behind a proxy with a prefix

    @blueprint.get("/ui/")
    @documented("Return the web page", content=["text/html"], keyless=True)
    def index() -> BaseResponse:
        return answer("index.html")

    @blueprint.get("/ui/static/<name>")
    @documented("Return a part of the web page", 404, content=sorted({*_TYPES.values()}), keyless=True)
    def static(name: str) -> BaseResponse:
        return answer(name)
