"""The pause before a request is sent again. Pure."""

from collections.abc import Callable

_LARGEST_EXPONENT = 30


def backoff(retry: int, first: float, longest: float, random: Callable[[], float]) -> float:
    """Return the seconds before the retry with this number, from 1 on.

    They double with each retry, from FIRST up to LONGEST. A random part of one half is taken away, so that the clients of a server
    that fails do not all come back at once. `random` returns a number from 0 to below 1.
    """
    bound = min(longest, first * 2.0 ** min(retry - 1, _LARGEST_EXPONENT))
    return bound * (1.0 - 0.5 * random())
