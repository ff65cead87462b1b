"""From YAML text to JSON data with the position of every field.

PyYAML composes the nodes. Its constructor is not used, because it drops positions and duplicate keys, and expands
aliases without a limit. JSON is read as YAML, which it is except for tabs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from hotseat.manifests.problems import Path, Problem, dotted

MAX_NODES = 100_000  # of one document, with aliases expanded
MAX_DEPTH = 50

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = {_TAG + kind for kind in ("str", "timestamp", "value", "merge")}  # JSON has no dates
_EXACT_INTEGER = 2**63
_LONGEST_NUMBER = 100  # characters of a number in base 60 (`1:30`)


def _as_in_yaml_1_2(loader: Any) -> Any:
    """Return a loader class for which `on`, `off`, `yes`, `no` and `1:30` are texts, and `1e3` is a number."""
    resolvers = {
        first: [(tag, pattern) for tag, pattern in listed if tag not in (_TAG + "bool", _TAG + "int", _TAG + "float")]
        for first, listed in loader.yaml_implicit_resolvers.items()
    }
    made: Any = type(loader.__name__, (loader,), {"yaml_implicit_resolvers": resolvers})
    made.add_implicit_resolver(_TAG + "bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    number = r"^[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$"  # 010 is octal, as Go's YAML has it
    made.add_implicit_resolver(_TAG + "int", re.compile(number), list("-+0123456789"))
    decimal = (
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    )
    made.add_implicit_resolver(_TAG + "float", re.compile(decimal), list("-+0123456789."))
    return made


_LOADERS: tuple[Any, Any] = (yaml.SafeLoader, getattr(yaml, "CSafeLoader", None))
_LOADERS_1_2: tuple[Any, Any] = (_as_in_yaml_1_2(_LOADERS[0]), _LOADERS[1] and _as_in_yaml_1_2(_LOADERS[1]))


class _TooMuch(Exception):
    """A document exceeds MAX_NODES or MAX_DEPTH."""

    def __init__(self, message: str, node: yaml.Node) -> None:
        super().__init__(message)
        self.line = node.start_mark.line + 1


@dataclass(slots=True)
class Tree:
    """One YAML document: its data, and the nodes of its fields. Nulls are dropped: as in Kubernetes they mean unset."""

    data: Any = None
    values: dict[Path, yaml.Node] = field(default_factory=dict)
    keys: dict[Path, yaml.Node] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def position(self, path: Path) -> tuple[int, int]:
        """Return the line and column of a field, or of its nearest parent if it is missing."""
        while path and path not in self.values:
            path = path[:-1]
        node = self.values[path]
        if path in self.keys and not isinstance(node, yaml.ScalarNode):
            node = self.keys[path]
        return node.start_mark.line + 1, node.start_mark.column + 1

    def key_position(self, path: Path) -> tuple[int, int]:
        """Return the line and column of a field's name."""
        node = self.keys.get(path)
        return (node.start_mark.line + 1, node.start_mark.column + 1) if node else self.position(path)

    def written(self, path: Path) -> str | None:
        """Return the text of a scalar as in the file (`on`, `1:30`), or None for other values."""
        node = self.values.get(path)
        return node.value if isinstance(node, yaml.ScalarNode) else None


def parse(text: str, file: str, *, yaml_1_2: bool = False) -> Iterator[Tree | Problem]:
    """Yield the documents of a file without empty ones. After a Problem the rest of the file is unreadable.

    Scalars are read as Kubernetes does (`on` is true), or with YAML_1_2 as Go's YAML does (`on` is text).
    """
    loaders = _LOADERS_1_2 if yaml_1_2 else _LOADERS
    try:
        loader = loaders[0](text)
        quickly = _compose_quickly(text, loaders[1])
        for node in _compose(loader) if quickly is None else quickly:
            if node.tag != _TAG + "null":
                yield _Builder(file).tree(node)
    except _TooMuch as error:
        yield Problem(file, str(error), line=error.line)
    except yaml.reader.ReaderError as error:
        line, column = _position_of(text, error.position)
        yield Problem(file, f"the character {error.character!r} is not allowed in YAML", line=line, column=column)
    except yaml.MarkedYAMLError as error:
        yield _syntax_problem(error, file)
    except (ValueError, OverflowError) as error:  # an escape or directive with a number out of range
        mark = loader.get_mark()
        yield Problem(file, f"not YAML: {error}", line=mark.line + 1, column=mark.column + 1)
    except RecursionError:
        yield Problem(file, "nested too deeply", line=loader.get_mark().line + 1)


def _compose(loader: yaml.SafeLoader | yaml.CSafeLoader) -> Iterator[yaml.Node]:
    while loader.check_node():
        if (node := loader.get_node()) is not None:
            yield node


