"""The course of a request at a router of a cluster: fallbacks in other Workspaces, chains, and documents that lead nowhere."""

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest

from hotseat.api.model import Capability, Model
from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.router.demand_reporter import SwitcherClient
from hotseat.cluster.router.workspaces import RemoteWorkspaces
from hotseat.cluster.switcher.status_objects import model_rows
from hotseat.control.codec import to_rfc3339
from hotseat.control.event_log import EventLog
from hotseat.core.errors import BadRequest, Unavailable, UnknownModel, UpstreamFailed
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.fallback_routing import RoutedRequest, expected_in, header_value
from hotseat.gateway.wait_headers import WaitOptions

NOW: dict[str, Any] = {"after": "0s"}


def model(name: str, **spec: Any) -> Model:
    return Model.model_validate({"metadata": {"name": name}, "spec": {"engine": "mock", **spec}})


class World(RemoteWorkspaces):
    """A router's house, told what a switcher would have written."""

    epoch = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.documents: dict[str, dict[str, Any]] = {}

    def tell(self, workspace: str, *models: Model, ready: tuple[str, ...] = (), **status: Any) -> None:
        self.epoch += 1
        states = dict.fromkeys(ready, "ready") | status.pop("states", {})
        known = [ModelStatus(m.name, states.get(m.name, "unloaded")) for m in models]
        resident = [
            {"model": n, "instance": f"w/{n}@1", "state": "ready", "epoch": 1, "address": f"http://{n}"} for n in ready
        ]
        status = {"epoch": self.epoch, "models": model_rows(models, known), "residents": resident, **status}
        status["routers"] = [{"id": self.router, "pod": "pod-1", "seq": 1, "brokerSeq": 1}]
        self.documents[workspace] = {"metadata": {"name": workspace}, "spec": {}, "status": status}
        self.apply(self.documents[workspace])

    def routed(self, name: str, capability: Capability = Capability.CHAT, size: int = 0) -> RoutedRequest:
        return RoutedRequest(self, self.find(name), name, capability, size)

    def wanted(self, name: str) -> bool:
        return name in self.find(name).handle.gate.demand().wanted

    def held(self) -> int:
        return sum(handle.gate.waiting() + handle.gate.in_flight() for handle in self.handles)


@pytest.fixture
def world() -> Iterator[World]:
    switcher_client = SwitcherClient("", "http://127.0.0.1:9", DemandKeys(b"0123456789abcdef"))
    world = World("pod-1", switcher_client, lambda _address: None, EventLog())
    yield world
    assert world.held() == 0, "every course was finished"
    for handle in world.handles:
        handle.reporter.close()


def looked(routed: RoutedRequest, limit: float | None = None) -> float | None:
    """What a look says once the switcher has had its moment."""
    routed.began -= 0.1
    return routed.check_fallback(limit)


def test_a_model_of_another_workspace_answers_and_the_wanted_one_stays_wanted(world: World) -> None:
    world.tell("gpu", model("big", fallback={"model": "tiny", "after": "90ms"}), states={"big": "loading"})
    world.tell("cpu", model("small", names=["small", "tiny"], resources={"gpus": 0}), ready=("small",))
    routed = world.routed("big")
    routed.submit()
    assert (routed.pending_request.dispatched, world.find("big").handle.gate.waiting()) == (None, 1)
    assert looked(routed) is None
    assert (routed.pending_request.address, routed.route.model.name, routed.requested_name) == (
        "http://small",
        "small",
        "tiny",
    )
    assert dict(routed.headers) == {
        "X-Hotseat-Model": "small",
        "X-Hotseat-Fallback": "model=big, fallback=small, reason=loading",
    }
    assert (world.find("big").handle.gate.waiting(), world.wanted("big"), world.wanted("small")) == (0, True, False)
    assert routed.waited == pytest.approx(0.1, abs=0.1)
    routed.finish()


@pytest.mark.parametrize(
    "name", ["claude-opus-4-8[1m]", "Qwen/Qwen3-8B", "llama3.1:8b", "a b, c=d", "modèle", "模型", "a\r\nX: y", "100%"]
)
def test_a_header_says_any_name_so_that_it_can_be_read_back(name: str) -> None:
    written = header_value(name)
    assert unquote(written) == name
    assert re.fullmatch(r"[!-~]+", written)
    assert not set(written) & set(',;="')
    assert (written == name) == (re.fullmatch(r"[A-Za-z0-9./:\[\]-]+", name) is not None)


