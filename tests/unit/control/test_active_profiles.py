"""Which profile is active: the one that a person has chosen, until the document names another."""

from pathlib import Path

import pytest

from hotseat.api.workspace import Workspace
from hotseat.control.active_profiles import ActiveProfiles


def space(active: str | None = None, *profiles: str) -> Workspace:
    return Workspace.model_validate(
        {
            "metadata": {"name": "w"},
            "spec": {"profiles": {name: {} for name in profiles or ("p", "q")}, "activeProfile": active},
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "profiles.json"


def test_the_documents_profile_is_active_until_another_is_chosen(path: Path) -> None:
    profiles = ActiveProfiles(path)
    assert (profiles.of(space()), profiles.of(space("p"))) == (None, "p")
    profiles.choose([space("p")], "q")
    assert profiles.of(space("p")) == "q"
    profiles.choose([space("p")], None)
    assert profiles.of(space("p")) is None


def test_a_choice_survives_a_restart_and_ends_when_the_document_names_another(path: Path) -> None:
    ActiveProfiles(path).choose([space("p")], "q")
    again = ActiveProfiles(path)
    assert (again.of(space("p")), again.of(space("p", "p", "q", "r"))) == ("q", "q")
    assert (again.of(space(None)), again.of(space("r", "p", "q", "r"))) == (None, "r")
    assert again.of(space("p", "p")) is None, "the chosen one is gone"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"w": 1}', '{"w": ["p"]}'])
def test_a_file_that_cannot_be_read_is_as_none(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    assert ActiveProfiles(path).of(space("p")) == "p"
    ActiveProfiles(path).choose([space()], "q")
    assert ActiveProfiles(path).of(space()) == "q"


def test_a_choice_that_cannot_be_kept_is_not_made(path: Path) -> None:
    profiles = ActiveProfiles(path)
    path.parent.write_text("not a directory")
    with pytest.raises(OSError, match="exists"):
        profiles.choose([space("p")], "q")
    assert profiles.of(space("p")) == "p"
