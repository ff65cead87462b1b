"""Checks of fallbacks: unknown Models, and cycles."""

from collections.abc import Iterator, Mapping

from hotseat.manifests.entry import Entry
from hotseat.manifests.problems import Problem, did_you_mean, shown

_PATH = ("spec", "fallback", "model")


def check_fallbacks(owners: Mapping[str, Entry], *, complete: bool) -> Iterator[Problem]:
    """Yield problems of fallbacks. `owners` has the Models by all their names. If not `complete`, there may be others."""
    reported: set[int] = set()  # Models of cycles that are reported
    for entry in _once(owners):
        wanted = entry.get(*_PATH)
        if not isinstance(wanted, str):
            continue
        if wanted not in owners:
            if complete:
                more = ", ".join(sorted(owners))
                hint = did_you_mean(wanted, owners)
                yield entry.problem("no Model has this name", _PATH, found=shown(wanted), allowed=more, hint=hint)
            continue
        cycle = _cycle(entry, owners)
        if cycle and not reported & {id(each) for each in cycle}:
            reported |= {id(each) for each in cycle}
            names = " -> ".join(each.name for each in (*cycle, entry))
            message = f"the fallbacks form a cycle: {names}" if len(cycle) > 1 else "a Model cannot be its own fallback"
            yield entry.problem(message, _PATH, found=shown(wanted))


def _cycle(start: Entry, owners: Mapping[str, Entry]) -> list[Entry]:
    """Return the cycle of fallbacks that contains a Model, or an empty list."""
    chain: list[Entry] = []
    entry: Entry | None = start
    while entry is not None and not any(each is entry for each in chain):
        chain.append(entry)
        wanted = entry.get(*_PATH)
        entry = owners.get(wanted) if isinstance(wanted, str) else None
    return chain if entry is start else []


def _once(owners: Mapping[str, Entry]) -> list[Entry]:
    return list({id(entry): entry for entry in owners.values()}.values())
