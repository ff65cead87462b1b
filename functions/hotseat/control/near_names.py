"""Names that are similar to an unknown one, for messages. Pure."""

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

LONGEST = 200  # characters of a name that is compared
_CANDIDATES = 16  # names whose distance is computed
_SHARE = 3  # a name may differ in one of so many characters, and in two at most
_MOST = 2
_BITS = 64


class NearNames:
    """Known names, to be compared with unknown ones. A comparison with thousands of names takes about a millisecond."""

    def __init__(self, names: Iterable[str]) -> None:
        self._rows: dict[str, tuple[str, int]] = {}  # by name: its key, and the characters in it
        self._same: dict[str, list[str]] = {}  # names by key
        for name in names:
            if len(name) <= LONGEST:
                self._rows[name] = row = _row(name)
                self._same.setdefault(row[0], []).append(name)

    def find(self, name: str) -> list[str]:
        """Return the near names, the most similar first: those that differ in case and separators only, else in few characters."""
        if len(name) > LONGEST:
            return []
        key, characters = _row(name)
        if same := self._same.get(key):
            return same
        most = min(_MOST, len(key) // _SHARE)
        found: list[tuple[int, str]] = []
        near = (
            each
            for each, (its, has) in self._rows.items()
            if abs(len(its) - len(key)) <= most and (has ^ characters).bit_count() <= 2 * most
        )
        for each, _ in zip(near, range(_CANDIDATES), strict=False):
            distance = _distance(key, self._rows[each][0], most)
            if distance <= most:
                found.append((distance, each))
        return [each for _, each in sorted(found, key=lambda pair: pair[0])]


@lru_cache(maxsize=16384)  # the names are compared again after each change of a document
def _row(name: str) -> tuple[str, int]:
    """Return a name without its case and separators, and the set of its characters as bits.

    Each edit of a name changes two of the bits at most. A name of separators alone stays the same.
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    key, bits = "".join(filter(str.isalnum, plain)) or plain, 0
    for each in key:
        bits |= 1 << (ord(each) % _BITS)
    return key, bits


@lru_cache(maxsize=1024)
def _distance(one: str, other: str, most: int) -> int:
    """Return the number of inserted, deleted, replaced and swapped characters between two texts. Above `most`: `most` + 1."""
    far, size = most + 1, len(other)
    row = [min(j, far) for j in range(size + 1)]
    before = [far] * (size + 1)
    for i, mine in enumerate(one, 1):
        earlier, before, row = before, row, [far] * (size + 1)
        row[0] = min(i, far)
        for j in range(max(1, i - most), min(size, i + most) + 1):  # others are further away
            its = other[j - 1]
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (mine != its), far)
            if i > 1 and j > 1 and mine == other[j - 2] and one[i - 2] == its:
                cost = min(cost, earlier[j - 2] + 1)
            row[j] = cost
    return row[-1]
