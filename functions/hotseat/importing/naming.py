"""Values of metadata.name for names that others gave: an RFC 1035 label each. What clients send goes to spec.names."""

import re
from collections.abc import Iterable

from hotseat.api.types import NAME_PATTERN

LONGEST = 63


def labels(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Give each name a label that no other has; one that is a label already is its own."""
    names = list(names)
    used = {*taken, *(name for name in names if is_label(name))}
    found = {}
    for name in names:
        found[name] = name if is_label(name) else _free(label(name), used)
        used.add(found[name])
    return found


def label(name: str) -> str:
    """Make the label that is nearest to a name."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not plain or not plain[0].isalpha():
        plain = f"m-{plain}".rstrip("-")
    return plain[:LONGEST].rstrip("-")


def is_label(name: str) -> bool:
    """Whether a Model can have this name."""
    return len(name) <= LONGEST and re.fullmatch(NAME_PATTERN.strip("^$"), name) is not None


def _free(wanted: str, used: set[str]) -> str:
    found, number = wanted, 1
    while found in used:
        number += 1
        found = f"{wanted[: LONGEST - 4]}-{number}"
    return found
