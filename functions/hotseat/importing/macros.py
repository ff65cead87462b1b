"""The macros of llama-swap: names in `${…}` that stand for text, filled in the order that it has."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

LEFT = re.compile(r"\$\{([a-zA-Z0-9_-]+)\}")
ENVIRONMENT = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
LATER = ("PORT", "PID")  # known only when the model runs


class Macros:
    """Those of one model. A later one may use those before it, so they are filled from the last to the first."""

    def __init__(self, model: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        self._values = {"MODEL_ID": model, **shared, **own}  # one of its own stands where the shared one did

    def fill(self, text: str) -> str:
        """Fill them into a text."""
        for name, value in reversed(self._values.items()):
            text = text.replace(f"${{{name}}}", spelled(value))
        return text

    def fill_all(self, value: Any) -> Any:
        """Fill them into everything of a value; a text that is one macro alone becomes its value, number or not."""
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
    """Name the first macro in a text that nothing defines."""
    return next((name for name in LEFT.findall(text) if name not in later), None)


def spelled(value: Any) -> str:
    """Write a macro's value as it stands in a text."""
    return str(value).lower() if isinstance(value, bool) else str(value)
