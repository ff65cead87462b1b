"""Every transition of the switching machine, as stories: what it hears, and exactly what it says."""

from collections.abc import Mapping
from typing import Any

import pytest

from hotseat.core.events import Emit
from hotseat.core.messages import (
    CacheObserved,
    CacheState,
    Demand,
    Fetch,
    InstanceAdopted,
    InstanceFailed,
    InstanceReady,
    InstanceReleased,
    InstanceState,
    InstanceUnproven,
    QueuedDemand,
    Refusal,
    Residency,
    Resident,
    Start,
    Stop,
)
from hotseat.core.policy.api import NOTHING, Capacity, Claim, auto_max_wait
from hotseat.core.policy.batch import Batch
from hotseat.core.scheduler.availability import CHECK_TIME
from hotseat.core.scheduler.history import Estimate
from hotseat.core.scheduler.machine import Scheduler
from hotseat.core.scheduler.messages import (
    ConfigChanged,
    DemandReported,
    LoadOrdered,
    ModelStatus,
    Publish,
    RouterLeft,
    RoutersEnrolled,
    SchedulerCommand,
    SchedulingSpec,
    ShutdownOrdered,
    Tick,
    UnloadOrdered,
)

READY, QUIESCING, DRAINING = InstanceState.READY, InstanceState.QUIESCING, InstanceState.DRAINING
LOADING, RELEASING, UNPROVEN = InstanceState.LOADING, InstanceState.RELEASING, InstanceState.UNPROVEN
CACHED, ABSENT, FETCHING, FAILED = CacheState.CACHED, CacheState.ABSENT, CacheState.FETCHING, CacheState.FAILED
SERVER = "http://outside"
EXTERNAL = Resident("x", "x@external", READY, 0, 0.0, SERVER)
SHORT = "the accelerator could not be verified as free: pid 7 is still there; manual action is needed (run: hotseat ps)"


class Story:
    """A switching machine, and short ways of saying things to it."""

    def __init__(self, capacity: Capacity | None = None, **models: SchedulingSpec) -> None:
        self.machine = Scheduler("w", Batch())
        self.capacity = capacity or Capacity(1)
        self.seq = 0
        self.terms = models or {"a": SchedulingSpec(), "b": SchedulingSpec()}
        self.machine.step(ConfigChanged(0.0, self.terms, self.capacity))
        for model in self.terms:
            self.machine.step(CacheObserved(0.0, model, CACHED))

    def demand(
        self,
        now: float,
        waiting: Mapping[str, int] | None = None,
        flight: Mapping[str, int] | None = None,
        *,
        quiescing: Mapping[str, int] | None = None,
        since: float | None = None,
        served: Mapping[str, int] | None = None,
        seen: int | None = None,
        router: str = "r",
        requested: tuple[str, ...] = (),
    ) -> list[SchedulerCommand]:
        """A router's snapshot, of one that has seen the newest epoch unless told otherwise."""
        self.seq += 1
        since = now if since is None else since
        queued = {model: QueuedDemand(count, since) for model, count in (waiting or {}).items()}
        seen = self.machine.epoch if seen is None else seen
        snapshot = Demand(router, self.seq, seen, queued, flight or {}, served or {}, quiescing or {}, requested)
        return self.machine.step(DemandReported(now, snapshot))

    def ready(self, now: float, model: str, of: int) -> list[SchedulerCommand]:
        return self.machine.step(InstanceReady(now, f"w/{model}@{of}", of, f"http://{model}{of}"))

    def released(self, now: float, model: str, of: int) -> list[SchedulerCommand]:
        return self.machine.step(InstanceReleased(now, f"w/{model}@{of}", of))

    def failed(self, now: float, model: str, of: int) -> list[SchedulerCommand]:
        return self.machine.step(InstanceFailed(now, f"w/{model}@{of}", of, "Exited", "exit code 1", exit_code=1))

    def unproven(self, now: float, model: str, of: int) -> list[SchedulerCommand]:
        return self.machine.step(InstanceUnproven(now, f"w/{model}@{of}", of, "pid 7 is still there"))

    def tick(self, now: float) -> list[SchedulerCommand]:
        return self.machine.step(Tick(now))

    def change(
        self, now: float, *, capacity: Capacity | None = None, **models: SchedulingSpec | None
    ) -> list[SchedulerCommand]:
        """Edit some documents; None removes one."""
        self.terms = {name: terms for name, terms in (self.terms | models).items() if terms is not None}
        self.capacity = capacity or self.capacity
        return self.machine.step(ConfigChanged(now, self.terms, self.capacity))

    def states(self) -> dict[str, str]:
        return {status.name: status.state for status in self.machine.status()}

    def load(self, now: float, model: str = "a") -> int:
        """Bring a model to ready, for a request that is in flight from then on; returns its epoch."""
        self.demand(now, {model: 1})
        of = next(h.epoch for h in self.machine.instances.values() if h.model == model)
        self.ready(now, model, of)
        self.demand(now, {}, {f"w/{model}@{of}": 1})
        return of


def who(model: str, state: InstanceState, since: float, of: int, leaving: str | None = None) -> Resident:
    """A resident; one that has been ready has an address."""
    return Resident(
        model, f"w/{model}@{of}", state, of, since, None if state is LOADING else f"http://{model}{of}", leaving
    )


def unready(model: str, state: InstanceState, since: float, of: int, leaving: str) -> Resident:
    """A resident that goes without having been ready."""
    return Resident(model, f"w/{model}@{of}", state, of, since, None, leaving)


def publish(
    epoch: int,
    *residents: Resident,
    refuse: dict[str, Refusal] | None = None,
    bound: float | None = None,
    outlook: dict[str, float] | None = None,
) -> Publish:
    return Publish(Residency(epoch, residents, refuse or {}, bound, outlook or {}))


def switch(number: int, to: str, *leaving: str, reason: str = "demand") -> dict[str, Any]:
    return {"switch": f"w/{number}", "workspace": "w", "from": list(leaving), "to": to, "reason": reason}


def started(number: int, to: str, *leaving: str, waiting: int = 1, reason: str = "demand") -> Emit:
    return Emit("switch.started", to, switch(number, to, *leaving, reason=reason) | {"waiting": waiting})


def completed(number: int, to: str, *leaving: str, reason: str = "demand", **phases: float) -> Emit:
    nothing = {"wait": 0.0, "drain": 0.0, "release": 0.0, "load": 0.0, "total": 0.0}
    return Emit("switch.completed", to, switch(number, to, *leaving, reason=reason) | {"phases": nothing | phases})


def broken(
    number: int,
    to: str,
    *leaving: str,
    phase: str,
    code: str,
    message: str,
    reason: str = "demand",
    how: str = "failed",
    **phases: float,
) -> Emit:
    facts = switch(number, to, *leaving, reason=reason)
    phases = {"wait": 0.0, "drain": 0.0, "release": 0.0} | phases
    return Emit(f"switch.{how}", to, facts | {"phases": phases, "phase": phase, "code": code, "message": message})


def cancelled(number: int, to: str, *leaving: str, message: str, **more: Any) -> Emit:
    return broken(number, to, *leaving, message=message, how="cancelled", **more)


def is_ready(model: str, of: int, seconds: float) -> Emit:
    return Emit("model.ready", model, {"instance": f"w/{model}@{of}", "seconds": seconds})


def is_released(model: str, of: int, reason: str, seconds: float) -> Emit:
    return Emit("model.released", model, {"instance": f"w/{model}@{of}", "reason": reason, "seconds": seconds})


def has_failed(model: str, of: int | None, reason: str, message: str, retry_after: float | None = None) -> Emit:
    instance = None if of is None else f"w/{model}@{of}"
    data = {"instance": instance, "reason": reason, "message": message, "retry_after": retry_after}
    return Emit("model.failed", model, data)


def crash(model: str, epoch: int, retry_at: float) -> Refusal:
    return Refusal(epoch, "model_failed", f"{model} failed: Exited: exit code 1", retry_at)


# The first load -------------------------------------------------------------------------------------------------------


