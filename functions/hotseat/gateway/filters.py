"""Filters of a Model: parameters of a request that are removed or set before its engine gets them.

The order is that of llama-swap: strip, default and set of the Model, then those of the name by which it was requested.
"""

from collections.abc import Collection, Sequence

from hotseat.api.filters import Filters, ParameterFilter
from hotseat.api.wildcards import Wildcards
from hotseat.gateway.accepted_head import Translate
from hotseat.gateway.body import Body, rename_model
from hotseat.gateway.fallback_routing import RoutedRequest
from hotseat.gateway.parameters import Changes
from hotseat.gateway.translation import Translation

STREAM = "stream"


def changes_of(routed: RoutedRequest, *, begun: bool) -> tuple[Changes, ...]:
    """Return the changes for the Model that answers. BEGUN: the answer has begun as a stream, so the request stays one for a stream."""
    filters = routed.route.model.spec.filters
    if filters is None:
        return ()
    named = None if routed.requested_name is None else _named(filters, routed.requested_name)
    changes = (_changes(filters),) if named is None else (_changes(filters), _changes(named))
    return without(changes, (STREAM,)) if begun else changes


def _named(filters: Filters, name: str) -> ParameterFilter | None:
    """Return the filter of a name, or of the longest name with a `*` that it has the form of."""
    wildcard = None if name in filters.by_name else Wildcards(filters.by_name).find(name)
    return filters.by_name.get(name if wildcard is None else wildcard)


def _changes(its: ParameterFilter) -> Changes:
    return Changes(its.strip, its.default, its.set)


def without(changes: Sequence[Changes], names: Collection[str]) -> tuple[Changes, ...]:
    """Return changes that leave some parameters as they are."""
    return tuple(
        Changes(
            [name for name in each.strip if name not in names],
            {name: value for name, value in each.default.items() if name not in names},
            {name: value for name, value in each.set.items() if name not in names},
        )
        for each in changes
    )


def may_end_stream(filters: Filters) -> bool:
    """Whether a request for a stream may become one for a whole answer."""
    parts = (filters, *filters.by_name.values())
    return any(STREAM in part.strip or not part.set.get(STREAM, True) for part in parts)


def filtered(translate: Translate, changes: Sequence[Changes]) -> Translate:
    """Return what translates a request and changes the parameters of the translated one."""

    def translated(raw: bytes, model: str, asked: str) -> Translation:
        translation = translate(raw, model, asked)
        if translation.path:
            body = Body(translation.body, model, stream=False)
            translation.body = rename_model(body, model, without(changes, translation.fixed))
        return translation

    return translated if changes else translate
