"""What a holder is told: handed from the threads of callers to the holder's own."""

import os
import threading

from hotseat.core.messages import Park, Wake


class Orders:
    """What a holder is told, the newest of each kind: the only thing in it that other threads touch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = True
        self.fd, self._writer = os.pipe()  # readable once there is news
        os.set_blocking(self.fd, False)
        self.grace: float | None = None  # of its Stop
        self.turn: Park | Wake | None = None

    def give(self, order: Park | Wake) -> bool:
        """Order it to sleep, or to wake; False if the holder has ended."""
        with self._lock:
            if self._open:
                self.turn = order
                os.write(self._writer, b".")
            return self._open

    def stop(self, grace: float) -> bool:
        """Order the end, or shorten its grace; False if the holder has ended."""
        with self._lock:
            if self._open:
                self.grace = grace if self.grace is None else min(grace, self.grace)
                os.write(self._writer, b".")
            return self._open

    def close(self) -> None:
        """Take no more."""
        with self._lock:
            self._open = False
            os.close(self.fd)
            os.close(self._writer)
            self.fd = self._writer = -1  # the numbers are others' from now on