def test_documents_alone_load_nothing_and_show_servers_outside_at_once() -> None:
    machine = Scheduler("w", Batch())
    terms = {"a": SchedulingSpec(), "x": SchedulingSpec(external=SERVER)}
    assert machine.step(ConfigChanged(0.0, terms, Capacity(1))) == [publish(1, EXTERNAL)]
    assert machine.step(CacheObserved(0.0, "a", CACHED)) == []
    assert machine.status() == [ModelStatus("a", "unloaded"), ModelStatus("x", "ready")]
    assert machine.wake_at is None


def test_the_first_request_loads_its_model_which_is_then_shown_as_ready() -> None:
    story = Story()
    requested = Emit("switch.requested", "a", {"model": "a", "workspace": "w", "waiting": 2, "router": "r"})
    assert story.demand(1.0, {"a": 2}, since=0.5, requested=("a",)) == [
        requested,
        started(1, "a", waiting=2),
        Start("a", "w/a@2", 2),
        publish(2, who("a", LOADING, 1.0, 2), bound=30.0),
    ]
    assert story.machine.wake_at == 301.0  # its start timeout
    assert story.states() == {"a": "loading", "b": "unloaded"}
    assert story.ready(4.0, "a", 2) == [
        is_ready("a", 2, 3.0),
        completed(1, "a", wait=0.5, load=3.0, total=3.0),
        publish(3, who("a", READY, 4.0, 2)),
    ]
    assert story.demand(4.0, {}, {"w/a@2": 2}) == []
    assert story.states() == {"a": "ready", "b": "unloaded"}
    assert story.machine.wake_at is None


def test_a_request_for_a_ready_model_or_a_server_outside_is_no_request_for_a_switch() -> None:
    story = Story(a=SchedulingSpec(), x=SchedulingSpec(external=SERVER))
    story.load(1.0)
    assert story.demand(2.0, {"a": 1, "x": 1}, requested=("a", "x", "unknown")) == []


# Weights --------------------------------------------------------------------------------------------------------------


def test_weights_are_fetched_before_anything_makes_space_for_them() -> None:
    story = Story()
    story.load(1.0)
    story.machine.step(CacheObserved(1.0, "b", ABSENT))
    assert story.demand(2.0, {"b": 1}) == [Fetch("b")]
    assert story.demand(3.0, {"b": 1}) == []  # once
    progress = Emit("model.fetching", "b", {"done": 5, "total": 10, "message": "half"})
    assert story.machine.step(CacheObserved(4.0, "b", FETCHING, "half", 5, 10)) == [progress]
    assert story.machine.status()[1] == ModelStatus("b", "fetching", 4.0, "half", 5, 10)
    assert story.states()["a"] == "ready"
    there = story.machine.step(CacheObserved(5.0, "b", CACHED))
    assert there[0] == Emit("model.cached", "b", {})
    assert there[1:] == [
        started(2, "b", "a"),
        publish(4, who("a", QUIESCING, 5.0, 2), bound=30.0),
    ]


def test_what_a_load_needs_is_looked_at_before_anybody_makes_space_for_it() -> None:
    story = Story(a=SchedulingSpec(), b=SchedulingSpec(check_first=True))
    story.load(1.0)
    assert story.demand(2.0, {"b": 1}) == [Fetch("b")], "weights that were there may have vanished"
    assert story.demand(2.1, {"b": 1}) == [], "once for each load"
    assert story.machine.step(CacheObserved(2.2, "b", ABSENT)) == [Fetch("b")]
    assert story.machine.step(CacheObserved(2.3, "b", FETCHING)) != []
    assert story.states()["a"] == "ready"
    there = story.machine.step(CacheObserved(5.0, "b", CACHED))
    assert there[1:] == [started(2, "b", "a"), publish(4, who("a", QUIESCING, 5.0, 2), bound=30.0)]


def test_a_load_that_cannot_begin_evicts_nobody_and_says_why() -> None:
    story = Story(a=SchedulingSpec(), b=SchedulingSpec(check_first=True))
    story.load(1.0)
    assert story.demand(2.0, {"b": 1}) == [Fetch("b")]
    failed = story.machine.step(CacheObserved(2.1, "b", FAILED, "serve: not found", reason="CommandNotFound"))
    refusal = Refusal(4, "model_failed", "b failed: CommandNotFound: serve: not found", 3.1)
    assert failed == [
        has_failed("b", None, "CommandNotFound", "serve: not found", 1.0),
        publish(4, who("a", READY, 1.0, 2), refuse={"b": refusal}),
    ]


def test_a_look_that_is_not_answered_holds_a_load_up_for_a_moment_only() -> None:
    story = Story(a=SchedulingSpec(), b=SchedulingSpec(check_first=True))
    story.load(1.0)
    story.demand(2.0, {"b": 1})
    assert story.machine.wake_at == 2.0 + CHECK_TIME
    assert started(2, "b", "a") in story.tick(2.0 + CHECK_TIME)


def test_a_wish_for_what_cannot_be_loaded_is_tried_again_after_a_pause_too() -> None:
    machine = Scheduler("w", Batch())
    machine.step(ConfigChanged(0.0, {"a": SchedulingSpec(wanted=True)}, Capacity(1)))
    assert machine.step(CacheObserved(1.0, "a", FAILED, "no such file")) == [Fetch("a")]
    answer = machine.step(CacheObserved(1.1, "a", FAILED, "no such file"))
    assert answer[0] == has_failed("a", None, "FetchFailed", "no such file", 1.0)
    assert machine.step(Tick(1.2)) == []
    assert machine.step(Tick(2.2)) == [Fetch("a")]


def test_a_fetch_that_fails_is_told_to_those_who_wait_and_tried_again_after_a_growing_pause() -> None:
    story = Story()
    story.machine.step(CacheObserved(0.0, "a", ABSENT))
    story.demand(1.0, {"a": 1})
    for count, pause in enumerate((1.0, 2.0, 4.0)):
        now = 10.0 * (count + 1)
        refusal = Refusal(2 + count, "model_failed", "a failed: FetchFailed: no such file", now + pause)
        assert story.machine.step(CacheObserved(now, "a", FAILED, "no such file")) == [
            has_failed("a", None, "FetchFailed", "no such file", pause),
            publish(2 + count, refuse={"a": refusal}),
        ]
        assert story.machine.status()[0] == ModelStatus(
            "a", "failed", None, "FetchFailed: no such file", retry_at=now + pause
        )
        assert story.demand(now, {"a": 1}) == []  # somebody came in that moment: not yet
        assert story.machine.wake_at == now + pause
        assert story.tick(now + pause) == [Fetch("a")]


def test_a_fetch_that_fails_unasked_is_no_failure_yet() -> None:
    story = Story()
    assert story.machine.step(CacheObserved(1.0, "a", FAILED, "offline")) == []
    assert story.machine.status()[0] == ModelStatus("a", "failed", None, "offline")
    assert story.demand(2.0, {"a": 1}) == [Fetch("a")]


def test_weights_that_come_ahead_make_nobody_wait_for_them() -> None:
    story = Story(a=SchedulingSpec(), b=SchedulingSpec(fetch_ahead=True, refuse_uncached=True))
    story.load(1.0)
    assert story.machine.step(CacheObserved(1.0, "b", ABSENT)) == [Fetch("b")]  # nobody has asked
    said = "the weights of b are still being fetched"
    refusal = Refusal(4, "weights_not_cached", said, 7.0)
    assert story.demand(2.0, {"b": 1}) == [publish(4, who("a", READY, 1.0, 2), refuse={"b": refusal})]
    assert story.demand(3.0, {"b": 1}, seen=3) == []  # the router has not seen that yet
    story.machine.step(CacheObserved(4.0, "b", FETCHING, "", 5_000_000, 20_000_000))
    later = Refusal(5, "weights_not_cached", f"{said}: 5 MB of 20 MB (25%)", 13.0)
    assert story.demand(8.0, {"b": 1}, seen=4) == [publish(5, who("a", READY, 1.0, 2), refuse={"b": later})]
    assert story.demand(8.5, {}, seen=5) == []  # it has been sent away
    there = story.machine.step(CacheObserved(9.0, "b", CACHED))
    assert there == [Emit("model.cached", "b", {}), publish(6, who("a", READY, 1.0, 2))]


