"""The engine for a command line: llamacpp if that is exactly equivalent, else custom."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from hotseat.importing.commands import as_field, is_later

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
