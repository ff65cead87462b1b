"""Typed access to one foreign configuration file: what is of another type than it should be is a problem with its place."""

from typing import Any, TypeVar

from hotseat.manifests.nodes import Tree
from hotseat.manifests.problems import Path, Problem, dotted, shown

Value = TypeVar("Value")


class Reader:
    """One YAML document of somebody else's."""

    def __init__(self, tree: Tree, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = list(tree.problems)
        self._tree = tree

    def problem(self, message: str, path: Path, *, found: Any = None, allowed: str = "", hint: str = "") -> None:
        """Note what is wrong with a field."""
        line, column = self._tree.place(path)
        seen = "" if found is None else shown(found)
        self.problems.append(Problem(self.file, message, "", line, column, dotted(path), seen, allowed, hint))

    def line(self, path: Path) -> int:
        """Line where a field begins."""
        return self._tree.key_place(path)[0]

    def get(self, path: Path) -> Any:
        """Look up a field; None if it is not there."""
        value = self._tree.data
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value

    def mapping(self, path: Path) -> dict[str, Any]:
        """Read a mapping; empty where there is none."""
        return self._typed(path, "a mapping", dict[str, Any]())

    def items(self, path: Path) -> list[Any]:
        """Read a list; empty where there is none."""
        return self._typed(path, "a list", list[Any]())

    def text(self, path: Path) -> str:
        """Read a text; empty where there is none. A number is one as it stands."""
        value = self.get(path)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._tree.written(path) or str(value)
        return self._typed(path, "a text", "")

    def texts(self, path: Path) -> list[str]:
        """Read a list of texts."""
        return [self.text((*path, index)) for index, _ in enumerate(self.items(path))]

    def number(self, path: Path) -> int | None:
        """Read a whole number."""
        return None if self.get(path) is None else self._typed(path, "a whole number", 0)

    def flag(self, path: Path, default: bool) -> bool:
        """Read true or false."""
        return self._typed(path, "true or false", default)

    def _typed(self, path: Path, allowed: str, default: Value) -> Value:
        """Read a value of the default's type."""
        value = self.get(path)
        if value is None:
            return default
        if isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool):
            return value
        self.problem("is of another type", path, found=value, allowed=allowed)
        return default
