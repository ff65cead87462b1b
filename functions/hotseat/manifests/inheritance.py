"""What Models inherit from their Workspace: the fields of `modelDefaults`, and `macros` in their texts.

It is applied to what documents say, before a Model is made of that: by `load` on one machine, by the switcher on a cluster.
"""

import difflib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from hotseat.api.model import ModelSpec
from hotseat.api.templates import ENVIRONMENT, PLACEHOLDERS, TOKEN, WORDS, is_placeholder, problems_in_braces
from hotseat.api.types import Document, Json
from hotseat.manifests.problems import Path
from hotseat.manifests.schema import default_of, part_at

MAX_TEXT = 65536  # characters of a text with its macros
# Fields of texts in which placeholders are filled in when an engine starts, as lists and in `env`.
LATE_LISTS = ("command", "args", "stopCommand")
# Other fields, all of them paths or addresses, in which macros are substituted only. `*` stands for each item of a list.
EARLY: tuple[Path, ...] = (
    ("source",),
    ("image",),
    ("url",),
    ("health", "path"),
    ("failoverUrls", "*"),
    ("loras", "*", "source"),
    ("engineKey", "file"),
    ("headers", "*", "file"),
    ("tls", "caFile"),
)
_STARTS = (
    "command",
    "args",
    "env",
    "port",
    "source",
    "image",
    "stopCommand",
)  # no meaning for a server that runs already
_OF_EXTERNAL = frozenset(
    {"url", "failoverUrls", "retries", "circuitBreaker", "tls", "mockResponse", "allowMockResponse"}
)
_SOURCES = frozenset({"value", "env", "file", "secret"})  # of a secret value, which has one of them


@dataclass(frozen=True, slots=True)
class TemplateProblem:
    """A problem of a placeholder. `path` is the field, within the spec."""

    path: Path
    message: str
    found: str = ""
    allowed: str = ""
    hint: str = ""

    def __str__(self) -> str:
        """Return one line of text."""
        where = ".".join(map(str, self.path))
        return f"{where}: {self.found + ' ' if self.found else ''}{self.message}" + (
            f"; allowed: {self.allowed}" if self.allowed else ""
        )


def inherit(spec: Json, workspace: Json, *, appended: bool = False) -> tuple[Json, list[TemplateProblem]]:
    """Return the spec of a Model with what it inherits from the spec of its Workspace, and the problems of its texts.

    Both are as documents have them. Mappings are merged; all else is replaced. With `appended`, `args` follow the default ones.
    """
    defaults, macros = workspace.get("modelDefaults"), workspace.get("macros")
    if isinstance(defaults, dict) and defaults:
        below = _applicable(defaults, spec.get("engine") or defaults.get("engine"))
        first, more = below.get("args"), spec.get("args")
        spec = merged(spec, below)
        if appended and isinstance(first, list) and isinstance(more, list):
            spec["args"] = [*first, *more]
    known = {name: text for name, text in macros.items() if isinstance(text, str)} if isinstance(macros, dict) else {}
    templates = _Templates(known, spec.get("engine") == "custom")
    return templates.apply(spec), templates.problems


def merged(own: Json, defaults: Json) -> Json:
    """Return a mapping with what is missing in it from defaults. Mappings in both are merged, lists are not."""
    result = {**defaults, **own}
    for key in own.keys() & defaults.keys():
        if isinstance(own[key], dict) and isinstance(defaults[key], dict):
            below = defaults[key]
            if own[key].keys() & _SOURCES:  # another source of a secret value takes the place of the default one
                below = {name: value for name, value in below.items() if name not in _SOURCES}
            result[key] = merged(own[key], below)
    return result


def as_written(spec: Json) -> Json:
    """Return the spec of a Model of a cluster without the defaults that the API server has filled in.

    They cannot be told from the same values that a person has written.
    """
    return _without_defaults(ModelSpec, spec)


def _without_defaults(part: type[Document], values: Json) -> Json:
    result: Json = {}
    for name, value in values.items():
        inner = part_at(part, (name,))
        if isinstance(value, dict) and inner is not None:
            if rest := _without_defaults(inner, value):
                result[name] = rest
        elif value != _default(part, name):
            result[name] = value
    return result


@lru_cache(maxsize=1024)
def _default(part: type[Document], name: str) -> Any:
    return default_of(part, name)


def _applicable(defaults: Json, engine: object) -> Json:
    """Return the defaults without fields that have no meaning for an engine."""
    without = {"vllm", "loras"} if engine != "vllm" else set[str]()
    if engine != "external":
        without |= _OF_EXTERNAL
        return {name: value for name, value in defaults.items() if name not in without}
    # Keys of engines of this machine are not for servers of others, and a health path would be asked of them.
    without |= {*_STARTS, "engineKey", "headers", "health"}
    kept = {name: value for name, value in defaults.items() if name not in without}
    if isinstance(lifecycle := kept.get("lifecycle"), dict):
        kept["lifecycle"] = {
            name: value for name, value in lifecycle.items() if name not in ("release", "sleep", "wake")
        }
    return kept


