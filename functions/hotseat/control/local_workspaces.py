"""The house: all Workspaces of this process, with their gates and switchers over one runtime, and the names of all Models."""

import logging
import os
import threading
import uuid
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from types import MappingProxyType

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.control.commands import ModelCommands
from hotseat.control.event_log import EventLog
from hotseat.control.gpu_assignment import assign_gpus
from hotseat.control.registry import ModelRegistry, ModelRoute
from hotseat.control.request_gate import Clock, RequestGate
from hotseat.control.schedule_timer import ScheduleTimer
from hotseat.control.scheduler_thread import SchedulerThread, _noop
from hotseat.control.scheduling_spec import capacity_of, groups_of, limits_changed, scheduling_spec_of
from hotseat.core.events import Emit
from hotseat.core.messages import EXTERNAL_EPOCH, CacheObserved, Demand, InstanceState, Observation, Residency, Resident
from hotseat.core.policy.api import Policy
from hotseat.core.ports import LogView, Runtime
from hotseat.core.scheduler.history import Switch
from hotseat.core.scheduler.messages import DemandReported, ModelStatus
from hotseat.core.scheduler.stats import StatsByModel

log = logging.getLogger(__name__)

DEMAND_EVENTS = 1.0  # seconds between demand.reported events of a Workspace


def load_policy(name: str) -> Policy:
    """Policy of that name; KeyError if no installed package has it."""
    for point in entry_points(group="hotseat.policies", name=name):
        policy: Policy = point.load()()
        return policy
    raise KeyError(name)


