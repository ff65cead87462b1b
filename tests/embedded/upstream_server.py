"""A server for inference that wants a key, with or without TLS, and keeps what it was asked."""

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Upstream:
    """Answers each POST with its path, its headers and its body, once the header `header` has `value`."""

    def __init__(
        self, context: ssl.SSLContext | None = None, *, header: str = "Authorization", value: str = ""
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self.delay = threading.Event()
        self.delay.set()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                heard = {"path": self.path, "headers": dict(self.headers), "body": body.decode()}
                upstream.requests.append(heard)
                upstream.delay.wait(60)
                allowed = not upstream.value or self.headers.get(header) == upstream.value
                answer = json.dumps(heard if allowed else {"error": {"message": "no key", "code": "no_key"}}).encode()
                self.send_response(200 if allowed else 401)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.value = value
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        if context is not None:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"http{'' if context is None else 's'}://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.delay.set()
        self._http.shutdown()
        self._http.server_close()