def test_weights_that_cannot_come_ahead_are_a_failure_though_nobody_waits() -> None:
    story = Story(a=SchedulingSpec(fetch_ahead=True, refuse_uncached=True))
    story.machine.step(CacheObserved(1.0, "a", ABSENT))
    failed = story.machine.step(CacheObserved(2.0, "a", FAILED, "sha256 is another"))
    refusal = Refusal(2, "model_failed", "a failed: FetchFailed: sha256 is another", 3.0)
    assert failed == [has_failed("a", None, "FetchFailed", "sha256 is another", 1.0), publish(2, refuse={"a": refusal})]
    assert story.tick(4.0) == [], "it is tried again when somebody asks"
    assert story.demand(5.0, {"a": 1}, seen=2)[0] == Fetch("a")


# A switch -------------------------------------------------------------------------------------------------------------


def test_a_switch_closes_drains_releases_and_loads() -> None:
    story = Story(a=SchedulingSpec(max_wait=5.0), b=SchedulingSpec(max_wait=5.0, stop_timeout=7.0))
    story.load(1.0)
    assert story.demand(2.0, {"b": 1}, {"w/a@2": 3}) == []  # a is busy: b waits
    assert story.machine.wake_at == 7.0
    assert story.tick(7.0) == [started(2, "b", "a"), publish(4, who("a", QUIESCING, 7.0, 2), bound=5.0)]
    assert story.demand(7.0, {"b": 1}, {"w/a@2": 3}, since=2.0, seen=3) == []  # it has not seen that yet
    assert story.demand(7.1, {"b": 1, "a": 2}, {"w/a@2": 3}, since=2.0, quiescing={"a": 2}) == []  # its batch
    assert story.demand(8.0, {"b": 1}, {"w/a@2": 2}, since=2.0) == [publish(5, who("a", DRAINING, 8.0, 2), bound=5.0)]
    assert story.machine.wake_at == 127.0  # the drain deadline counts from the decision
    assert story.demand(9.0, {"b": 1}, {"w/a@2": 1}, since=2.0, seen=4) == []
    assert story.demand(10.0, {"b": 1}, since=2.0, seen=4) == [
        Stop("a", "w/a@2", 2, 10.0),
        publish(6, who("a", RELEASING, 10.0, 2, "evicted"), bound=5.0),
    ]
    assert story.released(10.5, "a", 2) == [
        is_released("a", 2, "evicted", 0.5),
        Start("b", "w/b@7", 7),
        publish(7, who("b", LOADING, 10.5, 7), bound=5.0),
    ]
    assert story.ready(12.5, "b", 7) == [
        is_ready("b", 7, 2.0),
        completed(2, "b", "a", wait=5.0, drain=3.0, release=0.5, load=2.0, total=5.5),
        publish(8, who("b", READY, 12.5, 7)),
    ]


@pytest.mark.parametrize("ends_by_itself", [False, True])
def test_what_a_drain_takes_is_learned_unless_its_engine_ends_in_it(ends_by_itself: bool) -> None:
    story = Story()
    of = story.load(1.0)
    busy = {f"w/a@{of}": 1}
    story.demand(3.0, {"b": 1}, busy)
    story.tick(40.0)  # its turn is over
    story.demand(41.0, {"b": 1}, busy)
    assert story.states()["a"] == "draining"
    if ends_by_itself:
        story.failed(43.0, "a", of)
    else:
        story.demand(43.0, {"b": 1})
    assert story.machine.instances[f"w/a@{of}"].state is RELEASING
    drain = story.machine.parts.history.durations.drain
    assert drain == ({} if ends_by_itself else {"a": Estimate(2.0)})


def test_an_idle_model_goes_as_soon_as_every_router_has_seen_that_it_closes() -> None:
    story = Story()
    story.load(1.0)
    story.demand(1.0, router="other")
    assert story.demand(2.0, {"b": 1}) == [started(2, "b", "a"), publish(4, who("a", QUIESCING, 2.0, 2), bound=30.0)]
    assert story.demand(2.1, {"b": 1}) == []  # the other one has not
    assert story.demand(2.2, router="other") == [
        Stop("a", "w/a@2", 2, 10.0),
        publish(5, who("a", RELEASING, 2.2, 2, "evicted"), bound=30.0),
    ]


@pytest.mark.parametrize("state", [QUIESCING, DRAINING])
def test_a_router_that_is_gone_is_awaited_no_longer(state: InstanceState) -> None:
    story = Story()
    story.load(1.0)
    story.demand(1.0, flight={"w/a@2": 1}, router="other")
    story.demand(2.0, {"b": 1}, since=-30.0)
    if state is DRAINING:
        story.demand(2.0, flight={"w/a@2": 1}, router="other")
        story.demand(2.0, {"b": 1}, since=-30.0)
    epoch = story.machine.epoch
    story.demand(2.1, {"b": 1}, since=-30.0)
    assert story.states()["a"] == state.value
    assert story.machine.step(RouterLeft(3.0, "other")) == [
        Stop("a", "w/a@2", 2, 10.0),
        publish(epoch + 1, who("a", RELEASING, 3.0, 2, "evicted"), bound=30.0),
    ]


@pytest.mark.parametrize("state", [QUIESCING, DRAINING])
def test_the_drain_deadline_ends_the_waiting_for_requests_and_for_routers(state: InstanceState) -> None:
    story = Story(a=SchedulingSpec(drain_timeout=20.0), b=SchedulingSpec())
    story.load(1.0)
    story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-30.0)
    if state is DRAINING:
        story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-30.0)
    assert story.states()["a"] == state.value
    epoch = story.machine.epoch
    assert story.machine.wake_at == 22.0
    assert story.tick(21.9) == []
    assert story.tick(22.0) == [
        Stop("a", "w/a@2", 2, 10.0),
        publish(epoch + 1, who("a", RELEASING, 22.0, 2, "evicted"), bound=30.0),
    ]


def test_a_switch_is_taken_back_when_nobody_waits_for_it_any_longer() -> None:
    story = Story()
    story.load(1.0)
    story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-30.0)
    gone = "the load was cancelled: no request is queued for the model, or another model goes first"
    assert story.demand(4.0, {}, {"w/a@2": 1}) == [
        cancelled(2, "b", phase="drain", code="Abandoned", message=gone, wait=32.0, total=2.0),
        publish(5, who("a", READY, 4.0, 2)),
    ]
    assert story.demand(100.0, {"b": 1}, {"w/a@2": 1}) == []  # another client, much later: it gets its bound again


def test_a_switch_is_not_taken_back_while_somebody_waits_for_it() -> None:
    story = Story()
    story.load(1.0)
    story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-30.0)
    assert story.demand(3.0, {"b": 1, "a": 4}, {"w/a@2": 1}, seen=3) == []  # another waiter for b, and some for a
    assert story.states()["a"] == "quiescing"


def test_what_is_left_of_a_batch_at_the_deadline_does_not_bring_the_old_model_back() -> None:
    """A bug once: the old model's rest had waited longer than the new one's waiters, which then waited for ever."""
    story = Story(a=SchedulingSpec(drain_timeout=20.0), b=SchedulingSpec())
    story.load(1.0)
    story.demand(40.0, {"b": 1, "a": 9}, {"w/a@2": 1}, since=2.0, quiescing={"a": 9})
    assert story.states()["a"] == "quiescing"
    story.tick(60.0)
    assert story.states()["a"] == "releasing"
    story.demand(60.0, {"b": 1, "a": 9}, {}, since=1.5)
    assert story.released(61.0, "a", 2)[1] == Start("b", "w/b@6", 6)


def test_a_model_that_is_ready_is_not_closed_before_every_router_has_heard_of_it() -> None:
    """A bug once: with an overdue waiter elsewhere and no time to drain, it was stopped in the moment it was ready."""
    story = Story(a=SchedulingSpec(max_wait=0.0, drain_timeout=0.0), b=SchedulingSpec(max_wait=0.0, drain_timeout=0.0))
    story.demand(1.0, {"a": 1, "b": 1}, since=-9.0)
    assert story.ready(2.0, "a", 2)[-1] == publish(3, who("a", READY, 2.0, 2), bound=11.0)
    assert story.machine.wake_at == 7.0  # if a router does not hear at all
    assert story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-9.0, seen=3) == [
        Stop("a", "w/a@2", 2, 10.0),
        started(2, "b", "a"),
        publish(4, who("a", RELEASING, 2.0, 2, "evicted"), bound=11.0, outlook={"a": 0.5}),
    ]


