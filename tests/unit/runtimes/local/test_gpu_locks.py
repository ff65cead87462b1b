"""Two hotseats that use one GPU learn of each other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hotseat.runtimes.local.gpus import GpuLocks, Gpus


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, ...]:
    """One that is not there, and two that are."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    return (tmp_path / "missing", tmp_path / "one", tmp_path / "two")


@pytest.fixture
def first(folders: tuple[Path, ...]) -> Iterator[GpuLocks]:
    first = GpuLocks("pid 1, state directory /first", folders)
    yield first
    first.close()


@pytest.fixture
def second(folders: tuple[Path, ...]) -> Iterator[GpuLocks]:
    second = GpuLocks("pid 2, state directory /second", folders[2:])  # the other folder is closed to it
    yield second
    second.close()


def test_the_second_is_told_of_the_first(first: GpuLocks, second: GpuLocks) -> None:
    assert first.hold(["GPU-a", "GPU-b"]) == {}
    assert first.hold(["GPU-b", "GPU-a"]) == {}, "one's own are no news"
    assert second.hold(["GPU-b", "GPU-c"]) == {"GPU-b": "pid 1, state directory /first"}


def test_what_the_first_gives_back_is_the_seconds(first: GpuLocks, second: GpuLocks) -> None:
    first.hold(["GPU-a", "GPU-b"])
    second.hold(["GPU-a", "GPU-b"])
    first.hold(["GPU-a"])
    assert list(second.hold(["GPU-a", "GPU-b"])) == ["GPU-a"]
    first.close()
    assert second.hold(["GPU-a", "GPU-b"]) == {}
    assert first.hold(["GPU-b"]) == {"GPU-b": "pid 2, state directory /second"}


def test_where_no_folder_can_be_used_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "hotseat-GPU-a.lock").symlink_to("/etc/passwd")
    for folder in ("missing", "link"):
        locks = GpuLocks("pid 3", [tmp_path / folder])
        assert locks.hold(["GPU-a"]) == {}
        locks.close()


@pytest.mark.parametrize(
    ("device", "uuid"), [("1", "GPU-bb"), ("7", None), ("GPU-bb", "GPU-bb"), ("GPU-a", "GPU-aa"), ("GPU-", None)]
)
def test_a_gpu_is_known_by_number_and_by_the_beginning_of_its_uuid(device: str, uuid: str | None) -> None:
    assert Gpus().uuid(device, ("GPU-aa", "GPU-bb")) == uuid
