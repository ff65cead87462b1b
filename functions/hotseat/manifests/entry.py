"""One document of a file, valid or not: its data, and the positions for its problems."""

from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.manifests.nodes import Tree
from hotseat.manifests.problems import Path, Problem, dotted


@dataclass(slots=True)
class Entry:
    """One document. `document` is None if it is invalid. `kind` and `name` are empty if they are unknown."""

    file: str
    folder: FilePath
    label: str
    data: dict[str, Any]
    tree: Tree
    base: Path  # of the document in the tree: () or, in a List, ("items", 2)
    kind: str = ""
    document: Model | Workspace | None = None

    @property
    def name(self) -> str:
        """Return metadata.name, also of an invalid document."""
        name = self.get("metadata", "name")
        return name if isinstance(name, str) else ""

    def where(self, path: Path) -> str:
        """Return the file and line of a field, for problems of other documents."""
        return f"{self.file}:{self.tree.position((*self.base, *path))[0]}"

    def problem(
        self, message: str, path: Path, *, found: str = "", allowed: str = "", hint: str = "", at_key: bool = False
    ) -> Problem:
        """Return a problem of a field, at the position of its value, or of its name with `at_key`."""
        position = self.tree.key_position if at_key else self.tree.position
        line, column = position((*self.base, *path))
        return Problem(self.file, message, self.label, line, column, dotted(path), found, allowed, hint)

    def get(self, *path: str) -> Any:
        """Return the value of a field, of any type. None if it is not set."""
        value: Any = self.data
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return value
