"""Routes from all names of Models to their Workspaces, for the gateway."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hotseat.api.model import Capability, Model
from hotseat.api.workspace import Workspace
from hotseat.control.near_names import NearNames
from hotseat.control.owner import LoopOwner
from hotseat.control.request_gate import RequestGate
from hotseat.control.request_names import RequestNames
from hotseat.core.errors import Conflict, Unavailable, UnknownModel, shortened
from hotseat.core.messages import InstanceState
from hotseat.core.policy.api import Capacity
from hotseat.core.ports import LogView
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.messages import ModelStatus

NEAR = 3  # Models that are suggested for an unknown name


class WorkspaceHandle(Protocol):
    """One Workspace, as the gateway sees it."""

    workspace: Workspace
    gate: RequestGate
    retired: bool  # its document has been deleted

    @property
    def name(self) -> str:
        """The name of the Workspace."""

    @property
    def capacity(self) -> Capacity:
        """Its capacity, as far as it is known here."""

    @property
    def effective_max_wait(self) -> float | None:
        """The bound on waiting in force, in seconds. None while no request is queued."""

    def status(self, model: str) -> ModelStatus:
        """Return the state of a model. `unloaded` if it is not known yet."""

    def switches(self) -> Sequence[Switch]:
        """Return the known switches, oldest first."""

    def load(self, model: str, timeout: float | None) -> ModelStatus:
        """Load a model and wait until it is ready.

        Raise Unavailable with the reason. timeout 0: do not wait.
        """

    def fetch(self, model: str) -> ModelStatus:
        """Fetch the weights of a model without a load, and do not wait. Return its state after the order."""

    def unload(self, model: str, timeout: float | None) -> ModelStatus:
        """Unload a model and wait until it is verified to be gone.

        Raise Unavailable otherwise. timeout 0: do not wait.
        """

    def park(self, model: str, timeout: float | None) -> ModelStatus:
        """Put a loaded model to sleep and wait until it is off the accelerator.

        Raise Conflict if it cannot be, and Unavailable if it takes longer. timeout 0: do not wait.
        """

    def pin(self, model: str, timeout: float | None) -> ModelStatus:
        """Load a model and protect it from eviction.

        Wait as `load` does. Raise Unavailable if other pins prevent it.
        """

    def unpin(self, model: str) -> ModelStatus:
        """Allow the model to be evicted again."""


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """The route of a name: its Model and Workspace."""

    model: Model
    handle: WorkspaceHandle

    @property
    def capabilities(self) -> Sequence[Capability]:
        """The kinds of requests that the Model states to support. Empty: all."""
        return self.model.spec.capabilities

    @property
    def state(self) -> str:
        """The state of the Model. Any engine that is ready counts."""
        residents = self.handle.gate.residency.residents
        if any(each.model == self.model.name and each.state is InstanceState.READY for each in residents):
            return InstanceState.READY.value
        return self.handle.status(self.model.name).state

    @property
    def requests(self) -> int:
        """The number of requests for the Model that are in flight or queued here."""
        return self.handle.gate.in_flight_of(self.model.name) + self.handle.gate.waiting(self.model.name)


class ModelRegistry:
    """Lookups without a lock. Subclasses replace `_routes` and `_handles` as a whole.

    The thread that `owner` names drives the gates of all Workspaces.
    """

    def __init__(self, owner: LoopOwner | None = None) -> None:
        self.owner = LoopOwner() if owner is None else owner
        self._handles: Mapping[str, WorkspaceHandle] = {}
        self._routes: Mapping[str, ModelRoute] = {}
        self.names: RequestNames | None = None  # names beside those of Models
        self._near: tuple[Mapping[str, ModelRoute], NearNames] | None = None  # names of these routes
        self._begun = False
        self._closing = False

    @property
    def handles(self) -> list[WorkspaceHandle]:
        """All Workspaces that have a document or an instance, oldest first."""
        return [handle for handle in self._handles.values() if not handle.retired or handle.gate.residency.residents]

    def find(self, name: str) -> ModelRoute:
        """Return the route of NAME. Raise UnknownModel if no Model has it."""
        route = self._routes.get(name)
        if route is None:
            if self.names is not None and name in self.names:
                text = f"`{shortened(name)}` is a virtual model or a name of a profile, which only requests may use: name a Model."
                raise UnknownModel(text, param="model")
            near = ", ".join(f"`{shortened(each)}`" for each in self._near_names(name))
            meant = f" Did you mean {near}?" if near else ""
            raise UnknownModel(
                f"The model `{shortened(name)}` does not exist.{meant} GET /v1/models lists the available models.",
                param="model",
            )
        return route

    def _near_names(self, name: str) -> list[str]:
        """Return names that are similar to an unknown one, of as many listed Models, the most similar first."""
        routes, known = self._routes, self._near
        if known is None or known[0] is not routes:
            listed = (each for each, route in routes.items() if not route.model.spec.unlisted)
            known = self._near = (routes, NearNames(listed))
        found: dict[str, str] = {}
        for each in known[1].find(name):
            found.setdefault(routes[each].model.name, each)
        return list(found.values())[:NEAR]

    def candidate(self, name: str) -> ModelRoute | None:
        """Return the route of NAME. None if no Model has it."""
        return self._routes.get(name)

    def active_profile(self, workspace: Workspace) -> str | None:
        """Return the active profile of a Workspace. None: there is none."""
        return workspace.spec.active_profile

    def switch_profile(self, profile: str | None, workspace: str | None = None) -> bool:  # noqa: ARG002
        """Make a profile the active one of the Workspaces that have it, or of one Workspace. None: no profile is active.

        Return whether profiles can be switched here. Raise NotFound if there is no such profile or Workspace.
        """
        return False

    def _update_names(self, workspaces: Iterable[Workspace]) -> None:
        """Apply the names of all Workspaces. Requests that have arrived keep their Models."""
        workspaces = list(workspaces)
        active = {each.name: self.active_profile(each) for each in workspaces}
        self.names = RequestNames(workspaces, active, self, self.names) or None

    def knows(self, name: str) -> bool:
        """Whether a Model has this name."""
        return name in self._routes

    def default(self) -> ModelRoute | None:
        """Return the Model for requests that name none, if a Workspace has one."""
        for handle in self.handles:
            if not handle.retired and handle.workspace.spec.default_model:
                return self._routes.get(handle.workspace.spec.default_model)
        return None

    def known_name(self, name: str, tag: str) -> str:
        """Return the name that a Model or virtual model has: NAME itself, else NAME without or with TAG at its end.

        If no Model has either: NAME without TAG, because clients add it to what a person has typed.
        """
        if not tag or self._has(name):
            return name
        plain = name.removesuffix(tag)
        return name + tag if plain == name and self._has(name + tag) else plain

    def _has(self, name: str) -> bool:
        return name in self._routes or (self.names is not None and name in self.names)

    def routes(self) -> Mapping[str, ModelRoute]:
        """Return the routes by metadata.name, sorted, without other names."""
        return {name: route for name, route in sorted(self._routes.items()) if name == route.model.name}

    def shown_name(self, model: str) -> str:
        """Return the name to show for a Model by its metadata.name. If its document has been deleted: that name."""
        route = self._routes.get(model)
        return route.model.shown_name if route is not None and route.model.name == model else model

    def loadable(self, name: str) -> ModelRoute:
        """Return a Model that can be loaded and unloaded.

        Raise UnknownModel, Conflict or Unavailable otherwise.
        """
        route = self.find(name)
        if self._closing:
            raise Unavailable("hotseat is shutting down", code="shutting_down", retry_after=5.0)
        if route.model.spec.engine == "external":
            raise Conflict(f"{route.model.name} cannot be loaded or unloaded by hotseat: its engine is external")
        return route

    def logs(self, model: str) -> LogView | None:  # noqa: ARG002
        """Return the log of a model's engine. None if there is none."""
        return None

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self._begun and not self._closing
