"""The macros of llama-swap: `${name}`, substituted in the order of llama-swap."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

LEFT = re.compile(r"\$\{([a-zA-Z0-9_-]+)\}")
ENVIRONMENT = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
LATER = ("PORT", "PID")  # known only when the model runs


class Macros:
    """The macros of one model. A macro can use earlier ones, so they are substituted from last to first."""

    def __init__(self, model: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        self._values = {"MODEL_ID": model, **shared, **own}  # an own macro keeps the position of the shared one

    def fill(self, text: str) -> str:
        """Return a text with macros substituted."""
        for name, value in reversed(self._values.items()):
            text = text.replace(f"${{{name}}}", spelled(value))
        return text

    def fill_all(self, value: Any) -> Any:
        """Return a value with macros substituted. A text that is a single macro becomes its value, of any type."""
        if isinstance(value, dict):
            return {self.fill(key): self.fill_all(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill_all(item) for item in value]
        if not isinstance(value, str):
            return value
        for name, what in reversed(self._values.items()):
            if value == f"${{{name}}}" and not isinstance(what, str):
                return what
            value = value.replace(f"${{{name}}}", spelled(what))
        return value


def unknown(text: str, later: Iterable[str] = LATER) -> str | None:
    """Return the first undefined macro of a text, or None."""
    return next((name for name in LEFT.findall(text) if name not in later), None)


def spelled(value: Any) -> str:
    """Return a macro's value as text."""
    return str(value).lower() if isinstance(value, bool) else str(value)
