"""The Workspaces of a router: it knows their status, and dispatches only once it is enrolled."""

from collections.abc import Iterator
from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.peers import Peer
from hotseat.api.wildcards import name_for_engine
from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.router.demand_reporter import SwitcherClient
from hotseat.cluster.router.workspaces import RemoteWorkspaces
from hotseat.cluster.switcher.status_objects import model_rows, switch_rows
from hotseat.control.codec import waits_to_json
from hotseat.control.event_log import EventLog
from hotseat.control.peers import models_of, without_conflicts
from hotseat.core.errors import QueueFull, UnknownModel
from hotseat.core.messages import Wait, WaitReason
from hotseat.core.scheduler.history import SwitchHistory
from hotseat.core.scheduler.messages import ModelStatus


@pytest.fixture
def registry() -> Iterator[RemoteWorkspaces]:
    switcher_client = SwitcherClient("", "http://127.0.0.1:9", DemandKeys(b"0123456789abcdef"))
    registry = RemoteWorkspaces("pod-1", switcher_client, lambda _address: None, EventLog())
    yield registry
    for handle in registry.handles:
        handle.reporter.close()


def document(router: str | None, **status: Any) -> dict[str, Any]:
    rows = [{"name": "a", "state": "ready", "spec": {"engine": "mock", "names": ["gpt"]}}]
    resident = {"model": "a", "instance": "w/a@1", "state": "ready", "epoch": 1, "address": "http://10.0.0.1:8012"}
    full = {
        "epoch": 2,
        "models": rows,
        "residents": [resident],
        "routers": [{"id": router, "pod": "pod-1", "seq": 1, "brokerSeq": 1}] if router else [],
    }
    return {"metadata": {"name": "w"}, "spec": {}, "status": full | status}


def test_names_come_from_the_status(registry: RemoteWorkspaces) -> None:
    registry.apply(document(None))
    assert registry.find("gpt").model.name == "a"
    assert registry.find("a").handle.status("a").state == "ready"
    with pytest.raises(UnknownModel):
        registry.find("b")


def test_a_name_that_is_unknown_gets_near_ones_of_listed_models(registry: RemoteWorkspaces) -> None:
    specs = {"a": {"names": ["author/model:F16"]}, "b": {"names": ["Secret-1"], "unlisted": True}}
    models = [
        Model.model_validate({"metadata": {"name": n}, "spec": {"engine": "mock", **s}}) for n, s in specs.items()
    ]
    registry.apply(document(None, models=model_rows(models, [])))
    with pytest.raises(
        UnknownModel, match=r"`Author/Model:f16` does not exist\. Did you mean `author/model:F16`\? GET /v1"
    ):
        registry.find("Author/Model:f16")
    with pytest.raises(UnknownModel, match=r"`secret-1` does not exist\. GET /v1"):
        registry.find("secret-1")
    registry.apply(document(None, epoch=3, models=model_rows(models[1:], [])))
    with pytest.raises(UnknownModel, match=r"does not exist\. GET /v1"):
        registry.find("Author/Model:f16")


def test_why_one_failed_comes_from_the_status_with_its_exit_code(registry: RemoteWorkspaces) -> None:
    model = Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock", "names": ["A 1"]}})
    registry.apply(document(None, models=model_rows([model], [ModelStatus("a", "failed", exit_code=137)])))
    assert registry.find("A 1").handle.status("a").exit_code == 137
    assert (registry.shown_name("a"), registry.shown_name("A 1"), registry.shown_name("gone")) == ("A 1", "A 1", "gone")


def test_what_is_pinned_comes_from_the_status_and_an_older_switcher_says_nothing_of_it(
    registry: RemoteWorkspaces,
) -> None:
    registry.apply(document(None))
    assert not registry.find("a").handle.status("a").pinned
    model = Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock"}})
    registry.apply(document(None, models=model_rows([model], [ModelStatus("a", "ready", pinned=True)])))
    assert registry.find("a").handle.status("a").pinned


