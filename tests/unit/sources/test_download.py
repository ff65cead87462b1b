"""How long an origin is waited for that takes requests and sends nothing, and by which proxy it is asked."""

import base64
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from urllib3.exceptions import ReadTimeoutError

from hotseat.sources import download, http_client, object_stores
from hotseat.sources.base import SourceError
from hotseat.sources.download import Progress


class Hanging:
    """A pool of connections to such an origin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.asked = 0
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self._pass)
        monkeypatch.setattr(download, "time", clock)

    def request(self, *_: object, **__: object) -> None:
        self.asked += 1
        self._pass(30.0)
        raise ReadTimeoutError(None, "", "read timed out")  # type: ignore[arg-type]

    def _pass(self, seconds: float) -> None:
        self.now += seconds


def test_an_origin_that_hangs_is_given_up_for_good_after_two_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging(monkeypatch)
    remote = http_client.HttpFile(hanging, "https://origin/w?key")  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"https://origin/w: no data for 12\d s: .*read timed out") as told:
        download.download(remote, tmp_path, "w", lambda *_: None)
    assert not told.value.retryable, "whoever waits has waited long enough"
    assert hanging.asked == 4


# Proxies ----------------------------------------------------------------------------------------------------------------


class Proxy:
    """A proxy that answers for each host. `asked` has the lines of the requests and the credentials."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy.asked.append((self.path, self.headers.get("Proxy-Authorization")))
                self.send_response(200)
                self.send_header("Content-Length", "7")
                self.end_headers()
                self.wfile.write(b"weights")

            def do_CONNECT(self) -> None:
                proxy.asked.append((f"CONNECT {self.path}", self.headers.get("Proxy-Authorization")))
                self.send_error(403)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    proxy = Proxy()
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield proxy
    proxy.server.shutdown()
    thread.join()
    proxy.server.server_close()


@pytest.mark.parametrize(("name", "scheme"), [("HTTP_PROXY", "http://"), ("http_proxy", ""), ("ALL_PROXY", "http://")])
def test_weights_come_through_the_proxy_of_the_environment(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    monkeypatch.setenv(name, f"{scheme}ada:s%40fe@{proxy.address}")
    remote = http_client.HttpFile(http_client.make_pool(), "http://origin.example.com/w")
    download.download(remote, tmp_path, "w", lambda *_: None)
    assert (tmp_path / "w").read_bytes() == b"weights"
    credentials = "Basic " + base64.b64encode(b"ada:s@fe").decode()
    assert proxy.asked == [("http://origin.example.com/w", credentials)]


def test_https_goes_through_a_tunnel(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    with pytest.raises(http_client.HTTPError, match="Tunnel connection failed"):
        http_client.make_pool().request("GET", "https://origin.example.com/w")
    assert proxy.asked[0][0] == "CONNECT origin.example.com:443"


@pytest.mark.parametrize(
    ("url", "through"),
    [
        ("http://hub.example.com/w", True),
        ("http://mirror.internal/w", False),
        ("http://a.internal/w", False),
        ("http://127.0.0.1:9/w", False),
        ("http://localhost/w", False),
        ("https://hub.example.com/w", False),
    ],
)
def test_no_proxy_and_this_machine_are_asked_directly(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, url: str, through: bool
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
    monkeypatch.setenv("NO_PROXY", "mirror.internal, .internal")
    assert (http_client.proxy_of(url) is not None) == through


def test_stores_of_objects_are_asked_through_the_proxy_too(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio.example.com")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    path = object_stores.fetch("s3://bucket/w", tmp_path, Progress(io.StringIO()))
    assert path.read_bytes() == b"weights"
    assert proxy.asked == [("http://minio.example.com/bucket/w", None)]


def test_the_last_progress_before_a_pause_is_written() -> None:
    out = io.StringIO()
    progress = Progress(out)
    report = progress.file("w")
    report(1, 9)
    report(2, 9)  # within the interval
    assert [json.loads(line)["done"] for line in out.getvalue().splitlines()] == [1]
    progress._flush()  # what its timer does
    assert [json.loads(line)["done"] for line in out.getvalue().splitlines()] == [1, 2]
    progress._flush()
    report(9, 9)
    assert [json.loads(line)["done"] for line in out.getvalue().splitlines()] == [1, 2, 9]
