import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Gone:
    """A server that refuses connections."""

    address: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@pytest.fixture
def gone() -> Iterator[Gone]:
    """A server that refuses connections. Nobody else gets its port meanwhile, but an Engine of the test can listen on it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield Gone(f"http://127.0.0.1:{held.getsockname()[1]}")
