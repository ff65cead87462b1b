"""The recorder of random worlds tells equal behaviour from another one; record_worlds.py says how it is used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.core.record_worlds import digest

SCRIPT = Path(__file__).with_name("record_worlds.py")


@pytest.fixture
def recordings(tmp_path: Path) -> list[list[str]]:
    """The first worlds, recorded twice. Each time in a process of its own, with the same hashes: sets keep their order then."""
    found = []
    for name in ("one", "other"):
        command = [sys.executable, str(SCRIPT), "record", str(tmp_path / name), "--worlds", "3", "--processes", "1"]
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "0"}, check=True, capture_output=True)
        found.append((tmp_path / name).read_text().splitlines())
    return found


def test_a_world_is_the_same_again_and_another_one_is_not(recordings: list[list[str]]) -> None:
    one, other = recordings
    assert one == other
    assert len({line.split()[2] for line in one}) == 3
    assert all(line.endswith(" well") for line in one)


def test_words_that_have_changed_and_fields_that_are_new_are_left_out_on_request() -> None:
    plain, renamed = digest(3, {}, frozenset()), digest(3, {"Publish": "Told"}, frozenset())
    assert plain != renamed
    assert digest(3, {}, frozenset({"Residency.epoch"})) != plain
