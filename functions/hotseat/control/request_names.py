"""Names that clients may send beside those of Models: virtual models, and names that a profile switches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hotseat.api.model import Capability
from hotseat.api.virtual_models import Strategy, VirtualModel
from hotseat.api.workspace import Workspace
from hotseat.core.admission.virtual_models import SmoothWeights, first_with_room, warmest
from hotseat.core.errors import UnknownModel, shortened


class Candidate(Protocol):
    """A Model, as far as a choice needs it."""

    @property
    def capabilities(self) -> Sequence[Capability]:
        """The kinds of requests that it states to support. Empty: all."""

    @property
    def state(self) -> str:
        """Its state, as in a ModelStatus."""

    @property
    def requests(self) -> int:
        """The number of its requests that are in flight or queued."""


class Candidates(Protocol):
    """Finds Models by their names."""

    def candidate(self, name: str) -> Candidate | None:
        """Return the Model with a name, if there is one."""


@dataclass(frozen=True, slots=True)
class SwitchedName:
    """What a name stands for while a profile is active. Empty: nothing."""

    target: str
    profile: str
    workspace: str


@dataclass(frozen=True, slots=True)
class Virtual:
    """A virtual model, and the name of its Workspace."""

    model: VirtualModel
    workspace: str
    weights: SmoothWeights


class RequestNames:
    """All these names. An active profile comes first. Choices are made on the thread that serves requests."""

    def __init__(
        self,
        workspaces: Iterable[Workspace],
        active: Mapping[str, str | None],
        routes: Candidates,
        before: "RequestNames | None" = None,
    ) -> None:
        """`active`: the active profile of each Workspace. `before`: names of earlier documents, whose turns go on."""
        self._routes = routes
        self.switched: dict[str, SwitchedName] = {}
        self.virtual: dict[str, Virtual] = {}
        known = {} if before is None else before.virtual
        for workspace in workspaces:
            profile = active.get(workspace.name)
            for name, target in workspace.spec.profiles.get(profile or "", {}).items():
                self.switched.setdefault(name, SwitchedName(target, profile or "", workspace.name))
            for each in workspace.spec.virtual_models:
                old = known.get(each.name)
                weights = _weights(each) if old is None or old.model != each else old.weights
                self.virtual.setdefault(each.name, Virtual(each, workspace.name, weights))

    def __bool__(self) -> bool:
        return bool(self.switched or self.virtual)

    def __contains__(self, name: object) -> bool:
        return name in self.switched or name in self.virtual

    def resolve(self, name: str, capability: Capability | None) -> str:
        """Return the name of the Model for a request. Any other name is returned as it is.

        Raise UnknownModel if the name is that of no Model now.
        """
        name = self._switch(name)
        virtual = self._virtual(name)
        if virtual is None:
            return name
        members = virtual.model.members
        there = list(self._there(virtual.model))
        fit = [
            (index, it)
            for index, it in there
            if capability is None or not it.capabilities or capability in it.capabilities
        ]
        chosen = fit or there
        if not chosen:
            raise _unknown(name, "has no member that exists")
        match virtual.model.strategy:
            case Strategy.WARM:
                place = warmest([it.state for _, it in chosen])
            case Strategy.SPILLOVER:
                limits = [members[index].max_requests for index, _ in chosen]
                place = first_with_room([it.requests for _, it in chosen], limits)
            case Strategy.WEIGHT:
                return members[virtual.weights.choose([index for index, _ in chosen])].model
        return members[chosen[place][0]].model

    def peek(self, name: str) -> str | None:
        """Return a Model that stands for a name, as the warmest member does for a virtual model. None: there is none."""
        switched = self.switched.get(name)
        name = name if switched is None else switched.target
        virtual = self._virtual(name)
        if virtual is None:
            return name if self._routes.candidate(name) is not None else None
        there = list(self._there(virtual.model))
        return virtual.model.members[there[warmest([it.state for _, it in there])][0]].model if there else None

    def _switch(self, name: str) -> str:
        switched = self.switched.get(name)
        if switched is None:
            return name
        if not switched.target:
            raise _unknown(name, f"is switched off by the profile {shortened(switched.profile)}")
        return switched.target

    def _virtual(self, name: str) -> Virtual | None:
        """Return the virtual model with a name, unless a Model has that name: on a cluster documents come one by one."""
        virtual = self.virtual.get(name)
        return None if virtual is None or self._routes.candidate(name) is not None else virtual

    def _there(self, model: VirtualModel) -> Iterator[tuple[int, Candidate]]:
        for index, member in enumerate(model.members):
            if (route := self._routes.candidate(member.model)) is not None:
                yield index, route


def _weights(model: VirtualModel) -> SmoothWeights:
    return SmoothWeights([member.weight or 1 for member in model.members])


def _unknown(name: str, why: str) -> UnknownModel:
    text = f"The model `{shortened(name)}` {why}. GET /v1/models lists the available models."
    return UnknownModel(text, param="model")