# Loading fails --------------------------------------------------------------------------------------------------------


def test_a_start_that_fails_is_told_to_those_who_wait_and_holds_the_seat_until_it_is_proven_free() -> None:
    story = Story()
    story.demand(1.0, {"a": 1, "b": 1})
    assert story.failed(2.0, "a", 2) == [
        has_failed("a", 2, "Exited", "exit code 1", 1.0),
        broken(1, "a", phase="load", code="Exited", message="exit code 1", load=1.0, total=1.0),
        started(2, "b", "a"),
        publish(3, unready("a", RELEASING, 2.0, 2, "failed"), refuse={"a": crash("a", 3, 3.0)}, bound=30.0),
    ]
    assert story.states() == {"a": "failed", "b": "unloaded"}
    assert story.failed(2.1, "a", 2) == []  # said twice
    assert story.released(2.5, "a", 2) == [
        is_released("a", 2, "failed", 0.5),
        Start("b", "w/b@4", 4),
        publish(4, who("b", LOADING, 2.5, 4), refuse={"a": crash("a", 3, 3.0)}, bound=30.0),
    ]


def test_who_comes_after_the_pause_gets_another_try_and_success_ends_the_refusal() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.failed(2.0, "a", 2)
    assert story.released(2.0, "a", 2) == [
        is_released("a", 2, "failed", 0.0),
        publish(4, refuse={"a": crash("a", 3, 3.0)}),
    ]
    assert story.machine.status()[0] == ModelStatus(
        "a", "failed", None, "Exited: exit code 1", retry_at=3.0, exit_code=1
    )
    assert story.demand(2.5, {"a": 1}, seen=2) == []  # from before the refusal: answered with it
    assert story.machine.wake_at is None
    assert story.demand(4.0, {"a": 1})[:2] == [started(2, "a"), Start("a", "w/a@5", 5)]
    assert story.ready(5.0, "a", 5)[-1] == publish(6, who("a", READY, 5.0, 5))
    story.failed(6.0, "a", 5)  # and again, soon: the count goes on
    assert story.machine.parts.availability.failures["a"].retry_at == 7.0


def test_a_start_that_takes_too_long_is_stopped() -> None:
    story = Story(a=SchedulingSpec(start_timeout=20.0))
    story.demand(1.0, {"a": 1})
    assert story.machine.wake_at == 21.0
    message = "not ready within 20 s (lifecycle.startTimeout)"
    refusal = Refusal(3, "model_failed", f"a failed: StartTimeout: {message}", 22.0)
    assert story.tick(21.0) == [
        Stop("a", "w/a@2", 2, 10.0),
        has_failed("a", 2, "StartTimeout", message, 1.0),
        broken(1, "a", phase="load", code="StartTimeout", message=message, load=20.0, total=20.0),
        publish(3, unready("a", RELEASING, 21.0, 2, "failed"), refuse={"a": refusal}),
    ]
    assert story.ready(21.5, "a", 2) == []  # too late


def test_a_start_that_hangs_ends_even_if_nobody_says_anything_more() -> None:
    """A bug once: the alarm for it was set by the next stimulus only."""
    machine = Scheduler("w", Batch())
    machine.step(CacheObserved(0.0, "p", CACHED))
    machine.step(ConfigChanged(0.0, {"p": SchedulingSpec(preload=True, start_timeout=5.0)}, Capacity(1)))
    assert machine.wake_at == 5.0


def test_a_loading_model_is_given_up_for_one_that_is_wanted_and_its_switch_ends_there() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.demand(2.0, {})  # its client has gone, after 1 s: it may come back within 1 s
    assert story.demand(2.5, {"b": 1}) == []
    message = "the load of a was cancelled after 2.0 s"
    assert story.tick(3.0) == [
        cancelled(1, "a", phase="load", code="Abandoned", message=message, load=2.0, total=2.0),
        Stop("a", "w/a@2", 2, 10.0),
        started(2, "b", "a"),
        publish(3, unready("a", RELEASING, 3.0, 2, "evicted"), bound=30.0),
    ]
    assert story.failed(3.1, "a", 2) == []  # it was told to go: no failure of its own


def test_a_loading_model_that_nobody_wants_any_longer_goes_on_where_nobody_else_does() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    assert story.demand(2.0, {}) == []


# Ready, and then not any more -----------------------------------------------------------------------------------------


def test_a_crash_frees_the_seat_and_the_first_one_costs_no_pause() -> None:
    story = Story()
    story.load(1.0)
    assert story.failed(2.0, "a", 2) == [
        has_failed("a", 2, "Exited", "exit code 1"),
        publish(4, who("a", RELEASING, 2.0, 2, "failed")),
    ]
    assert story.demand(2.0, {"a": 1}) == []
    assert story.released(3.0, "a", 2) == [
        is_released("a", 2, "failed", 1.0),
        started(2, "a"),
        Start("a", "w/a@5", 5),
        publish(5, who("a", LOADING, 3.0, 5), bound=30.0),
    ]


def test_one_that_hangs_is_stopped_once_nobody_is_sent_to_it_and_started_again() -> None:
    story = Story()
    story.load(1.0)
    story.demand(2.0, {"a": 1}, {"w/a@2": 1})
    hung = story.machine.step(InstanceFailed(3.0, "w/a@2", 2, "Unhealthy", "it hangs", lives=True))
    assert Stop("a", "w/a@2", 2, 10.0) in hung
    assert publish(4, who("a", RELEASING, 3.0, 2, leaving="failed"), bound=30.0) in hung
    assert has_failed("a", 2, "Unhealthy", "it hangs") in hung
    assert Start("a", "w/a@5", 5) in story.released(3.5, "a", 2)


def test_crashes_in_a_row_have_growing_pauses_up_to_a_bound() -> None:
    story = Story()
    pauses = []
    for count in range(12):
        now = 1000.0 * (count + 1)
        of = story.load(now)
        story.failed(now + 1, "a", of)
        story.released(now + 1, "a", of)
        pauses.append(story.machine.parts.availability.failures["a"].retry_at - now - 1)
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_thousand_failures_are_no_different() -> None:
    """A bug once: two to the power of their number."""
    story = Story()
    story.machine.step(LoadOrdered(0.0, "a"))
    story.machine.parts.availability.failures.clear()
    story.failed(1.0, "a", 2)
    story.machine.parts.availability.failures["a"].count = 5000
    story.released(2.0, "a", 2)
    story.demand(1000.0, {"a": 1})
    story.failed(1001.0, "a", story.machine.epoch)
    assert story.machine.parts.availability.failures["a"].retry_at == 1301.0


def test_a_minute_of_health_wipes_out_earlier_failures() -> None:
    story = Story()
    for now in (0.0, 1000.0):
        of = story.load(now)
        story.failed(now + 60.0, "a", of)
        story.released(now + 60.0, "a", of)
        assert story.machine.parts.availability.failures["a"].count == 1


def test_health_counts_from_readiness_also_for_one_that_was_told_to_close() -> None:
    """A bug once: it counted from the last change of state."""
    story = Story()
    story.failed(1.0, "a", story.load(0.0))
    story.released(1.0, "a", 2)
    of = story.load(10.0)
    story.demand(100.0, {"b": 1}, {f"w/a@{of}": 1}, since=60.0)
    assert story.states()["a"] == "quiescing"
    story.failed(101.0, "a", of)
    assert story.machine.parts.availability.failures["a"].count == 1


def test_a_model_that_was_ready_after_its_failure_is_just_unloaded_later() -> None:
    """A bug once: an old failure was shown for ever."""
    story = Story()
    story.failed(1.0, "a", story.load(0.0))
    story.released(1.0, "a", 2)
    of = story.load(2.0)
    story.demand(3.0)
    story.machine.step(UnloadOrdered(3.0, "a"))
    story.demand(3.0)
    story.released(4.0, "a", of)
    assert story.machine.status()[0] == ModelStatus("a", "unloaded")


def test_one_that_vanishes_without_a_word_has_crashed() -> None:
    story = Story()
    story.load(1.0)
    assert story.released(2.0, "a", 2) == [
        has_failed("a", 2, "Vanished", "the engine ended without a reason"),
        is_released("a", 2, "failed", 0.0),
        publish(4),
    ]


