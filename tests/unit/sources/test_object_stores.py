"""Which credentials requests to stores of objects have, and what of a source they refuse."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotseat.sources import object_stores
from hotseat.sources.base import SourceError
from hotseat.sources.download import Progress
from tests.origins import Origins, serve


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origins]:
    for names in object_stores._CREDENTIALS.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_SKIP_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    with serve() as origin:
        origin.files["/bucket/a b/m+1.gguf"] = b"weights"
        monkeypatch.setenv("AWS_ENDPOINT_URL", origin.url)
        yield origin


def fetch(folder: Path, source: str = "s3://bucket/a b/m+1.gguf") -> Path:
    return object_stores.fetch(source, folder, Progress(io.StringIO()))


def test_a_public_bucket_is_asked_without_a_signature(origin: Origins, tmp_path: Path) -> None:
    assert fetch(tmp_path).read_bytes() == b"weights"
    assert "authorization" not in origin.asked[0].headers


def test_keys_of_the_environment_sign_for_their_region(
    origin: Origins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert fetch(tmp_path).read_bytes() == b"weights"
    headers = origin.asked[0].headers
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/")
    assert "/eu-west-1/s3/aws4_request" in headers["authorization"]
    assert headers["x-amz-security-token"] == "session"


def test_the_url_for_s3_alone_takes_precedence(
    origin: Origins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", origin.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert fetch(tmp_path).read_bytes() == b"weights"


@pytest.mark.usefixtures("origin")
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("s3://bucket", "expected s3://bucket/key"),
        ("gs://bucket/", "expected gs://bucket/key"),
        ("s3://bucket/m/#sha256=" + "0" * 64, "a folder has no sha256"),
        ("s3://bucket/m#sha256=0", "64 hexadecimal digits"),
        ("s3://bucket/../m", "s3://bucket/../m: "),
        ("az://bucket/m", "the settings of the store are not valid"),
    ],
)
def test_what_is_no_source_is_refused(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(SourceError, match=reason) as told:
        fetch(tmp_path, source)
    assert not told.value.retryable
