"""Demand and residency on a cluster's wire: what is written is what is read, and only our routers are believed."""

import json
import time
from dataclasses import replace
from math import inf

import pytest

from hotseat.api.model import Capability, Model
from hotseat.cluster.switcher.status_objects import model_rows
from hotseat.control.codec import (
    demand_from_json,
    demand_to_json,
    from_rfc3339,
    model_from_row,
    residency_from_status,
    residency_to_status,
    sign,
    signed,
    switch_from_json,
    switch_to_json,
    to_rfc3339,
    waits_from_json,
    waits_to_json,
)
from hotseat.core.messages import (
    Demand,
    InstanceState,
    QueuedDemand,
    Refusal,
    Residency,
    Resident,
    Transition,
    Wait,
    WaitReason,
)
from hotseat.core.scheduler.history import Eviction, Switch
from hotseat.engines.access import DialAddress, TlsSettings, access_of, engine_headers

KEY = b"0123456789abcdef"


def test_a_snapshot_survives_the_journey() -> None:
    now = round(time.monotonic(), 3)
    waiting = {"a": QueuedDemand(2, now, 5, {"key-1": 2}, now + 9), "b": QueuedDemand(1, now)}
    sent = Demand(
        "r1", 7, 3, waiting, {"w/b@2": 1}, {"w/b@2": 4}, {"b": 1}, ("a",), {"c": now}, {"w/b@2": 1}, {"c": now + 5}
    )
    sent = replace(sent, keep_alive={"w/b@2": (90.5, now), "w/a@1": (inf, now)})
    workspace, read = demand_from_json(json.loads(json.dumps(demand_to_json("w", sent))))
    assert workspace == "w"
    assert read.waiting["a"].oldest == pytest.approx(now, abs=0.002)
    assert read.waiting["a"].deadline == pytest.approx(now + 9, abs=0.002)
    assert read.waiting["a"].tenants == {"key-1": 2}
    assert (read.waiting["b"].tenants, read.waiting["b"].deadline) == ({}, None)
    assert (read.router, read.seq, read.seen_epoch) == ("r1", 7, 3)
    assert (read.in_flight, read.served, read.quiescing, read.requested) == (
        {"w/b@2": 1},
        {"w/b@2": 4},
        {"b": 1},
        ("a",),
    )
    assert read.wanted == {"c": pytest.approx(now, abs=0.002)}
    assert read.busy_pods == {"w/b@2": 1}
    assert read.retries == {"c": pytest.approx(now + 5, abs=0.002)}
    at = pytest.approx(now, abs=0.002)
    assert read.keep_alive == {"w/b@2": (90.5, at), "w/a@1": (inf, at)}


def test_a_router_reaches_an_upstream_as_its_document_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "k")
    spec = {
        "engine": "external",
        "url": "https://h/v1",
        "names": ["openai/*"],
        "engineModelName": "*",
        "engineKey": {"env": "KEY"},
        "headers": [{"name": "X-Team", "value": "blue"}],
        "tls": {"caFile": "/ca.pem"},
        "lifecycle": {"responseStartTimeouts": {"chat": "5s"}},
    }
    model = Model.model_validate({"metadata": {"name": "cloud"}, "spec": spec})
    [row] = json.loads(json.dumps(model_rows([model], [])))
    read = access_of(model_from_row(row, "default"))
    assert read is not None
    assert read.headers() == b"Authorization: Bearer k\r\nX-Team: blue\r\n"
    assert read.limit(Capability.CHAT) == (5, "responseStartTimeouts.chat")
    assert read.dial("https://h/v1") == DialAddress("https://h", TlsSettings("/ca.pem"))
    own = Model.model_validate(
        {"metadata": {"name": "own"}, "spec": {"engine": "llamacpp", "source": "/m.gguf", "engineKey": {"env": "KEY"}}}
    )
    [row] = json.loads(json.dumps(model_rows([own], [])))
    assert engine_headers(model_from_row(row, "default")) == b"Authorization: Bearer k\r\n"


def test_a_router_of_an_earlier_release_wants_nothing_beside_what_waits() -> None:
    written = demand_to_json("w", Demand("r1", 7, 3))
    del written["wanted"]
    read = demand_from_json(written)[1]
    assert (read.wanted, read.busy_pods, read.retries, read.keep_alive) == ({}, {}, {}, {})


@pytest.mark.parametrize("broken", [None, [], {}, {"router": "r"}, {"waiting": []}])
def test_what_is_no_snapshot_is_refused(broken: object) -> None:
    with pytest.raises(ValueError, match="not a demand snapshot"):
        demand_from_json(broken)


