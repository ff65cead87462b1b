"""Fetching over real HTTP from an origin on loopback that cuts, stalls and lies."""

import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hotseat.sources import download
from hotseat.sources.base import SourceError, cached, entry, fetch_command
from hotseat.sources.download import Progress
from hotseat.sources.fetch import fetch

WEIGHTS = bytes(range(256)) * 4096 * 4  # 4 MiB
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    origin: "Origin"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        origin = self.origin
        path = self.path.partition("?")[0]
        origin.asked.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
        if path not in origin.files:
            self.send_error(404)
            return
        if origin.failing > 0:
            origin.failing -= 1
            self.send_error(503)
            return
        whole = origin.files[path]
        begin = self._begin(origin)
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(whole) - 1}/{len(whole)}")
        if origin.etag:
            self.send_header("ETag", origin.etag)
        self.send_header("Content-Length", str(len(whole) - begin))
        self.end_headers()
        self._send(whole[begin:], origin)

    def _begin(self, origin: "Origin") -> int:
        asked = self.headers.get("Range")
        mark = self.headers.get("If-Range")
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked and mark in (None, origin.etag) else 0

    def _send(self, data: bytes, origin: "Origin") -> None:
        try:
            if len(data) > origin.cut_after > 0:
                data, origin.cuts = data[: origin.cut_after], origin.cuts + 1
                self.close_connection = True
            if origin.stall_after:
                self.wfile.write(data[: origin.stall_after])
                origin.stalled.set()
                origin.go_on.wait(30)
                data = data[origin.stall_after :]
            self.wfile.write(data)
        except OSError:
            self.close_connection = True


class Origin:
    """A file server whose faults can be chosen."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"/a.gguf": WEIGHTS}
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.etag = '"one"'
        self.cut_after = self.cuts = self.failing = self.stall_after = 0
        self.stalled, self.go_on = threading.Event(), threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"origin": self}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=lambda: self.server.serve_forever(0.02), daemon=True).start()

    def ranges(self) -> list[str | None]:
        return [asked for _, asked, _ in self.asked]


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    origin = Origin()
    yield origin
    origin.go_on.set()
    origin.server.shutdown()
    origin.server.server_close()


class Told:
    """Collects what a fetch says."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, text: str) -> None:
        self.lines.append(json.loads(text))

    def flush(self) -> None:
        pass


def bring(source: str, cache: Path) -> tuple[Path, list[dict[str, Any]]]:
    told = Told()
    return fetch(source, cache, Progress(told)), told.lines


