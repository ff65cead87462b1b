"""Requests a load when `spec.activeModel` of a Workspace changes."""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.core.errors import Unavailable

log = logging.getLogger(__name__)


class LoadRequester(Protocol):
    """Requests a load, as `ModelCommands.request_load` does."""

    def __call__(self, model: str, ended: Callable[[Unavailable | None], None], *, replaces: str | None = None) -> None:
        """Request the load of a model."""


@dataclass(frozen=True, slots=True)
class ActiveModelState:
    """What became of `spec.activeModel`. `loaded` is None while the Model loads. `reason` is in CamelCase."""

    loaded: bool | None
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """A load request: the value of the field, and the Model that it names."""

    value: str
    model: str


class ActiveModel:
    """Requests a load of a Workspace's `spec.activeModel`: once for each change of its value. Thread-safe.

    ACTED_ON is the value whose load an earlier run has ended. A request that has not ended is withdrawn for the next one. A name
    that no Model has is acted on when a Model has it.
    """

    def __init__(self, acted_on: str | None, request_load: LoadRequester) -> None:
        self._request_load = request_load
        self._lock = threading.Lock()
        self._acted_on = acted_on
        self._request: _Request | None = None  # the load request that has not ended
        self._state: ActiveModelState | None = None

    @property
    def acted_on(self) -> str | None:
        """The value of the field whose load has ended, with or without success. None: there is none, or it has not ended."""
        with self._lock:
            return None if self._request is not None else self._acted_on

    @property
    def state(self) -> ActiveModelState | None:
        """What became of the field's value. None: it is not set, or an earlier run has acted on it."""
        with self._lock:
            return self._state

    def apply(self, workspace: Workspace, models: Iterable[Model]) -> None:
        """Apply changed documents."""
        value = workspace.spec.active_model
        with self._lock:
            model = next((each for each in models if value in each.names), None)
            loading = self._request is not None
            if value is not None and value == self._acted_on and (model is not None or not loading):
                return
            if value is None or model is None or model.spec.engine == "external":
                self._acted_on, state = None, None if value is None else _unloadable(value, model)
                if state is not None and state != self._state:
                    log.warning("Workspace %s: %s", workspace.name, state.message)
                self._state = state
                return
            replaced = self._request.model if self._request is not None else None
            self._acted_on, request = value, _Request(value, model.name)
            self._request = request
            self._state = ActiveModelState(loaded=None, reason="Loading")
        log.info("Workspace %s: loading spec.activeModel %s", workspace.name, value)
        self._request_load(
            model.name,
            lambda problem: self._ended(workspace.name, request, problem),
            replaces=replaced if replaced != model.name else None,
        )

    def _ended(self, workspace: str, request: _Request, problem: Unavailable | None) -> None:
        with self._lock:
            if request is not self._request:
                return  # another has replaced it
            self._request = None
            if request.value != self._acted_on:
                return  # the field is no longer set, or names no Model
            self._state = ActiveModelState(loaded=True, reason="Loaded") if problem is None else _failed(problem)
        if problem is not None:
            log.warning("Workspace %s: spec.activeModel %s was not loaded: %s", workspace, request.value, problem)


def _unloadable(value: str, model: Model | None) -> ActiveModelState:
    if model is None:
        message = f"spec.activeModel names {value}, which is not a Model of this Workspace"
        return ActiveModelState(loaded=False, reason="UnknownModel", message=message)
    message = f"spec.activeModel names {value}, which cannot be loaded by hotseat: its engine is external"
    return ActiveModelState(loaded=False, reason="ExternalEngine", message=message)


def _failed(problem: Unavailable) -> ActiveModelState:
    reason = "".join(part.capitalize() for part in (problem.code or "failed").split("_"))
    return ActiveModelState(loaded=False, reason=reason, message=str(problem))