def test_a_residency_survives_the_journey_through_the_status() -> None:
    now = time.monotonic()
    resident = Resident("a", "w/a@4", InstanceState.QUIESCING, 4, now, "http://10.0.0.1:8012", "changed", ("0", "1"), 7)
    begun = Transition(now - 2, None, InstanceState.READY, "found ready")
    steps = (begun, Transition(now - 1, InstanceState.READY, InstanceState.QUIESCING, "quiesce: changed"))
    resident = replace(resident, story=steps, more=("http://10.0.0.2:8012",))
    sent = Residency(9, (resident,), {"b": Refusal(8, "model_failed", "no", now + 2)}, 31.5, {"c": 12.25}, now - 5)
    read = residency_from_status(json.loads(json.dumps(residency_to_status(sent))))
    assert (read.epoch, read.effective_max_wait) == (9, 31.5)
    assert read.residents[0].since == pytest.approx(now, abs=0.002)
    assert (read.residents[0].instance, read.residents[0].devices) == ("w/a@4", ("0", "1"))
    assert (read.outlook, read.at) == ({"c": 12.25}, pytest.approx(now - 5, abs=0.002))
    assert read.residents[0].state is InstanceState.QUIESCING
    assert read.residents[0].memory == 7
    assert read.residents[0].addresses == ("http://10.0.0.1:8012", "http://10.0.0.2:8012")
    assert [(s.before, s.after, s.why) for s in read.residents[0].story] == [(s.before, s.after, s.why) for s in steps]
    assert read.residents[0].story[0].at == pytest.approx(now - 2, abs=0.002)
    assert read.refusals["b"].retry_at == pytest.approx(now + 2, abs=0.002)


def test_why_models_wait_survives_the_journey_through_the_status() -> None:
    now = from_rfc3339(to_rfc3339(time.monotonic()))  # to the millisecond
    waits = {
        "a": Wait(WaitReason.TURN, "b and c come first", now, ("b", "c")),
        "b": Wait(WaitReason.LOADING, "b is loading"),
    }
    rows = waits_to_json(waits)
    assert rows[1] == {"model": "b", "reason": "Loading", "message": "b is loading"}
    assert waits_from_json(json.loads(json.dumps(rows))) == waits
    assert waits_from_json([{"model": "a", "reason": "OfALaterVersion"}]) == {}


def test_a_status_that_nobody_has_written_yet_is_an_empty_residency() -> None:
    assert residency_from_status({}) == Residency(0, (), {}, None)


def test_peers_that_know_neither_tenants_nor_outlooks_are_understood() -> None:
    """A router or a switcher of the release before this one."""
    data = demand_to_json("w", Demand("r1", 7, 3, {"a": QueuedDemand(2, 1.0, 5, {"key-1": 2}, 9.0)}))
    del data["waiting"]["a"]["tenants"], data["waiting"]["a"]["deadline"]
    assert demand_from_json(data)[1].waiting["a"] == QueuedDemand(2, pytest.approx(1.0, abs=0.002), 5)
    status = residency_to_status(Residency(9, (), {}, None, {"c": 12.25}, 3.0))
    del status["outlook"], status["outlookAt"]
    assert residency_from_status(status) == Residency(9)


def test_states_of_the_version_before_are_read() -> None:
    """It wrote `closing` for `quiescing`, in the status and in demand."""
    steps = (Transition(2.0, InstanceState.READY, InstanceState.QUIESCING, "quiesce: changed"),)
    sent = Residency(9, (Resident("a", "w/a@4", InstanceState.QUIESCING, 4, 2.0, story=steps),))
    status = json.loads(json.dumps(residency_to_status(sent)).replace('"quiescing"', '"closing"'))
    read = residency_from_status(status).residents[0]
    assert (read.state, read.story[0].after) == (InstanceState.QUIESCING, InstanceState.QUIESCING)
    data = demand_to_json("w", Demand("r1", 7, 3, quiescing={"a": 2}))
    data["closing"] = data.pop("quiescing")
    assert demand_from_json(data)[1].quiescing == {"a": 2}


def test_an_outlook_that_is_over_is_taken_out_of_the_status() -> None:
    """The status is merged: a list replaces the one before, and null removes; a mapping would keep what is not named."""
    status = residency_to_status(Residency(9))
    assert (status["outlook"], status["outlookAt"]) == ([], None)


def test_the_same_moment_is_always_written_the_same() -> None:
    now = time.monotonic()
    assert to_rfc3339(now) == to_rfc3339(now)
    assert from_rfc3339(to_rfc3339(now)) == pytest.approx(now, abs=0.002)


def test_a_signature_holds_however_the_json_is_spelt_and_for_nothing_else() -> None:
    data = {"router": "r", "waiting": {"ä": {"count": 1}}, "seq": 1}
    respelt = json.loads(json.dumps(dict(reversed(data.items())), indent=2))
    assert signed(KEY, respelt, sign(KEY, data))
    assert not signed(KEY, data | {"seq": 2}, sign(KEY, data))
    assert not signed(b"another key 1234", data, sign(KEY, data))


def test_a_switch_tells_how_much_was_saved_and_restored() -> None:
    leaving = {"a": Eviction("a", saved=100), "b": Eviction("b", saved=20)}
    switch = Switch("w/1", "w", "c", "demand", 0.0, 0.0, 1, leaving, ended=2.0, restored=7)
    written = switch_to_json(switch)
    read = switch_from_json("w", written)
    assert (sum(each.saved for each in read.leaving.values()), read.restored) == (120, 7)
    assert read.phases() == switch.phases()
    read = switch_from_json("w", {key: value for key, value in written.items() if key not in ("saved", "restored")})
    assert (sum(each.saved for each in read.leaving.values()), read.restored) == (0, 0)
