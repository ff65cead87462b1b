"""Changed document files are read once, when they are whole, in whatever way they changed."""

import os
from pathlib import Path

import pytest

from hotseat.manifests.files import PAUSE, UNSETTLED_PAUSE, Debouncer, snapshot

LOOKS = [number / 10 for number in range(100)]  # seconds


def taken(changes: dict[float, str], quiet: float = 0.5) -> list[tuple[float, str]]:
    """When what was taken in, of a file that holds these texts from these times on."""
    debouncer, found, text = Debouncer(quiet), [], ""
    for now in LOOKS:
        text = changes.get(now, text)
        if debouncer.update(text, now):
            found.append((now, text))
    return found


def test_what_is_written_in_steps_is_taken_in_once_and_whole() -> None:
    assert taken({0.0: "a"}) == [(0.5, "a")]
    assert taken({0.0: "a", 2.0: "half", 2.4: "whole"}) == [(0.5, "a"), (2.9, "whole")]


def test_a_file_that_is_as_it_was_again_before_it_was_quiet_is_none_that_changed() -> None:
    assert taken({0.0: "a", 2.0: "", 2.3: "a"}) == [(0.5, "a")]


def test_it_looks_more_often_while_something_changes() -> None:
    debouncer = Debouncer(0.5)
    assert debouncer.update("a", 0.0) is False
    assert debouncer.pause == UNSETTLED_PAUSE
    assert debouncer.update("a", 0.6) is True
    assert debouncer.pause == PAUSE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of documents behind the links of a ConfigMap."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "models.yaml").write_text("one")
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "models.yaml").symlink_to("data/models.yaml")
    return tmp_path / "models.yaml"


def test_nothing_is_new_where_nothing_was_done(file: Path) -> None:
    assert snapshot([file]) == snapshot([file])
    assert snapshot([file.parent]) == snapshot([file.parent])


@pytest.mark.parametrize(
    "what", ["edited", "its target edited", "its target replaced", "swapped", "gone", "saved again"]
)
def test_each_way_to_change_a_file_is_seen(file: Path, what: str) -> None:
    before, target = snapshot([file]), file.parent / "v1" / "models.yaml"
    if what == "edited":
        file.write_text("other")
    elif what == "its target edited":
        target.write_text("two")
    elif what == "its target replaced":
        (file.parent / "draft").write_text("two")
        (file.parent / "draft").replace(target)
    elif what == "swapped":
        (file.parent / "next").symlink_to("v2")
        (file.parent / "next").replace(file.parent / "data")
    elif what == "gone":
        target.unlink()
    else:
        os.utime(target)
    assert snapshot([file]) != before


def test_a_folder_is_another_when_it_was_replaced_and_when_its_files_are_others(tmp_path: Path) -> None:
    folder, other = tmp_path / "models.d", tmp_path / "next"
    for each in (folder, other):
        each.mkdir()
        (each / "a.yaml").write_text("a")
    seen = [snapshot([folder])]
    (folder / "b.yaml").write_text("b")
    seen.append(snapshot([folder]))
    (folder / "notes.txt").write_text("no document")
    assert snapshot([folder]) == seen[1]
    folder.rename(tmp_path / "old")
    seen.append(snapshot([folder]))
    other.rename(folder)
    seen.append(snapshot([folder]))
    assert len(set(seen)) == 4
