"""One Workspace in the switcher: its scheduler, its routers and its status."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import Workspace
from hotseat.cluster.switcher import status_objects as statuses
from hotseat.cluster.switcher.status_writer import StatusWriter
from hotseat.control.codec import (
    residency_from_status,
    residency_to_status,
    stats_from_json,
    stats_to_json,
    waits_to_json,
)
from hotseat.control.event_log import EventLog
from hotseat.control.scheduling_spec import capacity_of, scheduling_spec_of
from hotseat.control.workspace_controller import WorkspaceController, load_policy
from hotseat.core.messages import Demand, InstanceState, Residency
from hotseat.core.policy.api import Policy
from hotseat.core.policy.batch import Batch
from hotseat.core.ports import Runtime
from hotseat.core.scheduler.messages import DemandReported, RouterLeft, RoutersEnrolled
from hotseat.core.scheduler.stats import StatsByModel
from hotseat.kube.client import Kube
from hotseat.kube.constants import WORKSPACES

log = logging.getLogger(__name__)

PUBLISH_DELAY = 0.05  # seconds, where routers act as before: what starts and stops engines needs the API server first
ECHO_DELAY = 0.1  # seconds; a router goes another way after 0.5
STATUS_DELAY = 0.2
CATCH_UP = 5.0  # seconds for the scheduler to handle what the runtime found at the start
REMEMBERED = 1000  # routers that have left
NO_MEMORY = 0  # bytes for prompt caches in memory: that of a pod ends with it
_SERVING = (InstanceState.READY, InstanceState.QUIESCING, InstanceState.DRAINING)  # with requests in flight


def _ignore(*_args: object) -> None:
    pass


@dataclass(slots=True)
class EnrolledRouter:
    """A router that may have requests in flight."""

    id: str
    pod: str
    seq: int = 0
    broker_seq: int = 0  # the last snapshot that came through the Broker
    waiting_seq: int = 0  # the last one with queued requests


class ClusterWorkspace(WorkspaceController):
    """The controller of one Workspace of the cluster, with its routers and status.

    `status` is what an earlier run left. Its epochs are continued, its routers are enrolled, and its statistics are used.
    `on_step` is called after every step of the scheduler, `on_residency` with the residency after each write of the status, and
    `on_reconciled` with the seconds that each write has taken.
    """

    def __init__(
        self,
        workspace: Workspace,
        status: Mapping[str, Any],
        *,
        runtime: Runtime,
        events: EventLog,
        kube: Kube,
        namespace: str,
        on_step: Callable[[], None] = _ignore,
        on_residency: Callable[[Residency], None] = _ignore,
        on_reconciled: Callable[[float], None] = _ignore,
        has_broker: bool = True,
    ) -> None:
        policy, self._policy_problem = _load_policy(workspace)
        super().__init__(
            workspace,
            policy,
            runtime,
            events,
            time.monotonic,
            residency=residency_from_status(status),
            stats=_read_stats(status),
            active_model=status.get("activeModel"),
        )
        self.generation = 0
        self.runtime_name = ""  # of the runtime that was chosen
        self.runtime_problem = ""  # why that cannot be used
        self._on_step = on_step
        self._lock = threading.Lock()
        self._routers = {
            r["id"]: EnrolledRouter(r["id"], r.get("pod", ""), r.get("seq", 0), r.get("brokerSeq", 0))
            for r in status.get("routers") or ()
        }
        self._published = self.scheduler.residency
        self._left: deque[str] = deque(maxlen=REMEMBERED)  # ids are never used again
        self._has_broker = has_broker
        self._broker_ok: bool | None = None
        self._last_conditions: list[Json] = list(status.get("conditions") or ())
        self._earlier_switches = [statuses.interrupted(row) for row in status.get("switches") or ()]
        self._group_problem = self._spec_problem = ""
        self._origins: Mapping[str, Json] = {}
        self._prompts: Mapping[str, str] = {}
        self.scheduler.send(RoutersEnrolled(time.monotonic(), tuple(self._routers)))
        path = WORKSPACES.path(namespace, workspace.name, "status")
        self._status_writer = StatusWriter(
            kube,
            path,
            self.build_status,
            lambda: on_residency(self.scheduler.residency),
            on_reconciled,
            only_along=("waits",),
        )

    @property
    def routers(self) -> list[EnrolledRouter]:
        """Return the enrolled routers."""
        with self._lock:
            return list(self._routers.values())

    def start(self) -> None:
        """Start the scheduler, then the status writer. Nothing is written before all adopted instances are known."""
        self.scheduler.start()
        if not self.scheduler.wait_caught_up(CATCH_UP):
            log.warning("%s: the scheduler is slow to start", self.name)
        self._status_writer.start()

    def stop(self) -> None:
        """Write the status no more. Instances are left as they are."""
        super().stop()
        self._status_writer.close()

    def apply_config(
        self,
        workspace: Workspace,
        generation: int,
        models: Iterable[Model],
        fingerprints: Mapping[str, str],
        *,
        pods: Mapping[str, int] = MappingProxyType({}),
        problem: str = "",
        refusals: Mapping[str, str] = MappingProxyType({}),
        prompts: Mapping[str, str] = MappingProxyType({}),
        origins: Mapping[str, Json] = MappingProxyType({}),
    ) -> None:
        """Apply changed documents. PROBLEM is that of the Workspace's document, by which WORKSPACE is an earlier version of it.

        By model: FINGERPRINTS where the document alone does not make the fingerprint, PODS how many an instance may have where
        that is more than one, REFUSALS why it cannot be loaded, PROMPTS why its pods keep no prompt caches ("" if they do; not
        there if its engine has none), and ORIGINS what its row says of its document.
        """
        policy = None
        if workspace.spec.policy.name != self.workspace.spec.policy.name:
            policy, self._policy_problem = _load_policy(workspace)
        models = tuple(models)
        self._spec_problem, self._origins, self._prompts = problem, origins, prompts
        self._events.add_shown_names({m.name: m.shown_name for m in models})
        self._group_problem = statuses.group_problem(workspace, models)
        specs = {
            m.name: scheduling_spec_of(
                m,
                workspace,
                fingerprints.get(m.name),
                fetch_ahead=True,
                may_park=False,
                saves_prompts=prompts.get(m.name) == "",
                pods=pods.get(m.name, 1),
                problem=_refusal(m.name, refusals),
            )
            for m in models
        }
        self._configure(workspace, models, specs, capacity_of(workspace, prompt_room=NO_MEMORY), policy)
        self.generation = generation  # only now: no status may claim to be about a document that is not applied yet
        self._status_writer.mark()

    def report_demand(self, demand: Demand, pod: str, *, through_broker: bool) -> None:
        """Apply a router's snapshot. Enroll an unknown router, and drop an older router of the same pod.

        Ignore late or duplicate snapshots of a departed router: they must not replace the router that now runs in the same pod.
        """
        with self._lock:
            if demand.router in self._left:
                return
            router = self._routers.get(demand.router)
            new = router is None
            if router is None:
                router = self._routers[demand.router] = EnrolledRouter(demand.router, pod)
            router.seq = max(router.seq, demand.seq)
            if through_broker:
                router.broker_seq = max(router.broker_seq, demand.seq)
            before = self._broker_ok
            if demand.waiting:
                router.waiting_seq = max(router.waiting_seq, demand.seq)
            if router.waiting_seq and (demand.waiting or through_broker):
                self._broker_ok = router.broker_seq >= router.waiting_seq
            former = [r.id for r in self._routers.values() if pod and r.pod == pod and r.id != demand.router]
        self.scheduler.send(DemandReported(time.monotonic(), demand))
        if new:
            for id_ in former:
                self.remove_router(id_)
        if new or demand.waiting or self._broker_ok is not before:
            self._status_writer.mark(0.0 if new else ECHO_DELAY)

    def remove_router(self, router: str) -> None:
        """Remove a router for good. It may do so before its first snapshot arrives."""
        with self._lock:
            if router not in self._left:
                self._left.append(router)
            known = self._routers.pop(router, None)
        if known is not None:
            log.info("router %s has left %s", router, self.name)
            self.scheduler.send(RouterLeft(time.monotonic(), router))
            self._status_writer.mark(ECHO_DELAY)

    def build_status(self) -> Json:
        """Return the whole status."""
        rows, queue = self.scheduler.status(), self.scheduler.queue()
        names = {model.name: model.shown_name for model in self.models}
        waits = self.scheduler.waits(lambda name: names.get(name, name))
        return {
            "observedGeneration": self.generation,
            "runtime": self.runtime_name or None,
            **residency_to_status(self.scheduler.residency),
            "routers": [{"id": r.id, "pod": r.pod, "seq": r.seq, "brokerSeq": r.broker_seq} for r in self.routers],
            "models": statuses.model_rows(self.models, rows, self._origins),
            "switches": statuses.switch_rows(self._earlier_switches, self.scheduler.switches()),
            "queue": statuses.queue_rows(queue),
            "activeModel": self._active_model.acted_on,
            **statuses.resident_names(self.scheduler.residency),
            "learned": stats_to_json(self.scheduler.stats()),
            **statuses.story_columns(self.scheduler.residency, self.scheduler.switches(), queue, waits),
            "waits": waits_to_json(waits),
            "waiting": sum(waiting for waiting, _, _ in queue.values()),
            "conditions": self._conditions(),
        }

    def _conditions(self) -> list[Json]:
        generation = self.generation  # before the state that it is about
        new = statuses.workspace_conditions(
            generation,
            self.scheduler.residency,
            broker_ok=self._broker_ok if self._has_broker else None,
            has_broker=self._has_broker,
            policy_problem=self._policy_problem,
            runtime_problem=self.runtime_problem,
            group_problem=self._group_problem,
            spec_problem=self._spec_problem,
        )
        new += statuses.active_model_condition(
            self.workspace, self._active_model.state, self._last_conditions, generation
        )
        new += statuses.prompt_cache_condition(self.workspace, self._prompts, generation)
        self._last_conditions = statuses.keep_transition_times(new, self._last_conditions)
        return self._last_conditions

    # SchedulerHost ----------------------------------------------------------------------------------------------------

    def publish(self, residency: Residency) -> None:
        """Write the status with the new residency."""
        self._status_writer.mark(0.0 if self._concerns_requests(residency) else PUBLISH_DELAY)

    def _concerns_requests(self, residency: Residency) -> bool:
        """Whether routers do something else by a residency than by the last one."""
        before, self._published = self._published, residency
        serving = {each.instance: each for each in before.residents if each.state in _SERVING}
        now = {each.instance: each for each in residency.residents if each.state in _SERVING}
        queue = self.scheduler.queue()
        ended = (queue.get(each.model, (0, 0.0, 0)) for name, each in serving.items() if name not in now)
        return (
            residency.refusals != before.refusals
            or any(each != serving.get(name) for name, each in now.items())
            or any(in_flight for _, _, in_flight in ended)
        )

    def stepped(self) -> None:
        """Count the time, and write the status soon."""
        super().stepped()
        self._status_writer.mark(STATUS_DELAY)
        self._on_step()


def _refusal(model: str, refusals: Mapping[str, str]) -> str:
    return f"{model} cannot be loaded: {refusals[model]}" if model in refusals else ""


def _read_stats(status: Mapping[str, Any]) -> StatsByModel:
    try:
        return stats_from_json(status.get("learned") or ())
    except ValueError as error:  # another version wrote it
        log.warning("cannot read the learned statistics: %s", error)
        return {}


def _load_policy(workspace: Workspace) -> tuple[Policy, str]:
    """Return the policy that WORKSPACE names and "". If it is not installed: batch, and a message."""
    name = workspace.spec.policy.name
    try:
        return load_policy(name), ""
    except KeyError:
        there = ", ".join(sorted(entry_points(group="hotseat.policies").names))
        problem = f"the switcher's image has no policy {name} (available: {there}); using batch"
        log.warning("Workspace %s: %s", workspace.name, problem)
        return Batch(), problem
