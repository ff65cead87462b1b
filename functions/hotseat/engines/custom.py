"""Engine custom: any command. Fields in braces are replaced; `{{` and `}}` stand for braces."""

import re
from collections.abc import Callable, Iterator

from hotseat.api.model import Model
from hotseat.api.templates import BRACES, ENVIRONMENT, problems_in_braces
from hotseat.engines.base import Container, Launch, Placement, is_remote
from hotseat.engines.placeholders import values, variable_of

_ENV_FIELD = re.compile(r"\{\{|\}\}|\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


class Custom:
    """Engine whose command is in the Model."""

    name = "custom"
    metrics_path = "/metrics"  # if it has them there
    cannot_sleep = "only you know how"
    key_variable = "ENGINE_API_KEY"

    def check(self, model: Model) -> list[str]:
        """Return unknown fields and unpaired braces."""
        problems = [] if model.spec.command else ["engine custom needs command"]
        for where, text in _texts(model):
            problems += [f"{where}: {problem}" for problem in problems_in_braces(text)]
        if model.spec.source is None and "model" in _used(model):
            problems.append("{model} is used, but source is not set")
        if model.spec.port is None and "port" not in _used(model):
            problems.append(
                "neither command nor args contain {port}, and port is not set, so the port of the server is unknown"
            )
        return problems

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the command with its fields replaced."""
        known, read = values(model, placement), variable_of(model)

        def value(field: str) -> str:
            return read(field.removeprefix(ENVIRONMENT)) if field.startswith(ENVIRONMENT) else known[field]

        return Launch(tuple(_fill(text, value) for _, text in _texts(model)))

    def image(self, model: Model) -> None:  # noqa: ARG002
        """Return None: without an image, the command runs in hotseat's own."""
        return

    def container(self, model: Model, placement: Placement) -> Container:
        """Return the command for an image. `{env:NAME}` becomes `$(NAME)`, which the kubelet replaces."""
        return Container(self.launch(_with_late_variables(model), placement).argv)

    def health_path(self, model: Model) -> str:
        """Return the path of the health check."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:
        """Whether `{model}` needs a local path of a remote source."""
        return is_remote(model.spec.source) and "model" in _used(model)


def _with_late_variables(model: Model) -> Model:
    """Turn `{env:NAME}` into `$(NAME)` for the kubelet, so that the switcher's own environment is not used."""

    def convert(texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_ENV_FIELD.sub(lambda match: f"$({match[1]})" if match[1] else match[0], text) for text in texts)

    spec = model.spec.model_copy(update={"command": convert(model.spec.command), "args": convert(model.spec.args)})
    return model.model_copy(update={"spec": spec})


def _texts(model: Model) -> Iterator[tuple[str, str]]:
    for field, texts in (("command", model.spec.command), ("args", model.spec.args)):
        for index, text in enumerate(texts):
            yield f"{field}[{index}]", text


def _used(model: Model) -> set[str]:
    return {match[1] for _, text in _texts(model) for match in BRACES.finditer(text) if match[1] is not None}


def _fill(text: str, value: Callable[[str], str]) -> str:
    return BRACES.sub(lambda match: match[0][0] if match[1] is None else value(match[1]), text)
