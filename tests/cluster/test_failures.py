"""Models that cannot be had, and a Broker that is gone: whoever waits hears why, and the others go on."""

import secrets
from collections.abc import Iterator

import pytest

from hotseat.control.codec import demand_to_json, sign

from .harness import Guard, Hotseat, demand, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


HUNGRY = {
    "engine": "custom",
    "command": ["python3", "-c", "b'x' * (1 << 30)", "{port}"],
    "podTemplate": {"spec": {"containers": [{"name": "engine", "resources": {"limits": {"memory": "100Mi"}}}]}},
}


@pytest.fixture(scope="module", autouse=True)
def models(hotseat: Hotseat) -> None:
    hotseat.apply(model("alpha"), model("beta"))
    wait_until(lambda: hotseat.is_ready("alpha") and hotseat.is_ready("beta"), 60, "services of the models")


@pytest.mark.parametrize(
    ("name", "spec", "said"),
    [
        ("crashing", {"args": ["--fault", "exit-loading:0"]}, "ended with code"),
        (
            "neverready",
            {"args": ["--fault", "never-ready"], "lifecycle": {"startTimeout": "5s", "stopTimeout": "1s"}},
            "5",
        ),
        ("hungry", HUNGRY, "host memory"),
        (
            "greedy",
            {"resources": {"gpus": 1, "memory": "900Gi"}, "lifecycle": {"startTimeout": "8s"}},
            "nsufficient memory",
        ),
    ],
)
def test_who_waits_for_a_model_that_cannot_be_had_hears_why(
    hotseat: Hotseat, guard: Guard, name: str, spec: dict, said: str
) -> None:
    hotseat.apply(model(name, **spec))
    hotseat.await_model(name)
    hotseat.served("alpha")
    answer = hotseat.chat(name)
    assert answer.status == 503, answer
    assert said in answer.error
    assert answer.seconds < 60, "a switch away from alpha is part of it"
    wait_until(lambda: hotseat.status("model", name)["phase"] == "Failed", 10, "its phase")
    assert said in hotseat.condition("model", name, "Ready")["message"]
    other = hotseat.chat("beta")
    assert other.status == 200, other.error
    hotseat.delete("model", name)


def test_a_resident_engine_that_dies_is_found_and_comes_back(hotseat: Hotseat, guard: Guard) -> None:
    assert hotseat.chat("alpha").status == 200
    pod = hotseat.pod_of("alpha")
    hotseat.kubectl(
        "exec", pod["metadata"]["name"], "-c", "engine", "--", "python", "-c", "import os; os.kill(1, 15)", check=False
    )
    wait_until(lambda: pod["metadata"]["uid"] not in [p["metadata"]["uid"] for p in hotseat.pods_of("alpha")], 60)
    assert hotseat.served("alpha").body["model"] == "alpha"


def test_foreign_replayed_and_unsigned_demand_changes_nothing(hotseat: Hotseat, guard: Guard) -> None:
    assert hotseat.chat("alpha").status == 200
    key = hotseat.key.encode()
    before = hotseat.status("workspace", "default")
    wanted = demand_to_json("default", demand("stranger", 1, {"beta": 5}))
    assert hotseat.post_to_switcher(wanted, None) == 403
    assert hotseat.post_to_switcher(wanted, sign(b"another key, 16 or more", wanted)) == 403
    assert hotseat.post_to_switcher(wanted, sign(key, {**wanted, "seq": 2})) == 403, "signed, and changed after"
    assert hotseat.post_to_switcher({"not": "demand"}, sign(key, {"not": "demand"})) == 400
    assert hotseat.post_to_switcher(wanted, None, type="com.example.other") == 202
    elsewhere = demand_to_json("nowhere", demand("stranger", 1, {"beta": 5}))
    assert hotseat.post_to_switcher(elsewhere, sign(key, elsewhere)) == 202, "of a Workspace that is not there"
    # An old snapshot of the router that is enrolled, sent again: its time has passed.
    (router,) = before["routers"]
    old = demand_to_json("default", demand(router["id"], 1, {"beta": 5})) | {"pod": router["pod"]}
    for _ in range(3):
        assert hotseat.post_to_switcher(old, sign(key, old)) == 202
        assert hotseat.post_to_switcher(old, sign(key, old), path="/demand") == 202
    assert hotseat.chat("alpha").status == 200
    after = hotseat.status("workspace", "default")
    assert after["switches"] == before["switches"]
    assert hotseat.residents() == {"alpha": "ready"}


def test_an_order_that_nobody_signed_is_refused(hotseat: Hotseat) -> None:
    assert hotseat.post_to_switcher({"id": secrets.token_hex(4), "at": "now"}, None, path="/orders") == 403


@pytest.fixture
def no_broker(hotseat: Hotseat) -> Iterator[None]:
    hotseat.delete("broker", "hotseat")
    wait_until(lambda: not hotseat.get("broker", "hotseat"), 30)
    yield
    hotseat.apply("{apiVersion: eventing.knative.dev/v1, kind: Broker, metadata: {name: hotseat}}")
    wait_until(lambda: hotseat.condition("broker", "hotseat", "Ready").get("status") == "True", 60, "the Broker")
    wait_until(
        lambda: hotseat.condition("trigger", "hotseat-switcher", "Ready").get("status") == "True", 60, "the Trigger"
    )


def test_without_a_broker_models_still_take_turns(hotseat: Hotseat, guard: Guard, no_broker: None) -> None:
    for name in ("beta", "alpha", "beta"):
        answer = hotseat.chat(name)
        assert (answer.status, answer.body.get("model")) == (200, name), answer.error
    wait_until(
        lambda: hotseat.condition("workspace", "default", "EventsDelivered")["status"] == "False", 20, "it is said"
    )


def test_with_the_broker_back_events_are_delivered_again(hotseat: Hotseat, guard: Guard) -> None:
    def delivered() -> bool:
        assert hotseat.chat("alpha").status == hotseat.chat("beta").status == 200
        return hotseat.condition("workspace", "default", "EventsDelivered")["status"] == "True"

    wait_until(delivered, 90, "events come by the Broker again")
