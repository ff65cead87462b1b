"""Relay a dispatched request to an engine, and its answer to the client.

An `Exchange` connects a pooled connection to the engine (`pool`) with a `ClientStream` (`streams`), which writes to
gunicorn's socket or, for other WSGI servers, through WSGI.
"""

from hotseat.gateway.relay.exchange import Exchange, How, Outcome
from hotseat.gateway.relay.http1 import Call, Headers, RequestHeaders, ResponseHead, end_to_end, request_target
from hotseat.gateway.relay.pool import Connections
from hotseat.gateway.relay.streams import (
    ClientGone,
    ClientStream,
    PlainStream,
    TakeoverStream,
    client_socket,
    client_stream,
    departed,
)

__all__ = [
    "Call",
    "ClientGone",
    "ClientStream",
    "Connections",
    "Exchange",
    "Headers",
    "How",
    "Outcome",
    "PlainStream",
    "RequestHeaders",
    "ResponseHead",
    "TakeoverStream",
    "client_socket",
    "client_stream",
    "departed",
    "end_to_end",
    "request_target",
]