def test_why_a_model_waits_comes_from_the_status_and_an_older_switcher_says_nothing_of_it(
    registry: RemoteWorkspaces,
) -> None:
    waits = {"a": Wait(WaitReason.TURN, "b comes first", None, ("b",))}
    registry.apply(document(None, waits=waits_to_json(waits)))
    assert registry.find("a").handle.waits(registry.shown_name) == waits
    registry.apply(document(None))
    assert registry.find("a").handle.waits(registry.shown_name) == {}


def test_nothing_is_dispatched_before_this_router_is_enrolled(registry: RemoteWorkspaces) -> None:
    registry.apply(document(None))
    gate = registry.find("a").handle.gate
    pending_request = gate.submit("a")
    assert pending_request.dispatched is None
    registry.apply(document("another-router"))
    assert pending_request.dispatched is None
    registry.apply(document(registry.router))
    assert pending_request.dispatched is not None
    assert pending_request.address == "http://10.0.0.1:8012"
    gate.finish(pending_request)


def test_a_status_that_is_older_than_the_last_changes_nothing(registry: RemoteWorkspaces) -> None:
    registry.apply(document(registry.router, epoch=5))
    registry.apply(document(registry.router, epoch=4, residents=[]))
    assert registry.find("a").handle.gate.residency.epoch == 5


def test_a_workspace_that_is_gone_takes_its_models_along(registry: RemoteWorkspaces) -> None:
    registry.apply(document(registry.router))
    registry.delete("w")
    with pytest.raises(UnknownModel):
        registry.find("a")


def test_a_bound_that_changes_alone_is_taken_in(registry: RemoteWorkspaces) -> None:
    """A bug once: only what changed of some model made the gate look at the Workspace again."""
    bounded = document(None)
    registry.apply(bounded)
    gate = registry.find("a").handle.gate
    pending_requests = [gate.submit("a")]
    registry.apply(bounded | {"spec": {"queue": {"maxWaiting": 1}}})
    with pytest.raises(QueueFull, match=r"queue is full \(queue\.maxWaiting: 1\)"):
        gate.submit("a")
    registry.apply(bounded | {"spec": {"queue": {"maxWaitingPerTenant": 1}}})
    with pytest.raises(QueueFull, match="maxWaitingPerTenant: 1"):
        gate.submit("a")
    registry.apply(bounded | {"spec": {"queue": {"maxWaitingBytes": "1Ki"}}})
    with pytest.raises(QueueFull, match="maxWaitingBytes: 1Ki"):
        gate.submit("a", size=1025)
    pending_requests.append(gate.submit("a", tenant="key-1", size=1024))
    assert gate.waiting_bytes() == 1024
    for pending_request in pending_requests:
        gate.finish(pending_request)


def test_routers_share_the_bounds_of_their_workspace(registry: RemoteWorkspaces) -> None:
    def at(*routers: str) -> dict[str, Any]:
        enrolled = [{"id": router, "pod": router, "seq": 1, "brokerSeq": 1} for router in routers]
        rows = [{"name": "a", "state": "ready", "spec": {"engine": "mock", "concurrency": 4}}]
        return document(None, routers=enrolled, models=rows) | {"spec": {"queue": {"maxWaiting": 3}}}

    registry.apply(at(registry.router, "another"))
    gate = registry.find("a").handle.gate
    pending_requests = [gate.submit("a") for _ in range(4)]
    assert [pending_request.dispatched is not None for pending_request in pending_requests] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(QueueFull, match="maxWaiting: 3, shared by 2 routers"):
        gate.submit("a")
    registry.apply(at(registry.router))
    assert all(pending_request.dispatched is not None for pending_request in pending_requests), (
        "it has left, and its share is ours"
    )
    pending_requests += [gate.submit("a") for _ in range(3)]
    with pytest.raises(QueueFull, match=r"maxWaiting: 3\)$"):
        gate.submit("a")
    for pending_request in pending_requests:
        gate.finish(pending_request)


def test_a_row_that_is_not_understood_costs_that_model_only(registry: RemoteWorkspaces) -> None:
    rows = [{"name": "BAD NAME", "spec": {"engine": "mock"}}, {"name": "b", "spec": {"engine": "mock"}}]
    registry.apply(document(registry.router, models=rows))
    assert list(registry.routes()) == ["b"]


