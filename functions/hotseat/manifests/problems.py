"""Problems of documents: the position, what was found, what is allowed, and a hint."""

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]  # of a field in a document: ("spec", "env", 2, "name")

_LONGEST = 80  # characters of a found value that are shown


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. `line` and `column` count from 1. Empty texts and None mean unknown."""

    file: str
    message: str
    document: str = ""  # Model/qwen, or `document 2` without a name
    line: int | None = None
    column: int | None = None
    field: str = ""  # spec.env[2].name
    found: str = ""
    allowed: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        """Return one block of text for a terminal."""
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        lines = [": ".join(part for part in (place, self.document, self.field, self.message) if part)]
        if self.found:
            lines.append(f"    found:   {self.found}")
        if self.allowed:
            lines.append(f"    allowed: {self.allowed}")
        if self.suggestion:
            lines.append(f"    hint:    {self.suggestion}")
        return "\n".join(map(_printable, lines))


class ManifestErrors(Exception):
    """The documents are invalid. `problems` has all problems, by file and line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """Return all problems for a terminal, and their number."""
        count = len(self.problems)
        return "\n".join([*map(str, self.problems), f"{count} problem{'' if count == 1 else 's'}"])


def _printable(text: str) -> str:
    """Escape control characters, which could control a terminal."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", lambda match: ascii(match[0])[1:-1], text
    )


def dotted(path: Path) -> str:
    """Return a path as text: `spec.env[2].name`. Ambiguous keys are quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]+", step):
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step, ensure_ascii=False)}]"
    return text


def shown(value: object) -> str:
    """Return a value on one line, of at most 80 characters. Mappings and lists are only named."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def plain(name: str) -> str:
    """Return a name of a Model for a sentence, in quotes if it has unusual characters."""
    return name if re.fullmatch(r"[\w.:/@+-]{1,253}", name) else shown(name)


def near(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is most similar to a word, ignoring case and underscores. None if no choice is similar."""
    plain = {choice.lower().replace("_", ""): choice for choice in choices}
    found = difflib.get_close_matches(word.lower().replace("_", ""), plain, n=1, cutoff=0.65)
    return plain[found[0]] if found else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return a hint with the most similar choice. Empty if no choice is similar."""
    meant = near(word, choices)
    return f"did you mean {meant}?" if meant else ""
