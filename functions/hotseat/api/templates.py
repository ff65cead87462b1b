"""Placeholders and macros in texts of Models: their names and their spelling. Pure.

`${name}` stands for a macro of the Workspace, or for what is known when an engine starts. `$${name}` is the text `${name}`.
"""

import difflib
import re
from collections.abc import Iterator
from typing import Final

# What is known when an engine starts; `env:NAME` is a variable of hotseat's environment.
PLACEHOLDERS: Final = ("port", "host", "model", "name", "source")
ENVIRONMENT: Final = "env:"
WORDS: Final = "words:"  # before the name of a macro: its words, as items of their own
MACRO_PATTERN: Final = r"[A-Za-z_][A-Za-z0-9_-]*"
# An escaped placeholder, or one with its name.
TOKEN: Final = re.compile(r"\$\$\{(?P<text>[^{}]*)\}|\$\{(?P<name>[^{}]*)\}")
# The same in braces, in commands that engine custom fills in. A doubled brace stands for itself.
BRACES: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
# Fields that Models do not inherit: they are about one Model.
NOT_INHERITED: Final = ("names", "workspace")


def is_placeholder(name: str) -> bool:
    """Whether a name is that of a placeholder, which is filled in when an engine starts."""
    return name in PLACEHOLDERS or re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", name) is not None


def problems_in_braces(text: str) -> Iterator[str]:
    """Yield the unknown placeholders and the unpaired braces of a text for engine custom."""
    fields = (*PLACEHOLDERS, ENVIRONMENT + "NAME")
    for match in BRACES.finditer(text):
        name = match[1]
        if name is None:
            if match[0] in "{}":
                yield f"a single {match[0]} in {text!r}; write {match[0] * 2} for the character itself"
        elif not is_placeholder(name):
            near = difflib.get_close_matches(name, fields, n=1)
            allowed = ", ".join(f"{{{field}}}" for field in fields)
            hint = f", did you mean {{{near[0]}}}?" if near else ""
            yield f"unknown field {{{name}}}{hint} Allowed: {allowed}"


def check_macros(macros: dict[str, str]) -> dict[str, str]:
    """Return the macros. Raise ValueError if a name is not allowed."""
    for name in macros:
        if not re.fullmatch(MACRO_PATTERN, name):
            raise ValueError(f"macros has {name!r}; allowed: letters, digits, - and _, not beginning with a digit or -")
        if name in PLACEHOLDERS:
            raise ValueError(f"macros has {name}, which is a placeholder already: ${{{name}}}")
    return macros


def check_defaults(defaults: dict[str, object]) -> dict[str, object]:
    """Return the defaults of Models. Raise ValueError if they have a field that Models do not inherit."""
    if wrong := sorted(defaults.keys() & set(NOT_INHERITED)):
        raise ValueError(f"modelDefaults has {', '.join(wrong)}, which each Model states itself")
    return defaults
