"""Relay a dispatched request to an engine, and its answer to the client.

An `Exchange` connects a pooled connection to the engine (`pool`) with the `Response` of the client. What is passed on of
heads is in `heads`.
"""

from hotseat.gateway.relay.exchange import Exchange, How, Outcome
from hotseat.gateway.relay.heads import Call, Upload
from hotseat.gateway.relay.pool import Connections
from hotseat.gateway.relay.reconnect import Reconnector
from hotseat.gateway.relay.upload import UploadExchange

__all__ = ["Call", "Connections", "Exchange", "How", "Outcome", "Reconnector", "Upload", "UploadExchange"]
