"""One document of a file, right or not: its data, and what problems need to say where it stands."""

from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.manifests.nodes import Tree
from hotseat.manifests.problems import Path, Problem, dotted


@dataclass(slots=True)
class Entry:
    """One document, right or not. `document` is None if it is not; `kind` and `name` are empty if they cannot be told."""

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
        """Name of the document, also where something else about it is wrong."""
        name = self.get("metadata", "name")
        return name if isinstance(name, str) else ""

    def where(self, path: Path) -> str:
        """File and line of a field, for problems elsewhere that point here."""
        return f"{self.file}:{self.tree.place((*self.base, *path))[0]}"

    def problem(
        self, message: str, path: Path, *, found: str = "", allowed: str = "", hint: str = "", at_key: bool = False
    ) -> Problem:
        """Say what is wrong with a field of this document; at the field's name instead of its value with `at_key`."""
        place = self.tree.key_place if at_key else self.tree.place
        line, column = place((*self.base, *path))
        return Problem(self.file, message, self.label, line, column, dotted(path), found, allowed, hint)

    def get(self, *path: str) -> Any:
        """Look up a field of the data, whatever its type; None if it is not there."""
        value: Any = self.data
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return value
