"""TLS of the listener: answers as without it, certificates that change, and clients that do not speak it."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotseat.gateway.tls import ServerTls, TlsError, own_certificate
from tests.unit.gateway.http.running import LOOPS, Server, eventually
from tests.unit.gateway.http.test_connection import Client, Echo

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def tls(tmp_path: Path) -> ServerTls:
    return ServerTls(*own_certificate(tmp_path / "tls", ["box.example"]))


@pytest.fixture(params=LOOPS)
def server(request: pytest.FixtureRequest, tls: ServerTls) -> Iterator[Server]:
    made = Server(Echo(), loop=request.param, tls=tls, refusal_time=0.5)
    yield made
    made.close()


class TlsClient(Client):
    """One connection that trusts this certificate, if it is for the name."""

    def __init__(self, server: Server, certificate: Path, data: bytes = b"", name: str = "localhost") -> None:
        context = ssl.create_default_context(cafile=str(certificate))
        self.sock = context.wrap_socket(socket.create_connection(server.address, timeout=10), server_hostname=name)
        self._rest = b""
        self.sock.sendall(data)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "box.example"])
def test_a_client_that_trusts_the_certificate_is_answered(server: Server, tls: ServerTls, name: str) -> None:
    with TlsClient(server, tls.certificate, name=name) as client:
        for size in (0, 10, 90_000):
            client.send(
                b"POST /x HTTP/1.1\r\nHost: a\r\nX-Stream: 1\r\nContent-Length: %d\r\n\r\n" % size + b"b" * size
            )
            assert client.answer() == (200, b"POST /x  " + b"b" * size)


def test_others_do_not_trust_it(server: Server, tls: ServerTls, tmp_path: Path) -> None:
    other, _ = own_certificate(tmp_path / "other", [])
    for certificate, name in ((other, "localhost"), (tls.certificate, "other.example")):
        with pytest.raises(ssl.SSLCertVerificationError):
            TlsClient(server, certificate, name=name)


def test_a_refused_request_is_answered_although_its_body_is_not_read(server: Server, tls: ServerTls) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nX-Refuse: 1\r\nContent-Length: 1000000\r\n\r\n"
    with TlsClient(server, tls.certificate, head + b"x" * 20_000) as client:
        assert client.answer()[0] == 401
        assert client.rest() == b""


def test_one_that_speaks_plain_http_leaves_the_server_as_it_is(server: Server, tls: ServerTls) -> None:
    with Client(server, GET) as client, pytest.raises((AssertionError, ConnectionError)):
        client.answer()
    eventually(lambda: not server.http._all)
    with TlsClient(server, tls.certificate, GET) as client:
        assert client.answer()[0] == 200


def test_a_new_certificate_is_for_new_connections(server: Server, tls: ServerTls, tmp_path: Path) -> None:
    made = own_certificate(tmp_path / "new", [])
    with TlsClient(server, tls.certificate, GET) as open_before:
        assert open_before.answer()[0] == 200
        shutil.copy(made[0], tls.certificate)
        shutil.copy(made[1], tls._key)
        tls._reload()
        with TlsClient(server, made[0], GET) as client:
            assert client.answer()[0] == 200
        open_before.send(GET)
        assert open_before.answer()[0] == 200


def test_a_certificate_is_used_once_its_key_is_there(tls: ServerTls, tmp_path: Path) -> None:
    certificate, key = own_certificate(tmp_path / "new", [])
    old = tls.context
    shutil.copy(certificate, tls.certificate)
    tls._reload()
    assert tls.context is old
    shutil.copy(key, tls._key)
    tls._reload()
    assert tls.context is not old


def test_an_own_certificate_is_made_once_and_only_its_owner_reads_the_key(tmp_path: Path) -> None:
    first = own_certificate(tmp_path / "tls", ["10.0.0.1"])
    text = first[0].read_bytes()
    assert first[1].stat().st_mode & 0o077 == 0
    assert own_certificate(tmp_path / "tls", []) == first
    assert first[0].read_bytes() == text
    shown = subprocess.run(
        ["openssl", "x509", "-in", first[0], "-noout", "-fingerprint", "-sha256"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ServerTls(*first).fingerprint == shown.stdout.strip().partition("=")[2]


def test_without_openssl_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TlsError, match="--tls-cert"):
        own_certificate(tmp_path / "tls", [])


def test_files_that_are_no_certificate_are_refused(tmp_path: Path, tls: ServerTls) -> None:
    (tmp_path / "x").write_text("x")
    for files in (
        (tmp_path / "x", tmp_path / "x"),
        (tmp_path / "missing", tls._key),
        (tls.certificate, tmp_path / "x"),
    ):
        with pytest.raises(TlsError):
            ServerTls(*files)


@pytest.mark.parametrize("loop", LOOPS)
def test_handshakes_that_never_come_make_room_for_others(loop: str, tls: ServerTls) -> None:
    server = Server(Echo(), loop=loop, tls=tls, connections=4)
    silent = [socket.create_connection(server.address, timeout=10) for _ in range(40)]
    try:
        with TlsClient(server, tls.certificate, GET) as client:
            assert client.answer()[0] == 200
        assert silent[0].recv(1) == b""
    finally:
        for each in silent:
            each.close()
        server.close()
