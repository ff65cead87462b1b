"""s3:// without an SDK: Amazon's own example of a signed URL, and a small store on loopback."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from hotseat.sources import s3
from hotseat.sources.base import SourceError
from hotseat.sources.download import Progress

KEY = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
OBJECTS = {"m/config.json": b"{}", "m/a b/weights+1": b"w" * 1000, "m/folder/": b"", "single.gguf": b"gguf"}


class Store(BaseHTTPRequestHandler):
    """Path-style, two keys a page."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if "list-type" in query:
            keys = [key for key in sorted(OBJECTS) if key.startswith(query["prefix"])]
            first = int(query.get("continuation-token", "0"))
            items = "".join(
                f"<Contents><Key>{key}</Key><Size>{len(OBJECTS[key])}</Size></Contents>"
                for key in keys[first : first + 2]
            )
            more = f"<NextContinuationToken>{first + 2}</NextContinuationToken>" if first + 2 < len(keys) else ""
            body = f'<R xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{items}{more}</R>'.encode()
        else:
            paths = {s3.quote(f"/bucket/{key}"): content for key, content in OBJECTS.items()}
            if parts.path not in paths:
                self.send_error(404)
                return
            body = paths[parts.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def store() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in KEY.items():
        monkeypatch.setenv(name, value)
    with store() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield


def test_amazons_own_example_of_a_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "URL_LIFETIME", 86400)
    query = {"X-Amz-Algorithm": "", "X-Amz-Date": ""}
    fields = s3._signed(
        KEY, "us-east-1", "examplebucket.s3.amazonaws.com", "/test.txt", query, datetime(2013, 5, 24, tzinfo=UTC)
    )
    assert fields["X-Amz-Signature"] == "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"


def test_addresses() -> None:
    assert s3.url({"AWS_REGION": "eu-west-1"}, "b", "x/y z") == "https://b.s3.eu-west-1.amazonaws.com/x/y%20z"
    assert s3.url({"AWS_ENDPOINT_URL": "http://minio:9000/"}, "b", "x") == "http://minio:9000/b/x"
    token = s3.url({**KEY, "AWS_SESSION_TOKEN": "a/b"}, "b", "x")
    assert "X-Amz-Security-Token=a%2Fb" in token
    assert "X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F" in token


@pytest.mark.usefixtures("environment")
def test_one_object(tmp_path: Path) -> None:
    path = s3.fetch("s3://bucket/single.gguf", tmp_path, Progress(io.StringIO()))
    assert path == tmp_path / "single.gguf"
    assert path.read_bytes() == b"gguf"
    with pytest.raises(SourceError, match="answered 404"):
        s3.fetch("s3://bucket/none.gguf", tmp_path, Progress(io.StringIO()))


@pytest.mark.usefixtures("environment")
def test_a_folder_keeps_its_shape_over_pages_of_the_listing(tmp_path: Path) -> None:
    out = io.StringIO()
    assert s3.fetch("s3://bucket/m/", tmp_path, Progress(out)) == tmp_path
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {
        "config.json",
        "a b/weights+1",
    }
    assert (tmp_path / "a b/weights+1").read_bytes() == OBJECTS["m/a b/weights+1"]
    assert '"total": 1002' in out.getvalue()
    with pytest.raises(SourceError, match="holds no objects"):
        s3.fetch("s3://bucket/n/", tmp_path, Progress(io.StringIO()))


def test_a_bucket_alone_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected s3://bucket/key"):
        s3.fetch("s3://bucket", tmp_path, Progress(io.StringIO()))
