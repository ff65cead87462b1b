"""Carries one admitted request to an engine and the answer back.

Two sides meet in an `Exchange`: pooled raw connections to engines (`pool`), and a `ClientStream` to the client (`streams`),
of which there is one that writes to gunicorn's socket itself (`takeover`) and one for any other WSGI server.
"""

from hotseat.gateway.relay.exchange import Exchange, How, Outcome
from hotseat.gateway.relay.gunicorn_stream import TakeoverStream, client_stream
from hotseat.gateway.relay.heads import Call, Headers, RequestHeaders, ResponseHead, end_to_end, request_target
from hotseat.gateway.relay.pool import Connections
from hotseat.gateway.relay.streams import ClientGone, ClientStream, PlainStream, client_socket, departed

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
