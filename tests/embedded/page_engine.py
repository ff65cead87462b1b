"""An engine with a page, a redirect, a cookie and a WebSocket that echoes, for tests of `/upstream`. Its argument is its port."""

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of RFC 6455


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "websocket" in self.headers.get("Upgrade", ""):
            self._echo()
        elif self.path == "/":
            self._reply(200, "text/html", b"<!doctype html><title>page</title>", ("Set-Cookie", "a=b"))
        elif self.path == "/old":
            self._reply(302, "text/plain", b"", ("Location", f"http://{self.headers['Host']}/new"))
        else:
            self._tell()

    def _tell(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        told = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body.decode()}
        self._reply(200, "application/json", json.dumps(told).encode())

    do_POST = do_PUT = do_DELETE = _tell  # noqa: N815 - http.server wants these names

    def _reply(self, status: int, kind: str, body: bytes, *fields: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *fields):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _echo(self) -> None:
        accept = base64.b64encode(hashlib.sha1((self.headers["Sec-WebSocket-Key"] + _GUID).encode()).digest())
        self.send_response(101)
        for name, value in (
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Accept", accept.decode()),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        while head := self.rfile.read(2):  # small masked frames of text only
            mask = self.rfile.read(4)
            text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(head[1] & 0x7F)))
            self.wfile.write(head[:1] + bytes([len(text)]) + text)
            self.wfile.flush()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
