"""Requests that wait for a server that refuses connections. One attempt to reach it is for all of them."""

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable

from hotseat.core.errors import HotseatError
from hotseat.gateway.relay.pool import Connections

PAUSE = 0.05, 1.0  # shortest and longest seconds between two attempts
AT_ONCE = 50  # requests that go on without a pause for others
BREAK = 0.005  # seconds of that pause

Reached = Callable[[], None]


class Reconnector:
    """Tries to reach servers while requests wait for them. Its methods are called on the loop."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._servers: dict[str, _Server] = {}

    def wait(self, address: str, reached: Reached) -> Callable[[], None]:
        """Call `reached` once a connection has been opened. Return a function that ends the wait before that."""
        server = self._servers.get(address)
        if server is None:
            server = self._servers[address] = _Server(
                self._connections, address, lambda: self._servers.pop(address, None)
            )
        server.waiting[reached] = None
        return lambda: server.leave(reached)


class _Server:
    """Attempts to reach one server. `over` is called when no request waits and no attempt is under way."""

    def __init__(self, connections: Connections, address: str, over: Callable[[], object]) -> None:
        self.waiting: dict[Reached, None] = {}  # the longest waiting first
        self._connections, self._address, self._over = connections, address, over
        self._loop = asyncio.get_running_loop()
        self._pause = PAUSE[0]
        self._task: asyncio.Task[None] | None = None
        self._timer: TimerHandle = self._loop.call_later(self._pause, self._start)

    def leave(self, reached: Reached) -> None:
        """End the wait of a request."""
        if self.waiting.pop(reached, reached) is None and not self.waiting and self._task is None:
            self._timer.cancel()
            self._over()

    def _start(self) -> None:
        self._task = self._loop.create_task(self._try())

    async def _try(self) -> None:
        try:
            self._connections.put(await self._connections.connect(self._address))
        except HotseatError:
            self._pause = min(2 * self._pause, PAUSE[1])
        else:
            self._pause = PAUSE[0]
            await self._release()
        self._task = None
        if self.waiting:
            self._timer = self._loop.call_later(self._pause, self._start)
        else:
            self._over()

    async def _release(self) -> None:
        """Let those go on who wait now. Some may be refused, and come back."""
        for count, reached in enumerate(list(self.waiting), 1):
            if reached in self.waiting:
                del self.waiting[reached]
                reached()
            if count % AT_ONCE == 0:
                await asyncio.sleep(BREAK)
