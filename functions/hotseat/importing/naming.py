"""Values of metadata.name for arbitrary names: RFC 1035 labels. The names themselves go to spec.names."""

import re
from collections.abc import Iterable

from hotseat.api.types import NAME_PATTERN

LONGEST = 63


def labels(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return a unique label for each name. A name that is a label stays the same."""
    names = list(names)
    used = {*taken, *(name for name in names if is_label(name))}
    found = {}
    for name in names:
        found[name] = name if is_label(name) else _free(label(name), used)
        used.add(found[name])
    return found


def label(name: str) -> str:
    """Return the label that is most similar to a name."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not plain or not plain[0].isalpha():
        plain = f"m-{plain}".rstrip("-")
    return plain[:LONGEST].rstrip("-")


def is_label(name: str) -> bool:
    """Whether a name is valid as metadata.name."""
    return len(name) <= LONGEST and re.fullmatch(NAME_PATTERN.strip("^$"), name) is not None


def _free(wanted: str, used: set[str]) -> str:
    found, number = wanted, 1
    while found in used:
        number += 1
        found = f"{wanted[: LONGEST - 4]}-{number}"
    return found
