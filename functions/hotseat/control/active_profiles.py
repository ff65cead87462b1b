"""The active profile of each Workspace, as people switch it at run time."""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hotseat.api.workspace import Workspace
from hotseat.private_files import make_directory, opener

log = logging.getLogger(__name__)


class Choice(NamedTuple):
    """The profile that a person has chosen (None: none), and `spec.activeProfile` at that time, after whose change it ends."""

    profile: str | None
    stated: str | None


class ActiveProfiles:
    """Choices, which are kept in a file over restarts. Without one, `spec.activeProfile` of the Workspace is active.

    `choose` is called by one thread at a time.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._choices = {} if path is None else _read(path)

    def of(self, workspace: Workspace) -> str | None:
        """Return the active profile of a Workspace. None: there is none."""
        spec = workspace.spec
        choice = self._choices.get(workspace.name)
        active = choice.profile if choice is not None and choice.stated == spec.active_profile else spec.active_profile
        return active if active in spec.profiles else None

    def choose(self, workspaces: Iterable[Workspace], profile: str | None) -> None:
        """Make a profile the active one of these Workspaces. None: they have none. Raise OSError if that cannot be kept."""
        choices = {each.name: Choice(profile, each.spec.active_profile) for each in workspaces}
        choices = self._choices | choices
        if self._path is not None:
            _write(self._path, choices)
        self._choices = choices


def _read(path: Path) -> dict[str, Choice]:
    try:
        return {str(name): Choice(*row) for name, row in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("cannot read which profiles were active; those of the documents are: %s: %s", path, error)
        return {}


def _write(path: Path, choices: dict[str, Choice]) -> None:
    """Replace the file as a whole."""
    new = path.with_name(f"{path.name}.new")
    make_directory(new.parent)  # it may have been deleted
    with open(new, "w", opener=opener) as file:
        json.dump(choices, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
