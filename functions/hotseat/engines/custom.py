"""Engine custom: any command. Fields in braces are replaced; `{{` and `}}` stand for braces."""

import difflib
import os
import re
from collections.abc import Callable, Iterator

from hotseat.api.model import Model
from hotseat.engines.base import SECRET_PREFIX, EngineError, Launch, Placement, is_remote

FIELDS = ("port", "host", "model", "name", "source", "env:NAME")
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Custom:
    """Engine whose command is in the Model."""

    name = "custom"
    cannot_sleep = "only you know how"
    key_variable = "ENGINE_API_KEY"

    def check(self, model: Model) -> list[str]:
        """Return unknown fields and unpaired braces."""
        problems = [] if model.spec.command else ["engine custom needs command"]
        for where, text in _texts(model):
            problems += [f"{where}: {problem}" for problem in _problems(text)]
        if model.spec.source is None and "model" in _used(model):
            problems.append("{model} is used, but source is not set")
        if model.spec.port is None and "port" not in _used(model):
            problems.append(
                "neither command nor args contain {port}, and port is not set, so the port of the server is unknown"
            )
        return problems

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the command with its fields replaced."""
        values = {
            "port": str(placement.port),
            "host": placement.host,
            "model": placement.weights or model.spec.source or "",
            "name": model.engine_model_name,
            "source": model.spec.source or "",
        }
        own = {variable.name: variable.value for variable in model.spec.env}

        def value(field: str) -> str:
            if not field.startswith("env:"):
                return values[field]
            name = field.removeprefix("env:")
            if name not in own and name.startswith(SECRET_PREFIX):
                raise EngineError(
                    f"{model.name}: command uses {name}, which engines must not see; use another variable"
                )
            if name not in own and name not in os.environ:
                raise EngineError(f"{model.name}: the environment variable {name} is used in command, but not set")
            return own.get(name, os.environ.get(name, ""))

        return Launch(tuple(_fill(text, value) for _, text in _texts(model)))

    def health_path(self, model: Model) -> str:
        """Return the path of the health check."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:
        """Whether `{model}` needs a local path of a remote source."""
        return is_remote(model.spec.source) and "model" in _used(model)


def _texts(model: Model) -> Iterator[tuple[str, str]]:
    for field, texts in (("command", model.spec.command), ("args", model.spec.args)):
        for index, text in enumerate(texts):
            yield f"{field}[{index}]", text


def _used(model: Model) -> set[str]:
    return {match[1] for _, text in _texts(model) for match in _TOKEN.finditer(text) if match[1] is not None}


def _problems(text: str) -> Iterator[str]:
    for match in _TOKEN.finditer(text):
        field = match[1]
        if field is None:
            if match[0] in "{}":
                yield f"a single {match[0]} in {text!r}; write {match[0] * 2} for the character itself"
        elif field not in FIELDS[:-1] and not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", field):
            near = difflib.get_close_matches(field, FIELDS, n=1)
            allowed = ", ".join(f"{{{name}}}" for name in FIELDS)
            yield (
                f"unknown field {{{field}}}"
                + (f", did you mean {{{near[0]}}}?" if near else "")
                + f" Allowed: {allowed}"
            )


def _fill(text: str, value: Callable[[str], str]) -> str:
    return _TOKEN.sub(lambda match: match[0][0] if match[1] is None else value(match[1]), text)