@pytest.mark.parametrize(
    "spec",
    [
        {"engine": "mock"},
        {"engine": "custom", "command": ["s", "--port", "{port}"], "source": "hf://o/r", "names": ["x"]},
        {"engine": "vllm", "source": "hf://o/r", "vllm": {"maxModelLen": 4096}, "credentials": "hf"},
        {"engine": "llamacpp", "source": "pvc://weights/a.gguf"},
        {"engine": "external", "url": "http://10.0.0.9:8000"},
    ],
    ids=lambda spec: spec["engine"],
)
def test_what_the_switcher_writes_of_a_model_is_understood(registry: RemoteWorkspaces, spec: dict[str, Any]) -> None:
    model = Model.model_validate({"metadata": {"name": "m"}, "spec": spec})
    registry.apply(document(None, models=model_rows([model], [])))
    found = registry.find("m").model
    assert (found.names, found.spec.engine, found.spec.url) == (model.names, spec["engine"], model.spec.url)


def test_names_for_the_engine_reach_a_router_and_sources_do_not(registry: RemoteWorkspaces) -> None:
    loras = [{"name": "sql", "source": "s3://secret/sql"}]
    specs = {
        "base": {"engine": "vllm", "source": "hf://o/r", "loras": loras},
        "qwen": {"engine": "ollama", "source": "ollama://qwen3:8b"},
        "whisper": {"engine": "whispercpp", "source": "https://secret/w.bin"},
    }
    models = [Model.model_validate({"metadata": {"name": name}, "spec": spec}) for name, spec in specs.items()]
    rows = model_rows(models, [])
    assert "secret" not in str(rows)
    registry.apply(document(None, models=rows))
    for asked, known in {"sql": "sql", "base": "base", "qwen": "qwen3:8b"}.items():
        assert name_for_engine(registry.find(asked).model, asked) == known
    assert registry.find("sql").model.name == "base"
    assert registry.find("whisper").model.spec.capabilities == ("transcription",)


def test_the_time_limits_of_a_router_reach_it(registry: RemoteWorkspaces) -> None:
    """A bug once: responseStartTimeout had no effect on a cluster."""
    lifecycle = {"connectTimeout": "3m", "responseStartTimeout": "2m", "startTimeout": "1m"}
    spec = {"engine": "external", "url": "http://10.0.0.9:8000", "lifecycle": lifecycle}
    model = Model.model_validate({"metadata": {"name": "m"}, "spec": spec})
    registry.apply(document(None, models=model_rows([model], [])))
    found = registry.find("m").model.spec.lifecycle
    assert (found.connect_timeout, found.response_start_timeout) == (180, 120)


def test_switches_are_those_of_the_status(registry: RemoteWorkspaces) -> None:
    """Their events come from the switcher (cluster/router/reads.py)."""
    history = SwitchHistory("w", 7)
    history.decided("b", 3.0, 3.0, leaving=[], waiting=2, reason="demand")
    registry.apply(document(None, switches=switch_rows([], history.switches())))
    assert [(each.to, each.outcome) for each in registry.handles[0].switches()] == [("b", "running")]


def row(name: str, created: str = "", **spec: Any) -> dict[str, Any]:
    return {"name": name, "state": "unloaded", "createdAt": created, "spec": {"engine": "mock", **spec}}


def test_a_row_that_cannot_be_read_keeps_its_last_good_version_and_one_of_a_newer_version_loses_only_what_is_new(
    registry: RemoteWorkspaces,
) -> None:
    registry.apply(document(None, models=[row("a", names=["gpt"])]))
    registry.apply(document(None, models=[row("a", names=["gpt"], concurrency="many")]))
    assert registry.find("gpt").model.name == "a"
    registry.apply(
        document(None, models=[row("a", names=["gpt-2"], colour="red", scheduling={"mood": 1, "priority": 3})])
    )
    assert registry.find("gpt-2").model.spec.scheduling.priority == 3


