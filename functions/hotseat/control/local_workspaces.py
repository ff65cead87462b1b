"""The Workspaces of one machine: their controllers, request gates and GPUs, over one runtime."""

import logging
import threading
import uuid
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.control.accelerator_seconds import Totals
from hotseat.control.active_profiles import ActiveProfiles
from hotseat.control.event_log import EventLog
from hotseat.control.host_resources import assign_gpus
from hotseat.control.owner import LoopOwner
from hotseat.control.registry import ModelRegistry
from hotseat.control.request_gate import Clock, RequestGate
from hotseat.control.scheduling_spec import capacity_of, limits_changed, scheduling_spec_of
from hotseat.control.stats_file import StatsFile
from hotseat.control.workspace_controller import WorkspaceController, load_policy
from hotseat.core.errors import NotFound, shortened
from hotseat.core.events import Emit
from hotseat.core.messages import (
    EXTERNAL_EPOCH,
    CacheObserved,
    Demand,
    InstanceState,
    Observation,
    Residency,
    Resident,
    workspace_of,
)
from hotseat.core.policy.api import Policy
from hotseat.core.ports import LogView, Runtime
from hotseat.core.scheduler.messages import DemandReported
from hotseat.core.scheduler.stats import StatsByModel

log = logging.getLogger(__name__)

DEMAND_EVENTS = 1.0  # seconds between demand.reported events of a Workspace


class LocalWorkspace(WorkspaceController):
    """The controller of one Workspace of this machine, with its request gate and GPUs."""

    def __init__(self, workspace: Workspace, policy: Policy, registry: "LocalWorkspaces") -> None:
        stats_file = registry.stats_file
        super().__init__(
            workspace,
            policy,
            registry.runtime,
            registry.events,
            registry.clock,
            stats=stats_file.stats if stats_file else MappingProxyType({}),
        )
        self._registry = registry
        self._demand_emitted = float("-inf")  # when the last demand.reported event was emitted
        self.retired = False  # its document has been deleted
        self.devices: tuple[str, ...] | None = None  # names of its GPUs; None: GPUs are not assigned
        self.gate = RequestGate(registry.router, registry.clock, self._demand_changed, registry.owner)
        self.gate.apply_key_weights(registry.key_weights)
        self._snapshot: Demand | None = None  # the present demand, if it is known

    def apply_config(
        self,
        workspace: Workspace,
        models: Iterable[Model],
        host_memory: int | None,
        away: tuple[str, ...],
        policy: Policy | None,
    ) -> None:
        """Apply changed documents.

        HOST_MEMORY is the limit for parked Models in bytes if the Workspace sets none. AWAY are GPUs of this Workspace that
        another one still uses. POLICY is None if it is still the same.
        """
        models = list(models)
        self.gate.apply_limits(limits_changed(self._clock(), models, workspace))
        saves = self._registry.saves_prompts
        specs = {m.name: scheduling_spec_of(m, workspace, saves_prompts=saves is not None and saves(m)) for m in models}
        room = self._registry.prompt_room if saves is not None else None
        capacity = capacity_of(workspace, self.devices, host_memory=host_memory, prompt_room=room)
        capacity = replace(capacity, away=away)
        self._configure(workspace, models, specs, capacity, policy, retry_failed=True)

    def extend_limits(self, workspace: Workspace, models: Iterable[Model]) -> None:
        """Accept requests for the Models that `apply_config` will add, and still for the Models that it will remove."""
        self.gate.extend_limits(limits_changed(self._clock(), models, workspace))

    def set_away(self, away: tuple[str, ...]) -> None:
        """Set which of its GPUs another Workspace still uses."""
        if away != self.capacity.away:
            self.capacity = replace(self.capacity, away=away)
            self._timer.set_capacity(self.capacity)

    @property
    def ceded(self) -> set[str]:
        """GPUs that its instances still use although they are assigned to it no longer."""
        used = _used(self.gate.residency.residents)
        return used if self.retired else used - set(self.devices or ())

    @property
    def empty(self) -> bool:
        """Whether it has no instance. External servers do not count."""
        return not any(r.epoch != EXTERNAL_EPOCH for r in self.gate.residency.residents)

    @property
    def over(self) -> bool:
        """Whether the Workspace has been deleted and neither instances nor requests are left."""
        return self.retired and self.scheduler.ended and not self.gate.waiting() and not self.gate.in_flight()

    def shut_down(self) -> None:
        """Begin to stop all instances."""
        self.stop()
        self.scheduler.shut_down()

    def _demand_changed(self, urgent: bool) -> None:
        """Tell the scheduler, with a snapshot if it waits for one: it would have to ask this thread, and a switch does that often."""
        self._snapshot = self.gate.demand() if urgent and not self.scheduler.poll_pending else None
        self.scheduler.demand_changed(urgent)

    # SchedulerHost ----------------------------------------------------------------------------------------------------

    def demand(self) -> DemandReported:
        """Return a snapshot of demand."""
        snapshot, self._snapshot = self._snapshot, None
        demand = snapshot or self.gate.demand()
        now = self._clock()
        if demand.waiting and now - self._demand_emitted >= DEMAND_EVENTS:
            self._demand_emitted = now
            self.emit(demand.seen_epoch, _demand_event(demand))
        return DemandReported(now, demand)

    def publish(self, residency: Residency) -> None:
        """Pass a new residency on to the gate."""
        before = self.gate.residency.residents
        gone = {r.address for r in before} - {r.address for r in residency.residents}
        self.gate.apply_residency(residency)
        if _used(before) != _used(residency.residents):
            self._registry.update_away()
        for address in gone:
            if address is not None:
                self._registry.forget(address)

    def stats_changed(self, stats: StatsByModel) -> None:
        """Write changed statistics to the file."""
        if self._registry.stats_file is not None:
            self._registry.stats_file.record(stats)