class LocalWorkspace:
    """One Workspace: its document, its gate, its switcher."""

    def __init__(
        self,
        workspace: Workspace,
        policy: Policy,
        runtime: Runtime,
        bus: EventLog,
        router: str,
        *,
        clock: Clock,
        forget: Callable[[str], None],
        moved: Callable[[], None],
        learned: Callable[[StatsByModel], None],
        remembered: StatsByModel,
    ) -> None:
        """Begin empty. `moved` hears, on the switcher's thread, that GPUs have been taken or given back.

        `learned` hears there what is known of models, `remembered` is what an earlier run knew.
        """
        self.workspace, self.capacity = workspace, capacity_of(workspace)
        self.retired = False  # no document names it any longer
        self.devices: tuple[str, ...] | None = None  # names of its GPUs; None: they are not handed out
        self._clock = clock
        self._bus = bus
        self._forget, self._moved = forget, moved
        self._told = float("-inf")
        self.switcher = SchedulerThread(
            workspace.name,
            policy,
            runtime,
            clock,
            demand=self._demand,
            publish=self._publish,
            emit=bus.emit,
            give_up=_start_afresh,
            learned=learned,
            remembered=remembered,
        )
        self.gate = RequestGate(router, clock, self.switcher.demand_changed)
        self._operator = ModelCommands(self.switcher, clock, lambda: self.gate.residency)
        self.timetable = ScheduleTimer(self.switcher.tell, clock)

    @property
    def name(self) -> str:
        """Name of the Workspace."""
        return self.workspace.name

    def change(
        self,
        workspace: Workspace,
        models: Iterable[Model],
        host_memory: int | None,
        away: tuple[str, ...],
        policy: Policy | None,
    ) -> None:
        """Take in the documents; `host_memory`: bytes for parked Models, where it states none.

        `away` are those of the GPUs that another Workspace has not given back yet. `policy` is another to follow from now on.
        """
        if policy is not None:
            self.switcher.follow(policy)
        self.workspace = workspace
        self.capacity = replace(capacity_of(workspace, self.devices, host_memory=host_memory), away=away)
        mine = list(models)
        now = self._clock()
        self.gate.change(limits_changed(now, mine, workspace))
        terms = {m.name: scheduling_spec_of(m, workspace) for m in mine}
        self.timetable.follow(mine, terms, self.capacity, groups_of(workspace), afresh=True)

    def widen(self, workspace: Workspace, models: Iterable[Model]) -> None:
        """Take requests for the Models that `change` will bring, and still for those that it will take away."""
        self.gate.widen(limits_changed(self._clock(), models, workspace))

    def await_devices(self, away: tuple[str, ...]) -> None:
        """Take in which of its GPUs another Workspace has not given back yet."""
        if away != self.capacity.away:
            self.capacity = replace(self.capacity, away=away)
            self.timetable.resize(self.capacity)

    @property
    def ceded(self) -> set[str]:
        """GPUs that it still has something on though they are not its own any longer."""
        used = _used(self.gate.residency.residents)
        return used if self.retired else used - set(self.devices or ())

    @property
    def empty(self) -> bool:
        """Whether nothing holds any of it."""
        return not any(r.epoch != EXTERNAL_EPOCH for r in self.gate.residency.residents)

    @property
    def over(self) -> bool:
        """Whether its Workspace is gone, and nothing of it is left."""
        return self.retired and self.switcher.ended and not self.gate.waiting() and not self.gate.in_flight()

    def status(self, model: str) -> ModelStatus:
        """State of one model; `unloaded` for one that the switcher has not seen yet."""
        return self._operator.status(model)

    def switches(self) -> tuple[Switch, ...]:
        """Switches that are known, oldest first."""
        return self.switcher.switches()

    @property
    def effective_max_wait(self) -> float | None:
        """Bound on waiting in force, while somebody waits."""
        return self.switcher.effective_max_wait

    def load(self, model: str, timeout: float | None) -> ModelStatus:
        """Order a load and wait for it: ready, or Unavailable with the reason. timeout 0: do not wait."""
        return self._operator.load(model, timeout)

    def unload(self, model: str, timeout: float | None) -> ModelStatus:
        """Order an unload and wait until it is proven gone, or Unavailable. timeout 0: do not wait."""
        return self._operator.unload(model, timeout)

    def pin(self, model: str, timeout: float | None) -> ModelStatus:
        """Order a load that nothing else's demand undoes, and wait for it as `load` does."""
        return self._operator.pin(model, timeout)

    def unpin(self, model: str) -> ModelStatus:
        """Let others have its seat again."""
        return self._operator.unpin(model)

    def _publish(self, residency: Residency) -> None:
        before = self.gate.residency.residents
        gone = {r.address for r in before} - {r.address for r in residency.residents}
        self.gate.see(residency)
        if _used(before) != _used(residency.residents):
            self._moved()
        for address in gone:
            if address is not None:
                self._forget(address)

    def _demand(self) -> DemandReported:
        demand = self.gate.demand()
        now = self._clock()
        if demand.waiting and now - self._told >= DEMAND_EVENTS:
            self._told = now
            self._bus.emit(self.name, demand.seen_epoch, _demand_event(demand))
        return DemandReported(now, demand)


def _used(residents: Iterable[Resident]) -> set[str]:
    return {device for each in residents if each.state is not InstanceState.PARKED for device in each.devices}


def _stating_none(workspaces: Iterable[Workspace]) -> int:
    return sum(workspace.spec.capacity.host_memory is None for workspace in workspaces)


def _start_afresh() -> None:
    """End this worker process at once: its engines die with it, and the arbiter starts another that begins from nothing."""
    log.critical("the scheduler failed repeatedly; this worker exits, and a new worker starts")
    os._exit(70)


def _demand_event(demand: Demand) -> Emit:
    waiting = {model: {"count": w.count, "priority": w.priority} for model, w in demand.waiting.items()}
    data = {"router": demand.router, "seq": demand.seq, "waiting": waiting, "in_flight": dict(demand.in_flight)}
    return Emit("demand.reported", "", data)


def _nothing(_address: str) -> None:
    """Stand for nobody who keeps connections."""