def test_an_invalid_workspace_keeps_its_last_good_version_and_takes_its_status(registry: RemoteWorkspaces) -> None:
    registry.apply({**document(None), "spec": {"capacity": {"gpus": 3}}})
    registry.apply({**document(None, models=[row("b")]), "spec": {"capacity": {"gpus": "many"}}})
    assert registry.find("b").handle.capacity.gpus == 3


@pytest.mark.parametrize("spec", [{"colour": "red"}, {"capacity": {"gpus": "many"}}])
def test_a_new_router_serves_a_workspace_whose_document_is_invalid(
    registry: RemoteWorkspaces, spec: dict[str, Any]
) -> None:
    registry.apply({**document(None), "spec": spec})
    assert registry.find("gpt").model.name == "a"


@pytest.mark.parametrize("order", [1, -1])
def test_a_name_that_two_models_claim_belongs_to_the_older_one(registry: RemoteWorkspaces, order: int) -> None:
    rows = [row("a", "2026-01-02T00:00:00Z", names=["gpt"]), row("b", "2026-01-01T00:00:00Z", names=["gpt"])]
    registry.apply(document(None, models=rows[::order]))
    assert registry.find("gpt").model.name == "b"
    registry.apply(document(None, models=[row("b", names=["gpt"]), row("a", names=["gpt"])][::order]))
    assert registry.find("gpt").model.name == "a", "of the same age"


def test_models_of_peers_are_ready_beside_those_of_the_status(
    registry: RemoteWorkspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = Peer.model_validate({"name": "office", "url": "http://gpu-2:8000"})
    lists: list[dict[str, Any]] = [{"id": "theirs", "names": ["theirs", "gpt"]}]
    monkeypatch.setattr(registry.peers, "configure", lambda _workspaces: None)
    monkeypatch.setattr(
        registry.peers, "models", lambda own, _reserved: without_conflicts(own, models_of(office, "w", {"data": lists}))
    )
    whole = document(registry.router)
    whole["spec"] = {"peers": [{"name": "office", "url": "http://gpu-2:8000"}]}
    registry.apply(whole)
    theirs, own = registry.find("theirs"), registry.find("gpt")
    assert (theirs.model.peer, own.model.peer, theirs.handle.status(theirs.model.name).state) == (
        "office",
        None,
        "ready",
    )
    request = theirs.handle.gate.submit(theirs.model.name)
    assert request.address == "http://gpu-2:8000"
    assert registry.find("a").handle.gate.demand().in_flight == {}, "the switcher is not concerned"
    lists[:] = [{"id": "new"}]
    registry._peers_changed()
    with pytest.raises(UnknownModel):
        registry.find("theirs")
    assert registry.find("new").handle.gate.in_flight() == 1, "what is in flight goes on"
    registry.find("new").handle.gate.finish(request)
    registry.apply({**whole, "spec": {}})
    lists.clear()
    registry._peers_changed()
    with pytest.raises(UnknownModel):
        registry.find("new")
    assert registry.find("gpt").model.name == "a"


def test_servers_of_a_model_that_is_gone_are_forgotten() -> None:
    forgotten: list[str] = []
    client = SwitcherClient("", "http://127.0.0.1:9", DemandKeys(b"0123456789abcdef"))
    registry = RemoteWorkspaces("pod-1", client, forgotten.append, EventLog())
    spec = {"engine": "external", "url": "http://a:1", "failoverUrls": ["http://b:1", "http://c:1"]}
    row = {"name": "x", "state": "ready", "spec": spec}
    registry.apply(document(None, models=[row], residents=[]))
    fewer = {"name": "x", "state": "ready", "spec": spec | {"failoverUrls": ["http://c:1"]}}
    registry.apply(document(None, models=[fewer], residents=[], epoch=3))
    assert forgotten == ["http://b:1"]
    registry.apply(document(None, models=[], residents=[], epoch=4))
    assert sorted(forgotten) == ["http://a:1", "http://b:1", "http://c:1"]
    for handle in registry.handles:
        handle.reporter.close()