class _Unknown(Exception):
    """A text cannot be made."""

    def __init__(self, message: str, found: str = "", allowed: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.found, self.allowed, self.hint = message, found, allowed, hint


@dataclass(slots=True)
class _Templates:
    """Substitutes macros in the texts of one Model."""

    macros: Mapping[str, str]
    custom: bool  # its command has placeholders in braces
    problems: list[TemplateProblem] = field(default_factory=list)
    _expanded: dict[str, str] = field(default_factory=dict)

    def apply(self, spec: Json) -> Json:
        """Return the spec with its texts made."""
        result = dict(spec)
        for name in LATE_LISTS:
            if isinstance(given := spec.get(name), list):
                result[name] = [each for index, item in enumerate(given) for each in self._items(item, (name, index))]
        for index, text in enumerate(given if isinstance(given := result.get("stopCommand"), list) else ()):
            for problem in problems_in_braces(text) if isinstance(text, str) else ():
                self.problems.append(TemplateProblem(("stopCommand", index), problem))
        if isinstance(given := spec.get("env"), list):
            result["env"] = [self._variable(each, index) for index, each in enumerate(given)]
        for path in EARLY:
            if path[0] in result:
                result[str(path[0])] = self._replaced(result[str(path[0])], path[:1], path[1:])
        return result

    def _replaced(self, value: Any, path: Path, below: Path) -> Any:
        """Return a value with the texts made that are BELOW it. PATH is its own."""
        if not below:
            return self._text(value, path, late=False) if isinstance(value, str) and "${" in value else value
        step, *rest = below
        if step == "*" and isinstance(value, list):
            return [self._replaced(item, (*path, index), tuple(rest)) for index, item in enumerate(value)]
        if isinstance(value, dict) and step in value:
            return {**value, step: self._replaced(value[step], (*path, step), tuple(rest))}
        return value

    def _items(self, item: Any, path: Path) -> Iterator[Any]:
        """Yield an item of a list, or the words of the macro that it names."""
        if not isinstance(item, str) or "${" not in item:
            yield item
            return
        token = TOKEN.fullmatch(item)
        braces = self.custom or path[0] == "stopCommand"
        if token is None or not (token["name"] or "").startswith(WORDS):
            yield self._text(item, path, late=True, braces=braces)
            return
        try:
            yield from shlex.split(self._made(f"${{{token['name'][len(WORDS) :]}}}", (), braces=braces))
        except _Unknown as problem:
            self._add(path, problem)
        except ValueError as error:
            self._add(path, _Unknown(f"cannot be split into words: {error}", item))

    def _variable(self, given: Any, index: int) -> Any:
        text = given.get("value") if isinstance(given, dict) else None
        if not isinstance(text, str) or "${" not in text:
            return given
        return {**given, "value": self._text(text, ("env", index, "value"), late=True)}

    def _text(self, text: str, path: Path, *, late: bool, braces: bool = False) -> str:
        try:
            made = self._made(text, (), braces=braces)
            if not late:
                made = TOKEN.sub(lambda match: _early(match.groupdict(), path), made)
        except _Unknown as problem:
            self._add(path, problem)
            return text
        return made

    def _add(self, path: Path, problem: _Unknown) -> None:
        self.problems.append(TemplateProblem(path, problem.message, problem.found, problem.allowed, problem.hint))

    def _made(self, text: str, above: tuple[str, ...], *, braces: bool) -> str:
        """Return a text with its macros. Placeholders stay, with `braces` as engine custom spells them."""
        made, end = [], 0
        for match in TOKEN.finditer(text):
            made += [text[end : match.start()], self._token(match.groupdict(), above, braces=braces)]
            end = match.end()
        result = "".join([*made, text[end:]])
        if len(result) > MAX_TEXT:
            raise _Unknown(f"is longer than {MAX_TEXT} characters with its macros")
        return result

    def _token(self, token: Mapping[str, str | None], above: tuple[str, ...], *, braces: bool) -> str:
        name, plain = token["name"], token["text"]
        if name is None:
            return f"${{{{{plain}}}}}" if braces else f"$${{{plain}}}"
        if name in self.macros:
            if name in above:
                raise _Unknown(f"the macro {name} uses itself: {' -> '.join((*above[above.index(name) :], name))}")
            key = f"{name} {braces}"
            if key not in self._expanded:
                self._expanded[key] = self._made(self.macros[name], (*above, name), braces=braces)
            return self._expanded[key]
        if is_placeholder(name):
            return f"{{{name}}}" if braces else f"${{{name}}}"
        if name.startswith(WORDS):
            raise _Unknown("must be an item of its own in command, args or stopCommand", f"${{{name}}}")
        names = [*PLACEHOLDERS, ENVIRONMENT + "NAME", *self.macros]
        near = difflib.get_close_matches(name, names, n=1) or difflib.get_close_matches(name.lower(), names, n=1)
        hint = f"did you mean ${{{near[0]}}}?" if near else f"write $${{{name}}} for the text itself"
        allowed = ", ".join(f"${{{each}}}" for each in names)
        raise _Unknown("is neither a placeholder nor a macro of the Workspace", f"${{{name}}}", allowed, hint)


def _early(token: Mapping[str, str | None], path: Path) -> str:
    if token["name"] is None:
        return f"${{{token['text']}}}"
    where = ".".join(map(str, path))
    raise _Unknown(f"is known when the engine starts, and {where} before", f"${{{token['name']}}}")
