"""What is said about a document that is not right: where, what was found, what is allowed, what was probably meant."""

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]  # of a field in a document: ("spec", "env", 2, "name")

_LONGEST = 80  # characters of a found value that are shown


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `line` and `column` count from 1; empty texts and None are what cannot be said."""

    file: str
    message: str
    document: str = ""  # Model/qwen, or `document 2` where it has no name
    line: int | None = None
    column: int | None = None
    field: str = ""  # spec.env[2].name
    found: str = ""
    allowed: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        """Write one block for a terminal."""
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
    """The documents cannot be used. Holds every problem of all files, in the order of files and lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """Write all of them for a terminal, one block each, and how many there are."""
        count = len(self.problems)
        return "\n".join([*map(str, self.problems), f"{count} problem{'' if count == 1 else 's'}"])


def _printable(text: str) -> str:
    """Escape control characters: what stands in a file must not command a terminal."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", lambda match: ascii(match[0])[1:-1], text
    )


def dotted(path: Path) -> str:
    """Write a path as people do: `spec.env[2].name`; keys that would be ambiguous so are quoted."""
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
    """Show a found value on one line: control characters escaped, at most 80 characters, big things by their kind."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def plain(name: str) -> str:
    """Show a name of a Model within a sentence: in quotes where it would be hard to tell from the rest."""
    return name if re.fullmatch(r"[\w.:/@+-]{1,253}", name) else shown(name)


def near(word: str, choices: Iterable[str]) -> str | None:
    """Find what a misspelt word probably meant; letter case and underscores count for nothing."""
    plain = {choice.lower().replace("_", ""): choice for choice in choices}
    found = difflib.get_close_matches(word.lower().replace("_", ""), plain, n=1, cutoff=0.65)
    return plain[found[0]] if found else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Say what a misspelt word probably meant; empty if nothing is near."""
    meant = near(word, choices)
    return f"did you mean {meant}?" if meant else ""
