"""What a Flask view returns once the answer is out."""

from collections.abc import Iterable
from typing import Any

from flask import Response

from hotseat.gateway.relay.streams import ClientStream


class Relayed(Response):
    """Response that was sent already: keeps the framework from starting another."""

    def __init__(self, stream: ClientStream) -> None:
        super().__init__()
        self._client = stream

    def __call__(self, _environ: Any, _start_response: Any) -> Iterable[bytes]:
        """Give the server what is left."""
        return self._client.finish()
