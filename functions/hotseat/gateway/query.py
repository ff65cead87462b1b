"""Requests without a body: the model that their query names."""

from collections.abc import Sequence
from urllib.parse import quote, unquote_plus

from hotseat.core.errors import BadRequest
from hotseat.gateway.body import Body
from hotseat.gateway.parameters import Changes


def parse_query(query: str, _body: bytes) -> Body:
    """Return the query as the body of a request. Raise BadRequest if it does not name one model."""
    given = [value for key, value in _pairs(query) if unquote_plus(key) == "model"]
    if len(given) > 1:
        raise BadRequest("The query has more than one `model`.", param="model")
    model = unquote_plus(given[0]) if given else None
    if model == "":
        raise BadRequest("`model` in the query must be the name of a model.", param="model")
    return Body(query.encode(), model, stream=False)


def rename_query(body: Body, name: str, _changes: Sequence[Changes] = ()) -> bytes:
    """Replace `model` in a query. One without `model` stays as it is, and filters change no query."""
    if body.model is None:
        return body.raw
    parts = body.raw.decode().split("&")
    renamed = [
        f"model={quote(name, safe='')}" if unquote_plus(part.partition("=")[0]) == "model" else part for part in parts
    ]
    return "&".join(renamed).encode()


def _pairs(query: str) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (part.partition("=") for part in query.split("&"))]
