"""Which models may be co-resident, beyond the capacity. Pure.

Groups are directed, as in llama-swap: they say which models leave when one is loaded, and nothing
about two that are resident already. Sets are not: the residents must be a subset of one of them. A
model that is in no group and no set is bound by the capacity alone. Residents go by their names:
replicas (`model#2`) leave whenever their model would have to, and no persistent group keeps them.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from hotseat.core.messages import model_of

NO_MODELS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Group:
    """A group of models. See Groups.must_leave."""

    name: str
    members: frozenset[str]
    swap: bool = True  # one member is resident at a time
    exclusive: bool = True  # loading a member makes other groups leave
    persistent: bool = False  # its members do not leave for other groups


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups or the sets of a Workspace."""

    groups: tuple[Group, ...] = ()
    sets: tuple[frozenset[str], ...] = ()
    _home: dict[str, Group] = field(init=False, repr=False, compare=False)
    _sets_of: dict[str, list[frozenset[str]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        home = {member: group for group in self.groups for member in group.members}
        sets_of: dict[str, list[frozenset[str]]] = {}
        for together in self.sets:
            for member in together:
                sets_of.setdefault(member, []).append(together)
        object.__setattr__(self, "_home", home)
        object.__setattr__(self, "_sets_of", sets_of)

    @property
    def members(self) -> set[str]:
        """Return all models that are in a group or a set."""
        return {*self._home, *self._sets_of}

    def must_leave(self, resident: str, comer: str) -> bool:
        """Whether a resident must be gone before a model is loaded, whatever the capacity."""
        resident = model_of(resident)
        mine, theirs = self._home.get(comer), self._home.get(resident)
        if resident == comer:
            return False
        if mine is not None and theirs is not None:
            return mine.swap if mine is theirs else mine.exclusive and not theirs.persistent
        if comer not in self._sets_of or resident not in self._sets_of:
            return False
        return not any(resident in together for together in self._sets_of[comer])

    def may_leave(self, resident: str, comer: str) -> bool:
        """Whether a resident may be evicted for a model, for its group or for its claim."""
        home = self._home.get(resident)  # of a replica: none
        return home is None or not home.persistent or home is self._home.get(comer)

    def mentions(self, model: str) -> bool:
        """Whether a group or a set has a model: then it may have to leave though it claims nothing."""
        return model in self._home or model in self._sets_of

    def is_persistent(self, model: str) -> bool:
        """Whether a model is in a persistent group."""
        return model in self._home and self._home[model].persistent

    def conflict(self, one: str, other: str) -> bool:
        """Whether loading either of two models would make the other leave."""
        return self.must_leave(one, other) or self.must_leave(other, one)

    def eviction_options(self, comer: str, residents: Collection[str]) -> Collection[frozenset[str]]:
        """Return the choices of residents that leave before a model is loaded. Never empty.

        NO_MODELS alone: all may stay. Groups leave one choice. Of sets, each that has the model is
        a choice: residents that are not in it leave.
        """
        if comer in self._sets_of:
            bound = [
                (each, model) for each in residents if (model := model_of(each)) in self._sets_of and model != comer
            ]
            options = {  # in the order of the sets
                frozenset(each for each, model in bound if model not in together): None
                for together in self._sets_of[comer]
            }
            return (NO_MODELS,) if NO_MODELS in options else tuple(options)
        return (frozenset(name for name in residents if self.must_leave(name, comer)),) if self._home else (NO_MODELS,)

    def max_coresident(self, models: set[str]) -> int:
        """Return how many of these models may be co-resident. An estimate from below where groups exclude each other."""
        if self.sets:
            bound = self._sets_of.keys() & models
            return len(models) - len(bound) + max(len(together & bound) for together in self.sets)
        members = {group.name: len(group.members & models) for group in self.groups}
        sizes = {group: min(members[group.name], 1) if group.swap else members[group.name] for group in self.groups}
        chosen: list[Group] = []
        for group in sorted(self.groups, key=lambda each: -sizes[each]):
            if sizes[group] and not any(_apart(group, other) for other in chosen):
                chosen.append(group)
        return len(models) - sum(members.values()) + sum(sizes[group] for group in chosen)

    def can_join(self, comer: str, instances: Iterable[str]) -> bool:
        """Whether a model may be started beside these instances."""
        return NO_MODELS in self.eviction_options(comer, frozenset(instances))


def _apart(one: Group, other: Group) -> bool:
    return (one.exclusive and not other.persistent) or (other.exclusive and not one.persistent)


UNGROUPED = Groups()