# A release that cannot be proven --------------------------------------------------------------------------------------


def test_without_proof_the_seat_stays_taken_and_who_waits_is_told() -> None:
    story = Story()
    story.load(1.0)
    story.demand(2.0)
    story.demand(2.0, {"b": 1})
    story.demand(2.0, {"b": 1})
    refusal = {"b": Refusal(6, "release_unproven", SHORT, 22.0)}
    assert story.unproven(12.0, "a", 2) == [
        has_failed("a", 2, "ReleaseUnproven", "pid 7 is still there"),
        broken(2, "b", "a", phase="release", code="ReleaseUnproven", message="pid 7 is still there", total=10.0),
        publish(6, who("a", UNPROVEN, 12.0, 2, "evicted"), refuse=refusal),
    ]
    assert story.states() == {"a": "unproven", "b": "unloaded"}
    assert story.machine.status()[0].message == "pid 7 is still there", "what a person has to look at"
    assert story.unproven(12.5, "a", 2) == []
    again = refusal | {"a": Refusal(7, "release_unproven", SHORT, 23.0)}
    assert story.demand(13.0, {"a": 1}) == [publish(7, who("a", UNPROVEN, 12.0, 2, "evicted"), refuse=again)]


def test_proof_that_comes_later_frees_the_seat_and_ends_the_refusals() -> None:
    """A bug once: clients were sent away for some more seconds."""
    story = Story()
    story.load(1.0)
    story.machine.step(UnloadOrdered(1.0, "a"))
    story.demand(1.0)
    story.unproven(2.0, "a", 2)
    story.demand(3.0, {"b": 1})
    assert "b" in story.machine.residency.refusals
    story.demand(4.0)
    assert story.released(5.0, "a", 2) == [is_released("a", 2, "unloaded", 4.0), publish(8)]


def test_with_another_seat_free_the_rest_goes_on_but_a_stuck_model_does_not_load_beside_itself() -> None:
    """A bug once: those who waited for the stuck model were neither served nor sent away."""
    story = Story(Capacity(3))
    story.load(1.0)
    story.machine.step(UnloadOrdered(1.0, "a"))
    story.demand(1.0)
    story.unproven(2.0, "a", 2)
    assert story.demand(3.0, {"b": 1})[:2] == [started(2, "b"), Start("b", "w/b@7", 7)]
    assert story.demand(4.0, {"a": 1}) == [
        publish(
            8,
            who("a", UNPROVEN, 2.0, 2, "unloaded"),
            who("b", LOADING, 3.0, 7),
            refuse={"a": Refusal(8, "release_unproven", SHORT, 14.0)},
        )
    ]


def test_one_that_cannot_be_proven_gone_though_nobody_told_it_to_go_has_crashed_as_well() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    said = story.unproven(2.0, "a", 2)
    assert said[0] == has_failed("a", 2, "ReleaseUnproven", "pid 7 is still there", 1.0)
    assert said[1].type == "switch.failed"
    assert story.states()["a"] == "unproven"


# Room -----------------------------------------------------------------------------------------------------------------


def test_a_model_that_is_too_large_for_the_workspace_says_so() -> None:
    """A bug once: it spoke of a seat that could not be proven free."""
    story = Story(Capacity(1, 10), a=SchedulingSpec(Claim(2)), b=SchedulingSpec(Claim(1, 11)))
    told = "claims more than its Workspace has"
    refusals = {
        "a": Refusal(2, "too_large", f"a {told}: 2 GPUs (available: 1 GPU with 10 of memory)"),
        "b": Refusal(2, "too_large", f"b {told}: 1 GPU with 11 of memory (available: 1 GPU with 10 of memory)"),
    }
    assert story.demand(1.0, {"a": 1, "b": 1}) == [publish(2, refuse=refusals)]
    story.demand(1.5)
    assert story.change(2.0, capacity=Capacity(2, 20)) == [publish(3)]
    assert story.demand(3.0, {"a": 1})[1] == Start("a", "w/a@4", 4)


def test_an_order_that_no_switch_can_carry_out_ends_with_the_reason() -> None:
    """A bug once: whoever had given it waited for ever, since only waiting requests were told."""
    story = Story(a=SchedulingSpec(Claim(2)))
    refusal = Refusal(2, "too_large", "a claims more than its Workspace has: 2 GPUs (available: 1 GPU)")
    assert story.machine.step(LoadOrdered(1.0, "a")) == [publish(2, refuse={"a": refusal})]
    assert not story.machine.parts.availability.load_requests
    assert story.tick(2.0) == []


def test_models_that_fit_beside_each_other_are_loaded_at_once_each_with_an_epoch_of_its_own() -> None:
    story = Story(Capacity(2))
    assert story.demand(1.0, {"a": 1, "b": 1}) == [
        started(1, "a"),
        Start("a", "w/a@2", 2),
        publish(2, who("a", LOADING, 1.0, 2), bound=30.0),
        started(2, "b"),
        Start("b", "w/b@3", 3),
        publish(3, who("a", LOADING, 1.0, 2), who("b", LOADING, 1.0, 3), bound=30.0),
    ]


def test_a_capacity_that_shrinks_drains_what_is_too_much_whatever_its_minimum_residency() -> None:
    """A bug once: both stayed."""
    story = Story(Capacity(2), a=SchedulingSpec(min_residency=999.0), b=SchedulingSpec())
    story.load(1.0, "a")
    story.load(2.0, "b")
    story.demand(2.5, {}, {"w/b@4": 1})
    assert story.change(3.0, capacity=Capacity(1)) == [publish(6, who("a", QUIESCING, 3.0, 2), who("b", READY, 2.0, 4))]
    assert story.demand(3.0, {}, {"w/b@4": 1})[0] == Stop("a", "w/a@2", 2, 10.0)


def test_a_model_that_claims_nothing_needs_no_seat() -> None:
    story = Story(Capacity(1), a=SchedulingSpec(), cpu=SchedulingSpec(NOTHING))
    story.load(1.0)
    assert story.demand(2.0, {"cpu": 1}, {"w/a@2": 1})[1] == Start("cpu", "w/cpu@4", 4)


# Idle -----------------------------------------------------------------------------------------------------------------


def test_an_idle_model_is_unloaded_after_its_timeout_counted_from_its_last_request() -> None:
    story = Story(a=SchedulingSpec(idle_timeout=10.0))
    story.load(1.0)
    assert story.machine.wake_at is None  # in use
    story.demand(5.0)
    assert story.machine.wake_at == 15.0
    story.demand(9.0, served={"w/a@2": 2})  # one so short that it was never seen in flight
    assert story.machine.wake_at == 19.0
    assert story.tick(18.9) == []
    assert story.tick(19.0) == [publish(4, who("a", QUIESCING, 19.0, 2))]
    assert story.demand(19.1) == [Stop("a", "w/a@2", 2, 10.0), publish(5, who("a", RELEASING, 19.1, 2, "idle"))]
    assert story.released(20.0, "a", 2) == [is_released("a", 2, "idle", 0.9), publish(6)]


@pytest.mark.parametrize(("idle_timeout", "last"), [(0.7, 0.1), (0.1, 0.7), (1.1, 2.2), (3.3, 0.1)])
def test_the_alarm_of_an_idle_timeout_is_never_a_moment_too_early(idle_timeout: float, last: float) -> None:
    """A bug once: by rounding, the time at which it woke could be too early, and there was no second alarm."""
    story = Story(a=SchedulingSpec(idle_timeout=idle_timeout))
    story.load(0.0)
    story.demand(last)
    assert story.machine.wake_at is not None
    story.tick(story.machine.wake_at)
    assert story.states()["a"] == "quiescing"


def test_a_request_that_comes_while_it_closes_for_idleness_keeps_it() -> None:
    story = Story(a=SchedulingSpec(idle_timeout=10.0))
    story.load(1.0)
    story.demand(5.0)
    story.tick(15.0)
    assert story.demand(15.1, {}, {"w/a@2": 1}, seen=3) == [publish(5, who("a", READY, 15.1, 2))]


def test_a_minimum_residency_keeps_also_the_idle() -> None:
    story = Story(a=SchedulingSpec(idle_timeout=5.0, min_residency=60.0))
    story.load(1.0)
    story.demand(2.0)
    assert story.machine.wake_at == 61.0
    assert story.tick(60.0) == []
    assert story.tick(61.0) == [publish(4, who("a", QUIESCING, 61.0, 2))]


