"""Switcher and router killed in the midst of things: what is resident stays, what was begun is finished, nothing overlaps."""

import pytest

from .harness import Guard, Hotseat, model, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

# Process 1 is gunicorn's arbiter, which cannot be killed from inside; all that hotseat does happens in its child.
KILL_WORKER = "import os; kids = open('/proc/1/task/1/children').read().split(); [os.kill(int(kid), 9) for kid in kids]; print(*kids)"

LONG = 200  # tokens


@pytest.fixture(scope="module", autouse=True)
def models(hotseat: Hotseat) -> None:
    hotseat.apply(
        model("alpha", "--tokens-per-second", "8", "--tokens", "2", "--stop-time", "1.5"),
        model("beta", "--load-time", "3"),
    )
    wait_until(lambda: hotseat.is_ready("alpha") and hotseat.is_ready("beta"), 60, "services of the models")


def kill_worker(hotseat: Hotseat, component: str) -> None:
    """SIGKILL: nothing is said, nothing is let go of."""
    pod = hotseat.component(component)["metadata"]["name"]
    assert hotseat.kubectl("exec", pod, "-c", component, "--", "python", "-c", KILL_WORKER).split()


def state_of(hotseat: Hotseat, name: str) -> str:
    return hotseat.residents().get(name, "")


def test_what_is_resident_stays_when_the_switcher_goes(hotseat: Hotseat, guard: Guard) -> None:
    assert hotseat.chat("alpha").status == 200
    pod = hotseat.pod_of("alpha")
    former = hotseat.kill("switcher")
    assert hotseat.chat("alpha").status == 200, "the router needs no switcher for what is resident"
    hotseat.await_another("switcher", former)
    wait_until(lambda: hotseat.is_ready("hotseat-switcher"), 60)
    assert hotseat.chat("beta").status == 200, "the next one switches"
    assert hotseat.chat("alpha").status == 200
    hotseat.kill("switcher")
    pod = hotseat.pod_of("alpha")
    for _ in range(5):
        assert hotseat.chat("alpha").status == 200
    wait_until(lambda: hotseat.is_ready("hotseat-switcher"), 60)
    assert [each["metadata"]["uid"] for each in hotseat.pods_of("alpha")] == [pod["metadata"]["uid"]]


@pytest.mark.parametrize("phase", ["draining", "releasing", "loading"])
def test_a_switcher_that_dies_in_a_switch_is_followed_by_one_that_goes_on(
    hotseat: Hotseat, guard: Guard, phase: str
) -> None:
    hotseat.served("alpha")
    held = {"hold": True, "tokens_per_second": 0}
    long = hotseat.chat_aside("alpha", 240, max_tokens=LONG, mock=held) if phase == "draining" else None
    if long:  # its batch is closed after the 10 s that beta waits at most, or as long as a round of slow switches takes
        wait_until(lambda: any(q["inFlight"] for q in hotseat.status("workspace", "default")["queue"]), 10)
    asked = hotseat.chat_aside("beta", 240)
    states = {
        "draining": ("alpha", ("quiescing", "draining")),
        "releasing": ("alpha", ("releasing",)),
        "loading": ("beta", ("loading",)),
    }
    name, wanted = states[phase]
    wait_until(lambda: state_of(hotseat, name) in wanted, 120 if long else 60, phase)
    former = hotseat.kill("switcher")
    if long:  # the next one finds it in flight
        hotseat.await_another("switcher", former)
        hotseat.release_held([hotseat.pod_of("alpha")])
        assert long.result().body["usage"]["completion_tokens"] == LONG
    answer = asked.result(80)
    assert (answer.status, answer.body.get("model")) == (200, "beta"), answer.error
    wait_until(lambda: hotseat.residents() == {"beta": "ready"}, 20)


@pytest.mark.parametrize("state", ["releasing", "loading"])
def test_a_switcher_that_is_killed_goes_on_in_the_same_pod(hotseat: Hotseat, guard: Guard, state: str) -> None:
    hotseat.served("alpha")
    asked = hotseat.chat_aside("beta")
    wait_until(lambda: state in (state_of(hotseat, "alpha"), state_of(hotseat, "beta")), 20, state)
    kill_worker(hotseat, "switcher")
    answer = asked.result(80)
    assert (answer.status, answer.body.get("model")) == (200, "beta"), answer.error


def test_a_router_that_is_killed_closes_its_connections(hotseat: Hotseat, guard: Guard) -> None:
    hotseat.served("alpha")
    held = hotseat.chat_aside("beta")
    wait_until(lambda: held.done or any(q["waiting"] for q in hotseat.status("workspace", "default")["queue"]), 10)
    kill_worker(hotseat, "router")
    wait_until(lambda: held.done, 10, "its connection is closed")
    answer = hotseat.served("beta")
    assert answer.body["model"] == "beta"


def test_a_router_that_dies_leaves_nobody_hanging(hotseat: Hotseat, guard: Guard) -> None:
    hotseat.served("alpha")
    long = hotseat.chat_aside("alpha", max_tokens=400)  # 50 s
    held = hotseat.chat_aside("beta")
    wait_until(lambda: any(q["waiting"] for q in hotseat.status("workspace", "default")["queue"]), 10)
    former = hotseat.kill("router")
    wait_until(lambda: long.done and held.done, 30, "both connections closed")
    hotseat.await_another("router", former)
    answer = hotseat.served("beta")
    assert answer.body["model"] == "beta"
    wait_until(
        lambda: former["metadata"]["name"] not in [r["pod"] for r in hotseat.status("workspace", "default")["routers"]],
        30,
        "it is forgotten",
    )
