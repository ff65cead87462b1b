"""Routes from all names of Models to their Workspaces, for the gateway."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hotseat.api.model import Capability, Model
from hotseat.api.wildcards import Wildcards
from hotseat.api.workspace import Workspace
from hotseat.control.near_names import NearNames
from hotseat.control.owner import LoopOwner
from hotseat.control.peer_workspace import PeerWorkspace
from hotseat.control.peers import Peers
from hotseat.control.request_gate import RequestGate
from hotseat.control.request_names import RequestNames
from hotseat.control.upstream_servers import EmitEvent, UpstreamRegistry, UpstreamServers
from hotseat.core.errors import Conflict, Unavailable, UnknownModel, shortened
from hotseat.core.events import Emit
from hotseat.core.messages import InstanceState, Wait
from hotseat.core.policy.api import Capacity
from hotseat.core.ports import LogView
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.engines.access import EngineAccess, access_of

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

    def waits(self, shown: Callable[[str], str]) -> Mapping[str, Wait]:
        """Return by model why its requests wait. SHOWN returns the name of a model for messages."""

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
    servers: UpstreamServers | None = None  # None: it does not matter which of them fail
    access: EngineAccess | None = field(init=False, repr=False, compare=False)  # None: requests are sent as they are
    shown_name: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "access", access_of(self.model))
        object.__setattr__(self, "shown_name", self.model.shown_name)

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


def _ignore(_workspace: str, _epoch: int, _event: Emit) -> None:
    pass


def _keep(_address: str) -> None:
    pass


class ModelRegistry:
    """Lookups without a lock. Subclasses replace `_handles` as a whole, and call `_route`, which replaces `_routes`.

    The thread that `owner` names drives the gates of all Workspaces. `emit` publishes events about servers of external Models.
    `forget` is called with the address of each server or instance that requests are sent to no more.
    """

    def __init__(
        self, owner: LoopOwner | None = None, emit: EmitEvent = _ignore, forget: Callable[[str], None] = _keep
    ) -> None:
        self.owner = LoopOwner() if owner is None else owner
        self.forget = forget
        self.upstreams = UpstreamRegistry(emit)
        self.peers = Peers(self._peers_changed)
        self._routing = threading.Lock()  # over the next three
        self._own: Sequence[tuple[Model, WorkspaceHandle]] = ()
        self._workspaces: Sequence[Workspace] = ()
        self._peer_workspaces: dict[str, PeerWorkspace] = {}
        self._handles: Mapping[str, WorkspaceHandle] = {}
        self._routes: Mapping[str, ModelRoute] = {}
        self.names: RequestNames | None = None  # names beside those of Models
        self._near: tuple[Mapping[str, ModelRoute], NearNames] | None = None  # names of these routes
        self._wildcards: tuple[Mapping[str, ModelRoute], Wildcards] | None = None  # of these routes
        self._begun = False
        self._closing = False
        self.key_weights: Mapping[str, int] = {}  # of API keys in the fair share, by name

    @property
    def handles(self) -> list[WorkspaceHandle]:
        """All Workspaces that have a document or an instance, oldest first."""
        return [handle for handle in self._handles.values() if not handle.retired or handle.gate.residency.residents]

    @property
    def gates(self) -> list[RequestGate]:
        """The gates of all Workspaces and peers."""
        return [each.gate for each in (*self._handles.values(), *self._peer_workspaces.values())]

    def _route(self, own: Sequence[tuple[Model, WorkspaceHandle]], workspaces: Sequence[Workspace]) -> None:
        """Route the names of all Models, and those of the peers of WORKSPACES. A name of several Models belongs to the first."""
        with self._routing:
            self._own, self._workspaces = own, workspaces
            self.peers.configure(workspaces)
            self._route_all()
        self._update_names(workspaces)

    def _peers_changed(self) -> None:
        with self._routing:
            self._route_all()

    def _route_all(self) -> None:
        specs = [workspace.spec for workspace in self._workspaces]
        reserved = {each.name for spec in specs for each in spec.virtual_models}
        reserved |= {name for spec in specs for profile in spec.profiles.values() for name in profile}
        there, theirs = list(self._own), self.peers.models([model for model, _ in self._own], reserved)
        self._show_names(theirs)
        for workspace in self._workspaces:
            if workspace.spec.peers and workspace.name not in self._peer_workspaces:
                self._peer_workspaces[workspace.name] = PeerWorkspace(workspace, self.owner)
        named = {workspace.name: workspace for workspace in self._workspaces}
        for name, peers in self._peer_workspaces.items():
            mine = [model for model in theirs if model.spec.workspace == name]
            peers.extend(named.get(name, peers.workspace), mine)
            there += [(model, peers) for model in mine]
        before = self.upstreams.urls()
        servers = self.upstreams.update(model for model, _ in there)
        routes: dict[str, ModelRoute] = {}
        for model, handle in there:
            route = ModelRoute(model, handle, servers.get(model.name))
            for name in model.names:
                routes.setdefault(name, route)
        self._routes = routes
        for peers in self._peer_workspaces.values():
            peers.settle()
        for url in before - self.upstreams.urls():
            self.forget(url)

    def _show_names(self, models: Iterable[Model]) -> None:
        """Let events have the shown names of Models."""

    def find(self, name: str) -> ModelRoute:
        """Return the route of NAME. Raise UnknownModel if no Model has it."""
        route = self._routes.get(name) or self._wildcard(name)
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

    def _wildcard(self, name: str) -> ModelRoute | None:
        """Return the route of the longest name with a `*` that NAME has the form of."""
        routes, known = self._routes, self._wildcards
        if known is None or known[0] is not routes:
            known = self._wildcards = (routes, Wildcards(routes))
        found = known[1].find(name)
        return None if found is None else routes[found]

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

    def default_name(self) -> str | None:
        """Return the name of the Model for requests that name none, as its Workspace has it. None: there is none."""
        for handle in self.handles:
            if not handle.retired and (name := handle.workspace.spec.default_model):
                return name if name in self._routes else None
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

    def set_key_weights(self, weights: Mapping[str, int]) -> None:
        """Change the weights of API keys in the fair share. A Workspace that names a tenant of the same name has its own."""
        self.key_weights = weights
        for handle in list(self._handles.values()):
            handle.gate.apply_key_weights(weights)

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self._begun and not self._closing
