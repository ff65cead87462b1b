"""Names of Models in which a `*` stands for any text, as in `openai/*`. Pure."""

from collections.abc import Iterable

from hotseat.api.model import Model

STAR = "*"


class Wildcards:
    """The names with one `*` among some names."""

    def __init__(self, names: Iterable[str]) -> None:
        found = sorted((name for name in names if name.count(STAR) == 1), key=lambda name: (-len(name), name))
        self._parts = [(name, *name.split(STAR)) for name in found]  # the longest first

    def find(self, name: str) -> str | None:
        """Return the longest name with a `*` that another name has the form of. None: there is none."""
        for wildcard, before, after in self._parts:
            if _matches(name, before, after):
                return wildcard
        return None


def _matches(name: str, before: str, after: str) -> bool:
    return len(name) > len(before) + len(after) and name.startswith(before) and name.endswith(after)


def name_for_engine(model: Model, asked: str | None) -> str:
    """Return the name of a Model to its engine, for a request by the name ASKED.

    That is one name, but a LoRA adapter has its own, and an external server gets the name that the client sent, or the part of it that
    a `*` stands for. It does not know a name that only filters have, and gets the shown name instead.
    """
    spec = model.spec
    if not asked or not model.is_external:
        is_adapter = asked and any(asked == each.name for each in spec.loras)
        return asked if asked and is_adapter else model.engine_model_name
    own = asked == model.name or asked in spec.names
    wildcard = None if own else Wildcards(spec.names).find(asked)
    if not own and wildcard is None and spec.filters is not None and asked in spec.filters.by_name:
        asked = model.shown_name
    stated = spec.engine_model_name
    if stated is None:
        return asked
    if STAR not in stated:
        return stated
    if wildcard is not None:
        before, after = wildcard.split(STAR)
        asked = asked[len(before) : len(asked) - len(after)]
    return stated.replace(STAR, asked)