def _compose_quickly(text: str, loader_class: Any) -> list[yaml.Node] | None:
    """Compose with libyaml, which is twenty times as fast. Return None if it is not installed or finds an error.

    PyYAML then reports the error, in better words. Texts with tabs are left to PyYAML, because libyaml accepts
    tabs where YAML does not.
    """
    if loader_class is None or "\t" in text:
        return None
    loader = loader_class(text)
    try:
        return list(_compose(loader))
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return None
    finally:
        loader.dispose()


def _position_of(text: str, position: int) -> tuple[int, int]:
    return text.count("\n", 0, position) + 1, position - (text.rfind("\n", 0, position) + 1) + 1


def _syntax_problem(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    what = error.problem or error.context or "cannot be read"
    problem = Problem(file, f"not YAML: {what}{f' ({error.context})' if error.problem and error.context else ''}")
    if mark is not None:
        problem = replace(problem, line=mark.line + 1, column=mark.column + 1)
    if "'\\t'" in what:
        return replace(problem, suggestion="indent with spaces: YAML does not allow tabs")
    if "unknown escape character" in what or "expected escape sequence" in what:
        hint = "between double quotes a backslash begins an escape; use single quotes, or none, for a path with backslashes"
        return replace(problem, suggestion=hint)
    if "mapping values are not allowed" in what:
        return replace(problem, suggestion="check the indentation, and put text that holds a colon in quotes")
    return problem


class _Builder:
    """Makes one Tree. It counts nodes, to limit the expansion of aliases."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._visited = 0
        self._tree = Tree()
        self._constructor = yaml.constructor.SafeConstructor()

    def tree(self, node: yaml.Node) -> Tree:
        self._tree.data = self._value(node, ())
        return self._tree

    def _visit(self, node: yaml.Node, depth: int) -> None:
        self._visited += 1
        if self._visited > MAX_NODES:
            raise _TooMuch(f"more than {MAX_NODES} values, with all aliases expanded", node)
        if depth > MAX_DEPTH:
            raise _TooMuch(f"nested more than {MAX_DEPTH} deep", node)

    def _problem(self, message: str, node: yaml.Node, path: Path, hint: str = "") -> None:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        field = dotted(path)
        self._tree.problems.append(Problem(self._file, message, "", line, column, field, suggestion=hint))

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._visit(node, len(path))
        self._tree.values[path] = node
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            self._problem(f"the tag {_tag(node)} is not known", node, path)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        members: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in self._merged(node, path, 0):
            if isinstance(key_node, yaml.ScalarNode):
                members[_clean(key_node.value)] = key_node, value_node
            else:
                hint = "put text that begins with { or [ in quotes"
                self._problem("a field's name must be text", key_node, path, hint)
        self._check_duplicates(node, path)
        data = {}
        for key, (key_node, value_node) in members.items():
            self._tree.keys[*path, key] = key_node
            value = self._value(value_node, (*path, key))
            if value is not None:
                data[key] = value
        return data

    def _check_duplicates(self, node: yaml.MappingNode, path: Path) -> None:
        first: dict[str, yaml.Node] = {}
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != _TAG + "merge":
                key = _clean(key_node.value)
                if key in first:
                    message = f"stands twice; first on line {first[key].start_mark.line + 1}"
                    self._problem(message, key_node, (*path, key))
                first.setdefault(key, key_node)

    def _merged(self, node: yaml.Node, path: Path, depth: int) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Yield the members of a mapping. Merged members (`<<`) come first, so that its own take precedence."""
        self._visit(node, len(path) + depth)
        if not isinstance(node, yaml.MappingNode):
            self._problem("<< merges mappings only", node, path)
            return
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in reversed(sources):  # the first source takes precedence
                    yield from self._merged(source, path, depth + 1)
        for key_node, value_node in node.value:
            if key_node.tag != _TAG + "merge":
                yield key_node, value_node

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        if node.tag == _TAG + "null":
            return None
        if node.tag in (_TAG + "bool", _TAG + "int", _TAG + "float"):
            return self._number(node)
        if node.tag not in _TEXT_TAGS:
            self._problem(f"the tag {_tag(node)} is not known", node, path)
        if "\0" in node.value:
            self._problem("holds a NUL character, which no program's arguments can", node, path)
        return _clean(node.value)

    def _number(self, node: yaml.ScalarNode) -> Any:
        """Return a boolean or a number. Values that JSON does not have (`.nan`, `!!int x`, 80 digits) stay text."""
        if len(node.value) > _LONGEST_NUMBER and ":" in node.value:  # base 60, which takes quadratic time
            return _clean(node.value)
        kind = node.tag.removeprefix(_TAG)
        try:
            value = getattr(self._constructor, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError, IndexError, OverflowError):
            return _clean(node.value)
        if isinstance(value, bool) or abs(value) < _EXACT_INTEGER:
            return value
        return _clean(node.value)


def _tag(node: yaml.Node) -> str:
    return "!!" + node.tag.removeprefix(_TAG) if node.tag.startswith(_TAG) else node.tag


def _clean(text: str) -> str:
    """Join surrogate pairs, which JSON escapes produce, and replace lone surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
