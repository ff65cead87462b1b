"""Why each model with queued requests waits, and when it is expected to serve. Pure.

The reason is that of the decision itself: a policy says what keeps a queued model from being loaded
(`Decision.obstacles`), and the states of instances say how far a load or a switch is. Messages are
made when somebody asks, from what does not change after the step.

An expected time is an estimate by what steps took before. Requests that arrive until then may delay
it, so it is rather too early than too late.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from hotseat.api.units import format_bytes
from hotseat.core.messages import (
    CacheState,
    InstanceState,
    Resident,
    Wait,
    WaitReason,
    model_of,
)
from hotseat.core.policy.api import Decision, ModelView, Obstacle, View
from hotseat.core.scheduler.availability import ModelAvailability
from hotseat.core.scheduler.history import UNKNOWN, StepDurations
from hotseat.core.scheduler.instance import DRAINING_STATES
from hotseat.core.scheduler.messages import SchedulingSpec
from hotseat.core.transfer_rate import seconds_left

FAR = 365 * 86_400.0  # seconds: an expected time beyond tells nothing, and may be beyond what a date can say
NAMED = 3  # models that a message names
BEHIND = 16  # models that `Wait.behind` names
_COMING = (InstanceState.LOADING, InstanceState.RESTORING, InstanceState.WAKING)
_GOING = (InstanceState.SAVING, InstanceState.PARKING, InstanceState.RELEASING)

Queue = Mapping[str, tuple[int, float, int]]  # by model: queued requests, since when, and requests in flight
Shown = Callable[[str], str]  # returns the name of a model for people


def _as_is(name: str) -> str:
    return name


@dataclass(frozen=True, slots=True)
class WaitReport:
    """What is known after a step of why models wait. Any thread may read it."""

    view: View
    decision: Decision
    residents: tuple[Resident, ...]
    queue: Queue
    specs: Mapping[str, SchedulingSpec]
    availability: ModelAvailability
    durations: StepDurations

    def waits(self, shown: Shown = _as_is) -> dict[str, Wait]:
        """Return by model why it waits: each with queued requests, or with a load request. `shown` is used in messages."""
        requested = tuple(self.availability.load_requests)
        queued = [name for name, (waiting, _, _) in self.queue.items() if waiting]
        names = dict.fromkeys([*queued, *(m.name for m in self.view.models if m.waiting), *requested])
        explain = _Explanation(self, shown).of
        found = {name: explain(name, spec) for name in names if (spec := self.specs.get(name)) is not None}
        return {name: self._datable(wait) for name, wait in found.items()}

    def _datable(self, wait: Wait) -> Wait:
        far = wait.expected is not None and wait.expected > self.view.now + FAR
        return replace(wait, expected=None) if far else wait


class _Explanation:
    """Finds the reasons of one report."""

    def __init__(self, report: WaitReport, shown: Shown) -> None:
        self.report, self.shown, self.now = report, shown, report.view.now
        self.views: dict[str, ModelView] = {}
        for model in report.view.models:
            self.views.setdefault(model.name, model)  # the primary instance comes first
        self.places = {model.name: place for place, model in enumerate(report.decision.queue)}
        self.parked = {r.model for r in report.residents if r.state is InstanceState.PARKED}
        queue = report.decision.queue
        # Of all before the first model that was never loaded it is known how long their turns take.
        self.known = next((place for place, m in enumerate(queue) if self._load(m.name) is None), len(queue))
        self.obstacles = {name: obstacle() for name, obstacle in report.decision.obstacles.items()}
        self.first = next((m for m in queue if m.name in self.obstacles), None)  # the first that is not placed

    def of(self, name: str, spec: SchedulingSpec) -> Wait:
        """Return why a model waits."""
        if spec.external:
            message = f"{self.shown(name)} is an external server; its limit of concurrent requests is reached"
            return Wait(WaitReason.CONCURRENCY, message)
        mine = [r for r in self.report.residents if r.model == name and r.state is not InstanceState.PARKED]
        return (
            self._of_instance(name, mine)
            or self._of_availability(name, spec)
            or self._of_switch(name)
            or self._of_decision(name)
        )

    # Its own instance -------------------------------------------------------------------------------------------------

    def _of_instance(self, name: str, mine: Sequence[Resident]) -> Wait | None:
        me, resident = self.shown(name), self.report.decision.resident
        ready = [r for r in mine if r.state is InstanceState.READY and r.leaving is None]
        if ready:
            return self._of_ready(name)
        for each in mine:
            if each.state in _COMING and each.leaving is None:
                return self._of_load(name, each)
        for each in mine:
            if each.state is InstanceState.UNPROVEN:
                return self._unproven((name,))
        if not mine or (name in self.places and name not in resident):
            return None
        own = mine[0]
        next_ = tuple(m.name for m in self.report.decision.queue if m.name in resident)
        if name in resident or (not next_ and (own.state in _GOING or own.leaving)):
            why = f" ({own.leaving})" if own.leaving else ""
            ends = self._plus(self._going_until(mine), self._load(name))
            return Wait(WaitReason.RELEASING, f"an earlier engine of {me} is being stopped{why}", ends)
        # Its turn has ended, and these requests came too late for it.
        for_ = f" for {self._names(next_)}" if next_ else ""
        return Wait(WaitReason.TURN, f"{me} leaves{for_}; these requests are for its next turn", None, next_[:BEHIND])

    def _of_ready(self, name: str) -> Wait:
        _, _, flying = self.report.queue.get(name, (0, 0.0, 0))
        view = self.views.get(name)
        if not flying:
            return Wait(
                WaitReason.DISPATCHING, f"{self.shown(name)} is ready; its requests are being dispatched", self.now
            )
        expected = self.now + 1 / view.pace if view is not None and view.pace else None
        message = f"{self.shown(name)} is ready and serves {_count(flying, 'request')}; its limit of concurrent requests is reached"
        return Wait(WaitReason.CONCURRENCY, message, expected)

    def _of_load(self, name: str, own: Resident) -> Wait:
        me, wakes = self.shown(name), own.state is InstanceState.WAKING
        if own.state is InstanceState.RESTORING:
            restore = self.report.durations.restore.get(name)
            ends = None if restore is None else max(self.now, own.since + restore.mean)
            return Wait(WaitReason.LOADING, f"{me} has loaded and restores its prompt cache", ends)
        known = (self.report.durations.wake if wakes else self.report.durations.load).get(name)
        took = "" if known is None else f"; this took {_seconds(known.mean)} before"
        expected = (
            None if known is None else max(self.now, own.since + known.mean + (0.0 if wakes else self._restore(name)))
        )
        if wakes:
            return Wait(WaitReason.WAKING, f"{me} is waking{took}", expected)
        return Wait(WaitReason.LOADING, f"{me} is loading{took}", expected)

    # Whether it can be loaded -----------------------------------------------------------------------------------------

    def _of_availability(self, name: str, spec: SchedulingSpec) -> Wait | None:
        known, me = self.report.availability, self.shown(name)
        failure, cache, refusal = known.failures.get(name), known.cache.get(name), known.refusals.get(name)
        if failure is not None and failure.retry_at > self.now:
            message = f"{me} failed: {failure.reason}: {failure.message}; it is tried again"
            return Wait(WaitReason.BACKOFF, message, self._plus(failure.retry_at, self._load(name)))
        view = self.views.get(name)
        if view is not None and view.waiting:
            return None  # it can be
        if spec.problem or refusal is not None:
            retry_at = None if refusal is None or refusal.retry_at is None else max(self.now, refusal.retry_at)
            message = spec.problem if refusal is None else refusal.message
            return Wait(WaitReason.BACKOFF, message, self._plus(retry_at, self._load(name)))
        if cache is None or cache.state is not CacheState.CACHED:
            rate = known.rate(name)
            done, total = (None, None) if cache is None else (cache.done, cache.total)
            left = seconds_left(done, total, rate)
            progress = "" if done is None else f": {format_bytes(done)}"
            progress += f" of {format_bytes(total)}" if progress and total else ""
            expected = None if left is None else self._plus(self.now + left, self._load(name))
            return Wait(WaitReason.FETCHING, f"the weights of {me} are being fetched{progress}", expected)
        if name in known.checks:
            message = f"the weights of {me} are being checked before its load"
            return Wait(WaitReason.FETCHING, message, self._plus(self.now, self._load(name)))
        return None

    # A switch that is decided -----------------------------------------------------------------------------------------

    def _of_switch(self, name: str) -> Wait | None:
        if name not in self.report.decision.resident:
            return None
        wanted, me = self.report.decision.resident, self.shown(name)
        leaving = [r for r in self.report.residents if r.on_accelerator and (r.model not in wanted or r.leaving)]
        serving = [r for r in leaving if r.state in DRAINING_STATES or r.state is InstanceState.READY]
        going = [r for r in leaving if r.state in _GOING]
        stuck = [r for r in leaving if r.state is InstanceState.UNPROVEN]
        behind = tuple(dict.fromkeys(r.model for r in (*serving, *going, *stuck)))
        expected = self._plus(self._free_at(serving, going), self._load(name))
        if serving:
            work = self._work(serving[0].model)
            message = f"{self._names(r.model for r in serving)} drains for {me}" + (
                f": it serves {work} first" if work else ""
            )
            return Wait(WaitReason.DRAINING, message, expected, behind)
        if going:
            first = going[0]
            known = self.report.durations.park if first.state is InstanceState.PARKING else self.report.durations.stop
            doing = {InstanceState.SAVING: "saves its prompt cache", InstanceState.PARKING: "is being parked"}
            took = known.get(first.model)
            message = f"{self.shown(first.model)} {doing.get(first.state, 'is being stopped')} for {me}"
            if took is not None and first.state is not InstanceState.SAVING:
                message += f"; this took {_seconds(took.mean)} before"
            return Wait(WaitReason.RELEASING, message, expected, behind)
        if stuck:
            return self._unproven(behind)
        return Wait(WaitReason.DISPATCHING, f"{me} is about to be loaded", self._plus(self.now, self._load(name)))

    # What the policy says ---------------------------------------------------------------------------------------------

    def _of_decision(self, name: str) -> Wait:
        decision = self.report.decision
        obstacle = self.obstacles.get(name)
        queued_first = obstacle is not None and obstacle.reason is WaitReason.TURN and obstacle.behind[0] in self.places
        if obstacle is not None and not queued_first:
            return self._of_obstacle(name, obstacle)
        if name not in self.places:
            behind = tuple(model_of(each) for each in decision.resident)
            return Wait(WaitReason.TURN, self._come_first(behind), None, behind[:BEHIND])
        before = decision.queue[: self.places[name]]
        first = None if self.first is None or self.places[self.first.name] >= len(before) else self.first.name
        if (
            first is None
            and not queued_first
            and (pinned := tuple(m.name for m in self.views.values() if m.pinned and m.state))
        ):
            return self._does_not_fit(name, Obstacle(WaitReason.PINNED, pinned))
        residents = () if first is None else self.obstacles[first].behind
        behind = tuple(dict.fromkeys((*map(model_of, residents), *(m.name for m in before))))
        expected = self._after_turns(name, before)
        me = self.views[name]
        higher = tuple(m.name for m in before if m.priority > me.priority and m.oldest > me.oldest and not m.promised)
        if higher:
            return Wait(WaitReason.PRIORITY, self._outranked(higher, me), expected, behind[:BEHIND])
        return Wait(WaitReason.TURN, self._come_first(behind), expected, behind[:BEHIND])

    def _of_obstacle(self, name: str, obstacle: Obstacle) -> Wait:
        if obstacle.reason is WaitReason.UNPROVEN:
            return self._unproven(obstacle.behind)
        if obstacle.reason in (WaitReason.PINNED, WaitReason.GROUP, WaitReason.CAPACITY):
            return self._does_not_fit(name, obstacle)
        resident = self.views[obstacle.behind[0]]
        who, work = self.shown(model_of(resident.name)), self._work(resident.name)
        ends = self._turn_end(resident, obstacle)
        expected = self._plus(ends, self._leave(resident.name), self._load(name))
        match obstacle.reason:
            case WaitReason.BATCH:
                message = f"{who} is resident and serves {work}"
                if obstacle.until < inf and self.report.decision.effective_max_wait is not None:
                    bound = _seconds(self.report.decision.effective_max_wait)
                    message += f"; it ends its turn at the latest when the bound of {bound} is reached"
            case WaitReason.MIN_RESIDENCY:
                message = (
                    f"{who} stays for at least {_seconds(resident.min_residency)} after its load (minimum residency)"
                )
            case WaitReason.LINGERING:
                doing = "loads" if resident.state is InstanceState.LOADING else "is idle"
                message = f"{who} {doing} and is kept for its next request, which is expected soon"
            case WaitReason.PRIORITY:
                message = f"{self._outranked((resident.name,), self.views[name])}, and it serves {work}"
            case _:
                message = f"{who} is loading, and serves {work} first"
        return Wait(obstacle.reason, message, expected, tuple(map(model_of, obstacle.behind)))

    def _does_not_fit(self, name: str, obstacle: Obstacle) -> Wait:
        me, others = self.shown(name), self._names(obstacle.behind)
        many = len(obstacle.behind) > 1
        if obstacle.reason is WaitReason.PINNED:
            message = f"{me} does not fit beside {others}, which {'are' if many else 'is'} pinned"
        elif obstacle.reason is WaitReason.GROUP:
            message = f"{me} may not be resident beside {others} (groups)"
        elif obstacle.behind:
            message = f"{me} does not fit beside {others}"
            preload = name in self.views and not self.views[name].may_evict
            message += ", and is loaded only where it fits" if preload else ""
        else:
            message = f"{me} does not fit into what is free now"
        return Wait(obstacle.reason, message, None, tuple(map(model_of, obstacle.behind)))

    def _unproven(self, behind: tuple[str, ...]) -> Wait:
        message = f"{self._names(behind)} could not be proven gone and holds its claim; manual action is needed (run: hotseat ps)"
        return Wait(WaitReason.UNPROVEN, message, None, tuple(map(model_of, behind)))

    # Times ------------------------------------------------------------------------------------------------------------

    def _turn_end(self, resident: ModelView, obstacle: Obstacle) -> float | None:
        """Return when a resident may be evicted, None where that is not known."""
        if obstacle.reason is WaitReason.TURN:  # it loads, and then serves its batch
            since = next((r.since for r in self.report.residents if r.model == resident.name), self.now)
            ready = self._plus(since, self._load(resident.name))
            batch = resident.waiting / resident.pace if resident.pace else 0.0
            return None if ready is None else max(self.now, ready) + batch
        ends = obstacle.until
        if obstacle.reason in (WaitReason.BATCH, WaitReason.PRIORITY) and resident.pace > resident.arrivals:
            ends = min(ends, self.now + (resident.waiting + resident.in_flight) / (resident.pace - resident.arrivals))
        return None if ends == inf else max(self.now, ends)

    def _after_turns(self, name: str, before: Sequence[ModelView]) -> float | None:
        """Return when a model is ready that comes after others in the queue. None where that is not known."""
        ahead = self.report.decision.turns_ahead.get(name)
        if ahead is None or not before or self.known < len(before):
            return None
        if (obstacle := self.obstacles.get(before[0].name)) is not None:
            resident = self.views.get(obstacle.behind[0]) if obstacle.behind else None
            if resident is None or obstacle.reason in (WaitReason.PINNED, WaitReason.GROUP, WaitReason.CAPACITY):
                return None
            begin = self._plus(self._turn_end(resident, obstacle), self._leave(resident.name))
        else:
            first = self._of_switch(before[0].name)
            begin = self._plus(first.expected if first else None, -(self._load(before[0].name) or 0.0))
        return self._plus(begin, ahead, self._load(name))

    def _free_at(self, serving: Iterable[Resident], going: Iterable[Resident]) -> float:
        """Return when these instances are gone, which leave."""
        times = [self._going_until(going)]
        for each in serving:
            view = self.views.get(each.model)
            work = (view.waiting + view.in_flight) / view.pace if view is not None and view.pace else 0.0
            times.append(self.now + work + self._leave(each.model))
        return max(times)

    def _going_until(self, going: Iterable[Resident]) -> float:
        """Return when instances that are being stopped or parked are gone."""
        ends = [self.now]
        for each in going:
            known = self.report.durations.park if each.state is InstanceState.PARKING else self.report.durations.stop
            ends.append(each.since + known.get(each.model, UNKNOWN).mean)
        return max(ends)

    def _load(self, name: str) -> float | None:
        """Return the seconds that a load takes, or a wake of a parked engine. None: not known."""
        times = self.report.durations
        if name in self.parked and (wake := times.wake.get(name)):
            return wake.mean
        load = times.load.get(name)
        return None if load is None else load.mean + self._restore(name)

    def _restore(self, name: str) -> float:
        return self.report.durations.restore.get(name, UNKNOWN).mean

    def _leave(self, name: str) -> float:
        """Return the seconds that a resident takes to drain and to stop, or to park, as far as that was measured."""
        name, times = model_of(name), self.report.durations
        spec = self.report.specs.get(name)
        stop = times.stop.get(name, UNKNOWN).mean + times.save.get(name, UNKNOWN).mean
        if spec is not None and spec.park and name in times.park:
            stop = times.park[name].mean
        return times.drain.get(name, UNKNOWN).mean + stop

    @staticmethod
    def _plus(*seconds: float | None) -> float | None:
        return None if None in seconds else sum(each for each in seconds if each is not None)

    # Words ------------------------------------------------------------------------------------------------------------

    def _names(self, names: Iterable[str]) -> str:
        each = list(dict.fromkeys(self.shown(model_of(name)) for name in names))
        if len(each) > NAMED + 1:
            each = [*each[:NAMED], f"{len(each) - NAMED} more"]
        return " and ".join([", ".join(each[:-1]), each[-1]]) if len(each) > 1 else "".join(each)

    def _come_first(self, behind: Sequence[str]) -> str:
        if not behind:
            return "the policy does not load it yet"
        return f"{self._names(behind)} {'comes' if len(behind) == 1 else 'come'} first"

    def _outranked(self, others: Sequence[str], model: ModelView) -> str:
        top = max(self.views[other].priority for other in others)
        comes = "comes" if len(others) == 1 else "come"
        higher = f"priority {top} is higher than that of {self.shown(model.name)}, {model.priority}"
        return f"{self._names(others)} {comes} first: {higher}"

    def _work(self, name: str) -> str:
        """Return what a resident still has to serve: `the 3 requests that were queued`."""
        view = self.views.get(name)
        waiting, flying = (view.waiting, view.in_flight) if view is not None else (0, 0)
        queued = f"the {_count(waiting, 'request')} that {'was' if waiting == 1 else 'were'} queued" if waiting else ""
        running = f"{_count(flying, 'request')} in flight" if flying else ""
        return " and ".join(filter(None, (queued, running)))


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 or seconds == round(seconds) else f"{seconds:.1f} s"  # noqa: PLR2004