def _used(residents: Iterable[Resident]) -> set[str]:
    return {device for each in residents if each.state is not InstanceState.PARKED for device in each.devices}


def _without_host_memory(workspaces: Iterable[Workspace]) -> int:
    return sum(workspace.spec.capacity.host_memory is None for workspace in workspaces)


def _without_active_model(workspace: Workspace) -> Workspace:
    """Return a deleted Workspace, whose Models are gone."""
    return workspace.model_copy(update={"spec": workspace.spec.model_copy(update={"active_model": None})})


def _demand_event(demand: Demand) -> Emit:
    waiting = {model: {"count": w.count, "priority": w.priority} for model, w in demand.waiting.items()}
    data = {"router": demand.router, "seq": demand.seq, "waiting": waiting, "in_flight": dict(demand.in_flight)}
    return Emit("demand.reported", "", data)


def _ignore(_address: str) -> None:
    pass


class LocalWorkspaces(ModelRegistry):
    """All Workspaces of this machine. Documents may change while it runs.

    `forget` is called with the address of each instance that has ended. `devices` are the names of this machine's GPUs. None:
    they are not known, and numbers are used. `device_ids` are their UUIDs by name, where known. `host_memory` is the limit for
    parked Models in bytes, shared evenly by the Workspaces that set none. None: no limit. `saves_prompts` returns whether the
    prompt cache of a Model can be kept. None: no prompts are kept. `prompt_room` is the size of the file system in memory for
    them, in bytes. `profiles` keeps which profiles are active.
    """

    _handles: Mapping[str, LocalWorkspace]

    def __init__(
        self,
        runtime: Runtime,
        events: EventLog,
        clock: Clock,
        forget: Callable[[str], None] = _ignore,
        *,
        devices: tuple[str, ...] | None = None,
        device_ids: Mapping[str, str] = MappingProxyType({}),
        host_memory: int | None = None,
        stats_file: StatsFile | None = None,
        owner: LoopOwner | None = None,
        saves_prompts: Callable[[Model], bool] | None = None,
        prompt_room: int = 0,
        profiles: ActiveProfiles | None = None,
    ) -> None:
        super().__init__(owner, events.emit, forget)
        self._profiles = ActiveProfiles() if profiles is None else profiles
        self.saves_prompts, self.prompt_room = saves_prompts, prompt_room
        self.runtime, self.events, self.clock, self.stats_file = runtime, events, clock, stats_file
        self.router = uuid.uuid4().hex[:8]
        self._devices, self._device_ids, self._host_memory = devices, device_ids, host_memory
        self._lock = threading.Lock()
        self._by_model: dict[str, LocalWorkspace] = {}

    # Documents --------------------------------------------------------------------------------------------------------

    def apply(self, workspaces: Iterable[Workspace], models: Iterable[Model]) -> None:
        """Apply all documents. Instances of unchanged Models are not disturbed. A deleted Workspace loses its Models first.

        If a policy cannot be loaded or a thread cannot be started, raise that error and change nothing. If one Workspace cannot
        be configured, configure the others, then raise its error. Repeating a call is harmless.
        """
        with self._lock:
            models, named = list(models), {w.name: w for w in workspaces}
            policies = self._load_policies(named.values())
            self._open(named.values(), policies)
            mine: dict[str, list[Model]] = {name: [] for name in self._handles}
            for model in models:
                mine[model.spec.workspace].append(model)
            self._by_model |= {m.name: self._handles[m.spec.workspace] for m in models}
            if self._begun:
                self.runtime.update(models)
            for name, workspace in named.items():
                self._handles[name].extend_limits(workspace, mine[name])
            self.events.add_shown_names({m.name: m.shown_name for m in models})
            self._route([(m, self._handles[m.spec.workspace]) for m in models], list(named.values()))
            self._configure(named, mine, policies)
            self._by_model = {m.name: self._handles[m.spec.workspace] for m in models}
            if not self._begun:
                self._begun = True
                self.runtime.begin(models, self.observe)

    def active_profile(self, workspace: Workspace) -> str | None:
        """Return the active profile of a Workspace: the one that a person has chosen, else that of its document."""
        return self._profiles.of(workspace)

    def switch_profile(self, profile: str | None, workspace: str | None = None) -> bool:
        """Make a profile the active one of the Workspaces that have it, or of one Workspace. None: no profile is active.

        Return whether profiles can be switched here. Raise NotFound if there is no such profile or Workspace, and OSError if the choice
        cannot be kept.
        """
        with self._lock:
            all_ = [handle.workspace for handle in self._handles.values() if not handle.retired]
            if workspace is not None and workspace not in {each.name for each in all_}:
                raise NotFound(f"There is no Workspace {shortened(workspace)}.")
            chosen = [
                each
                for each in all_
                if workspace in (None, each.name) and (profile is None or profile in each.spec.profiles)
            ]
            if profile is not None and not chosen:
                known = sorted({name for each in all_ if workspace in (None, each.name) for name in each.spec.profiles})
                raise NotFound(f"There is no profile {shortened(profile)}; there are: {', '.join(known) or 'none'}.")
            self._profiles.choose(chosen, profile)
            self._update_names(all_)
            return True

    def wait_applied(self, timeout: float) -> None:
        """Wait until the schedulers act on the documents of `apply`, for TIMEOUT seconds each at most."""
        for handle in list(self._handles.values()):
            handle.scheduler.wait_handled(timeout)

    def _configure(
        self, named: Mapping[str, Workspace], mine: Mapping[str, list[Model]], policies: Mapping[str, Policy]
    ) -> None:
        devices = assign_gpus(named.values(), self._assigned(named), self._devices, self._device_ids)
        share = self._host_memory and self._host_memory // (_without_host_memory(named.values()) or 1)
        for name, handle in self._handles.items():
            handle.retired = name not in named
            if not handle.retired:  # a retired one keeps its GPUs until it is empty
                handle.devices = devices.get(name)
        problem: Exception | None = None
        for name, handle in self._handles.items():
            try:
                workspace = named.get(name) or _without_active_model(handle.workspace)
                handle.apply_config(workspace, mine[name], share, self._away(handle), policies.get(name))
            except Exception as error:
                log.exception("cannot apply the documents of Workspace %s", name)
                problem = problem or error
            if handle.retired:
                handle.scheduler.retire()
        if problem is not None:
            raise problem

    def _load_policies(self, workspaces: Iterable[Workspace]) -> dict[str, Policy]:
        """Load the policies of new Workspaces and of Workspaces that name another policy than before."""
        handles = self._handles
        return {
            w.name: load_policy(w.spec.policy.name)
            for w in workspaces
            if w.name not in handles or handles[w.name].workspace.spec.policy.name != w.spec.policy.name
        }

    def _open(self, workspaces: Iterable[Workspace], policies: Mapping[str, Policy]) -> None:
        """Create the controllers of new Workspaces, and drop the controllers of deleted Workspaces of which nothing is left."""
        handles = {name: handle for name, handle in self._handles.items() if not handle.over}
        opened: list[LocalWorkspace] = []
        try:
            for workspace in workspaces:
                handle = handles.get(workspace.name)
                if handle is not None and not (handle.retired and not handle.scheduler.recall()):
                    continue
                policy = policies.get(workspace.name) or load_policy(workspace.spec.policy.name)
                handles[workspace.name] = handle = LocalWorkspace(workspace, policy, self)
                handle.scheduler.start()
                opened.append(handle)
        except Exception:
            for handle in opened:
                handle.scheduler.retire()
            raise
        self._handles = handles

    def _show_names(self, models: Iterable[Model]) -> None:
        self.events.add_shown_names({model.name: model.shown_name for model in models})

    # GPUs -------------------------------------------------------------------------------------------------------------

    def _assigned(self, named: Container[str]) -> dict[str, tuple[str, ...]]:
        """Return by Workspace the GPUs that are assigned to it, or that a deleted one still uses."""
        owned = {d for handle in self._handles.values() if not handle.retired for d in handle.devices or ()}
        return {
            name: tuple(d for d in handle.devices or () if not (handle.retired and d in owned))
            for name, handle in self._handles.items()
            if not handle.empty
            or (
                name in named and not handle.retired
            )  # the GPUs of an empty one may have been assigned to another since
        }

    def _away(self, handle: LocalWorkspace) -> tuple[str, ...]:
        ceded = set[str]().union(*(each.ceded for each in self._handles.values() if each is not handle))
        return tuple(device for device in handle.devices or () if device in ceded)

    def update_away(self) -> None:
        """Let Workspaces use the GPUs that others have released."""
        with self._lock:
            for handle in self._handles.values():
                handle.set_away(self._away(handle))

    def devices(self, workspaces: Iterable[str]) -> set[str]:
        """Return the names of the GPUs that are assigned to these Workspaces."""
        return {each for name in workspaces if name in self._handles for each in self._handles[name].devices or ()}

    # Instances --------------------------------------------------------------------------------------------------------

    def observe(self, observation: Observation) -> None:
        """Send an observation of the runtime to the scheduler of its Workspace."""
        if isinstance(observation, CacheObserved):
            handle = self._by_model.get(observation.model)
        else:
            handle = self._handles.get(workspace_of(observation.instance))
        if handle is not None:
            handle.scheduler.send(observation)
        elif not isinstance(observation, CacheObserved):  # a fetch may end after its Model was deleted
            log.warning("ignoring an observation of an unknown instance: %s", observation)

    def memory(self) -> dict[str, int]:
        """Return by model the measured accelerator memory of its largest instance, in bytes."""
        return {name: size for handle in self._handles.values() for name, size in handle.scheduler.memory().items()}

    def accelerator_seconds(self) -> dict[str, Totals]:
        """Return by Workspace how long its instances held the accelerator."""
        return {name: handle.accelerator_seconds.totals() for name, handle in self._handles.items()}

    def logs(self, model: str) -> LogView | None:
        """Return the log of a model's engine. None if its engine is external."""
        return self.runtime.logs(model)

    # The end ----------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Refuse queued requests and accept no more. Requests in flight go on."""
        self._closing = True
        self.peers.close()
        for gate in self.gates:
            gate.close()
        self.events.close()

    def close(self, timeout: float) -> None:
        """Stop all instances, within TIMEOUT seconds in an orderly way, by force after that."""
        self.drain()
        end = self.clock() + timeout
        handles = self._handles.values()
        for handle in handles:
            handle.shut_down()
        emptied = [handle.scheduler.stop(max(0.0, end - self.clock())) for handle in handles]
        if not all(emptied):
            log.warning("some engines did not stop within %.0f s; killing them", timeout)
        for gate in self.gates:
            gate.wait_empty(max(0.0, end - self.clock()))  # external servers still answer
        self.runtime.close()
