"""The ledger of switches: who left for whom, what each phase took, and the events about it."""

import pytest

from hotseat.core.events import EVENT_TYPES, Emit
from hotseat.core.scheduler.history import KEPT, StepDurations, SwitchHistory


def decide(ledger: SwitchHistory, model: str, now: float, *leaving: str, requested: float | None = None) -> list[Emit]:
    requested = now if requested is None else requested
    return ledger.decided(model, now, requested, leaving=list(leaving), waiting=1, reason="demand")


def facts(switch: str, to: str, *leaving: str) -> dict:
    return {"switch": switch, "workspace": "w", "from": list(leaving), "to": to, "reason": "demand"}


def test_a_switch_from_its_decision_until_the_model_is_ready() -> None:
    ledger = SwitchHistory("w")
    ledger.leaving("a", 10.0)
    assert decide(ledger, "b", 10.0, "a", requested=7.0) == [
        Emit("switch.started", "b", facts("w/1", "b", "a") | {"waiting": 1})
    ]
    assert decide(ledger, "b", 11.0, "a") == []  # said once
    assert ledger.promised("b")
    ledger.stopping("a", 12.0)
    ledger.released("a", 12.5)
    ledger.starting("b", 12.5)
    assert not ledger.promised("b")
    phases = {"wait": 3.0, "drain": 2.0, "release": 0.5, "load": 4.0, "total": 6.5}
    assert ledger.ready("b", 16.5) == [Emit("switch.completed", "b", facts("w/1", "b", "a") | {"phases": phases})]
    assert ledger.ready("b", 17.0) == []
    (switch,) = ledger.switches()
    assert (switch.outcome, switch.ended, switch.phases()) == ("completed", 16.5, phases)


def test_a_first_load_leaves_nobody_and_drains_nothing() -> None:
    ledger = SwitchHistory("w")
    decide(ledger, "a", 1.0)
    ledger.starting("a", 1.0)
    (event,) = ledger.ready("a", 3.0)
    assert event.data["from"] == []
    assert event.data["phases"] == {"wait": 0.0, "drain": 0.0, "release": 0.0, "load": 2.0, "total": 2.0}


def test_of_several_that_leave_the_longest_counts() -> None:
    ledger = SwitchHistory("w")
    for model, stop, gone in (("a", 2.0, 6.0), ("b", 5.0, 7.0)):
        ledger.leaving(model, 1.0)
        ledger.stopping(model, stop)
        decide(ledger, "c", 1.0, model)
        ledger.released(model, gone)
    ledger.starting("c", 7.0)
    (event,) = ledger.ready("c", 8.0)
    assert event.data["from"] == ["a", "b"]
    assert event.data["phases"] == {"wait": 0.0, "drain": 4.0, "release": 4.0, "load": 1.0, "total": 7.0}


def test_one_that_may_stay_after_all_does_not_count() -> None:
    ledger = SwitchHistory("w")
    ledger.leaving("a", 1.0)
    decide(ledger, "b", 1.0, "a")
    ledger.stays("a")
    assert ledger.switches()[0].leaving == {}


def test_a_switch_that_fails_says_in_which_phase_and_why() -> None:
    ledger = SwitchHistory("w")
    decide(ledger, "a", 1.0)
    ledger.starting("a", 1.0)
    told = {"phases": {"wait": 0.0, "drain": 0.0, "release": 0.0, "load": 2.0, "total": 2.0}}
    told |= {"phase": "load", "code": "Exited", "message": "exit code 1"}
    assert ledger.failed("a", 3.0, "load", "Exited", "exit code 1") == [
        Emit("switch.failed", "a", facts("w/1", "a") | told)
    ]
    assert ledger.switches()[0].outcome == "failed"
    assert ledger.failed("a", 4.0, "load", "Exited", "exit code 1") == []


def test_a_switch_that_nobody_wants_any_longer_is_abandoned() -> None:
    ledger = SwitchHistory("w")
    decide(ledger, "a", 1.0)
    decide(ledger, "b", 1.0)
    (event,) = ledger.abandon({"b"}, 2.0)
    assert (event.type, event.subject, event.data["phase"], event.data["code"]) == (
        "switch.cancelled",
        "a",
        "drain",
        "Abandoned",
    )
    assert [s.to for s in ledger.switches() if s.ended is None] == ["b"]


def test_what_waits_for_one_that_cannot_be_proven_gone_fails() -> None:
    ledger = SwitchHistory("w")
    for model in ("a", "x"):
        ledger.leaving(model, 1.0)
    decide(ledger, "b", 1.0, "a")
    decide(ledger, "c", 1.0, "x")
    (event,) = ledger.failed_release("a", 5.0, "pid 7 is still there")
    assert (event.subject, event.data["phase"], event.data["code"]) == ("b", "release", "ReleaseUnproven")
    assert ledger.promised("c")


def test_only_the_last_are_kept() -> None:
    ledger = SwitchHistory("w")
    for n in range(KEPT + 5):
        decide(ledger, "a", float(n))
        ledger.ready("a", float(n))
    assert len(ledger.switches()) == KEPT
    assert ledger.switches()[-1].id == f"w/{KEPT + 5}"


def test_costs_follow_what_was_measured_slowly() -> None:
    costs = StepDurations()
    assert costs.of("a") == 0.0
    costs.note_load("a", 10.0)
    costs.note_stop("a", 2.0)
    assert costs.of("a") == 12.0
    costs.note_load("a", 20.0)
    assert costs.of("a") == pytest.approx(15.0)


def test_its_events_say_what_the_table_promises() -> None:
    ledger = SwitchHistory("w")
    events = decide(ledger, "a", 1.0) + ledger.ready("a", 2.0) + decide(ledger, "a", 3.0)
    events += ledger.failed("a", 4.0, "load", "Exited", "")
    for event in events:
        assert event.data.keys() == EVENT_TYPES[event.type].data.keys()
