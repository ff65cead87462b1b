"""A server of the test's own, for what hotseat sends out: to external engines, and to a sink of events."""

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .harness import PATIENCE


class Receiver:
    """Keeps what it is sent.

    It answers with the statuses of `plan` first, and with 200 after that; where `hanging` is set, not at all.
    """

    def __init__(self, *plan: int, host: str = "127.0.0.1") -> None:
        self.plan = list(plan)
        self.hanging = False
        self.requests: list[tuple[str, Mapping[str, str], bytes]] = []  # path, headers, body
        self._over = threading.Event()
        self._news = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver._take(self.path, self.headers, body)
                answer = b'{"object": "mine"}'
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Wait until that is true; looked at with every request."""
        with self._news:
            assert self._news.wait_for(condition, PATIENCE)

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        with self._news:
            status = self.plan.pop(0) if self.plan else 200
            self.requests.append((path, headers, body))
            self._news.notify_all()
        if self.hanging:
            self._over.wait()
        return status
