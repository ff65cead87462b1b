"""Typed access to a foreign configuration file, and what becomes of each of its settings."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from hotseat.manifests.nodes import Tree
from hotseat.manifests.problems import Path, Problem, did_you_mean, dotted, shown

# Converted, or reported elsewhere.
MODEL_KEYS = frozenset({
    "cmd", "cmdStop", "proxy", "aliases", "env", "checkEndpoint", "ttl", "unloadTimeout", "unlisted", "useModelName", "name",
    "description", "concurrencyLimit", "filters", "macros", "metadata", "sleepMode", "sleepEndpoints", "wakeEndpoints",
    "sleepEndpoint", "sleepMethod", "sleepBody", "sleepTimeout", "wakeEndpoint", "wakeMethod", "wakeBody", "wakeTimeout",
    "sendLoadingState", "capabilities", "timeouts",
})  # fmt: skip
TOP_KEYS = frozenset({
    "models", "macros", "groups", "matrix", "routing", "hooks", "peers", "apiKeys", "profiles", "selectors",
    "healthCheckTimeout", "globalTTL", "unloadTimeout", "sleepMode", "sendLoadingState", "upstream",
})  # fmt: skip
GROUP_KEYS = frozenset({"swap", "exclusive", "persistent", "members"})
PEER_KEYS = frozenset({"proxy", "models", "apiKey", "filters"})

# No equivalent, and what to do instead.
PEER_LOST: Mapping[str, str] = {
    "timeouts": "hotseat has its own connect timeout, and waits for an answer as long as the client does",
    "tailcatKey": "hotseat has no tailcat connections",
}
TOP_LOST: Mapping[str, str] = {
    "logLevel": "hotseat up --log-level debug|info|warning|error",
    "logTimeFormat": "times in hotseat's log are RFC 3339",
    "logToStdout": "hotseat's own log is on standard error; hotseat logs MODEL prints an engine's",
    "metricsMaxInMemory": "GET /api/requests has the last 100 requests, and hotseat up --request-log FILE keeps a line for each",
    "captureBuffer": "hotseat up --capture redacted|full keeps bodies, 64 MiB of them",
    "store": "hotseat up --request-log FILE keeps a line for each request",
    "performance": "hotseat does not monitor the accelerator",
    "ui": "use hotseat ps, switches and events instead",
    "startPort": "a free port is chosen at each start",
    "includeAliasesInList": "GET /v1/models lists a Model once, with all its names",
}


Value = TypeVar("Value")
_WORDS = {"yes": True, "on": True, "y": True, "no": False, "off": False, "n": False}


class Reader:
    """One YAML document. `problems` collects its problems. `files` has the file of each field, if it is merged from several."""

    def __init__(self, tree: Tree, file: str, files: Mapping[Path, str] = MappingProxyType({})) -> None:
        self.file = file
        self._files = files
        self.problems: list[Problem] = list(tree.problems)
        self._tree = tree

    def problem(self, message: str, path: Path, *, found: Any = None, allowed: str = "", hint: str = "") -> None:
        """Add a problem of a field."""
        line, column = self._tree.position(path)
        seen = "" if found is None else shown(found)
        self.problems.append(Problem(self._file_of(path), message, "", line, column, dotted(path), seen, allowed, hint))

    def _file_of(self, path: Path) -> str:
        while path and path not in self._files:
            path = path[:-1]
        return self._files.get(path, self.file)

    def line(self, path: Path) -> int:
        """Return the line of a field."""
        return self._tree.key_position(path)[0]

    def unknown(self, path: Path, known: Iterable[str]) -> str:
        """Return the text of a note on a setting that the importer does not know: its line, and a known one like it."""
        hint = did_you_mean(str(path[-1]), known)
        file = f"{self._file_of(path)}, " if self._files else ""
        return f"{file}line {self.line(path)}: not known to this importer{f'; {hint}' if hint else ''}"

    def get(self, path: Path) -> Any:
        """Return a field, or None if it is not set."""
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
        """Return a mapping, empty if it is not set."""
        return self._typed(path, "a mapping", dict[str, Any]())

    def names(self, path: Path) -> list[str]:
        """Return the keys of a mapping, also those whose value is null."""
        return [str(key[-1]) for key in self._tree.keys if key[:-1] == path]

    def items(self, path: Path) -> list[Any]:
        """Return a list, empty if it is not set."""
        return self._typed(path, "a list", list[Any]())

    def text(self, path: Path) -> str:
        """Return a text, empty if it is not set. Numbers are returned as written."""
        value = self.get(path)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._tree.written(path) or str(value)
        return self._typed(path, "a text", "")

    def texts(self, path: Path) -> list[str]:
        """Return a list of texts, empty if it is not set."""
        return [self.text((*path, index)) for index, _ in enumerate(self.items(path))]

    def number(self, path: Path) -> int | None:
        """Return an integer, or None if it is not set."""
        return None if self.get(path) is None else self._typed(path, "an integer", 0)

    def flag(self, path: Path, default: bool) -> bool:
        """Return a boolean. For a field that is one, Go's YAML reads the words of YAML 1.1 too."""
        words = self.get(path)
        if isinstance(words, str) and (word := words.lower()) in _WORDS:
            return _WORDS[word]
        return self._typed(path, "true or false", default)

    def _typed(self, path: Path, allowed: str, default: Value) -> Value:
        """Return a value of the default's type. Otherwise add a problem, and return the default."""
        value = self.get(path)
        if value is None:
            return default
        if isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool):
            return value
        self.problem("is of another type", path, found=value, allowed=allowed)
        return default
