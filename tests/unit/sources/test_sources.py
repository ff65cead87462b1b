"""Which sources there are, and what is known about them without a network."""

import errno
import io
import json
import os
from pathlib import Path

import pytest

from hotseat.sources import hf
from hotseat.sources.base import FILES, SourceError, cached, complete, entry, fetch_command
from hotseat.sources.download import Progress


def test_a_local_path_is_there_or_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    assert cached(str(tmp_path / "a.gguf"), tmp_path) == tmp_path / "a.gguf"
    assert cached(f"file://{tmp_path}/a.gguf", tmp_path) == tmp_path / "a.gguf"
    with pytest.raises(SourceError, match=r"b\.gguf does not exist"):
        cached(str(tmp_path / "b.gguf"), tmp_path)


@pytest.mark.parametrize("problem", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_path_that_cannot_be_looked_at_is_an_error_of_its_source(
    problem: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of somebody else's, a disk that fails, a mount whose server is gone."""
    source = "hf://org/repo/a.gguf"
    path = entry(source, tmp_path) / FILES / "a.gguf"
    path.parent.mkdir(parents=True)
    path.touch()
    complete(source, tmp_path, path)
    stat = Path.stat

    def fail(self: Path, **more: bool) -> os.stat_result:
        if self.name == "a.gguf":
            raise OSError(problem, os.strerror(problem))
        return stat(self, **more)

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(SourceError, match=f"cannot be read: {os.strerror(problem)}"):
        cached(str(tmp_path / "a.gguf"), tmp_path)
    assert cached(source, tmp_path) is None, "it may be fetched again"


def test_a_path_that_no_file_can_have_is_an_error_of_its_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read: File name too long"):
        cached(f"{tmp_path}/{'x' * 300}.gguf", tmp_path)
    with pytest.raises(SourceError, match="cannot be read"):
        cached("~nobody-of-that-name/a.gguf", tmp_path)


@pytest.mark.parametrize(
    ("source", "reason"), [("pvc://claim/a", "needs a cluster"), ("ftp://host/a", "ftp:// cannot be fetched")]
)
def test_what_one_machine_cannot_bring_is_an_error(source: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=reason):
        cached(source, tmp_path)


def test_a_remote_source_is_cached_once_it_is_noted_as_complete(tmp_path: Path) -> None:
    source = "hf://org/repo/a.gguf"
    path = entry(source, tmp_path) / FILES / "a.gguf"
    path.parent.mkdir(parents=True)
    path.touch()
    assert cached(source, tmp_path) is None
    complete(source, tmp_path, path)
    assert cached(source, tmp_path) == path
    assert cached("hf://org/repo/a.gguf@v2", tmp_path) is None
    path.unlink()
    assert cached(source, tmp_path) is None


def test_folders_in_the_cache_are_told_apart_and_keep_no_secrets(tmp_path: Path) -> None:
    folder = entry("https://host/a.gguf?signature=secret#sha256=0", tmp_path)
    assert folder.name.startswith("https-host-a.gguf-")
    assert "secret" not in folder.name
    assert folder != entry("https://host/a.gguf?signature=other", tmp_path)


def test_the_child_is_told_source_and_cache(tmp_path: Path) -> None:
    assert fetch_command("hf://a/b", tmp_path)[-5:] == (
        "-m",
        "hotseat.sources.fetch",
        "hf://a/b",
        "--cache",
        str(tmp_path),
    )


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("hf://org/repo", hf.FileSelection("org/repo", "", "main")),
        ("hf://org/repo@v1", hf.FileSelection("org/repo", "", "v1")),
        ("hf://org/repo/sub/a.gguf@refs/pr/1", hf.FileSelection("org/repo", "sub/a.gguf", "refs/pr/1")),
        ("hf://org/repo/*Q4*.gguf", hf.FileSelection("org/repo", "*Q4*.gguf", "main")),
    ],
)
def test_hf_sources_name_repository_files_and_revision(source: str, wanted: hf.FileSelection) -> None:
    assert hf.parse(source) == wanted


@pytest.mark.parametrize("source", ["hf://org", "hf://org/", "hf://org//x", "hf://org/repo/../x"])
def test_hf_sources_that_name_no_repository_are_refused(source: str) -> None:
    with pytest.raises(SourceError, match="expected hf://org/repo"):
        hf.parse(source)


def test_an_hf_pattern_is_a_file_a_folder_or_a_glob() -> None:
    def matching(pattern: str) -> list[str]:
        return [
            name
            for name in ("a.gguf", "sub/a.gguf", "sub/b.txt")
            if hf.FileSelection("o/r", pattern, "main").matches(name)
        ]

    assert matching("") == ["a.gguf", "sub/a.gguf", "sub/b.txt"]
    assert matching("a.gguf") == ["a.gguf"]
    assert matching("sub") == ["sub/a.gguf", "sub/b.txt"]
    assert matching("*.gguf") == ["a.gguf", "sub/a.gguf"]


def test_progress_adds_files_up_and_says_no_more_than_ten_lines_a_second() -> None:
    out = io.StringIO()
    progress = Progress(out)
    progress.total = 30
    first = progress.file("a")
    for done in range(1, 11):
        first(done, 10)
    progress.file("b")(20, 20)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines[0] == {"done": 1, "total": 30, "file": "a"}
    assert lines[-2:] == [{"done": 10, "total": 30, "file": "a"}, {"done": 30, "total": 30, "file": "b"}]
    assert len(lines) < 6
