"""The key by which routers sign demand and commands, and the switcher checks them. It can be replaced while they run.

The kubelet brings a changed Secret to each pod at another time, up to two minutes apart. So a signer goes on with the key that it had
for a while, and a checker accepts the one before for longer.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hotseat.control.codec import sign, signed
from hotseat.gateway.watched_files import watch

SHORTEST = 16  # bytes
USED_AFTER = 180.0  # seconds from reading a new key until it signs: every other pod has it by then
KEPT = 900.0  # seconds for which a replaced key is accepted

log = logging.getLogger(__name__)


def read_key(path: Path) -> bytes:
    """Return the key in a file. Raise OSError if it cannot be read, and ValueError if it is too short."""
    key = path.read_bytes().strip()
    if len(key) < SHORTEST:
        raise ValueError(f"{path} has fewer than {SHORTEST} characters")
    return key


class DemandKeys:
    """The key, and those that it has replaced lately. `path`: the file that is read again. Times are seconds of `clock`."""

    def __init__(self, key: bytes, path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._keys = [(key, float("-inf"))]  # with the time from which each signs, the latest last

    def read(self) -> None:
        """Read the file again. A file without a valid key changes nothing."""
        if self._path is None:
            return
        try:
            key = read_key(self._path)
        except (OSError, ValueError) as error:
            log.warning("the demand key stays as it is: %s", error)
            return
        latest, now = self._keys[-1][0], self._clock()
        if key != latest:
            kept = [each for each, after in zip(self._keys, self._keys[1:], strict=False) if now < after[1] + KEPT]
            self._keys = [*kept, self._keys[-1], (key, now + USED_AFTER)]
            log.info(
                "the demand key has changed: it signs in %.0f s, and the one before is accepted until then", USED_AFTER
            )

    def watch(self) -> None:
        """Read the file when it changes, in a thread."""
        if self._path is not None:
            watch([self._path], self.read, "demand-key")

    def sign(self, data: Any) -> str:
        """Return the signature of JSON data."""
        now = self._clock()
        return sign(next(key for key, since in reversed(self._keys) if since <= now), data)

    def refused(self) -> None:
        """Sign with the latest key from now on: a checker does not know the one that signs. It may have begun with the latest."""
        self.read()
        (key, since), now = self._keys[-1], self._clock()
        if since > now:
            self._keys = [*self._keys[:-1], (key, now)]
            log.info("the demand key before is refused: the new one signs at once")

    def signed(self, data: Any, signature: str) -> bool:
        """Whether the data was signed with the key, or one that it has replaced lately. If not, the file is read again before."""
        if self._accepts(data, signature):
            return True
        before = self._keys
        self.read()
        return self._keys is not before and self._accepts(data, signature)

    def _accepts(self, data: Any, signature: str) -> bool:
        keys, now = self._keys, self._clock()
        ends = [*(since + KEPT for _, since in keys[1:]), float("inf")]
        return any(now < end and signed(key, data, signature) for (key, _), end in zip(keys, ends, strict=True))
