"""Commands of llama-swap: macros filled in, split into words, and the engine that runs them."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

LEFT = re.compile(r"\$\{([a-zA-Z0-9_-]+)\}")
ENVIRONMENT = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
_EXPONENT = 1e21  # from here on Go writes a number with an exponent
LATER = ("PORT", "PID")  # known only when the model runs


class Macros:
    """The macros of one model. A macro can use earlier ones, so they are substituted from last to first."""

    def __init__(self, model: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        self._values = {"MODEL_ID": model, **shared, **own}  # an own macro keeps the position of the shared one

    def fill(self, text: str) -> str:
        """Return a text with macros substituted."""
        for name, value in reversed(self._values.items()):
            text = text.replace(f"${{{name}}}", spelled(value))
        return text

    def fill_all(self, value: Any) -> Any:
        """Return a value with macros substituted. A text that is a single macro becomes its value, of any type."""
        if isinstance(value, dict):
            return {self.fill(key): self.fill_all(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill_all(item) for item in value]
        if not isinstance(value, str):
            return value
        for name, what in reversed(self._values.items()):
            if value == f"${{{name}}}" and not isinstance(what, str):
                return what
            value = value.replace(f"${{{name}}}", spelled(what))
        return value


def unknown(text: str, later: Iterable[str] = LATER) -> str | None:
    """Return the first undefined macro of a text, or None."""
    return next((name for name in LEFT.findall(text) if name not in later), None)


def spelled(value: Any) -> str:
    """Return a macro's value as text."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXPONENT:
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


_LATER = re.compile(r"\$\{(?:(PORT)|env\.([A-Za-z_][A-Za-z0-9_]*))\}")


def without_comments(text: str) -> str:
    """Return the text without comment lines."""
    return "\n".join(line for line in text.split("\n") if not line.strip().startswith("#"))


def words(text: str) -> list[str]:
    """Split a command line, with backslashes at line ends. Raise ValueError if a quote is not closed.

    It is split as a shell does, or as Windows does if it has a path of Windows.
    """
    lines = []
    for line in without_comments(text).split("\n"):
        bare = line.strip()
        lines.append(bare.removesuffix("\\") if bare.endswith("\\") else line)
    command = "\n".join(lines)
    return windows_words(command) if is_windows(command) else shlex.split(command)


_WINDOWS = re.compile(
    r"(?:^|[\s\"'=])(?:[A-Za-z]:\\|\\\\[\w.$-]+\\)|^\s*\"?[^\s\"]+\.(?:exe|bat|cmd|ps1)\b", re.IGNORECASE
)
_QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)


def is_windows(command: str) -> bool:
    r"""Whether a command line is one of Windows.

    It has a path such as `D:\x`, `\\server\x` or, not in quotes, `x\y`, or its program ends in .exe.
    """
    return _WINDOWS.search(command) is not None or re.search(r"\w\\\w", _QUOTED.sub("", command)) is not None


def windows_words(command: str) -> list[str]:
    r"""Split a command line as programs of Windows do. Raise ValueError if a quote is not closed.

    A backslash is one, except before a double quote: `\"` is a quote, and of `\\"` the quote begins or ends quoted text.
    """
    found: list[str] = []
    word, quoted, started, at = "", False, False, 0
    while at < len(command):
        slashes = len(command) - at - len(command[at:].lstrip("\\"))
        at += slashes
        char = command[at : at + 1]
        at += 1
        if char == '"':
            word += "\\" * (slashes // 2)
            started = True
            if slashes % 2:
                word += '"'
            else:
                quoted = not quoted
            continue
        word += "\\" * slashes
        started = started or bool(word)
        if char.isspace() and not quoted:
            found += [word] if started else []
            word, started = "", False
        elif char:
            word, started = word + char, True
    if quoted:
        raise ValueError("No closing quotation")
    return [*found, word] if started else found


def as_field(word: str) -> str:
    """Return a word for engine custom: `${PORT}` becomes `{port}`, `${env.X}` becomes `{env:X}`, other braces are doubled."""
    result, end = "", 0
    for match in _LATER.finditer(word):
        field = "port" if match[1] else f"env:{match[2]}"
        result += _doubled(word[end : match.start()]) + f"{{{field}}}"
        end = match.end()
    return result + _doubled(word[end:])


def is_later(word: str) -> bool:
    """Whether a word contains a macro that is known only when the model starts."""
    return "${PORT}" in word or ENVIRONMENT.search(word) is not None


def _doubled(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


_MODEL, _PORT, _HOST = ("-m", "--model"), ("--port",), ("--host",)
_HERE = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class EngineMapping:
    """Fields of a Model's spec about its engine."""

    name: str
    source: str = ""
    command: list[str] = field(default_factory=list)
    args: list[str] = field(default_factory=list)


def engine_of(words: Sequence[str], late: Sequence[str], *, plain: bool) -> EngineMapping:
    """Return the engine. `late` has assignments for env(1). `plain` says that it listens on ${PORT}."""
    if plain and not late and (engine := _llamacpp(words)):
        return engine
    prefix = [f"{name}={as_field(value)}" for name, _, value in (each.partition("=") for each in late)]
    return EngineMapping("custom", command=[*(["env", *prefix] if prefix else []), *map(as_field, words)])


def _llamacpp(words: Sequence[str]) -> EngineMapping | None:
    """Return engine llamacpp for llama-server with one local file and ${PORT}, without other macros. None otherwise."""
    program, *rest = words
    if PurePath(program).name != "llama-server" or is_later(program):
        return None
    taken: dict[tuple[str, ...], list[str]] = {_MODEL: [], _PORT: [], _HOST: []}
    args: list[str] = []
    following = iter(rest)
    for word in following:
        flag, equals, value = word.partition("=")
        kind = next((names for names in taken if flag in names), None)
        if kind is None:
            args.append(word)
        else:
            taken[kind].append(value if equals else next(following, ""))
    models, ports, hosts = taken.values()
    exact = (
        len(models) == 1 and models[0].startswith("/") and ports == ["${PORT}"] and all(host in _HERE for host in hosts)
    )
    if not exact or any(is_later(word) for word in (*models, *args)):
        return None
    return EngineMapping("llamacpp", models[0], [program], args)