def test_a_wait_that_is_known_to_be_too_long_is_not_begun_so_that_it_puts_nobody_out(world: World) -> None:
    """A waiter may take an idle model off at once; a wish has to let it rest first."""
    at = to_rfc3339(time.monotonic())
    loaded = {"id": "w/1", "from": [], "to": "big", "reason": "demand", "waiting": 1, "startedAt": at, "endedAt": at}
    loaded |= {"outcome": "completed", "phases": {"load": 60.0}}
    models = model("big", fallback={"model": "small"}), model("other"), model("small", resources={"gpus": 0})
    world.tell("w", *models, ready=("other", "small"), switches=[loaded])
    gate = world.find("big").handle.gate
    world.find("big").handle.reporter.close(10)  # `requested` is told once, and its thread might be told first
    gate.demand()
    routed = world.routed("big")
    routed.submit()
    demand = gate.demand()
    assert (routed.pending_request.address, routed.waited) == ("http://small", None)
    assert (demand.waiting, list(demand.wanted), demand.requested) == ({}, ["big"], ("big",))
    assert dict(routed.headers)["X-Hotseat-Fallback"] == "model=big, fallback=small, reason=waiting"
    routed.finish()
    assert world.wanted("big")


def test_one_that_needs_no_seat_is_brought_and_whoever_is_first_answers(world: World) -> None:
    big, small = model("big", fallback={"model": "small", **NOW}), model("small", resources={"gpus": 0})
    world.tell("gpu", big, states={"big": "loading"})
    world.tell("cpu", small)
    routed = world.routed("big")
    routed.submit()
    assert looked(routed) is not None, "it goes on waiting, and looks again"
    assert (routed.pending_request.dispatched, world.wanted("small"), world.wanted("big")) == (None, True, False)
    world.tell("gpu", big, ready=("big",))
    assert looked(routed) is None
    assert (routed.pending_request.address, routed.fallback_used) == ("http://big", None)
    routed.finish()


def test_who_is_in_too_much_of_a_hurry_goes_on_to_whoever_can_answer_with_what_is_left_of_its_time(
    world: World,
) -> None:
    known = {"outlook": [{"model": "big", "seconds": 30.0}], "outlookAt": to_rfc3339(time.monotonic())}
    world.tell("gpu", model("big", fallback={"model": "small", "after": "1m"}), states={"big": "unloaded"}, **known)
    world.tell("cpu", model("small", resources={"gpus": 0}), ready=("small",))
    asking = WaitOptions("key-1", priority=3, timeout=20.0)
    routed = world.routed("big")
    routed.submit(asking)
    assert (routed.pending_request.address, routed.fallback_used.reason) == ("http://small", "Waiting")
    assert world.wanted("big"), "it shall come for those who follow"
    routed.finish()
    world.tell("gpu", model("big"), states={"big": "unloaded"}, **known)
    with pytest.raises(Unavailable, match=r"at least 30\.0 s"):
        world.routed("big").submit(asking)


def test_a_request_stands_in_the_queue_as_what_it_asks_to_be(world: World) -> None:
    world.tell("gpu", model("big"), states={"big": "loading"})
    first, second = world.routed("big"), world.routed("big", size=7)
    first.submit(WaitOptions("key-1"))
    second.submit(WaitOptions("key-2", priority=3, timeout=60.0))
    ((waiting, _),) = first.route.handle.gate.queues(["big"]).values()
    assert first.route.handle.gate.waiting_bytes() == 7
    assert (waiting.tenants, waiting.priority) == ({"key-1": 1, "key-2": 1}, 3)
    assert waiting.deadline == pytest.approx(time.monotonic() + 60.0, abs=5.0)
    assert (first.queue_headers, second.queue_headers) == ((("X-Queue-Position", "1"),),) * 2, "it overtook"
    for routed in (first, second):
        routed.finish()


def test_a_request_follows_its_model_to_another_workspace(world: World) -> None:
    world.tell("gpu", model("big"), model("other"))
    routed = world.routed("big")
    routed.submit()
    world.tell("new", model("big"), ready=("big",))  # who of the two switchers is first cannot be known
    world.tell("gpu", model("other"))
    assert isinstance(routed.pending_request.error, UnknownModel)
    assert routed.fail_over(routed.pending_request.error)
    assert (routed.pending_request.address, routed.route.handle.name, routed.fallback_used) == (
        "http://big",
        "new",
        None,
    )
    routed.finish()


def test_a_request_that_its_dead_engine_has_seen_nothing_of_waits_again(world: World) -> None:
    world.tell("gpu", model("big"), ready=("big",))
    routed = world.routed("big")
    routed.submit()
    world.tell("gpu", model("big"))  # the engine is gone
    assert routed.end_is_seen
    routed.wait_again()
    assert routed.pending_request.dispatched is None
    world.tell("gpu", model("big"), ready=("big",))
    assert routed.pending_request.address == "http://big"
    routed.finish()


def test_a_request_that_one_of_several_pods_has_seen_nothing_of_goes_to_another(world: World) -> None:
    def tell(*addresses: str) -> None:
        pods = {"address": addresses[0], "moreAddresses": addresses[1:]}
        resident = {"model": "big", "instance": "w/big@1", "state": "ready", "epoch": 1, **pods}
        world.tell("gpu", model("big", concurrency=1), residents=[resident], states={"big": "ready"})

    tell("http://old", "http://new")
    routed = world.routed("big")
    routed.submit()
    assert routed.pending_request.address == "http://old"
    tell("http://new")
    assert not routed.is_offered
    routed.wait_again()
    assert (routed.pending_request.address, routed.is_offered) == ("http://new", True)
    routed.finish()


