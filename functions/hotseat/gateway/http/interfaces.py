"""What the parts of the server expect of each other, and the limits on clients."""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hotseat.core.errors import HotseatError
from hotseat.gateway.http.request import Request

if TYPE_CHECKING:
    from hotseat.gateway.http.connection import ClientConnection
    from hotseat.gateway.http.response import Response


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits on what clients send. Times are in seconds, sizes in bytes."""

    head_size: int = 65536
    head_time: float = 60.0  # from the first byte of a request, or the start of a connection, to the end of the head
    body_pause: float = 60.0  # without a byte of the body
    idle_time: float = 75.0  # between two requests of a connection
    refusal_time: float = 2.0  # that a refused client has to read the answer
    connections: int = 2000


class Handler(Protocol):
    """Serves one request whose head has been accepted. Either `serve` or `abandon` is called, once."""

    max_body: int

    def received(self, size: int) -> None:
        """Count the bytes of a body without a length: `size` so far. Raise the HotseatError for the client if too many."""

    def serve(self, response: "Response") -> None:
        """Serve the request. Its body is complete."""

    def abandon(self, status: int) -> None:
        """Handle that the body did not arrive. `status` is that of the response; 499: the client has left."""


class BodySink(Protocol):
    """Takes a large body piece by piece, so that it is not held in memory."""

    @property
    def full(self) -> bool:
        """Whether it should get no more until it has been drained."""

    def write(self, data: bytes) -> None:
        """Take a piece."""


@runtime_checkable
class StreamsBody(Protocol):
    """A handler that takes large bodies piece by piece. The body of the request that it serves is empty then."""

    def open_sink(self, drained: Callable[[], None]) -> BodySink:
        """Return where the body goes. `drained` is called, on the loop, when the sink has been full and takes more."""


class ListenerTls(Protocol):
    """The certificate of the server."""

    @property
    def context(self) -> SSLContext:
        """What new connections use."""


class Service(Protocol):
    """What is served on the connections."""

    def accept(self, request: Request) -> Handler:
        """Accept a request by its head, before its body is read. Raise the HotseatError for the client otherwise."""

    def refused(self, request: Request | None, error: HotseatError) -> None:
        """Handle that a request was refused by its head. None: it is not HTTP."""


class ConnectionOwner(Protocol):
    """All connections of the server, as one of them sees it."""

    limits: HttpLimits
    service: Service
    loop: AbstractEventLoop

    def waits(self, connection: "ClientConnection", seconds: float) -> None:
        """Handle that the connection waits for its client, and call `expire` after this time."""

    def busy(self, connection: "ClientConnection") -> bool:
        """Set `due` to 0: the connection has a request. Return False if there are too many connections to serve it."""

    def closed(self, connection: "ClientConnection") -> None:
        """Handle that the connection is closed."""

    @property
    def closing(self) -> bool:
        """Whether connections are closed after their response."""


class Tunnel(Protocol):
    """Where the bytes of a connection go after an upgrade."""

    def client_sent(self, data: bytes) -> None:
        """Pass bytes on."""
