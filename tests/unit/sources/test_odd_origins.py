"""Origins that name files elsewhere or answer oddly, and what messages show of a source: no key, ever."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hotseat.sources.base import SourceError, redacted
from hotseat.sources.fetch import main

SHA = "c0ffee" + "0" * 34
WEIGHTS = b"weights"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
SECRETS = ("SECRET", "PASSWORD", "ada")


class Origin:
    """Answers each path with what `answers` has for it, and any other path with the weights."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        origin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = origin.answers.get(self.path.partition("?")[0], WEIGHTS)
                status = answer if isinstance(answer, int) else 302 if isinstance(answer, str) else 200
                body = answer if isinstance(answer, bytes) else b""
                self.send_response(status)
                if isinstance(answer, str):
                    self.send_header("Location", answer)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.address}"


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    origin = Origin()
    thread = threading.Thread(target=origin.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in ("HF_ENDPOINT", "OLLAMA_REGISTRY", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, origin.url)
    monkeypatch.setenv("HF_HOME", "/nowhere")
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("hotseat.sources.download.PAUSE", 0.0)
    yield origin
    origin.server.shutdown()
    thread.join()
    origin.server.server_close()


def fetch(source: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Run the child's code, and return the exit status and the last line."""
    code = main([source, "--cache", str(cache)])
    said = capsys.readouterr()
    assert said.err == "", "no traceback"
    return code, json.loads(said.out.splitlines()[-1])


def listing(origin: Origin, answer: Any) -> None:
    origin.answers["/api/models/org/repo/revision/main"] = answer if answer is None else json.dumps(answer).encode()


def manifest(origin: Origin, answer: Any) -> None:
    origin.answers["/v2/library/m/manifests/latest"] = json.dumps(answer).encode()


def layer(**fields: Any) -> dict[str, Any]:
    its = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{SHA256}", "size": len(WEIGHTS)}
    return {"layers": [{**its, **fields}]}


@pytest.mark.parametrize(
    "sha", ["../../../escaped", "/{tmp}/escaped", "", ".", "main", "A" * 40, "a" * 39, 7, None, ["a" * 40]]
)
def test_a_hub_does_not_choose_the_folder_by_its_commit(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str], sha: Any
) -> None:
    sha = sha.replace("{tmp}", str(tmp_path)) if isinstance(sha, str) else sha
    listing(origin, {"sha": sha, "siblings": [{"rfilename": "a.gguf"}]})
    code, last = fetch("hf://org/repo", tmp_path / "cache", capsys)
    assert (code, last["retryable"]) == (2, False)
    assert "does not answer like a Hugging Face hub" in last["error"]
    assert not list(tmp_path.rglob("a.gguf*"))


@pytest.mark.parametrize("name", ["../../evil", "a/../../../evil", "..", ".", "", "a\0b", "\ud800"])
def test_no_name_of_a_file_leaves_its_folder(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    listing(origin, {"sha": SHA, "siblings": [{"rfilename": name}]})
    code, last = fetch("hf://org/repo", tmp_path / "cache", capsys)
    assert (code, last["retryable"]) == (2, False)
    assert "would be outside of its folder" in last["error"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.parametrize("path", ["a/%2e%2e", "..%2f..%2fevil%2f..", "%00", "a/%2e"])
def test_no_path_of_a_url_leaves_its_folder(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    code, last = fetch(f"{origin.url}/{path}", tmp_path / "cache", capsys)
    assert (code, last["retryable"]) == (2, False)
    assert "would be outside of its folder" in last["error"]


def test_no_tag_and_no_link_leaves_its_folder(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin.answers["/v2/library/m/manifests/../../x"] = json.dumps(layer()).encode()
    code, last = fetch("ollama://m:../../x", tmp_path / "cache", capsys)
    assert (code, last["retryable"]) == (2, False)
    (tmp_path / "elsewhere").mkdir()
    listing(origin, {"sha": SHA, "siblings": [{"rfilename": "a.gguf"}]})
    code, last = fetch("hf://org/repo", tmp_path / "cache", capsys)
    folder = Path(last["path"])
    assert (code, folder.name) == (0, SHA)
    (folder / "a.gguf").unlink()
    folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere")
    (folder.parent.parent / "done.json").unlink()
    assert fetch("hf://org/repo", tmp_path / "cache", capsys)[0] == 2
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    "answer",
    [
        [], 1, "x", None, {}, {"sha": SHA}, {"sha": SHA, "siblings": {}}, {"sha": SHA, "siblings": [1]},
        {"sha": SHA, "siblings": [{}]}, {"sha": SHA, "siblings": [{"rfilename": 1}]},
        {"sha": SHA, "siblings": [{"rfilename": "a", "size": "1"}]}, {"sha": SHA, "siblings": [{"rfilename": "a", "size": -1}]},
        {"sha": SHA, "siblings": [{"rfilename": "a", "lfs": 1}]}, {"sha": SHA, "siblings": [{"rfilename": "a", "lfs": {"sha256": 1}}]},
    ],
)  # fmt: skip
def test_an_odd_answer_of_a_hub_is_an_error_for_good(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Any
) -> None:
    origin.answers["/api/models/org/repo/revision/main"] = json.dumps(answer).encode()
    code, last = fetch("hf://org/repo", tmp_path, capsys)
    assert (code, last["retryable"]) == (2, False)
    assert last["error"].endswith("does not answer like a Hugging Face hub")


@pytest.mark.parametrize(
    "answer",
    [
        [], 1, "x", None, {}, {"layers": 1}, {"layers": [1]}, {"layers": []}, {"layers": [{}]}, layer(digest=""), layer(digest=None),
        layer(digest="sha256:"), layer(digest=f"md5:{SHA256}"), layer(digest="sha256:" + "../" * 20), layer(size="7"), layer(size=None),
        layer(size=True), {"layers": layer()["layers"] * 2},
    ],
)  # fmt: skip
def test_an_odd_answer_of_a_registry_is_an_error_for_good(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Any
) -> None:
    manifest(origin, answer)
    code, last = fetch("ollama://m", tmp_path, capsys)
    assert (code, last["retryable"]) == (2, False)
    assert last["error"]


def test_an_answer_as_it_should_be_is_none_of_these(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest(origin, layer())
    assert fetch("ollama://m", tmp_path, capsys)[0] == 0


@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000, b"\xff", b"", 400, 418, b"<List"])
def test_what_is_no_answer_at_all_is_an_error_for_good(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str], body: Any
) -> None:
    for path in ("/api/models/org/repo/revision/main", "/v2/library/m/manifests/latest", "/bucket/"):
        origin.answers[path] = body
    for source in ("hf://org/repo", "ollama://m", "s3://bucket/m/"):
        code, last = fetch(source, tmp_path, capsys)
        assert (code, last["retryable"]) == (2, False), source


def test_a_listing_with_a_size_that_is_none_is_an_error_for_good(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin.answers["/bucket/"] = b"<L><Contents><Key>m/a</Key><Size>big</Size></Contents></L>"
    code, last = fetch("s3://bucket/m/", tmp_path, capsys)
    assert (code, last["retryable"]) == (2, False)
    assert last["error"] == "s3://bucket/m/: the store's answer cannot be read"


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h/x.gguf?token=SECRET&a=b#sha256=1", "https://h/x.gguf"),
        ("http://ada:PASSWORD@h:1/x answered 404", "http://h:1/x answered 404"),
        ("http://ada:P@SS?W#ORD@h/x?y", "http://h/x"),
        ("no data: see https://h/x?SECRET and https://ada@h/y", "no data: see https://h/x and https://h/y"),
        ("source https://h/x?SECRET: no such file (https://h/x#y)", "source https://h/x: no such file (https://h/x)"),
        ("hf://org/repo/a?.gguf@main", "hf://org/repo/a?.gguf@main"),
        ("/models/a?b#c@d", "/models/a?b#c@d"),
    ],
)
def test_what_a_message_shows_of_a_url(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert str(SourceError(text)) == shown


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("path", ["x.gguf", "gone", "moved", "badly", "circle", "[bad"])
def test_no_key_of_a_url_is_in_a_message(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """Nobody listens, 404, and redirects that cannot be followed, to signed URLs."""
    signed = "?X-Amz-Signature=SECRET"
    origin.answers |= {
        "/gone": 404,
        "/moved": f"http://ada:PASSWORD@127.0.0.1:{closed_port()}/y{signed}",
        "/badly": f"http://ada:PASSWORD@[h/y{signed}",
        "/circle": f"{origin.url}/circle{signed}",
    }
    host = {"x.gguf": f"127.0.0.1:{closed_port()}", "[bad": "["}.get(path, origin.address)
    code, last = fetch(f"http://ada:PASSWORD@{host}/{path}?token=SECRETQUERY&a=b#sha256={SHA256}", tmp_path, capsys)
    assert code
    assert last["error"]
    assert not [secret for secret in SECRETS if secret in json.dumps(last)], last


@pytest.mark.parametrize("source", ["s3://bucket/a.gguf", "s3://bucket/m/", "hf://org/repo", "ollama://m"])
def test_no_key_of_the_environment_is_in_a_message(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, "SECRET")
    for name in ("HF_ENDPOINT", "OLLAMA_REGISTRY", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, f"http://ada:PASSWORD@127.0.0.1:{closed_port()}")
    code, last = fetch(source, tmp_path, capsys)
    assert code == 1, "worth another try"
    assert not [word for word in (*SECRETS, "X-Amz") if word in json.dumps(last)], last
