"""The ledger of switches: who left for whom, what each phase took, and the events about it."""

import pytest

from hotseat.core.events import EVENT_TYPES, Emit
from hotseat.core.scheduler.history import KEPT, StepDurations, SwitchHistory


def decide(history: SwitchHistory, model: str, now: float, *leaving: str, requested: float | None = None) -> list[Emit]:
    requested = now if requested is None else requested
    return history.decided(model, now, requested, leaving=list(leaving), waiting=1, reason="demand")


def facts(switch: str, to: str, *leaving: str) -> dict:
    return {"switch": switch, "workspace": "w", "from": list(leaving), "to": to, "reason": "demand"}


def test_a_switch_from_its_decision_until_the_model_is_ready() -> None:
    history = SwitchHistory("w")
    history.drain_started("a", 10.0)
    assert decide(history, "b", 10.0, "a", requested=7.0) == [
        Emit("switch.started", "b", facts("w/1", "b", "a") | {"waiting": 1})
    ]
    assert decide(history, "b", 11.0, "a") == []  # said once
    assert history.promised("b")
    history.stop_started("a", 12.0)
    history.released("a", 12.5)
    history.load_started("b", 12.5)
    assert not history.promised("b")
    phases = {"wait": 3.0, "drain": 2.0, "release": 0.5, "load": 4.0, "total": 6.5}
    assert history.ready("b", 16.5) == [Emit("switch.completed", "b", facts("w/1", "b", "a") | {"phases": phases})]
    assert history.ready("b", 17.0) == []
    (switch,) = history.switches()
    assert (switch.outcome, switch.ended, switch.phases()) == ("completed", 16.5, phases)


def test_a_first_load_leaves_nobody_and_drains_nothing() -> None:
    history = SwitchHistory("w")
    decide(history, "a", 1.0)
    history.load_started("a", 1.0)
    (event,) = history.ready("a", 3.0)
    assert event.data["from"] == []
    assert event.data["phases"] == {"wait": 0.0, "drain": 0.0, "release": 0.0, "load": 2.0, "total": 2.0}


def test_of_several_that_leave_the_longest_counts() -> None:
    history = SwitchHistory("w")
    for model, stop, gone in (("a", 2.0, 6.0), ("b", 5.0, 7.0)):
        history.drain_started(model, 1.0)
        history.stop_started(model, stop)
        decide(history, "c", 1.0, model)
        history.released(model, gone)
    history.load_started("c", 7.0)
    (event,) = history.ready("c", 8.0)
    assert event.data["from"] == ["a", "b"]
    assert event.data["phases"] == {"wait": 0.0, "drain": 4.0, "release": 4.0, "load": 1.0, "total": 7.0}


def test_one_that_may_stay_after_all_does_not_count() -> None:
    history = SwitchHistory("w")
    history.drain_started("a", 1.0)
    decide(history, "b", 1.0, "a")
    history.drain_cancelled("a")
    assert history.switches()[0].leaving == {}


def test_a_switch_that_fails_says_in_which_phase_and_why() -> None:
    history = SwitchHistory("w")
    decide(history, "a", 1.0)
    history.load_started("a", 1.0)
    told = {"phases": {"wait": 0.0, "drain": 0.0, "release": 0.0, "load": 2.0, "total": 2.0}}
    told |= {"phase": "load", "code": "Exited", "message": "exit code 1"}
    assert history.failed("a", 3.0, "load", "Exited", "exit code 1") == [
        Emit("switch.failed", "a", facts("w/1", "a") | told)
    ]
    assert history.switches()[0].outcome == "failed"
    assert history.failed("a", 4.0, "load", "Exited", "exit code 1") == []


def test_a_switch_that_nobody_wants_any_longer_is_abandoned() -> None:
    history = SwitchHistory("w")
    decide(history, "a", 1.0)
    decide(history, "b", 1.0)
    (event,) = history.cancel_unwanted({"b"}, 2.0)
    assert (event.type, event.subject, event.data["phase"], event.data["code"]) == (
        "switch.cancelled",
        "a",
        "drain",
        "Abandoned",
    )
    assert [s.to for s in history.switches() if s.ended is None] == ["b"]


def test_what_waits_for_one_that_cannot_be_proven_gone_fails() -> None:
    history = SwitchHistory("w")
    for model in ("a", "x"):
        history.drain_started(model, 1.0)
    decide(history, "b", 1.0, "a")
    decide(history, "c", 1.0, "x")
    (event,) = history.failed_release("a", 5.0, "pid 7 is still there")
    assert (event.subject, event.data["phase"], event.data["code"]) == ("b", "release", "ReleaseUnproven")
    assert history.promised("c")


def test_only_the_last_are_kept() -> None:
    history = SwitchHistory("w")
    for n in range(KEPT + 5):
        decide(history, "a", float(n))
        history.ready("a", float(n))
    assert len(history.switches()) == KEPT
    assert history.switches()[-1].id == f"w/{KEPT + 5}"


def test_costs_follow_what_was_measured_slowly() -> None:
    costs = StepDurations()
    assert costs.of("a") == 0.0
    costs.record_load("a", 10.0)
    costs.record_stop("a", 2.0)
    assert costs.of("a") == 12.0
    costs.record_load("a", 20.0)
    assert costs.of("a") == pytest.approx(15.0)


def test_its_events_say_what_the_table_promises() -> None:
    history = SwitchHistory("w")
    events = decide(history, "a", 1.0) + history.ready("a", 2.0) + decide(history, "a", 3.0)
    events += history.failed("a", 4.0, "load", "Exited", "")
    for event in events:
        assert event.data.keys() == EVENT_TYPES[event.type].data.keys()
