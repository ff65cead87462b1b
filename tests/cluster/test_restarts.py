"""Switcher and router killed in the midst of things: what is resident stays, what was begun is finished, nothing overlaps."""

import pytest
from harness import Guard, Hotseat, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

# Signals from inside reach process 1 of a container only if it handles them; its children do not shield it from the node's.
SUICIDE = "import os, signal; [os.kill(int(p), 9) for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())]"


@pytest.fixture(scope="module", autouse=True)
def models(hotseat: Hotseat) -> None:
    hotseat.apply(
        model("alpha", "--tokens-per-second", "8", "--tokens", "2", "--stop-time", "1.5"),
        model("beta", "--load-time", "3"),
    )
    wait_until(lambda: hotseat.is_ready("alpha") and hotseat.is_ready("beta"), 60, "services of the models")


def kill(hotseat: Hotseat, component: str) -> None:
    """Kill a component's pod without any grace that it could use."""
    name = hotseat.component(component)["metadata"]["name"]
    hotseat.kubectl("delete", "pod", name, "--grace-period=1", "--wait=false")


def state_of(hotseat: Hotseat, name: str) -> str:
    return hotseat.residents().get(name, "")


def test_what_is_resident_stays_when_the_switcher_goes(hotseat: Hotseat, guard: Guard) -> None:
    assert hotseat.chat("alpha").status == 200
    (pod,) = hotseat.pods_of("alpha")
    former = hotseat.component("switcher")["metadata"]["uid"]
    kill(hotseat, "switcher")
    assert hotseat.chat("alpha").status == 200, "the router needs no switcher for what is resident"
    wait_until(lambda: hotseat.component("switcher")["metadata"]["uid"] != former, 30)
    wait_until(lambda: hotseat.is_ready("hotseat-switcher"), 60)
    assert hotseat.chat("beta").status == 200, "the next one switches"
    assert hotseat.chat("alpha").status == 200
    kill(hotseat, "switcher")
    (pod,) = hotseat.pods_of("alpha")
    for _ in range(5):
        assert hotseat.chat("alpha").status == 200
    wait_until(lambda: hotseat.is_ready("hotseat-switcher"), 60)
    assert [each["metadata"]["uid"] for each in hotseat.pods_of("alpha")] == [pod["metadata"]["uid"]]


@pytest.mark.parametrize("phase", ["draining", "releasing", "loading"])
def test_a_switcher_that_dies_in_a_switch_is_followed_by_one_that_goes_on(
    hotseat: Hotseat, guard: Guard, phase: str
) -> None:
    wait_until(lambda: hotseat.chat("alpha").status == 200, 60)
    long = hotseat.chat_aside("alpha", max_tokens=40) if phase == "draining" else None
    if long:
        wait_until(lambda: any(q["inFlight"] for q in hotseat.status("workspace", "default")["queue"]), 10)
    asked = hotseat.chat_aside("beta")
    states = {
        "draining": ("alpha", ("closing", "draining")),
        "releasing": ("alpha", ("releasing",)),
        "loading": ("beta", ("loading",)),
    }
    name, wanted = states[phase]
    wait_until(lambda: state_of(hotseat, name) in wanted, 20, phase)
    kill(hotseat, "switcher")
    if long:
        assert long.result().body["usage"]["completion_tokens"] == 40
    answer = asked.result(80)
    assert (answer.status, answer.body.get("model")) == (200, "beta"), answer.error
    wait_until(lambda: hotseat.residents() == {"beta": "ready"}, 20)


def test_a_switcher_whose_processes_are_killed_in_its_container_goes_on(hotseat: Hotseat, guard: Guard) -> None:
    wait_until(lambda: hotseat.chat("alpha").status == 200, 60)
    asked = hotseat.chat_aside("beta")
    wait_until(lambda: state_of(hotseat, "beta") == "loading", 20)
    pod = hotseat.component("switcher")["metadata"]["name"]
    hotseat.kubectl("exec", pod, "-c", "switcher", "--", "python", "-c", SUICIDE, check=False)
    answer = asked.result(80)
    assert (answer.status, answer.body.get("model")) == (200, "beta"), answer.error


def test_a_router_that_dies_leaves_nobody_hanging(hotseat: Hotseat, guard: Guard) -> None:
    wait_until(lambda: hotseat.chat("alpha").status == 200, 60)
    long = hotseat.chat_aside("alpha", max_tokens=400)  # 50 s
    held = hotseat.chat_aside("beta")
    wait_until(lambda: any(q["waiting"] for q in hotseat.status("workspace", "default")["queue"]), 10)
    former = hotseat.component("router")["metadata"]["name"]
    kill(hotseat, "router")
    wait_until(lambda: long.done and held.done, 30, "both connections closed")
    wait_until(lambda: hotseat.component("router")["metadata"]["name"] != former, 30)
    answer = wait_until(lambda: (a := hotseat.chat("beta")).status == 200 and a, 60, "the next router serves")
    assert answer.body["model"] == "beta"
    wait_until(
        lambda: former not in [r["pod"] for r in hotseat.status("workspace", "default")["routers"]],
        30,
        "it is forgotten",
    )