def test_a_minimum_residency_does_not_begin_again_when_a_switch_is_taken_back() -> None:
    """A bug once: it counted from the last change of state."""
    story = Story(a=SchedulingSpec(min_residency=10.0), b=SchedulingSpec())
    story.load(1.0)
    story.demand(12.0)
    story.demand(12.0, {"b": 1}, seen=3)
    story.demand(13.0, {}, seen=3)
    assert story.states()["a"] == "ready"
    story.demand(14.0, {"b": 1})
    assert story.states()["a"] == "quiescing"


def test_a_router_that_leaves_is_no_use_of_what_it_did_not_use() -> None:
    """A bug once: the number of requests ever served went down with it, and that looked like one more."""
    story = Story(a=SchedulingSpec(idle_timeout=10.0))
    story.load(1.0)
    story.demand(2.0, served={"w/a@2": 1})
    story.demand(2.0, served={"w/a@2": 7}, router="other")
    story.machine.step(RouterLeft(5.0, "other"))
    story.demand(6.0, served={"w/a@2": 1})
    assert story.machine.wake_at == 12.0


# Orders ---------------------------------------------------------------------------------------------------------------


def test_an_operator_loads_a_model_that_nobody_waits_for() -> None:
    story = Story()
    assert story.machine.step(LoadOrdered(1.0, "a")) == [
        started(1, "a", waiting=0, reason="ordered"),
        Start("a", "w/a@2", 2),
        publish(2, who("a", LOADING, 1.0, 2), bound=30.0),
    ]
    assert story.machine.step(LoadOrdered(1.5, "a")) == []
    story.ready(2.0, "a", 2)
    assert story.machine.step(LoadOrdered(3.0, "a")) == []
    assert story.tick(4.0) == []


def test_an_ordered_model_is_not_given_up_while_it_loads() -> None:
    """A bug once: traffic for another made it start over again and again."""
    story = Story()
    story.machine.step(LoadOrdered(1.0, "a"))
    assert story.demand(2.0, {"b": 1}) == []
    story.ready(3.0, "a", 2)
    assert story.demand(3.0, {"b": 1})[0] == started(2, "b", "a")  # but then it is like any other


def test_an_operator_may_try_a_failed_model_before_its_pause_is_over() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.failed(2.0, "a", 2)
    story.released(2.0, "a", 2)
    story.demand(2.1)
    assert story.machine.step(LoadOrdered(2.2, "a")) == [
        started(2, "a", waiting=0, reason="ordered"),
        Start("a", "w/a@5", 5),
        publish(5, who("a", LOADING, 2.2, 5), bound=30.0),
    ]


def test_an_operator_unloads_a_model_gently_and_sends_away_who_waits() -> None:
    story = Story()
    story.load(1.0)
    story.demand(2.0, {"a": 1}, {"w/a@2": 1})
    message = "a was unloaded while this request was queued; send it again to load the model"
    refuse = {"a": Refusal(4, "unloaded", message)}
    assert story.machine.step(UnloadOrdered(2.0, "a")) == [
        publish(4, who("a", QUIESCING, 2.0, 2, "unloaded"), refuse=refuse)
    ]
    assert story.demand(3.0, {}, {"w/a@2": 1}) == [publish(5, who("a", DRAINING, 3.0, 2, "unloaded"), refuse=refuse)]
    assert story.demand(4.0) == [
        Stop("a", "w/a@2", 2, 10.0),
        publish(6, who("a", RELEASING, 4.0, 2, "unloaded"), refuse=refuse),
    ]
    assert story.demand(4.5, {"a": 1}) == []
    assert story.released(5.0, "a", 2)[2] == Start("a", "w/a@7", 7)  # who comes later gets it loaded again


def test_unloading_stops_a_load_and_takes_back_an_order() -> None:
    story = Story()
    story.machine.step(LoadOrdered(1.0, "a"))
    message = "the load of a was cancelled after 1.0 s"
    failed = cancelled(1, "a", phase="load", code="Unloaded", message=message, reason="ordered", load=1.0, total=1.0)
    assert story.machine.step(UnloadOrdered(2.0, "a")) == [
        failed,
        Stop("a", "w/a@2", 2, 10.0),
        publish(3, unready("a", RELEASING, 2.0, 2, "unloaded")),
    ]
    assert story.released(2.5, "a", 2) == [is_released("a", 2, "unloaded", 0.5), publish(4)]


@pytest.mark.parametrize("model", ["x", "unknown"])
def test_servers_outside_and_unknown_models_are_neither_loaded_nor_unloaded(model: str) -> None:
    story = Story(x=SchedulingSpec(external=SERVER))
    story.demand(1.0, {"x": 1})
    assert story.machine.step(LoadOrdered(2.0, model)) == []
    assert story.machine.step(UnloadOrdered(2.0, model)) == []
    assert story.machine.parts.availability.load_requests == {}


# Documents ------------------------------------------------------------------------------------------------------------


def test_a_preload_is_loaded_when_its_weights_are_known_to_be_there_and_never_pushes_anybody_out() -> None:
    story = Story()
    story.load(1.0)
    assert story.change(2.0, p=SchedulingSpec(preload=True)) == [publish(4, who("a", READY, 1.0, 2))]
    assert story.machine.step(CacheObserved(2.0, "p", CACHED)) == []
    story.machine.step(UnloadOrdered(3.0, "a"))
    story.demand(3.0)
    assert story.released(4.0, "a", 2)[:2] == [is_released("a", 2, "unloaded", 1.0), Start("p", "w/p@7", 7)]


def test_a_preload_that_is_still_loading_is_given_up_for_one_that_is_wanted_and_comes_back_later() -> None:
    story = Story(p=SchedulingSpec(preload=True), b=SchedulingSpec())
    assert story.states()["p"] == "loading"
    assert Stop("p", "w/p@2", 2, 10.0) in story.demand(1.0, {"b": 1})
    of = story.released(2.0, "p", 2)[1].epoch
    story.ready(3.0, "b", of)
    story.demand(4.0)
    assert story.states() == {"p": "unloaded", "b": "ready"}  # it pushes nobody out
    story.machine.step(UnloadOrdered(5.0, "b"))
    story.demand(5.0)
    assert story.released(6.0, "b", of)[1].model == "p"


def test_changes_that_need_no_restart_are_taken_over() -> None:
    story = Story(a=SchedulingSpec(drain_timeout=20.0), b=SchedulingSpec())
    story.load(1.0)
    assert story.change(2.0, a=SchedulingSpec(drain_timeout=3.0)) == [publish(4, who("a", READY, 1.0, 2))]
    story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-60.0)
    assert story.machine.wake_at == 5.0


def test_what_a_model_occupies_is_what_it_was_started_with() -> None:
    story = Story(Capacity(2), a=SchedulingSpec(Claim(2)), b=SchedulingSpec())
    story.load(1.0)
    story.change(2.0, a=SchedulingSpec(Claim(1)))
    assert story.demand(3.0, {"b": 1}, {"w/a@2": 1}) == []


def test_a_model_that_has_changed_is_drained_and_loaded_again_with_its_new_document() -> None:
    story = Story(a=SchedulingSpec(fingerprint="1"))
    story.load(1.0)
    new = story.change(2.0, a=SchedulingSpec(fingerprint="2", stop_timeout=99.0))
    assert new == [publish(4, who("a", QUIESCING, 2.0, 2, "changed"))]
    assert story.machine.step(CacheObserved(2.0, "a", CACHED)) == [Emit("model.cached", "a", {})]
    story.demand(2.5, {}, {"w/a@2": 1})
    assert story.demand(3.0) == [Stop("a", "w/a@2", 2, 10.0), publish(6, who("a", RELEASING, 3.0, 2, "changed"))]
    assert story.released(3.5, "a", 2) == [
        is_released("a", 2, "changed", 0.5),
        started(2, "a", waiting=0, reason="ordered"),
        Start("a", "w/a@7", 7),
        publish(7, who("a", LOADING, 3.5, 7), bound=30.0),
    ]


