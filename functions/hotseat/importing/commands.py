"""A command line in one text to the words of a command, with the fields of engine custom for what is known only later."""

import re
import shlex

from hotseat.importing.macros import ENVIRONMENT

_LATER = re.compile(r"\$\{(?:(PORT)|env\.([A-Za-z_][A-Za-z0-9_]*))\}")


def without_comments(text: str) -> str:
    """Leave out the lines that are comments."""
    return "\n".join(line for line in text.split("\n") if not line.strip().startswith("#"))


def words(text: str) -> list[str]:
    """Split as a shell does, without running one; a line may end in a backslash. ValueError: a quote is not closed."""
    lines = []
    for line in without_comments(text).split("\n"):
        bare = line.strip()
        lines.append(bare.removesuffix("\\") if bare.endswith("\\") else line)
    return shlex.split("\n".join(lines))


def as_field(word: str) -> str:
    """Write a word for engine custom: `${PORT}` is `{port}`, `${env.X}` is `{env:X}`, other braces are doubled."""
    result, end = "", 0
    for match in _LATER.finditer(word):
        field = "port" if match[1] else f"env:{match[2]}"
        result += _doubled(word[end : match.start()]) + f"{{{field}}}"
        end = match.end()
    return result + _doubled(word[end:])


def is_later(word: str) -> bool:
    """Whether something in a word is known only when the model starts."""
    return "${PORT}" in word or ENVIRONMENT.search(word) is not None


def _doubled(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
