"""Models of peers behind a gate of their own: no scheduler is concerned with them, because they are always ready."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.control.owner import LoopOwner
from hotseat.control.request_gate import RequestGate
from hotseat.control.scheduling_spec import capacity_of, limits_changed
from hotseat.core.errors import Unavailable
from hotseat.core.messages import EXTERNAL_EPOCH, InstanceState, Residency, Resident, Wait
from hotseat.core.policy.api import Capacity
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.messages import ModelStatus


class PeerWorkspace:
    """The models of the peers of one Workspace, as the gateway sees them (a WorkspaceHandle)."""

    def __init__(self, workspace: Workspace, owner: LoopOwner) -> None:
        self.workspace, self.retired = workspace, False
        self.gate = RequestGate("peers", time.monotonic, lambda _urgent: None, owner)
        self._models: tuple[Model, ...] = ()

    @property
    def name(self) -> str:
        """The name of the Workspace."""
        return self.workspace.name

    @property
    def capacity(self) -> Capacity:
        """The capacity of the Workspace, of which they use nothing."""
        return capacity_of(self.workspace)

    @property
    def effective_max_wait(self) -> float | None:
        """Return None: no request waits for its turn here."""
        return None

    def extend(self, workspace: Workspace, models: Iterable[Model]) -> None:
        """Accept requests for these Models too. Call `settle` once no name is routed to others."""
        self.workspace, self._models = workspace, tuple(models)
        self.gate.extend_limits(limits_changed(time.monotonic(), self._models, workspace))
        residents = tuple(
            Resident(each.name, f"{each.name}@external", InstanceState.READY, EXTERNAL_EPOCH, 0.0, each.spec.url)
            for each in self._models
        )
        if residents != self.gate.residency.residents:
            self.gate.apply_residency(Residency(self.gate.residency.epoch + 1, residents))

    def settle(self) -> None:
        """Accept requests for no other Models."""
        self.gate.apply_limits(limits_changed(time.monotonic(), self._models, self.workspace))

    def status(self, model: str) -> ModelStatus:
        """Return the state of a model."""
        return ModelStatus(model, InstanceState.READY.value)

    def waits(self, shown: Callable[[str], str]) -> Mapping[str, Wait]:  # noqa: ARG002
        """Return nothing: no request waits for its turn here."""
        return {}

    def switches(self) -> Sequence[Switch]:
        """Return no switches."""
        return ()

    def load(self, model: str, timeout: float | None) -> ModelStatus:  # noqa: ARG002
        """Raise Unavailable: the peer loads it."""
        raise _of_a_peer(model)

    def fetch(self, model: str) -> ModelStatus:
        """Return its state: the peer has the weights."""
        return self.status(model)

    def unload(self, model: str, timeout: float | None) -> ModelStatus:  # noqa: ARG002
        """Raise Unavailable: the peer unloads it."""
        raise _of_a_peer(model)

    def park(self, model: str, timeout: float | None) -> ModelStatus:  # noqa: ARG002
        """Raise Unavailable: only the peer itself puts its models to sleep."""
        raise _of_a_peer(model)

    def pin(self, model: str, timeout: float | None) -> ModelStatus:  # noqa: ARG002
        """Raise Unavailable."""
        raise _of_a_peer(model)

    def unpin(self, model: str) -> ModelStatus:
        """Raise Unavailable."""
        raise _of_a_peer(model)


def _of_a_peer(model: str) -> Unavailable:
    return Unavailable(f"{model} is a model of a peer, which loads and unloads it.")