def child(source: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(fetch_command(source, cache), stdout=subprocess.PIPE, text=True)


class TestHttps:
    def test_a_file_arrives_and_is_cached(self, origin: Origin, tmp_path: Path) -> None:
        source = f"{origin.url}/a.gguf"
        path, told = bring(source, tmp_path)
        assert path.read_bytes() == WEIGHTS
        assert told[-1] == {"done": len(WEIGHTS), "total": len(WEIGHTS), "file": "a.gguf"}
        assert cached(source, tmp_path) == path
        assert bring(source, tmp_path)[0] == path
        assert len(origin.asked) == 1

    def test_a_connection_that_is_cut_goes_on_where_it_was(self, origin: Origin, tmp_path: Path) -> None:
        origin.cut_after = len(WEIGHTS) // 3
        path, _ = bring(f"{origin.url}/a.gguf", tmp_path)
        assert path.read_bytes() == WEIGHTS
        assert origin.cuts >= 2
        assert origin.ranges()[1] == f"bytes={origin.cut_after}-"

    def test_a_file_that_changed_in_between_is_begun_anew(self, origin: Origin, tmp_path: Path) -> None:
        source = f"{origin.url}/a.gguf"
        partial = entry(source, tmp_path) / "files" / "a.gguf.partial"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(b"old bytes")
        partial.with_name("a.gguf.validator").write_text('"zero"')
        assert bring(source, tmp_path)[0].read_bytes() == WEIGHTS
        assert origin.ranges() == ["bytes=9-"]

    def test_bytes_that_nothing_vouches_for_are_not_kept(self, origin: Origin, tmp_path: Path) -> None:
        origin.etag = ""
        source = f"{origin.url}/a.gguf"
        partial = entry(source, tmp_path) / "files" / "a.gguf.partial"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(b"old bytes")
        assert bring(source, tmp_path)[0].read_bytes() == WEIGHTS
        assert origin.ranges() == [None]

    def test_a_checksum_is_checked(self, origin: Origin, tmp_path: Path) -> None:
        assert bring(f"{origin.url}/a.gguf#sha256={SHA256}", tmp_path)[0].exists()
        wrong = f"{origin.url}/a.gguf#sha256={'0' * 64}"
        with pytest.raises(SourceError, match=f"has sha256 {SHA256}, expected 000") as caught:
            bring(wrong, tmp_path)
        assert not caught.value.retryable
        assert cached(wrong, tmp_path) is None
        assert not list(entry(wrong, tmp_path).rglob("*.partial"))
        with pytest.raises(SourceError, match="64 hexadecimal digits"):
            bring(f"{origin.url}/a.gguf#sha256=12", tmp_path)

    def test_what_is_not_there_is_said_without_the_query(self, origin: Origin, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"/b.gguf answered 404: no such file") as caught:
            bring(f"{origin.url}/b.gguf?key=secret", tmp_path)
        assert not caught.value.retryable
        assert "secret" not in str(caught.value)
        assert len(origin.asked) == 1

    def test_a_server_that_recovers_is_waited_for_and_one_that_does_not_is_given_up(
        self, origin: Origin, tmp_path: Path
    ) -> None:
        origin.failing = download.MAX_FAILURES - 1
        assert bring(f"{origin.url}/a.gguf", tmp_path)[0].exists()
        origin.failing = download.MAX_FAILURES
        with pytest.raises(SourceError, match="answered 503") as caught:
            bring(f"{origin.url}/a.gguf?again", tmp_path)
        assert caught.value.retryable

    def test_an_origin_that_is_not_there_is_worth_another_try(self, origin: Origin, tmp_path: Path) -> None:
        origin.server.shutdown()
        origin.server.server_close()
        with pytest.raises(SourceError) as caught:
            bring(f"{origin.url}/a.gguf", tmp_path)
        assert caught.value.retryable


class TestChild:
    def test_a_killed_fetch_resumes(self, origin: Origin, tmp_path: Path) -> None:
        source = f"{origin.url}/a.gguf#sha256={SHA256}"
        origin.stall_after = 3 * 1024 * 1024
        partial = entry(source, tmp_path) / "files" / "a.gguf.partial"
        with child(source, tmp_path) as first:
            assert origin.stalled.wait(30)
            end = time.monotonic() + 10
            while not (partial.exists() and partial.stat().st_size >= 1024 * 1024):
                assert time.monotonic() < end, "nothing arrived"
                time.sleep(0.01)
            first.kill()
        kept = partial.stat().st_size
        origin.stall_after = 0
        origin.go_on.set()
        with child(source, tmp_path) as second:
            last = json.loads(second.communicate(timeout=60)[0].splitlines()[-1])
        assert second.returncode == 0
        assert Path(last["path"]).read_bytes() == WEIGHTS
        assert origin.ranges() == [None, f"bytes={kept}-"]

    def test_two_at_once_fetch_once(self, origin: Origin, tmp_path: Path) -> None:
        origin.stall_after = 1024
        source = f"{origin.url}/a.gguf"
        with child(source, tmp_path) as first:
            assert origin.stalled.wait(30)
            with child(source, tmp_path) as second:
                origin.go_on.set()
                paths = [json.loads(one.communicate(timeout=60)[0].splitlines()[-1])["path"] for one in (first, second)]
        assert paths[0] == paths[1]
        assert len(origin.asked) == 1

    def test_failures_are_told_on_the_last_line(self, origin: Origin, tmp_path: Path) -> None:
        with child(f"{origin.url}/none", tmp_path) as process:
            last = json.loads(process.communicate(timeout=60)[0].splitlines()[-1])
        assert process.returncode == 2
        assert last == {"error": f"{origin.url}/none answered 404: no such file", "retryable": False}


class TestHub:
    SHA = "c0ffee" + "0" * 34

    @pytest.fixture(autouse=True)
    def hub(self, origin: Origin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        names = [
            "README.md",
            "a-Q4.gguf",
            "a-Q8-00001-of-00002.gguf",
            "a-Q8-00002-of-00002.gguf",
            "sub/model.safetensors",
        ]
        siblings = []
        for name in names:
            data = name.encode() * 100
            lfs = {} if name == "README.md" else {"lfs": {"sha256": hashlib.sha256(data).hexdigest()}}
            siblings.append({"rfilename": name, "size": len(data), **lfs})
            origin.files[f"/org/repo/resolve/{self.SHA}/{name}"] = data
        for revision in ("main", "v1"):
            origin.files[f"/api/models/org/repo/revision/{revision}"] = json.dumps(
                {"sha": self.SHA, "siblings": siblings}
            ).encode()
        monkeypatch.setenv("HF_ENDPOINT", origin.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HF_TOKEN_PATH", raising=False)

    @pytest.mark.parametrize(
        ("source", "path", "count"),
        [
            ("hf://org/repo", "", 5),
            ("hf://org/repo/a-Q4.gguf@v1", "a-Q4.gguf", 1),
            ("hf://org/repo/*Q8*.gguf", "a-Q8-00001-of-00002.gguf", 2),
            ("hf://org/repo/sub", "sub", 1),
            ("hf://org/repo/*.gguf", "", 3),
        ],
    )
    def test_the_wanted_files_arrive(self, origin: Origin, tmp_path: Path, source: str, path: str, count: int) -> None:
        found, told = bring(source, tmp_path)
        assert found == entry(source, tmp_path) / "files" / self.SHA / path
        assert len(origin.asked) == 1 + count
        assert told[-1]["done"] == told[-1]["total"]

    def test_a_token_is_used_and_never_leaves_the_hub(
        self, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "token").write_text("from-login\n")
        bring("hf://org/repo/README.md", tmp_path)
        assert {key for _, _, key in origin.asked} == {"Bearer from-login"}
        monkeypatch.setenv("HF_TOKEN", "from-env")
        origin.asked.clear()
        bring("hf://org/repo/a-Q4.gguf", tmp_path)
        assert {key for _, _, key in origin.asked} == {"Bearer from-env"}

    def test_a_file_that_is_not_there_comes_with_those_that_are(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"no file a-Q5.gguf; it has a-Q4.gguf"):
            bring("hf://org/repo/a-Q5.gguf", tmp_path)

    def test_a_repository_that_is_not_there_may_need_a_token(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"org/none@main does not exist, or is private or gated \(set HF_TOKEN"):
            bring("hf://org/none", tmp_path)

    def test_bytes_that_are_not_what_the_hub_says_are_refused(self, origin: Origin, tmp_path: Path) -> None:
        name = f"/org/repo/resolve/{self.SHA}/a-Q4.gguf"
        origin.files[name] = b"x" * len(origin.files[name])
        with pytest.raises(SourceError, match="sha256"):
            bring("hf://org/repo/a-Q4.gguf", tmp_path)

    def test_a_hub_cannot_write_elsewhere(self, origin: Origin, tmp_path: Path) -> None:
        listing = {"sha": self.SHA, "siblings": [{"rfilename": "../../evil", "size": 1}]}
        origin.files["/api/models/org/repo/revision/main"] = json.dumps(listing).encode()
        with pytest.raises(SourceError, match="would be outside of its folder"):
            bring("hf://org/repo", tmp_path)

    def test_what_is_no_hub_is_said(self, origin: Origin, tmp_path: Path) -> None:
        origin.files["/api/models/org/repo/revision/main"] = b"<html>"
        with pytest.raises(SourceError, match="does not answer with JSON"):
            bring("hf://org/repo", tmp_path)


def test_ollama_weights_come_by_their_digest(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_REGISTRY", origin.url)
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:00", "size": 1},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{SHA256}", "size": len(WEIGHTS)},
    ]
    origin.files["/v2/library/gemma3/manifests/270m"] = json.dumps({"layers": layers}).encode()
    origin.files[f"/v2/library/gemma3/blobs/sha256:{SHA256}"] = WEIGHTS
    path, _ = bring("ollama://gemma3:270m", tmp_path)
    assert (path.name, path.read_bytes()) == ("gemma3-270m.gguf", WEIGHTS)
    with pytest.raises(SourceError, match="no such model or tag"):
        bring("ollama://gemma3", tmp_path)
