"""Groups and matrix of llama-swap as sets of Models that may be resident together."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hotseat.api.types import Json
from hotseat.core.policy.groups import Group, Groups
from hotseat.importing.models import labels
from hotseat.importing.reader import GROUP_KEYS, Reader
from hotseat.importing.writer import Note, compact
from hotseat.manifests.problems import Path

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


DEFAULT_GROUP = "default"  # llama-swap's own is called (default)


@dataclass(frozen=True, slots=True)
class ResidencyRules:
    """Fields of a Workspace's spec, the same as Groups, and notes."""

    spec: Json
    groups: Groups
    notes: list[Note]


def residency_rules(reader: Reader, names: Mapping[str, str]) -> ResidencyRules:
    """Return the rules of groups or matrix. Without both, one model is resident at a time. `names` has the labels of models."""
    settings: Path = ("routing", "router", "settings")
    old, new = reader.mapping(("groups",)), reader.mapping((*settings, "groups"))
    at = next((path for path in (("matrix",), (*settings, "matrix")) if reader.get(path) is not None), None)
    chosen = reader.text(("routing", "router", "use"))
    if at is not None and (old or (new and not chosen)):
        reader.problem("a configuration has groups or a matrix, not both", at)
    notes = []
    if chosen == "group" and at is not None:
        at = None
        notes.append(
            Note("no equivalent", "routing.router.settings.matrix", "routing.router.use is group: it was not used")
        )
    if at is not None:
        if new and chosen == "matrix":
            notes.append(
                Note(
                    "no equivalent",
                    "routing.router.settings.groups",
                    "routing.router.use is matrix: they were not used",
                )
            )
        return _sets(reader, at, names, notes)
    if old or new:
        return _groups(reader, ("groups",) if old else (*settings, "groups"), names, notes)
    everything = Group(DEFAULT_GROUP, frozenset(names.values()))
    return ResidencyRules({"capacity": {"gpus": 1}}, Groups((everything,)), notes)


def _groups(reader: Reader, at: Path, names: Mapping[str, str], notes: list[Note]) -> ResidencyRules:
    given = reader.mapping(at)
    called = labels(given, taken=[DEFAULT_GROUP])
    group_names: dict[str, str] = {}
    rows: list[Json] = []
    for group in given:
        path = (*at, group)
        members = []
        for index, member in enumerate(reader.texts((*path, "members"))):
            if member not in names:
                reader.problem("no such model", (*path, "members", index), found=member, allowed=", ".join(names))
            elif member in group_names:
                reader.problem(f"{member} is in {group_names[member]} already", (*path, "members", index))
            else:
                group_names[member] = group
                members.append(names[member])
        flags = {
            key: reader.flag((*path, key), default=default)
            for key, default in (("swap", True), ("exclusive", True), ("persistent", False))
        }
        rows.append({"name": called[group], "members": members, **flags})
        if called[group] != group:
            notes.append(Note("changed", f"groups.{group}", f"its name is {called[group]}"))
        lost = reader.mapping(path).keys() - GROUP_KEYS
        notes += [
            Note("no equivalent", f"groups.{group}.{key}", reader.unknown((*path, key), GROUP_KEYS))
            for key in sorted(lost)
        ]
    if rest := [label for name, label in names.items() if name not in group_names]:
        rows.append({"name": DEFAULT_GROUP, "members": rest, "swap": True, "exclusive": True, "persistent": False})
        notes.append(Note("changed", "groups", f"{DEFAULT_GROUP} holds the models of no group, as in llama-swap"))
    groups = [Group(**{**row, "members": frozenset(row["members"])}) for row in rows]
    return ResidencyRules({"capacity": {"counted": False}, "groups": rows}, Groups(tuple(groups)), notes)


def _sets(reader: Reader, at: Path, names: Mapping[str, str], notes: list[Note]) -> ResidencyRules:
    short = {key: reader.text((*at, "vars", key)) for key in reader.mapping((*at, "vars"))}
    for key, name in short.items():
        if name not in names:
            reader.problem("no such model", (*at, "vars", key), found=name, allowed=", ".join(names))
    expressions = {key: reader.text((*at, "sets", key)) for key in reader.mapping((*at, "sets"))}
    if not expressions:
        reader.problem("has no sets", at)
    expanded, wrong = expand(expressions)
    for key, message in wrong.items():
        reader.problem(message, (*at, "sets", key), found=expressions[key])
    found: dict[frozenset[str], None] = {}
    for key, sets in expanded.items():
        for each in sets:
            real = {name: short.get(name, name) for name in each}
            for unknown in sorted(name for name in each if real[name] not in names):
                allowed = ", ".join([*short, *names])
                reader.problem(f"{unknown} is neither of vars nor a model", (*at, "sets", key), allowed=allowed)
            found[frozenset(names[it] for it in real.values() if it in names)] = None
    named = frozenset().union(*found)
    alone = [frozenset((label,)) for label in names.values() if label not in named]
    largest = [each for each in found if not any(each < other for other in found)]
    if costs := reader.mapping((*at, "evict_costs")):
        text = f"{compact(costs)}: hotseat learns how long each model takes to load, and goes by that"
        notes.append(Note("no equivalent", "matrix.evict_costs", text))
    notes += [
        Note("no equivalent", f"matrix.{key}", reader.unknown((*at, key), ("vars", "sets", "evict_costs")))
        for key in sorted(reader.mapping(at).keys() - {"vars", "sets", "evict_costs"})
    ]
    if alone:
        notes.append(Note("changed", "matrix.sets", "models of no set have one each, as they can only run alone"))
    sets = [*largest, *alone]
    order = list(names.values())
    rows = [sorted(each, key=order.index) for each in sets]
    return ResidencyRules({"capacity": {"counted": False}, "sets": rows}, Groups(sets=tuple(sets)), notes)
