"""The files of saved prompts: how much they may take, who can read them, and when they go."""

import json
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hotseat.runtimes.local.prompt_store import PromptSettings, PromptStore, SavedSlot

MEMORY, DISK = PromptSettings(False, 100.0, False), PromptSettings(True, 100.0, False)
KEPT = PromptSettings(True, 100.0, True)


class Shelf:
    """A store in a folder, at a time that a test sets."""

    def __init__(self, folder: Path, settings: PromptSettings = MEMORY, limit: int = 1000) -> None:
        self.folder, self.now = folder, 1000.0
        (folder / "shm").mkdir(exist_ok=True)
        (folder / "state").mkdir(exist_ok=True)
        self.store = PromptStore(folder / "state", folder / "shm", lambda: self.now)
        self.store.configure({"w": settings})
        self.store.keep_models(dict.fromkeys("abc", "w"))
        self.store.begin()
        self.store.set_limit("w", limit)

    def save(self, model: str = "a", slot: int = 0, size: int = 100, identity: str = "x") -> list[str]:
        """Save a slot, a second after the last; return what was deleted for it."""
        self.now += 1
        folder = self.store.directory("w", model)
        assert folder is not None
        path = folder / f"{self.now:.0f}-{slot}"
        path.write_bytes(b"p" * size)
        return names(self.store.add(SavedSlot("w", model, slot, str(path), identity, size // 10, size, self.now)))

    def held(self) -> list[str]:
        return names(self.store.all())

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*-*") if path.is_file())


def names(slots: list[SavedSlot]) -> list[str]:
    return [f"{each.model}{each.slot}" for each in slots]


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.store.close()
    assert not list((tmp_path / "shm").iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_their_owner_can_read_them(shelf: Shelf) -> None:
    shelf.save()
    (file,) = shelf.files()
    assert mode(file) == 0o600
    assert [mode(folder) for folder in list(file.parents)[:3]] == [0o700] * 3


def test_a_folder_of_someone_else_is_not_used(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    folder = shelf.store.directory("w", "a")
    assert folder is not None
    folder.parents[1].chmod(0o755)
    assert shelf.store.directory("w", "a") is None
    assert shelf.store.directory("other", "a") is None  # its prompts are not kept
    shelf.store.close()
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    folder.parents[1].symlink_to(outside)
    assert shelf.store.directory("w", "a") is None


def test_the_least_recently_used_goes_first(shelf: Shelf) -> None:
    for slot in range(3):
        shelf.save(slot=slot, size=300)
    shelf.now += 1
    shelf.store.touch(shelf.store.all()[0], shelf.now)
    assert shelf.save("b", size=400) == ["a1"]
    assert shelf.save("b", size=400) == []  # instead of the last one of this slot
    assert shelf.held() == ["a0", "a2", "b0"]
    assert names(shelf.store.make_room("w", 500)) == ["a2", "a0"]
    assert names(shelf.store.set_limit("w", 10)) == ["b0"]
    assert shelf.files() == []


def test_one_that_is_larger_than_the_limit_is_not_kept(shelf: Shelf) -> None:
    shelf.save("b")
    assert shelf.save(size=1100) == ["b0", "a0"]
    assert shelf.store.room("w") <= 1000
    assert shelf.store.room("other") == 0


def test_they_go_after_a_time_unless_they_are_used(shelf: Shelf) -> None:
    shelf.save("a")
    shelf.save("b")
    shelf.now += 60
    shelf.store.touch(shelf.store.of("b")[0], shelf.now)
    shelf.now += 60
    assert shelf.held() == ["b0"]
    assert len(shelf.files()) == 1


def test_they_go_with_their_model_and_at_another_identity(shelf: Shelf) -> None:
    for model in "abc":
        shelf.save(model)
    shelf.store.keep_models({"a": "w", "b": "other"})
    assert shelf.held() == ["a0"]
    assert names(shelf.store.drop_others("a", "x")) == []
    assert names(shelf.store.drop_others("a", "y")) == ["a0"]
    assert shelf.files() == []


def test_they_go_when_their_workspace_keeps_none_or_elsewhere(shelf: Shelf) -> None:
    for settings in ({}, {"w": DISK}):
        shelf.save()
        shelf.store.configure(settings)
        assert shelf.files() == []
        shelf.store.configure({"w": MEMORY})


def test_one_that_comes_after_its_model_or_its_place_is_gone_is_deleted(shelf: Shelf) -> None:
    shelf.store.keep_models({})
    shelf.save()
    shelf.store.keep_models({"a": "w"})
    folder = shelf.store.directory("w", "a")
    assert folder is not None
    shelf.store.configure({"w": DISK})
    (folder / "2000-0").write_bytes(b"p")
    shelf.store.add(SavedSlot("w", "a", 0, str(folder / "2000-0"), "x", 1, 1, 2000.0))
    assert (shelf.held(), shelf.files()) == ([], [])


def test_a_store_that_has_not_begun_deletes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    """Another hotseat, which was refused because of the lock of the state directory."""
    shelf.save()
    PromptStore(tmp_path / "state", tmp_path / "shm").close()
    assert len(shelf.files()) == 1


def test_what_was_not_added_is_swept_away(shelf: Shelf) -> None:
    shelf.save()
    folder = shelf.files()[0].parent
    for name in ("7-0", "8-0"):
        (folder / name).write_bytes(b"half")
    shelf.store.sweep("w", "a", "7-")
    assert [path.name for path in shelf.files()] == ["1001-0", "8-0"]


def test_nothing_is_left_after_a_kill_unless_it_is_kept(tmp_path: Path) -> None:
    Shelf(tmp_path).save()  # and it is never closed
    assert len(Shelf(tmp_path).files()) == 0
    assert not list((tmp_path / "shm").iterdir())


def test_what_is_kept_at_exit_is_there_after_a_restart_or_a_kill(tmp_path: Path) -> None:
    first = Shelf(tmp_path, KEPT)
    first.save("a")
    first.save("b")
    first.files()[1].parent.joinpath("9-9").write_bytes(b"of an engine that was killed while it wrote")
    index = tmp_path / "state" / "prompts.json"
    assert mode(index) == 0o600
    second = Shelf(tmp_path, KEPT)
    assert second.held() == ["a0", "b0"]
    assert len(second.files()) == 2
    second.files()[0].write_bytes(b"short")
    second.store.close()
    assert Shelf(tmp_path, KEPT).held() == ["b0"]
    assert Shelf(tmp_path, DISK).held() == []
    assert not index.exists()


@pytest.mark.parametrize("text", ["", "{", "[7]", '[{"a": 1}]', "7"])
def test_a_list_that_cannot_be_read_keeps_nothing(tmp_path: Path, text: str) -> None:
    Shelf(tmp_path, KEPT).save()
    (tmp_path / "state" / "prompts.json").write_text(text)
    again = Shelf(tmp_path, KEPT)
    assert again.held() == []
    assert again.files() == []


def test_a_file_that_cannot_be_deleted_is_no_error(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.save()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", _refuse)
        shelf.store.sweep("w", "a", "")
        assert names(shelf.store.drop(shelf.store.all())) == ["a0"]
    assert (shelf.held(), len(shelf.files())) == ([], 1)


def _refuse(_path: Path, *, missing_ok: bool = False) -> None:
    raise PermissionError


def test_the_list_has_no_prompts(tmp_path: Path) -> None:
    Shelf(tmp_path, KEPT).save()
    (row,) = json.loads((tmp_path / "state" / "prompts.json").read_text())
    assert row.keys() == {"workspace", "model", "slot", "file", "identity", "tokens", "size", "used_at"}


@pytest.mark.parametrize("ends", ["begin", "close", "sweep"])
def test_nothing_is_deleted_through_a_link_that_someone_else_put_there(tmp_path: Path, ends: str) -> None:
    """The file system in memory is everyone's, and the name of the directory is no secret."""
    shelf = Shelf(tmp_path)
    folder = shelf.store.directory("w", "a")
    assert folder is not None
    root = folder.parents[1]
    theirs = tmp_path / "theirs" / "w" / "a" / "1-0"
    theirs.parent.mkdir(parents=True, mode=0o700)
    (tmp_path / "theirs").chmod(0o700)
    theirs.write_bytes(b"important")
    shelf.store.close()
    if ends == "close":
        shelf = Shelf(tmp_path)
    root.symlink_to(tmp_path / "theirs")
    if ends == "close":
        shelf.store.close()
    elif ends == "begin":
        Shelf(tmp_path)
    else:
        shelf.store.sweep("w", "a", "1-")
    assert theirs.exists()


def test_a_file_that_is_gone_costs_only_itself(tmp_path: Path) -> None:
    """As after a reboot, for one Workspace that keeps them in memory and one that keeps them on disk."""
    shelf = Shelf(tmp_path, KEPT)
    shelf.save("a")
    shelf.save("b")
    shelf.files()[0].unlink()
    assert Shelf(tmp_path, KEPT).held() == ["b0"]


def test_a_document_that_changes_how_they_are_kept_counts_at_once(tmp_path: Path) -> None:
    first = Shelf(tmp_path, DISK)
    first.save("a")
    first.store.configure({"w": KEPT})
    first.store.close()
    second = Shelf(tmp_path, KEPT)
    assert second.held() == ["a0"]
    second.now += 50
    second.store.configure({"w": replace(KEPT, keep=10.0)})
    assert second.files() == []


def test_of_a_file_that_is_replaced_no_other_has_to_make_room(shelf: Shelf) -> None:
    shelf.save("b", size=400)
    shelf.save("a", size=400)
    (old,) = shelf.store.of("a")
    assert names(shelf.store.make_room("w", 150, old)) == []
    assert shelf.held() == ["b0", "a0"]
    assert names(shelf.store.make_room("w", 450, old)) == []
    assert shelf.held() == ["b0"]
    assert names(shelf.store.make_room("w", 700)) == ["b0"]


def test_a_workspace_whose_document_is_gone_has_no_room(shelf: Shelf) -> None:
    shelf.save("a", size=300)
    shelf.store.configure({})
    assert (shelf.held(), shelf.store.room("w")) == ([], 0)
    assert shelf.store.make_room("w", 100) == []
    assert shelf.store.trim("w", 100) == []


def test_room_is_made_on_a_disk_that_others_fill(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.save("a", size=300)
    shelf.save("b", size=300)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    assert shelf.store.room("w") == 700
    assert names(shelf.store.make_room("w", 350)) == ["a0"]


def test_the_longest_of_those_that_were_used_at_the_same_time_stays(shelf: Shelf) -> None:
    for slot, size in enumerate((300, 200, 100)):
        shelf.save(slot=slot, size=size)
    shelf.now += 10
    for each in shelf.store.of("a"):
        shelf.store.touch(each, shelf.now)
    assert names(shelf.store.of("a")) == ["a0", "a1", "a2"]
    assert names(shelf.store.make_room("w", 500)) == ["a2"]


def test_they_go_after_their_time_though_the_clock_was_set_back(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Callable[[], object]] = []

    class Timer:
        def __init__(self, _seconds: float, function: Callable[[], object]) -> None:
            timers.append(function)

        def start(self) -> None: ...

        def cancel(self) -> None: ...

    monkeypatch.setattr(threading, "Timer", Timer)
    shelf.save()
    timers.pop()()  # too early
    shelf.now += 200
    timers.pop()()
    assert shelf.files() == []
