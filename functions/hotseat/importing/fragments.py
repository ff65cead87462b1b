"""Several files of one configuration, merged as llama-swap does with -config and -config-dir."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hotseat.manifests.nodes import Tree
from hotseat.manifests.problems import Path, Problem, dotted, shown

# Mappings whose members are things of their own: none may be in two files.
_THINGS: frozenset[Path] = frozenset({
    ("models",), ("groups",), ("profiles",), ("selectors",), ("peers",), ("matrix",), ("routing", "router", "settings", "groups"),
    ("routing", "router", "settings", "matrix"),
})  # fmt: skip


@dataclass(slots=True)
class Fragments:
    """A merged configuration. `files` has the file of each field."""

    tree: Tree = field(default_factory=lambda: Tree({}))
    files: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, tree: Tree, file: str) -> None:
        """Merge a file, after those before. Mappings are merged, lists are joined, and other values must be the same."""
        self.problems += tree.problems
        self.tree.values.setdefault((), tree.values[()])
        self.files.setdefault((), file)
        self._merge(self.tree.data, tree, (), file)

    def _merge(self, into: dict[str, Any], tree: Tree, path: Path, file: str) -> None:
        given: dict[str, Any] = _at(tree.data, path)
        for key, value in given.items():
            at = (*path, key)
            if key not in into:
                into[key] = value
                self._copy(tree, at, at, file)
            elif path in _THINGS:
                message = f"{key} is in {self.files[at]} as well: each of {dotted(path)} may be in one file"
                self._problem(message, tree, at, file)
            elif isinstance(into[key], dict) and isinstance(value, dict):
                into[key] = dict(into[key])  # it may be that of a tree
                self._merge(into[key], tree, at, file)
            elif isinstance(into[key], list) and isinstance(value, list):
                for index, _ in enumerate(value):
                    self._copy(tree, (*at, index), (*at, len(into[key]) + index), file)
                into[key] = [*into[key], *value]
            elif into[key] != value:
                self._problem(f"is another value than in {self.files[at]}", tree, at, file, found=shown(value))

    def _copy(self, tree: Tree, source: Path, target: Path, file: str) -> None:
        """Copy the positions of a field and of all below it."""
        for nodes, mine in ((tree.values, self.tree.values), (tree.keys, self.tree.keys)):
            for path, node in nodes.items():
                if path[: len(source)] == source:
                    mine[target + path[len(source) :]] = node
                    self.files[target + path[len(source) :]] = file

    def _problem(self, message: str, tree: Tree, path: Path, file: str, found: str = "") -> None:
        line, column = tree.key_position(path)
        self.problems.append(Problem(file, message, "", line, column, dotted(path), found))


def merge(parts: Sequence[tuple[Tree, str]]) -> Fragments:
    """Return the configuration of these trees, each with the name of its file."""
    merged = Fragments()
    for tree, file in parts:
        merged.add(tree, file)
    return merged


def _at(data: Any, path: Path) -> Any:
    for step in path:
        data = data[step]
    return data
