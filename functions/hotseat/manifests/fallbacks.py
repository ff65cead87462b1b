"""What can be wrong with fallbacks: names that nobody has, and chains that lead back to where they began."""

from collections.abc import Iterator, Mapping

from hotseat.manifests.entry import Entry
from hotseat.manifests.problems import Problem, did_you_mean, shown

_PATH = ("spec", "fallback", "model")


def check_fallbacks(owners: Mapping[str, Entry], *, complete: bool) -> Iterator[Problem]:
    """Yield what is wrong. `owners`: Models by all their names; not `complete`: there may be more."""
    told: set[int] = set()  # a circle is one mistake, whoever is part of it
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
        circle = _circle(entry, owners)
        if circle and not told & {id(each) for each in circle}:
            told |= {id(each) for each in circle}
            names = " -> ".join(each.name for each in (*circle, entry))
            message = (
                f"the fallbacks form a cycle: {names}" if len(circle) > 1 else "a Model cannot be its own fallback"
            )
            yield entry.problem(message, _PATH, found=shown(wanted))


def _circle(start: Entry, owners: Mapping[str, Entry]) -> list[Entry]:
    """Models from this one round to it again; none where its chain does not come back to it."""
    chain: list[Entry] = []
    entry: Entry | None = start
    while entry is not None and not any(each is entry for each in chain):
        chain.append(entry)
        wanted = entry.get(*_PATH)
        entry = owners.get(wanted) if isinstance(wanted, str) else None
    return chain if entry is start else []


def _once(owners: Mapping[str, Entry]) -> list[Entry]:
    return list({id(entry): entry for entry in owners.values()}.values())