@pytest.mark.parametrize("first", ["the document", "the weights"])
def test_a_changed_model_finds_its_weights_whichever_news_comes_first(first: str) -> None:
    """A bug once: news of the weights that came before the document was forgotten with it, and nobody asked again."""
    story = Story(a=SchedulingSpec(fingerprint="1"))
    there = CacheObserved(2.0, "a", CACHED)
    if first == "the weights":
        story.machine.step(there)
    story.change(2.0, a=SchedulingSpec(fingerprint="2"))
    if first == "the document":
        story.machine.step(there)
        assert story.demand(3.0, {"a": 1})[1] == Start("a", "w/a@3", 3)
    else:
        assert story.demand(3.0, {"a": 1}) == [Fetch("a")]
        assert story.machine.step(there)[2] == Start("a", "w/a@3", 3)


def test_documents_that_a_person_applies_allow_a_failed_load_at_once() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.failed(2.0, "a", 2)
    story.released(2.0, "a", 2)
    assert story.machine.residency.refusals["a"].retry_at == 3.0
    story.change(2.1)
    assert "a" in story.machine.residency.refusals, "they have not changed"
    story.machine.step(ConfigChanged(2.2, story.terms, story.capacity, afresh=True))
    assert story.machine.residency.refusals == {}
    assert story.states()["a"] == "loading"


def test_a_document_that_has_changed_may_have_mended_a_failure() -> None:
    story = Story(a=SchedulingSpec(fingerprint="1"))
    story.demand(1.0, {"a": 1})
    story.failed(2.0, "a", 2)
    story.released(2.0, "a", 2)
    assert story.change(2.1, a=SchedulingSpec(fingerprint="2"))[0] == Fetch("a")  # somebody waits, as far as it knows
    assert story.machine.residency.refusals == {}


def test_a_removed_model_is_drained_and_forgotten_and_may_come_back_in_time() -> None:
    story = Story()
    story.load(1.0)
    a = story.terms["a"]
    assert story.change(2.0, a=None) == [publish(4, who("a", QUIESCING, 2.0, 2, "removed"))]
    assert story.change(2.5, a=a) == [publish(5, who("a", READY, 2.5, 2))]
    story.change(3.0, a=None)
    assert story.demand(3.0, {"b": 1}) == [
        Stop("a", "w/a@2", 2, 10.0),
        started(2, "b", "a"),
        publish(7, who("a", RELEASING, 3.0, 2, "removed"), bound=30.0),
    ]
    assert story.released(4.0, "a", 2)[1] == Start("b", "w/b@8", 8)


# Start, restart and shutdown ------------------------------------------------------------------------------------------


def test_what_runs_already_is_adopted() -> None:
    story = Story(Capacity(2))
    assert story.machine.step(InstanceAdopted(1.0, "a", "pod-1", 41, "http://pod1")) == [
        publish(42, Resident("a", "pod-1", READY, 41, 1.0, "http://pod1"))
    ]
    assert story.machine.step(InstanceAdopted(1.0, "b", "pod-2", 40, None)) == [
        publish(
            43, Resident("a", "pod-1", READY, 41, 1.0, "http://pod1"), Resident("b", "pod-2", LOADING, 40, 1.0, None)
        )
    ]
    assert story.machine.wake_at == 301.0
    ready = story.machine.step(InstanceReady(2.0, "pod-2", 40, "http://pod2"))
    assert ready[0] == Emit("model.ready", "b", {"instance": "pod-2", "seconds": 1.0})


def test_a_model_that_nobody_knows_or_that_is_there_twice_is_taken_off() -> None:
    story = Story(Capacity(4))
    story.machine.step(InstanceAdopted(1.0, "a", "pod-1", 5, "http://pod1"))
    for model, instance, why in (("z", "pod-2", "removed"), ("a", "pod-3", "duplicate")):
        said = story.machine.step(InstanceAdopted(1.0, model, instance, 6, f"http://{instance}"))
        assert Stop(model, instance, 6, 10.0) in said  # nobody is there to wait for
        assert story.machine.instances[instance].leaving == why
    story.demand(2.0, {"b": 1})
    assert story.states() == {"a": "ready", "b": "loading"}


def test_what_is_adopted_is_not_preloaded_again() -> None:
    machine = Scheduler("w", Batch())
    machine.step(ConfigChanged(0.0, {"p": SchedulingSpec(preload=True)}, Capacity(1)))
    machine.step(InstanceAdopted(0.0, "p", "pod", 3, "http://pod"))
    machine.step(CacheObserved(0.0, "p", CACHED))
    machine.step(UnloadOrdered(1.0, "p"))
    assert machine.step(InstanceReleased(2.0, "pod", 3))[-1] == publish(6)


def test_adopting_what_is_known_changes_nothing() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.machine.step(UnloadOrdered(1.0, "a"))
    assert story.machine.step(InstanceAdopted(1.0, "a", "w/a@2", 2, "http://a")) == []
    assert story.states()["a"] == "releasing"


def test_at_the_end_everything_goes_and_nothing_comes() -> None:
    story = Story(Capacity(2))
    story.load(1.0, "a")
    story.demand(2.0, {"b": 1}, {"w/a@2": 1})
    message = "the load of b was cancelled after 1.0 s"
    assert story.machine.step(ShutdownOrdered(3.0)) == [
        cancelled(2, "b", phase="load", code="Shutdown", message=message, load=1.0, total=1.0),
        Stop("b", "w/b@4", 4, 10.0),
        publish(5, who("a", QUIESCING, 3.0, 2, "shutdown"), unready("b", RELEASING, 3.0, 4, "shutdown")),
    ]
    assert story.demand(3.0, {"b": 1})[0] == Stop("a", "w/a@2", 2, 10.0)
    story.released(4.0, "a", 2)
    story.released(4.0, "b", 4)
    assert story.demand(5.0, {"a": 1, "b": 1}) == []
    assert story.machine.step(LoadOrdered(5.0, "a")) == []
    adopted = story.machine.step(InstanceAdopted(6.0, "a", "late", 3, "http://late"))
    assert Stop("a", "late", 3, 10.0) not in adopted  # not before its router has seen it close
    assert story.demand(6.0)[0] == Stop("a", "late", 3, 10.0)


def test_documents_that_change_during_the_shutdown_keep_nothing() -> None:
    story = Story()
    story.load(1.0)
    story.change(1.0, a=None)
    story.machine.step(ShutdownOrdered(2.0))
    story.change(3.0, a=SchedulingSpec())
    assert story.demand(3.0)[0] == Stop("a", "w/a@2", 2, 10.0)


# Stale news -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stale",
    [
        InstanceReady(9.0, "w/a@2", 1, "http://stale"),
        InstanceFailed(9.0, "w/a@2", 3, "Exited", ""),
        InstanceReleased(9.0, "w/a@2", 1),
        InstanceUnproven(9.0, "w/a@2", 1, ""),
        InstanceReleased(9.0, "w/a@1", 1),
        InstanceReady(9.0, "w/a@2", 2, "http://again"),
    ],
)
def test_news_of_another_epoch_or_an_unknown_instance_changes_nothing(stale: InstanceReleased) -> None:
    story = Story()
    story.load(1.0)
    before = story.machine.residency
    assert story.machine.step(stale) == []
    assert story.machine.residency is before
    assert story.machine.instances["w/a@2"].address == "http://a2"


def test_snapshots_count_by_their_number_only() -> None:
    story = Story(Capacity(2))
    story.machine.step(DemandReported(1.0, Demand("r", 2, 0, {"a": QueuedDemand(1, 0.0)})))
    for late in (1, 2):
        assert story.machine.step(DemandReported(2.0, Demand("r", late, 0, {"b": QueuedDemand(1, 0.0)}))) == []
    assert story.machine.step(DemandReported(2.0, Demand("r", 3, 0, {"b": QueuedDemand(1, 0.0)}))) != []


def test_a_late_snapshot_of_a_router_that_left_does_not_bring_it_back() -> None:
    """A bug once: nobody would have seen it leave again, and every switch would have waited for its drain deadline."""
    story = Story()
    story.machine.step(DemandReported(1.0, Demand("gone", 1, 0)))
    story.machine.step(RouterLeft(2.0, "gone"))
    assert story.machine.step(DemandReported(3.0, Demand("gone", 7, 0, {"b": QueuedDemand(1, 0.0)}))) == []


