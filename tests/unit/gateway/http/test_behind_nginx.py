"""Behind nginx, which parses requests on its own: each reaches hotseat as nginx saw it, and its answer is for its client."""

import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing import examples
from tests.unit.gateway.http.running import Server, eventually, serving
from tests.unit.gateway.http.test_fuzz import FRONTS, SMUGGLED, WHOLE, KnownHeads, streams

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx")
CONFIG = """
daemon off;
master_process off;
error_log {folder}/error.log;
pid {folder}/pid;
events {{ worker_connections 64; }}
http {{
    log_format seen '$request_method $request_uri $upstream_status';
    access_log {folder}/access.log seen;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream hotseat {{ server 127.0.0.1:{port}; keepalive 1; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host a;
    proxy_request_buffering {buffering};
    server {{
        listen unix:{folder}/hasty;
        client_header_timeout 50ms;
        client_body_timeout 50ms;
        keepalive_timeout 50ms;
        location / {{ proxy_pass http://hotseat; }}
    }}
    server {{
        listen unix:{folder}/patient;
        location / {{ proxy_pass http://hotseat; }}
    }}
}}
"""


class Nginx:
    """An nginx in front of a server of hotseat's, to which it keeps one connection."""

    def __init__(self, folder: Path, server: Server, *, buffering: bool) -> None:
        self.service, self._folder = server.service, folder
        config = CONFIG.format(folder=folder, port=server.address[1], buffering="on" if buffering else "off")
        (folder / "nginx.conf").write_text(config)
        self._process = subprocess.Popen([NGINX, "-e", folder / "error.log", "-c", folder / "nginx.conf"])
        eventually(lambda: (folder / "patient").exists() or self._process.poll() is not None)

    def send(self, data: bytes, listener: str) -> bytes:
        """Send bytes on a connection. Return what comes until nginx closes it."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self._folder / listener))
            answer = b""
            with contextlib.suppress(ConnectionError):  # nginx has dropped what it had not read
                sock.sendall(data)
                while more := sock.recv(65536):
                    answer += more
            return answer

    def seen(self) -> list[str]:
        """Requests that were served, as nginx saw them."""
        lines = (self._folder / "access.log").read_text().splitlines()
        return [line.removesuffix(" 200") for line in lines if line.endswith(" 200")]

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)


@pytest.fixture(params=[True, False], ids=["buffered", "unbuffered"])
def nginx(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("n")
    with serving(KnownHeads()) as server:
        made = Nginx(folder, server, buffering=request.param)
        yield made
        made.close()


def check_in_step(nginx: Nginx, sent: bytes) -> None:
    """Send bytes, then two requests of others, which may get the same connection to hotseat."""
    nginx.send(sent, "hasty")
    for name in ("one", "two"):
        request = f"GET /{name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
        answer = nginx.send(request, "patient")
        assert answer.endswith(f"\r\n\r\nGET /{name}  ".encode()), (sent, answer)
    served = [f"{request.method} {request.path}" for request in nginx.service.requests]
    eventually(lambda: len(nginx.seen()) >= len(served))
    assert nginx.seen() == served, sent


def test_what_fronts_read_in_different_ways_brings_nobody_out_of_step(nginx: Nginx) -> None:
    for front in FRONTS:
        check_in_step(nginx, front + SMUGGLED)


@settings(examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(WHOLE) | streams, min_size=1, max_size=3).map(b"".join))
def test_nothing_brings_anybody_out_of_step(nginx: Nginx, stream: bytes) -> None:
    check_in_step(nginx, stream)
