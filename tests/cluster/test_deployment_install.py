"""deployment/ on an empty namespace, as docs/cluster.md has it: no Broker, and everything applied at once."""

import json
import urllib.request
from collections.abc import Iterator

import pytest

from .harness import Hotseat, Sink, deploy_without_knative, listed, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def ask(home: Hotseat, name: str) -> str:
    """Ask the router at the address of its pod. Return the model of the answer."""
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
    url = f"http://{home.component('router')['status']['podIP']}:8080/v1/chat/completions"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["model"])


@pytest.fixture
def sink(home: Hotseat) -> Iterator[Sink]:
    sink = Sink(home)
    yield sink
    sink.close()


def test_models_take_turns_without_knative_and_a_broker_and_a_sink_gets_the_events(home: Hotseat, sink: Sink) -> None:
    deploy_without_knative(home, K_SINK=sink.url)
    home.apply(model("a"), model("b"))
    wait_until(lambda: listed(home) == {"a", "b"}, 60, "the Models, at the router")
    assert [ask(home, name) for name in ("a", "b", "a")] == ["a", "b", "a"]
    assert home.status("workspace", "default")["runtime"] == "Deployment"
    assert home.condition("workspace", "default", "EventsDelivered")["reason"] == "NoBroker"
    once = (
        "switch.requested",
        "switch.started",
        "switch.completed",
        "model.ready",
        "model.released",
        "demand.reported",
    )
    wanted = {f"dev.hotseat.{kind}.v1" for kind in once}
    wait_until(lambda: wanted <= {kind for kind, _ in sink.events}, 20, "events of switches, Models and demand")
    assert {source for _, source in sink.events} == {f"/namespaces/{home.namespace}/workspaces/default"}
