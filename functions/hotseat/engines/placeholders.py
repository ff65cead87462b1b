"""Placeholders in the texts of Models, which are filled in when an engine starts: `${port}` and others.

Macros are substituted before, when documents are read. In `command` and `args` of engine custom, and in `stopCommand`, placeholders
are in braces by then (custom.py).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hotseat.api.model import EnvVar, Model
from hotseat.api.templates import ENVIRONMENT, TOKEN
from hotseat.engines.base import SECRET_PREFIX, EngineError, Placement

Variable = Callable[[str], str]


def values(model: Model, placement: Placement) -> dict[str, str]:
    """Return what the placeholders stand for, without variables of the environment."""
    return {
        "port": str(placement.port),
        "host": placement.host,
        "model": placement.weights or model.spec.source or "",
        "name": model.engine_model_name,
        "source": model.spec.source or "",
    }


def variable_of(model: Model) -> Variable:
    """Return what reads a variable of a Model, else of this process. It raises EngineError if there is none."""
    own = {variable.name: variable.value for variable in model.spec.env}

    def read(name: str) -> str:
        if name not in own and name.startswith(SECRET_PREFIX):
            raise EngineError(f"{model.name}: command uses {name}, which engines must not see; use another variable")
        if name not in own and name not in os.environ:
            raise EngineError(f"{model.name}: the environment variable {name} is used in command, but not set")
        return own.get(name, os.environ.get(name, ""))

    return read


def filled(model: Model, placement: Placement, variable: Variable | None = None) -> Model:
    """Return a Model with the placeholders in its args, command and env filled in. `variable` reads those of the environment.

    Without it, `env` has what this process has, so that a variable can be made of the one of its name. All else has those of
    the Model, too. Raise EngineError if one is not set.
    """
    spec = model.spec
    texts = (*spec.command, *spec.args, *(each.value for each in spec.env))
    if not any("${" in text for text in texts):
        return model
    bare = model.model_copy(update={"spec": spec.model_copy(update={"env": ()})})
    fill = _Filling(values(model, placement), variable or variable_of(bare)).fill
    env = tuple(EnvVar(name=each.name, value=fill(each.value)) for each in spec.env)
    ready = model.model_copy(update={"spec": spec.model_copy(update={"env": env})})
    if spec.engine == "custom":
        return ready
    fill = _Filling(values(model, placement), variable or variable_of(ready)).fill
    made = {"command": tuple(map(fill, spec.command)), "args": tuple(map(fill, spec.args))}
    return ready.model_copy(update={"spec": ready.spec.model_copy(update=made)})


@dataclass(frozen=True, slots=True)
class _Filling:
    known: Mapping[str, str]
    read: Variable

    def fill(self, text: str) -> str:
        """Return a text with its placeholders filled in."""
        return TOKEN.sub(lambda match: self._value(match["name"], match["text"]), text)

    def _value(self, name: str | None, plain: str | None) -> str:
        if name is None:
            return f"${{{plain}}}"
        if name.startswith(ENVIRONMENT):
            return self.read(name.removeprefix(ENVIRONMENT))
        return self.known.get(name, f"${{{name}}}")
