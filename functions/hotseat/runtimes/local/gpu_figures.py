"""What GPUs report of themselves: memory, utilisation, temperature and power, read off all other threads."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

log = logging.getLogger(__name__)

MAX_AGE = 1.0  # seconds for which figures are reused
TIMEOUT = 2.0  # seconds in which the driver has to answer


@dataclass(frozen=True, slots=True)
class GpuFigures:
    """Figures of one GPU. None: the driver does not report it, or does not answer."""

    id: str  # its number, as in nvidia-smi
    uuid: str | None = None
    name: str | None = None
    memory_used: int | None = None  # bytes
    memory_total: int | None = None  # bytes
    utilization: float | None = None  # share of the last moments in which it computed, 0 to 1
    temperature: float | None = None  # °C
    power: float | None = None  # W


class GpuMonitor:
    """Reads the figures of the GPUs when they are wanted, at most once a second. Thread-safe.

    A driver can hang for minutes, with a GPU that has failed. `read` is called in a thread of its own for that, of which
    there is one at a time.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[GpuFigures]],
        uuids: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        timeout: float = TIMEOUT,
    ) -> None:
        """`read` returns the figures. Raise OSError if there are none. `uuids`: of the GPUs, in the order of their numbers."""
        self._read, self._clock, self._timeout = read, clock, timeout
        self._known = tuple(GpuFigures(str(number), uuid) for number, uuid in enumerate(uuids))
        self._figures, self._at = self._known, -inf
        self._began: float | None = None  # of the read that goes on
        self._changed = threading.Condition()

    def figures(self) -> Sequence[GpuFigures]:
        """Return figures that are at most a second old. All are None if the driver does not answer in time."""
        with self._changed:
            now = self._clock()
            if now - self._at > MAX_AGE:
                if self._began is None:
                    try:
                        threading.Thread(target=self._run, name="gpu-figures", daemon=True).start()
                    except RuntimeError:  # no thread can be started: the next one who asks tries again
                        return self._known
                    self._began = now  # the thread waits for this lock before it ends
                # Whoever comes later during a read that hangs does not wait at all.
                if not self._changed.wait_for(lambda: self._began is None, self._began + self._timeout - now):
                    return self._known
            return self._figures

    def _run(self) -> None:
        try:
            found = tuple(self._read())
        except OSError:
            log.debug("the figures of the GPUs cannot be read", exc_info=True)
            found = self._known
        except Exception:
            log.exception("the figures of the GPUs cannot be read")
            found = self._known
        with self._changed:
            self._figures, self._at, self._began = found, self._clock(), None
            self._changed.notify_all()
