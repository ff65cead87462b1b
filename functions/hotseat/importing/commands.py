"""Split command lines, and replace macros that are known only at start by fields of engine custom."""

import re
import shlex

from hotseat.importing.macros import ENVIRONMENT

_LATER = re.compile(r"\$\{(?:(PORT)|env\.([A-Za-z_][A-Za-z0-9_]*))\}")


def without_comments(text: str) -> str:
    """Return the text without comment lines."""
    return "\n".join(line for line in text.split("\n") if not line.strip().startswith("#"))


def words(text: str) -> list[str]:
    """Split a command line as a shell does, with backslashes at line ends. Raise ValueError if a quote is not closed."""
    lines = []
    for line in without_comments(text).split("\n"):
        bare = line.strip()
        lines.append(bare.removesuffix("\\") if bare.endswith("\\") else line)
    return shlex.split("\n".join(lines))


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