def test_nobodys_seat_is_taken_for_a_fallback(world: World) -> None:
    world.tell("gpu", model("big", fallback={"model": "other", **NOW}), model("other"), states={"big": "loading"})
    routed = world.routed("big")
    routed.submit()
    assert looked(routed) is not None
    assert not world.wanted("other")
    routed.finish()


def test_a_refusal_goes_on_to_whoever_can_answer(world: World) -> None:
    refusal = {"epoch": 1, "code": "model_failed", "message": "no", "retryAt": to_rfc3339(time.monotonic() + 60)}
    chain = [
        model("a", fallback={"model": "b"}),
        model("b", fallback={"model": "c"}),
        model("c", resources={"gpus": 0}),
    ]
    world.tell("w", *chain, refusals=[{"model": "a", **refusal}])
    routed = world.routed("a")
    routed.submit()
    assert routed.pending_request.dispatched is None
    assert dict(routed.headers)["X-Hotseat-Fallback"] == "model=a, fallback=c, reason=failed"
    assert (world.find("c").handle.gate.waiting("c"), world.wanted("a")) == (1, False)
    routed.finish()


def test_a_refusal_that_nobody_makes_good_is_told(world: World) -> None:
    refusal = {"epoch": 1, "code": "model_failed", "message": "no", "retryAt": to_rfc3339(time.monotonic() + 60)}
    models = model("a", fallback={"model": "b"}), model("b"), model("c", resources={"gpus": 0})
    world.tell("w", *models, refusals=[{"model": "a", **refusal}])
    routed = world.routed("a")
    with pytest.raises(Unavailable, match="no"):
        routed.submit()
    assert routed.fallback_used is None
    routed.finish()


def test_documents_that_lead_in_a_circle_or_nowhere_lead_no_further(world: World) -> None:
    """An API server takes documents one by one: it cannot see that."""
    seatless = {"resources": {"gpus": 0}}
    world.tell(
        "w",
        model("a", fallback={"model": "b", **NOW}, **seatless),
        model("b", fallback={"model": "a", **NOW}, **seatless),
        model("c", fallback={"model": "nobody", **NOW}),
        states={"a": "loading", "c": "loading"},
    )
    for name in ("a", "c"):
        routed = world.routed(name)
        routed.submit()
        assert looked(routed) is not None
        routed.finish()
    routed = world.routed("a")
    routed.submit()
    error = UpstreamFailed("it has seen the request")
    assert not routed.fail_over(error)
    failed = Unavailable("no", code="model_failed")
    assert routed.fail_over(failed)
    assert routed.route.model.name == "b"
    assert not routed.fail_over(failed), "it does not come back to where it was"
    routed.finish()


def test_what_a_model_does_not_do_goes_to_the_one_that_states_it(world: World) -> None:
    world.tell(
        "w",
        model("chat", capabilities=["chat"], fallback={"model": "small"}),
        model("small", fallback={"model": "vectors"}),
        model("vectors", capabilities=["embedding"]),
        model("strict", capabilities=["chat"], fallback={"model": "vectors", "when": ["Failed"]}),
    )
    routed = world.routed("chat", Capability.EMBEDDING)
    assert (routed.route.model.name, routed.requested_name) == ("vectors", "vectors")
    assert dict(routed.headers)["X-Hotseat-Fallback"] == "model=chat, fallback=vectors, reason=unsupported"
    for name, capability in (("strict", Capability.EMBEDDING), ("chat", Capability.RERANK)):
        with pytest.raises(BadRequest, match=f"`{name}` does not support {capability}"):
            world.routed(name, capability)


def test_a_client_that_leaves_takes_its_request_along_and_no_wish_is_left(world: World) -> None:
    world.tell("w", model("big", fallback={"model": "small"}), model("small"), states={"big": "loading"})
    routed = world.routed("big")
    routed.submit()
    routed.finish()
    assert not world.wanted("big")


def test_a_load_takes_as_long_as_the_last_one(world: World) -> None:
    at = time.monotonic()
    switch = {"id": "w/1", "from": [], "to": "a", "reason": "demand", "waiting": 1, "startedAt": to_rfc3339(at)}
    ended = {"outcome": "completed", "endedAt": to_rfc3339(at), "phases": {"load": 12.0}}
    running = {"outcome": "running", "phases": {"wait": 1.0}}
    world.tell("w", model("a"), model("b"), switches=[switch | ended, switch | running | {"id": "w/2"}])
    handle = world.find("a").handle
    assert expected_in(handle, ModelStatus("a", "unloaded"), at) == 12.0
    assert expected_in(handle, ModelStatus("a", "loading", at - 5.0), at) == pytest.approx(7.0)
    assert expected_in(handle, ModelStatus("a", "loading", at - 50.0), at) == 0.0
    assert expected_in(handle, ModelStatus("a", "ready", at), at) is None
    assert expected_in(handle, ModelStatus("b", "loading", at), at) is None, "it never was"