def test_nothing_is_drained_before_every_enrolled_router_was_heard() -> None:
    machine = Scheduler("w", Batch(), epoch=7)
    machine.step(RoutersEnrolled(0.0, ("r1",)))
    machine.step(ConfigChanged(0.0, {"a": SchedulingSpec(), "b": SchedulingSpec()}, Capacity(1)))
    for model in ("a", "b"):
        machine.step(CacheObserved(0.0, model, CacheState.CACHED))
    machine.step(InstanceAdopted(0.0, "a", "w/a@5", 5, "http://a"))
    machine.step(UnloadOrdered(1.0, "a"))
    assert machine.instances["w/a@5"].state is InstanceState.QUIESCING  # r1 may have requests in flight there
    said = machine.step(DemandReported(2.0, Demand("r1", 1, machine.epoch)))
    assert any(isinstance(command, Stop) for command in said)


def test_an_adopted_instance_that_runs_an_older_document_is_started_anew() -> None:
    machine = Scheduler("w", Batch())
    machine.step(ConfigChanged(0.0, {"a": SchedulingSpec(fingerprint="new")}, Capacity(1)))
    machine.step(CacheObserved(0.0, "a", CacheState.CACHED))
    machine.step(InstanceAdopted(0.0, "a", "w/a@5", 5, "http://a", fingerprint="old"))
    said = [*machine.step(Tick(10.0)), *machine.step(Tick(20.0))]
    stopped = [h for h in machine.instances.values() if h.leaving]
    assert [h.leaving for h in stopped] == ["changed"]
    said = machine.step(InstanceReleased(21.0, "w/a@5", 5))
    assert any(isinstance(command, Start) for command in said)


def test_an_adopted_instance_that_is_going_already_keeps_its_seat_until_it_is_gone() -> None:
    machine = Scheduler("w", Batch())
    machine.step(ConfigChanged(0.0, {"a": SchedulingSpec(), "b": SchedulingSpec()}, Capacity(1)))
    for model in ("a", "b"):
        machine.step(CacheObserved(0.0, model, CacheState.CACHED))
    machine.step(InstanceAdopted(0.0, "a", "w/a@5", 5, None, releasing=True, gpus=1))
    said = machine.step(LoadOrdered(1.0, "b"))
    assert not any(isinstance(command, Start) for command in said)
    said = machine.step(InstanceReleased(2.0, "w/a@5", 5))
    assert [command.model for command in said if isinstance(command, Start)] == ["b"]


# A crash is not a refusal ---------------------------------------------------------------------------------------------


def crash_twice(story: Story, now: float = 1.0) -> int:
    """Two crashes in a row of a model that was ready, each after one answer; returns the epoch of the last refusal."""
    for when in (now, now + 2.0):
        of = story.load(when)
        story.failed(when + 1, "a", of)
        story.released(when + 1, "a", of)
    return story.machine.residency.refusals["a"].epoch


def test_after_a_second_crash_requests_wait_out_a_back_off_that_is_shorter_than_their_bound() -> None:
    """A bug once: each of them was sent away in 0 ms."""
    story = Story()
    epoch = crash_twice(story)
    refusal = story.machine.residency.refusals["a"]
    assert refusal == Refusal(epoch, "model_failed", "a failed: Exited: exit code 1", 5.0, waits=True)
    story.demand(4.2, {"a": 1})
    assert story.machine.wake_at == 5.0
    assert [c.model for c in story.tick(5.0) if isinstance(c, Start)] == ["a"]


def test_a_back_off_that_is_longer_than_the_bound_sends_requests_away() -> None:
    story = Story(a=SchedulingSpec(max_wait=0.5))
    crash_twice(story)
    assert not story.machine.residency.refusals["a"].waits


def test_answers_end_a_row_of_crashes_and_readiness_does_not() -> None:
    story = Story()
    crash_twice(story)
    of = story.load(10.0)
    story.demand(11.0, {}, {f"w/a@{of}": 1}, served={f"w/a@{of}": 21})
    story.failed(12.0, "a", of)
    assert story.machine.parts.availability.failures["a"].count == 1
    assert "a" not in story.machine.residency.refusals


def test_weights_that_vanish_under_a_ready_model_refuse_no_request() -> None:
    """A bug once: with an edit that changes nothing for the engine, requests got 503 though it was ready."""
    story = Story()
    of = story.load(1.0)
    story.demand(2.0, {"a": 1}, {f"w/a@{of}": 1})
    story.machine.step(CacheObserved(3.0, "a", CacheState.FAILED, "source /w.gguf does not exist"))
    assert story.machine.residency.refusals == {}
    assert story.states()["a"] == "ready"


# Clients that give up -------------------------------------------------------------------------------------------------


def learned(story: Story, load: float) -> None:
    """Have a model's load measured."""
    for model in ("a", "b"):
        story.machine.parts.history.durations.record_load(model, load)


def test_a_load_that_is_half_done_is_finished_though_its_client_left() -> None:
    story = Story()
    learned(story, 10.0)
    story.demand(1.0, {"a": 1})
    story.demand(6.5, {})
    story.demand(20.0, {"b": 1})  # late: it takes longer than it did, and its client did not come back
    assert story.states()["a"] == "loading"
    assert story.machine.wake_at == 21.0
    story.tick(21.0)  # twice as long as usual
    assert story.states()["a"] == "releasing"


def test_the_load_after_one_that_was_given_up_has_twice_as_long() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.demand(2.0, {})
    story.demand(5.0, {"b": 1})
    assert story.states()["a"] == "releasing"
    story.released(5.0, "a", 2)
    story.ready(6.0, "b", 4)
    story.demand(6.1, {"a": 1}, served={"w/b@4": 1})
    story.demand(6.2, {"a": 1})
    story.released(6.2, "b", 4)
    assert story.states()["a"] == "loading"
    story.demand(6.3, {"b": 1})
    assert story.states()["a"] == "loading"
    assert story.machine.wake_at == 14.2
    story.tick(14.2)
    assert story.states()["a"] == "releasing"


def test_the_tries_of_a_client_count_as_one_wait() -> None:
    story = Story()
    of = story.load(1.0)
    busy = {f"w/a@{of}": 1}
    for now in (10.0, 13.0, 16.0):
        story.demand(now, {"b": 1}, busy)
        story.demand(now + 2.5, {}, busy)
    story.demand(40.0, {"b": 1}, busy, since=39.0)
    assert story.states()["a"] == "quiescing", "its bound of 30 s has passed since 10.0"


def test_clients_that_stayed_away_are_not_expected_again() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.demand(2.0, {})
    story.demand(100.0, {"a": 1})
    story.demand(101.0, {"b": 1})
    assert story.states()["a"] == "releasing"


# maxWait: Auto --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "bound"),
    [((), 30.0), ((0.2,), 5.0), ((1.0,), 10.0), ((5.0, 1.0), 30.0), ((6.0,), 60.0), ((20.0,), 60.0), ((40.0,), 120.0)],
)
def test_the_bound_fits_what_switches_cost(costs: tuple[float, ...], bound: float) -> None:
    assert auto_max_wait(costs) == bound


def test_the_bound_of_a_model_without_one_is_what_auto_stood_for_last() -> None:
    story = Story(a=SchedulingSpec(max_wait=None), b=SchedulingSpec(max_wait=7.0))
    learned(story, 4.0)
    story.demand(1.0, {"a": 1})
    bounds = {name: story.machine.parts.state.max_wait(spec) for name, spec in story.terms.items()}
    assert bounds == {"a": auto_max_wait([4.0]), "b": 7.0}


def test_the_bound_follows_the_models_that_take_turns_and_is_shown() -> None:
    auto = SchedulingSpec(max_wait=None)
    story = Story(a=auto, b=auto, c=auto)
    story.machine.parts.history.durations.record_load("c", 100.0)  # takes no part
    assert story.machine.effective_max_wait == 30.0
    story.demand(1.0, {"a": 1})
    story.ready(2.0, "a", 2)
    assert story.machine.effective_max_wait == 10.0
    story.demand(3.0, {"b": 1}, {"w/a@2": 1}, served={"w/a@2": 1})
    assert story.machine.wake_at == 13.0
    story.tick(13.0)
    assert story.states()["a"] == "quiescing"