class LocalWorkspaces(ModelRegistry):
    """All rooms, with their switchers. Documents may change while it runs.

    `forget` hears of addresses that are gone. `devices` are the GPUs of this machine; None: nobody can tell, so they are numbers.
    `device_ids`: their UUIDs, where they are known.
    `host_memory`: bytes for parked Models, which Workspaces that state none share evenly; None: no limit.
    `learned` hears what a Workspace knows of its models, and must return at once; `remembered` gives what is known, of earlier runs
    and of Workspaces that are gone.
    """

    _handles: Mapping[str, LocalWorkspace]

    def __init__(
        self,
        runtime: Runtime,
        bus: EventLog,
        clock: Clock,
        forget: Callable[[str], None] = _nothing,
        *,
        devices: tuple[str, ...] | None = None,
        device_ids: Mapping[str, str] = MappingProxyType({}),
        host_memory: int | None = None,
        learned: Callable[[StatsByModel], None] = _noop,
        remembered: Callable[[], StatsByModel] = dict,
    ) -> None:
        super().__init__()
        self._learned, self._remembered = learned, remembered
        self._devices, self._device_ids, self._host_memory = devices, device_ids, host_memory
        self.router = uuid.uuid4().hex[:8]
        self.runtime = runtime
        self.bus = bus
        self._clock = clock
        self._forget = forget
        self._lock = threading.Lock()
        self._homes: dict[str, LocalWorkspace] = {}  # by model name

    # Documents --------------------------------------------------------------------------------------------------------

    def apply(self, workspaces: Iterable[Workspace], models: Iterable[Model]) -> None:
        """Take in all documents; what did not change goes on undisturbed. A Workspace that is gone loses its Models first.

        Where a policy cannot be loaded, or no thread be started, that is raised and nothing has changed. Anything else that one
        Workspace cannot take in is raised once the others have. Doing it again with the same documents is harmless.
        """
        with self._lock:
            models, named = list(models), {w.name: w for w in workspaces}
            policies = self._policies(named.values())
            self._open(named.values(), policies)
            mine: dict[str, list[Model]] = {name: [] for name in self._handles}
            for model in models:
                mine[model.spec.workspace].append(model)
            self._homes |= {m.name: self._handles[m.spec.workspace] for m in models}
            if self._begun:
                self.runtime.update(models)
            for name, workspace in named.items():
                self._handles[name].widen(workspace, mine[name])
            self.bus.learn_names({m.name: m.shown_name for m in models})
            self._places = {name: ModelRoute(m, self._handles[m.spec.workspace]) for m in models for name in m.names}
            self._change_handles(named, mine, policies)
            self._homes = {m.name: self._handles[m.spec.workspace] for m in models}
            if not self._begun:
                self._begun = True
                self.runtime.begin(models, self.observe)

    def _change_handles(
        self, named: Mapping[str, Workspace], mine: Mapping[str, list[Model]], policies: Mapping[str, Policy]
    ) -> None:
        devices = assign_gpus(named.values(), self._had(named), self._devices, self._device_ids)
        share = None if self._host_memory is None else self._host_memory // (_stating_none(named.values()) or 1)
        for name, handle in self._handles.items():
            handle.retired = name not in named
            if not handle.retired:  # else it keeps what it had until it is empty
                handle.devices = devices.get(name)
        problem: Exception | None = None
        for name, handle in self._handles.items():
            try:
                handle.change(
                    named.get(name, handle.workspace), mine[name], share, self._away(handle), policies.get(name)
                )
            except Exception as error:
                log.exception("cannot apply the documents of Workspace %s", name)
                problem = problem or error
            if handle.retired:
                handle.switcher.retire()
        if problem is not None:
            raise problem

    def _policies(self, workspaces: Iterable[Workspace]) -> dict[str, Policy]:
        """Load the policies of Workspaces that are new, or that name another than before."""
        handles = self._handles
        return {
            w.name: load_policy(w.spec.policy.name)
            for w in workspaces
            if w.name not in handles or handles[w.name].workspace.spec.policy.name != w.spec.policy.name
        }

    def _open(self, workspaces: Iterable[Workspace], policies: Mapping[str, Policy]) -> None:
        """Have a room for each Workspace, and none for what is gone and empty."""
        handles = {name: handle for name, handle in self._handles.items() if not handle.over}
        opened: list[LocalWorkspace] = []
        try:
            for workspace in workspaces:
                handle = handles.get(workspace.name)
                if handle is not None and not (handle.retired and not handle.switcher.recall()):
                    continue
                handles[workspace.name] = handle = LocalWorkspace(
                    workspace,
                    policies.get(workspace.name) or load_policy(workspace.spec.policy.name),
                    self.runtime,
                    self.bus,
                    self.router,
                    clock=self._clock,
                    forget=self._forget,
                    moved=self._hand_over,
                    learned=self._learned,
                    remembered=self._remembered(),
                )
                handle.switcher.start()
                opened.append(handle)
        except Exception:
            for handle in opened:
                handle.switcher.retire()
            raise
        self._handles = handles

    def _had(self, named: Container[str]) -> dict[str, tuple[str, ...]]:
        """By Workspace: the GPUs that are its own, or that one without a document still has something on."""
        owned = {d for handle in self._handles.values() if not handle.retired for d in handle.devices or ()}
        return {
            name: tuple(d for d in handle.devices or () if not (handle.retired and d in owned))
            for name, handle in self._handles.items()
            if not handle.empty
            or (name in named and not handle.retired)  # what an empty one had may be another's since
        }

    def _away(self, handle: LocalWorkspace) -> tuple[str, ...]:
        ceded = set[str]().union(*(each.ceded for each in self._handles.values() if each is not handle))
        return tuple(device for device in handle.devices or () if device in ceded)

    def _hand_over(self) -> None:
        """Let Workspaces begin with GPUs that others have given back."""
        with self._lock:
            for handle in self._handles.values():
                handle.await_devices(self._away(handle))

    def observe(self, observation: Observation) -> None:
        """Hand what the runtime saw to the switcher that it concerns."""
        if isinstance(observation, CacheObserved):
            handle = self._homes.get(observation.model)
        else:
            handle = self._handles.get(observation.instance.partition("/")[0])
        if handle is not None:
            handle.switcher.tell(observation)
        elif not isinstance(observation, CacheObserved):  # else the last word of a fetch for a model that is gone
            log.warning("ignoring an observation of an unknown instance: %s", observation)

    def devices(self, workspaces: Iterable[str]) -> set[str]:
        """Name the GPUs that these Workspaces were given."""
        return {each for name in workspaces if name in self._handles for each in self._handles[name].devices or ()}

    def memory(self) -> dict[str, int]:
        """By model: bytes of accelerator memory that its largest engine was seen to take."""
        return {name: seen for handle in self._handles.values() for name, seen in handle.switcher.memory().items()}

    def logs(self, model: str) -> LogView | None:
        """Give the output of a model's engine; None for one that runs elsewhere."""
        return self.runtime.logs(model)

    # The end ----------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no more requests and send away those that wait; what is in flight goes on."""
        self._closing = True
        for handle in self._handles.values():
            handle.gate.close()
        self.bus.close()

    def close(self, timeout: float) -> None:
        """Take everything off the accelerator within `timeout` seconds, by force after that."""
        self.drain()
        end = self._clock() + timeout
        handles = self._handles.values()
        for handle in handles:
            handle.timetable.close()
            handle.switcher.shut_down()
        emptied = [handle.switcher.stop(max(0.0, end - self._clock())) for handle in handles]
        if not all(emptied):
            log.warning("some engines did not stop within %.0f s; killing them", timeout)
        for handle in handles:
            handle.gate.wait_empty(max(0.0, end - self._clock()))  # external servers still answer
        self.runtime.close()
