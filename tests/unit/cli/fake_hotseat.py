"""A hotseat that says what a test tells it to: enough HTTP for the command line to talk to."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit


def sse(*events):
    """Chunks of a stream: dicts become data, strings comments."""
    return [
        (f": {event}\n\n" if isinstance(event, str) else f"data: {json.dumps(event)}\n\n").encode() for event in events
    ]


def error(status, message, code, **headers):
    """An answer in OpenAI's error shape."""
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return status, body, headers


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Stay quiet: a client that leaves early is no news, and its traceback would land in what a test compares."""


class FakeHotseat:
    """`answers` maps "METHOD /path" to a body (dict, str, iterable of chunks), (status, body, headers), or a callable."""

    def __init__(self):
        self.answers = {}
        self.requests = []

    @property
    def last(self):
        return self.requests[-1]

    @contextmanager
    def serving(self):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def do_GET(self):
                fake.answer(self)

            do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815 - http.server wants these names

        server = _Server(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, handler):
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = SimpleNamespace(
            method=handler.command,
            path=parts.path,
            query=dict(parse_qsl(parts.query)),
            headers=handler.headers,
            json=json.loads(body) if body else None,
        )
        self.requests.append(request)
        found = self.answers.get(f"{request.method} {request.path}")
        found = error(404, f"no route {request.path}", "not_found") if found is None else found
        found = found(request) if callable(found) else found
        status, body, headers = found if isinstance(found, tuple) else (200, found, {})
        try:
            self._send(handler, status, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True

    @staticmethod
    def _send(handler, status, body, headers):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if not isinstance(body, (str, dict)):
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for chunk in body:
                if chunk is BROKEN:
                    handler.close_connection = True
                    return
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            handler.wfile.write(b"0\r\n\r\n")
            return
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)


BROKEN = object()  # as a chunk: the connection ends here


def model(name, **more):
    """One entry of GET /v1/models."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "hotseat",
        "names": [name],
        "metadata_name": name,
        "capabilities": ["chat"],
        "description": "",
        "metadata": {},
        "workspace": "default",
        "engine": "llamacpp",
        "status": {"value": "unloaded", "state": "unloaded", "since": None, "message": "", "progress": None},
    } | more
