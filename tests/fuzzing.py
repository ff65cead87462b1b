"""How many examples a fuzz tries. `scripts/test --fuzz` multiplies them."""

import os

from hypothesis import settings

FACTOR = int(os.environ.get("HOTSEAT_TEST_FUZZ", "1"))


def examples(count: int) -> settings:
    """The settings of a fuzz that tries this many examples in an ordinary run."""
    return settings(max_examples=count * FACTOR, deadline=None)
