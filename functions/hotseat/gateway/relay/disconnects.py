"""Detect clients that disconnect while their exchange waits for its engine only.

A stream has thousands of pieces. Polling the client before each would cost a system call and two hand-overs of the
interpreter's lock. Instead, one thread waits for disconnects of all clients.
"""

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterator


class DisconnectWatcher:
    """Watches connections of clients, from its first use until `close`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gone: dict[int, Callable[[], None]] = {}  # by descriptor
        self._epoll: select.epoll | None = None
        self._bell = -1  # eventfd that ends the thread

    @contextlib.contextmanager
    def watching(self, fd: int, gone: Callable[[], None]) -> Iterator[None]:
        """Call `gone` once, from another thread, if the client disconnects inside the block. `gone` must return quickly."""
        if not self._watch(fd, gone):
            yield
            return
        try:
            yield
        finally:
            with self._lock:
                del self._gone[fd]
                with contextlib.suppress(OSError):  # the stream was aborted, and its descriptor replaced
                    self._poller().unregister(fd)

    def _watch(self, fd: int, gone: Callable[[], None]) -> bool:
        """Start to watch. Return False if that is impossible; a disconnect then shows at the next write."""
        if fd < 0:
            return False
        with self._lock:
            try:
                self._poller().register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
            except (OSError, RuntimeError):  # no descriptor, no memory, no thread
                return False
            self._gone[fd] = gone
            return True

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            if self._epoll is not None:
                os.eventfd_write(self._bell, 1)

    def _poller(self) -> select.epoll:
        if self._epoll is None:
            with contextlib.ExitStack() as undo:
                epoll = undo.enter_context(select.epoll())
                bell = os.eventfd(0, os.EFD_CLOEXEC)
                undo.callback(os.close, bell)
                epoll.register(bell, select.EPOLLIN)
                threading.Thread(target=self._run, args=(epoll, bell), name="departures", daemon=True).start()
                undo.pop_all()
            self._epoll, self._bell = epoll, bell
        return self._epoll

    def _run(self, epoll: select.epoll, bell: int) -> None:
        while True:
            for fd, _ in epoll.poll():
                if fd == bell:
                    return
                self._tell(epoll, fd)

    def _tell(self, epoll: select.epoll, fd: int) -> None:
        with self._lock:
            gone = self._gone.get(fd)
            if gone is None:
                return
            # The event may be of an earlier connection with the same descriptor.
            now = select.poll()
            now.register(fd, select.POLLRDHUP)
            if now.poll(0):
                gone()
            else:
                with contextlib.suppress(OSError):
                    epoll.modify(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
