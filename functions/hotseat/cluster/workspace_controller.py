"""One Workspace in the switcher: its switching machine, the routers that it knows, and its status."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import Workspace
from hotseat.cluster import status_objects as statuses
from hotseat.cluster.status_writer import StatusWriter
from hotseat.control.codec import lessons_from_json, lessons_to_json, residency_from_status, residency_to_status
from hotseat.control.commands import ModelCommands
from hotseat.control.event_log import EventLog
from hotseat.control.local_workspaces import load_policy
from hotseat.control.schedule_timer import ScheduleTimer
from hotseat.control.scheduler_thread import SchedulerThread
from hotseat.control.scheduling_spec import capacity_of, groups_of, terms_of
from hotseat.core.messages import Demand, Residency
from hotseat.core.policy.api import Policy
from hotseat.core.policy.batch import Batch
from hotseat.core.ports import Runtime
from hotseat.core.scheduler.messages import DemandReported, RouterLeft, RoutersEnrolled
from hotseat.core.scheduler.stats import StatsByModel
from hotseat.kube.client import Kube
from hotseat.kube.constants import WORKSPACES

log = logging.getLogger(__name__)

ECHO_DELAY = 0.1  # seconds; a router goes another way after 0.5
STATUS_DELAY = 0.2
CATCH_UP = 5.0  # seconds
REMEMBERED = 1000  # routers that have left


@dataclass(slots=True)
class EnrolledRouter:
    """A router that may have requests in flight."""

    id: str
    pod: str
    seq: int = 0
    broker_seq: int = 0  # the last snapshot that came through the Broker


class WorkspaceController:
    """One Workspace. `status` is what an earlier run left: its epochs go on, its routers are waited for, what it learned holds."""

    def __init__(
        self,
        workspace: Workspace,
        status: Mapping[str, Any],
        *,
        runtime: Runtime,
        bus: EventLog,
        kube: Kube,
        namespace: str,
    ) -> None:
        self.workspace = workspace
        self._bus = bus
        self.generation = 0
        self.turned: Callable[[], None] = _nothing  # called after every step, too
        self.models: tuple[Model, ...] = ()
        self._lock = threading.Lock()
        self._routers = {
            r["id"]: EnrolledRouter(r["id"], r.get("pod", ""), r.get("seq", 0), r.get("brokerSeq", 0))
            for r in status.get("routers") or ()
        }
        self._left: deque[str] = deque(maxlen=REMEMBERED)  # ids are never used again
        self._residency = residency_from_status(status)
        self._broker_ok: bool | None = None
        self._shown: list[Json] = list(status.get("conditions") or ())
        self._earlier = [statuses.left_behind(row) for row in status.get("switches") or ()]
        policy, self._policy_problem = _policy_of(workspace)
        self._group_problem = ""
        self.switcher = SchedulerThread(
            workspace.name,
            policy,
            runtime,
            time.monotonic,
            demand=_never,
            publish=self._publish,
            emit=bus.emit,
            give_up=_start_afresh,
            turned=self._turned,
            epoch=self._residency.epoch,
            remembered=_remembered(status),
        )
        self.operator = ModelCommands(self.switcher, time.monotonic, lambda: self._residency)
        self.timetable = ScheduleTimer(self.switcher.tell, time.monotonic)
        self.switcher.tell(RoutersEnrolled(time.monotonic(), tuple(self._routers)))
        path = WORKSPACES.path(namespace, workspace.name, "status")
        self._writer = StatusWriter(kube, path, self.build)

    @property
    def name(self) -> str:
        """Name of the Workspace."""
        return self.workspace.name

    @property
    def residency(self) -> Residency:
        """The newest that was published."""
        return self._residency

    @property
    def routers(self) -> list[EnrolledRouter]:
        """Routers that are enrolled."""
        with self._lock:
            return list(self._routers.values())

    def start(self) -> None:
        """Begin to decide and to write. Nothing is published before all that was adopted has been taken in."""
        self.switcher.start()
        if not self.switcher.wait_caught_up(CATCH_UP):
            log.warning("%s: the switcher is slow to start", self.name)
        self._writer.start()

    def stop(self) -> None:
        """Write no more. What is resident stays."""
        self.timetable.close()
        self._writer.close()

    def change(self, workspace: Workspace, generation: int, models: Iterable[Model], marks: Mapping[str, str]) -> None:
        """Take in the documents; `marks` are fingerprints of Models that are not told by their documents alone."""
        if workspace.spec.policy.name != self.workspace.spec.policy.name:
            policy, self._policy_problem = _policy_of(workspace)
            self.switcher.follow(policy)
        self.workspace, self.generation, self.models = workspace, generation, tuple(models)
        self._bus.learn_names({m.name: m.shown_name for m in self.models})
        terms = {m.name: terms_of(m, workspace, marks.get(m.name), ahead=True, may_park=False) for m in self.models}
        self._group_problem = statuses.group_problem(workspace, self.models)
        self.timetable.follow(self.models, terms, capacity_of(workspace), groups_of(workspace))
        self._writer.mark()

    def report(self, demand: Demand, pod: str, *, through_broker: bool) -> None:
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
            if demand.waiting:
                self._broker_ok = router.broker_seq >= demand.seq
            former = [r.id for r in self._routers.values() if pod and r.pod == pod and r.id != demand.router]
        self.switcher.tell(DemandReported(time.monotonic(), demand))
        if new:
            for id_ in former:
                self.leave(id_)
        if new or demand.waiting:
            self._writer.mark(0.0 if new else ECHO_DELAY)

    def leave(self, router: str) -> None:
        """Take in that a router is gone, for good; its goodbye may come before its first snapshot."""
        with self._lock:
            if router not in self._left:
                self._left.append(router)
            known = self._routers.pop(router, None)
        if known is not None:
            log.info("router %s has left %s", router, self.name)
            self.switcher.tell(RouterLeft(time.monotonic(), router))
            self._writer.mark(ECHO_DELAY)

    def build(self) -> Json:
        """Make the whole status."""
        rows, queue = self.switcher.status(), self.switcher.queue()
        return {
            "observedGeneration": self.generation,
            **residency_to_status(self._residency),
            "routers": [{"id": r.id, "pod": r.pod, "seq": r.seq, "brokerSeq": r.broker_seq} for r in self.routers],
            "models": statuses.model_rows(self.models, rows),
            "switches": statuses.switch_rows(self._earlier, self.switcher.switches()),
            "queue": statuses.queue_rows(queue),
            **statuses.names(self._residency),
            "learned": lessons_to_json(self.switcher.lessons()),
            "waiting": sum(waiting for waiting, _, _ in queue.values()),
            "conditions": self._conditions(),
        }

    def _conditions(self) -> list[Json]:
        new = statuses.workspace_conditions(
            self.generation,
            self._residency,
            broker_ok=self._broker_ok,
            policy_problem=self._policy_problem,
            group_problem=self._group_problem,
        )
        self._shown = statuses.keep_times(new, self._shown)
        return self._shown

    def _publish(self, residency: Residency) -> None:
        self._residency = residency
        self._writer.mark()

    def _turned(self) -> None:
        self._writer.mark(STATUS_DELAY)
        self.turned()


def _remembered(status: Mapping[str, Any]) -> StatsByModel:
    try:
        return lessons_from_json(status.get("learned") or ())
    except ValueError as error:  # somebody else wrote it, or another version: all is learned anew
        log.warning("cannot read the learned statistics: %s", error)
        return {}


def _policy_of(workspace: Workspace) -> tuple[Policy, str]:
    """Give the policy that it names. Where there is none of that name: batch, and a problem in words."""
    name = workspace.spec.policy.name
    try:
        return load_policy(name), ""
    except KeyError:
        there = ", ".join(sorted(entry_points(group="hotseat.policies").names))
        problem = f"the switcher's image has no policy {name} (available: {there}); using batch"
        log.warning("Workspace %s: %s", workspace.name, problem)
        return Batch(), problem


def _nothing() -> None:
    """Stand for nobody who looks."""


def _never() -> DemandReported:
    raise RuntimeError("demand comes by itself here")


def _start_afresh() -> None:
    log.critical(
        "the scheduler failed repeatedly; this process exits, and the next one continues from the state it observes"
    )
    os._exit(70)
