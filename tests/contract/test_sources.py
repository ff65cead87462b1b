"""What every source of weights must do, whichever library does it: a new one adds a Kind to tests/origins.py.

It resumes after a kill at any byte, checks digests, reports progress, writes nothing outside of the cache, gives a secret
to nobody else, and says in its last line what is wrong, without a secret.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hotseat.sources import download
from hotseat.sources.base import FILES, cached, entry
from hotseat.sources.fetch import main
from tests.origins import COMMIT, KINDS, SECRET, Kind, Origins, digest, put_hub, serve, store_by_xet

WEIGHTS = random.Random(16).randbytes(3 * 1024 * 1024 + 7)

STALLING = [kind for kind in KINDS if kind != "xet"]  # its storage is a folder here, which does not stall

# A process that is killed by the kernel, without a chance to clean up, when it writes byte LIMIT of a file; or whose disk is
# full there.
LIMITED = """
import resource, signal, sys
from hotseat.sources.fetch import main
limit, kill = int(sys.argv[1]), sys.argv[2] == "kill"
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
if kill:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
sys.exit(main(sys.argv[3:]))
"""


@dataclass
class Place:
    """A source of one kind, and the cache that it is fetched into."""

    kind: Kind
    name: str
    origin: Origins
    folder: Path
    capsys: pytest.CaptureFixture[str]
    environment: dict[str, str]

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def source(self, sha256: str = digest(WEIGHTS)) -> str:
        return self.kind.source.format(**self._words(), sha256=sha256)

    def put(self, content: bytes = WEIGHTS, sha256: str = digest(WEIGHTS)) -> None:
        self.kind.put(self.origin, content, sha256)
        if self.name == "xet":
            store_by_xet(self.origin, content, self.folder / "xet-storage")

    def fetch(self, source: str | None = None) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
        """Return the exit status, the last line and the lines before it."""
        code = main([source or self.source(), "--cache", str(self.cache)])
        said = self.capsys.readouterr()
        assert said.err == "", "no traceback"
        *before, last = (json.loads(line) for line in said.out.splitlines())
        return code, last, before

    def run_limited(self, limit: int, how: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", LIMITED, str(limit), how, self.source(), "--cache", str(self.cache)]
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=120, check=False)

    def partial(self) -> Path | None:
        return next(iter((entry(self.source(), self.cache) / FILES).rglob("*.partial")), None)

    def elsewhere(self) -> list[Path]:
        """Return what lies outside of the cache."""
        own = (self.cache, self.folder / "xet-storage")
        return [
            path for path in self.folder.rglob("*") if path.is_file() and not any(path.is_relative_to(o) for o in own)
        ]

    def _words(self) -> dict[str, str]:
        return {"url": self.origin.url, "host": self.origin.url.removeprefix("http://")}


def set_up(kind: str, origin: Origins, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Place:
    place = Place(KINDS[kind], kind, origin, folder, capsys, {})
    home = folder / "home"
    home.mkdir()
    for name in [
        name for name in os.environ if name.startswith(("AWS_", "HF_", "GOOGLE_", "AZURE_", "OLLAMA_", "OCI_"))
    ]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",  # or the limit on files would stop the imports
        **{name: value.format(**place._words()) for name, value in KINDS[kind].env.items()},
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home)
    monkeypatch.setattr(download, "PAUSE", 0.001)
    place.environment = dict(os.environ)
    return place


@pytest.fixture
def origin() -> Iterator[Origins]:
    with serve() as origin:
        yield origin


@pytest.fixture
def place_of(
    origin: Origins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Place]:
    return lambda kind: set_up(kind, origin, tmp_path, monkeypatch, capsys)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, place_of: Callable[[str], Place]) -> Place:
    place = place_of(request.param)
    place.put()
    return place


def test_a_file_arrives_with_progress_and_is_cached(place: Place) -> None:
    code, last, before = place.fetch()
    path = Path(last["path"])
    assert (code, path.read_bytes()) == (0, WEIGHTS)
    assert (before[-1]["done"], before[-1]["total"]) == (len(WEIGHTS), len(WEIGHTS))
    assert all(0 < line["done"] <= len(WEIGHTS) for line in before)
    assert cached(place.source(), place.cache) == path
    assert path.is_relative_to(place.cache)
    assert place.elsewhere() == []
    asked = len(place.origin.asked)
    assert place.fetch()[1]["path"] == str(path)
    assert len(place.origin.asked) == asked, "the network is not used again"
    if place.name == "xet":
        assert not any(each.method == "GET" and "/resolve/" in each.path for each in place.origin.asked)


@pytest.mark.parametrize("byte", [1, 1024 * 1024 + 3, len(WEIGHTS) - 1])
def test_a_fetch_resumes_after_a_kill_at_any_byte(place: Place, byte: int) -> None:
    killed = place.run_limited(byte, "kill")
    assert killed.returncode == -signal.SIGXFSZ, killed.stderr
    assert cached(place.source(), place.cache) is None
    partial = place.partial()
    kept = partial.stat().st_size if partial else 0
    assert kept in (byte, 0) if byte == 1 else kept == byte, "1: the name of the version cannot be written either"
    place.origin.sent = 0
    code, last, _ = place.fetch()
    assert (code, Path(last["path"]).read_bytes()) == (0, WEIGHTS)
    assert place.partial() is None
    if place.kind.counts and kept:
        ranges = [each.range for each in place.origin.asked if each.path in place.origin.weights]
        assert ranges[-1] == f"bytes={kept}-"
        assert place.origin.sent < len(WEIGHTS) - kept + 4096


@pytest.mark.parametrize("named", [True, False], ids=["digest", "version"])
def test_a_fetch_that_was_killed_before_the_last_step_asks_for_no_byte_again(place: Place, named: bool) -> None:
    source = place.source() if named else place.source().partition("#")[0]
    path = Path(place.fetch(source)[1]["path"])
    path.rename(path.with_name(f"{path.name}.partial"))
    path.with_name(f"{path.name}.validator").write_text('"one"')
    (entry(source, place.cache) / "done.json").unlink()
    place.origin.sent = 0
    code, last, _ = place.fetch(source)
    assert (code, Path(last["path"]).read_bytes()) == (0, WEIGHTS)
    assert place.origin.sent < 4096


@pytest.mark.parametrize("place", STALLING, indirect=True)
def test_a_fetch_resumes_after_sigkill_in_the_middle(place: Place) -> None:
    place.origin.stall_after = 2 * 1024 * 1024
    argv = [sys.executable, "-m", "hotseat.sources.fetch", place.source(), "--cache", str(place.cache)]
    with subprocess.Popen(argv, env=place.environment, stdout=subprocess.DEVNULL) as child:
        assert place.origin.stalled.wait(60)
        await_(lambda: (partial := place.partial()) is not None and partial.stat().st_size >= 1024 * 1024)
        child.kill()
    place.origin.stall_after = 0
    code, last, _ = place.fetch()
    assert (code, Path(last["path"]).read_bytes()) == (0, WEIGHTS)
    assert place.elsewhere() == []


def test_a_full_disk_is_said_and_the_bytes_are_kept(place: Place) -> None:
    full = place.run_limited(1024 * 1024, "fill")
    last = json.loads(full.stdout.splitlines()[-1])
    assert (full.returncode, last["retryable"]) == (2, False)
    assert "File too large" in last["error"], "as No space left on device"
    assert str(place.cache) in last["error"]
    code, last, _ = place.fetch()
    assert (code, Path(last["path"]).read_bytes()) == (0, WEIGHTS)


def test_other_bytes_than_those_of_the_digest_are_refused_and_forgotten(place: Place) -> None:
    other = bytes(len(WEIGHTS))
    place.put(other, digest(WEIGHTS))
    code, last, _ = place.fetch()
    assert (code, last["retryable"]) == (2, False)
    assert f"has sha256 {digest(other)}, expected {digest(WEIGHTS)}" in last["error"]
    assert cached(place.source(), place.cache) is None
    assert place.partial() is None
    place.put()
    code, last, _ = place.fetch()
    assert (code, Path(last["path"]).read_bytes()) == (0, WEIGHTS)


# tests/embedded/test_sources.py has it for https. The digest or the commit names the file of the others.
@pytest.mark.parametrize("place", ["s3", "gs", "az"], indirect=True)
def test_a_file_that_changed_since_is_begun_anew(place: Place) -> None:
    source = place.source().partition("#")[0]
    partial = entry(source, place.cache) / FILES / "a.gguf.partial"
    for content, validator in ((b"old bytes", '"zero"'), (WEIGHTS + b"longer", '"one"')):
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.with_name("a.gguf.validator").write_text(validator)
        code, last, _ = place.fetch(source)
        assert (code, Path(last["path"]).read_bytes()) == (0, WEIGHTS)
        Path(last["path"]).unlink()


def test_no_secret_goes_to_another_host(place: Place) -> None:
    with serve() as other:
        other.files, other.weights = place.origin.files, place.origin.weights
        place.origin.redirect_to = other.url.replace("127.0.0.1", "localhost")
        place.origin.headers.pop("X-Xet-Hash", None)
        code, last, _ = place.fetch()
        assert (code, Path(last["path"]).read_bytes()) == (0, WEIGHTS)
        assert other.asked
        for each in other.asked:
            assert "authorization" not in {name.lower() for name in each.headers}
            assert SECRET not in str(each.headers)
    if place.kind.has_secret:
        assert any("authorization" in {name.lower() for name in each.headers} for each in place.origin.asked)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 500, 503])
def test_a_refusal_is_an_error_without_the_answer_of_the_origin(place: Place, status: int) -> None:
    place.origin.files = dict.fromkeys(place.origin.files, b"")
    place.origin.failures = [status] * 20
    code, last, _ = place.fetch()
    assert (code, last["retryable"]) == ((1, True) if status >= 500 else (2, False)), last
    assert SECRET not in json.dumps(last)
    assert "aHVzaC1odXNo" not in json.dumps(last)
    assert "AKIA" not in json.dumps(last)
    assert len(last["error"]) < 300
    assert "\n" not in last["error"]


def test_an_origin_that_recovers_is_waited_for(place: Place) -> None:
    place.origin.faults_of_weights = [503, 500, 429]
    code, last, _ = place.fetch()
    assert (code, Path(last["path"]).read_bytes()) == (0, WEIGHTS)
    assert place.origin.faults_of_weights == []


@pytest.mark.parametrize("place", STALLING, indirect=True)
def test_two_at_once_fetch_once(place: Place) -> None:
    place.origin.stall_after = 1024
    argv = [sys.executable, "-m", "hotseat.sources.fetch", place.source(), "--cache", str(place.cache)]
    with contextlib.ExitStack() as stack:
        run = lambda: stack.enter_context(  # noqa: E731
            subprocess.Popen(argv, env=place.environment, stdout=subprocess.PIPE, text=True)
        )
        first = run()
        assert place.origin.stalled.wait(60)
        second = run()
        place.origin.go_on.set()
        last = [json.loads(each.communicate(timeout=60)[0].splitlines()[-1]) for each in (first, second)]
    assert last[0] == last[1]
    assert sum(each.path in place.origin.weights and each.method == "GET" for each in place.origin.asked) == 1


# Of single kinds ------------------------------------------------------------------------------------------------------


def test_a_file_whose_xet_storage_does_not_answer_comes_by_http(place_of: Callable[[str], Place]) -> None:
    place = place_of("xet")
    place.put()
    place.origin.headers["X-Xet-Hash"] = "ab" * 32  # unknown to its storage
    listing = json.loads(place.origin.files["/api/models/org/repo/revision/main"])
    listing["siblings"] *= 2
    listing["siblings"][1] = {**listing["siblings"][0], "rfilename": "b.gguf"}
    place.origin.files["/api/models/org/repo/revision/main"] = json.dumps(listing).encode()
    place.origin.files[f"/org/repo/resolve/{COMMIT}/b.gguf"] = WEIGHTS
    code, last, _ = place.fetch("hf://org/repo")
    assert (code, (Path(last["path"]) / "a.gguf").read_bytes()) == (0, WEIGHTS)
    assert (Path(last["path"]) / "b.gguf").read_bytes() == WEIGHTS
    tokens = [each for each in place.origin.asked if "xet-read-token" in each.path]
    assert len(tokens) == 1, "its storage is asked for one file only"


def test_xet_can_be_turned_off(place_of: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of("xet")
    place.put()
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    assert place.fetch()[0] == 0
    assert "HEAD" not in [each.method for each in place.origin.asked]


@pytest.mark.parametrize("name", ["../../evil", "a/../../../evil", "..", "/etc/../../evil"])
@pytest.mark.parametrize("kind", ["hf", "oci", "s3", "gs", "az"])
def test_no_name_of_an_origin_leaves_the_cache(kind: str, name: str, place_of: Callable[[str], Place]) -> None:
    place = place_of(kind)
    origin = place.origin
    source = place.source()
    if kind == "hf":
        put_hub(origin, WEIGHTS, digest(WEIGHTS), name)
        source = "hf://org/repo"
    elif kind == "oci":
        place.put()
        origin.files["/v2/ai/m/manifests/q4"] = origin.files["/v2/ai/m/manifests/q4"].replace(b"a.gguf", name.encode())
    else:
        origin.files["/bucket/m/a.gguf"] = WEIGHTS
        origin.names_of_objects = lambda _: f"m/{name}"
        source = f"{kind}://bucket/m/"
    code, last, _ = place.fetch(source)
    assert (code, last["retryable"]) == (2, False), last
    assert not list(place.folder.rglob("*evil*"))
    assert place.elsewhere() == []


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_a_folder_keeps_its_shape_over_pages_of_the_listing(kind: str, place_of: Callable[[str], Place]) -> None:
    place = place_of(kind)
    origin = place.origin
    objects = {"config.json": b"{}", "a b/weights+1": b"w" * 1000, "empty": b"", "z/last.bin": b"z"}
    origin.files = {f"/bucket/m/{name}": data for name, data in objects.items()} | {"/bucket/m/folder/": b""}
    code, last, before = place.fetch(f"{kind}://bucket/m/")
    assert code == 0, last
    folder = Path(last["path"])
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == objects
    assert before[-1]["total"] == 1003
    code, last, _ = place.fetch(f"{kind}://bucket/none/")
    assert (code, last["error"]) == (2, f"{kind}://bucket/none/ holds no objects")


def await_(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
