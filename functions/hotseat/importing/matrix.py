"""Expand the expressions of llama-swap's matrix to sets: `&`, `|`, parentheses, and `+name` for another expression."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MAX_SETS = 1000  # of one expression, as in llama-swap
_TOKEN = re.compile(r"\s*([&|()]|\+?[\w.-]+)")

Sets = list[frozenset[str]]


def expand(expressions: Mapping[str, str]) -> tuple[dict[str, Sets], dict[str, str]]:
    """Expand named expressions. Return the sets and the error messages, both by name."""
    done: dict[str, Sets] = {}
    wrong: dict[str, str] = {}
    for name in expressions:
        try:
            _expand(name, expressions, done, ())
        except ValueError as error:
            wrong[name] = str(error)
    return {name: done[name] for name in expressions if name in done}, wrong


def _expand(name: str, expressions: Mapping[str, str], done: dict[str, Sets], above: tuple[str, ...]) -> Sets:
    if name in above:
        raise ValueError(f"+{name} refers to itself")
    if name not in expressions:
        raise ValueError(f"+{name} is not a set")
    if name not in done:

        def other(ref: str) -> Sets:
            return _expand(ref, expressions, done, (*above, name))

        parser = _Parser(_tokens(expressions[name]))
        done[name] = _either(parser, other)
        if parser.next is not None:
            raise ValueError(f"unexpected {parser.next}")
    return done[name]


@dataclass(slots=True)
class _Parser:
    tokens: list[str]
    at: int = field(default=0)

    @property
    def next(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self, *wanted: str) -> bool:
        """Consume the next token if it is one of `wanted`. Return whether it was."""
        found = self.next in wanted
        self.at += found
        return found


def _tokens(text: str) -> list[str]:
    tokens, end = [], 0
    while text[end:].strip():
        match = _TOKEN.match(text, end)
        if match is None:
            raise ValueError(f"{text[end:].strip()[0]!r} is not allowed")
        tokens.append(match[1])
        end = match.end()
    return tokens


def _either(parser: _Parser, other: Callable[[str], Sets]) -> Sets:
    found = _together(parser, other)
    while parser.take("|"):
        found = found + _together(parser, other)
    return _bounded(found)


def _together(parser: _Parser, other: Callable[[str], Sets]) -> Sets:
    found = _one(parser, other)
    while parser.take("&"):
        right = _one(parser, other)
        if len(found) * len(right) > MAX_SETS:
            raise ValueError(f"the expression has more than {MAX_SETS} sets")
        found = [left | more for left in found for more in right]
    return found


def _one(parser: _Parser, other: Callable[[str], Sets]) -> Sets:
    word = parser.next
    if word is None or word in ("&", "|", ")"):
        raise ValueError(f"a name is missing before {word or 'the end'}")
    parser.at += 1
    if word == "(":
        found = _either(parser, other)
        if not parser.take(")"):
            raise ValueError("a parenthesis is not closed")
        return found
    return other(word[1:]) if word.startswith("+") else [frozenset((word,))]


def _bounded(found: Sets) -> Sets:
    if len(found) > MAX_SETS:
        raise ValueError(f"the expression has more than {MAX_SETS} sets")
    return found
