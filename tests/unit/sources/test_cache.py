"""What is in the cache, who uses it, and what a prune leaves alone."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from hotseat.sources import cache
from hotseat.sources.base import FILES, cached, complete, entry
from hotseat.sources.cache import EntryState, UseLocks, entries, fetch_lock, prune

A, B = "hf://org/repo/a.gguf", "https://host/b.gguf?signature=secret#sha256=" + "0" * 64


def put(source: str, folder: Path, size: int = 10, *, whole: bool = True, days: float = 0.0) -> Path:
    """Put weights into the cache as a fetch does, so many days ago."""
    with fetch_lock(source, folder) as directory:
        path = directory / FILES / ("w" if whole else "w.partial")
        path.parent.mkdir()
        path.write_bytes(b"w" * size)
        if whole:
            complete(source, folder, path)
    then = time.time() - days * 86400
    for file in directory.iterdir():
        os.utime(file, (then, then))
    return directory


def names(found: list[cache.CacheEntry]) -> list[str]:
    return [each.source for each in found]


def test_entries_have_their_sizes_states_and_sources_without_secrets(tmp_path: Path) -> None:
    put(A, tmp_path, 10)
    put(B, tmp_path, 20, whole=False)
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "a-file-0123456789ab").touch()
    found = entries(tmp_path)
    assert [(each.source, each.state, each.size, each.in_use) for each in found] == [
        ("https://host/b.gguf", EntryState.PARTIAL, 20, False),
        (A, EntryState.COMPLETE, 10, False),
    ]
    assert found[1].path == entry(A, tmp_path)
    assert entries(tmp_path / "nowhere") == []
    assert prune(tmp_path / "nowhere") == []


def test_what_is_being_fetched_is_not_pruned(tmp_path: Path) -> None:
    put(A, tmp_path, whole=False)
    with fetch_lock(A, tmp_path):
        assert [each.state for each in entries(tmp_path)] == [EntryState.FETCHING]
        assert prune(tmp_path) == []
    assert names(prune(tmp_path)) == [A]
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_serves_is_not_pruned(tmp_path: Path) -> None:
    put(A, tmp_path)
    put(B, tmp_path)
    one, other = UseLocks(tmp_path), UseLocks(tmp_path)
    one.hold([A])
    other.hold([A, B])
    assert all(each.in_use for each in entries(tmp_path))
    assert prune(tmp_path) == []
    other.hold([A])
    assert names(prune(tmp_path)) == ["https://host/b.gguf"]
    other.close()
    assert prune(tmp_path) == []
    one.close()
    assert [each.in_use for each in entries(tmp_path)] == [False]
    assert names(prune(tmp_path)) == [A]


def test_a_source_can_be_held_before_it_is_fetched(tmp_path: Path) -> None:
    locks = UseLocks(tmp_path)
    locks.hold([A])
    assert entries(tmp_path) == []
    assert prune(tmp_path) == []
    with fetch_lock(A, tmp_path) as folder:
        assert folder == entry(A, tmp_path)
    locks.close()
    assert prune(tmp_path) == [], "nothing to tell of, but its directory is gone"
    assert list(tmp_path.iterdir()) == []


def test_the_last_use_counts_not_the_fetch(tmp_path: Path) -> None:
    put(A, tmp_path, days=40)
    put(B, tmp_path, days=40)
    locks = UseLocks(tmp_path)
    locks.hold([A])
    locks.close()
    month = 30 * 86400.0
    assert names(prune(tmp_path, month, dry_run=True)) == ["https://host/b.gguf"]
    assert names(prune(tmp_path, month, dry_run=True)) == ["https://host/b.gguf"], "a look is no use"
    assert len(entries(tmp_path)) == 2
    assert names(prune(tmp_path, month)) == ["https://host/b.gguf"]
    assert names(entries(tmp_path)) == [A]


def test_a_directory_that_was_deleted_meanwhile_is_held_again(tmp_path: Path) -> None:
    put(A, tmp_path)
    locks = UseLocks(tmp_path)
    locks.hold([A])
    entry(A, tmp_path).rename(tmp_path / "away")
    put(A, tmp_path)
    locks.hold([A])
    assert prune(tmp_path) == []
    locks.close()


def test_a_lock_that_was_pruned_while_it_was_waited_for_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(A, tmp_path)
    flock = fcntl.flock

    def pruned_first(file: object, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        assert names(prune(tmp_path)) == [A]
        flock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", pruned_first)
    with fetch_lock(A, tmp_path) as found:
        assert found == folder
        assert (folder / "lock").exists()
        assert cached(A, tmp_path) is None


def test_what_a_killed_prune_left_is_deleted(tmp_path: Path) -> None:
    put(A, tmp_path).rename(tmp_path / f".pruned-{entry(A, tmp_path).name}")
    assert entries(tmp_path) == []
    assert prune(tmp_path, dry_run=True) == []
    assert list(tmp_path.iterdir())
    prune(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_link_is_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / FILES).mkdir(parents=True)
    (elsewhere / "lock").touch()
    there = tmp_path / "cache"
    there.mkdir()
    (there / "link-0123456789ab").symlink_to(elsewhere)
    assert entries(there) == []
    assert prune(there) == []
    assert (elsewhere / FILES).is_dir()
