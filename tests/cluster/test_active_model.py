"""`spec.activeModel` on a real cluster: `kubectl patch workspace` is a switch, and what cannot be done is a condition."""

import json

import pytest

from .harness import Guard, Hotseat, model, wait_until, workspace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def models(hotseat: Hotseat) -> None:
    hotseat.apply(model("alpha"), model("beta", names=["beta", "org/beta:latest"]))
    wait_until(lambda: hotseat.is_ready("alpha") and hotseat.is_ready("beta"), 60, "services of the models")


def patch(hotseat: Hotseat, active: str | None) -> None:
    spec = {"spec": {"activeModel": active}}
    hotseat.kubectl("patch", "workspace", "default", "--type=merge", "-p", json.dumps(spec))


def await_loaded(hotseat: Hotseat, active: str) -> None:
    hotseat.kubectl("wait", "workspace/default", "--for=condition=ActiveModelLoaded", "--timeout=60s")
    wait_until(lambda: hotseat.status("workspace", "default").get("activeModel") == active, 5, "it is remembered")


def switches(hotseat: Hotseat) -> list[tuple[str, str]]:
    return [(each["to"], each["reason"]) for each in hotseat.status("workspace", "default")["switches"]]


def test_a_patch_is_a_switch_without_any_request(hotseat: Hotseat, guard: Guard) -> None:
    for name, resident in (("alpha", "alpha"), ("org/beta:latest", "beta"), ("alpha", "alpha")):
        patch(hotseat, name)
        await_loaded(hotseat, name)
        assert hotseat.residents() == {resident: "ready"}
    assert switches(hotseat)[-3:] == [("alpha", "ordered"), ("beta", "ordered"), ("alpha", "ordered")]
    line = hotseat.kubectl("get", "workspace", "default", "--no-headers").split()
    assert line[1] == "alpha", "the column RESIDENT"


def test_demand_evicts_it_and_neither_an_apply_nor_a_new_switcher_loads_it_again(
    hotseat: Hotseat, guard: Guard
) -> None:
    patch(hotseat, "alpha")
    await_loaded(hotseat, "alpha")
    assert hotseat.chat("beta").status == 200
    home = workspace()
    home["spec"]["activeModel"] = "alpha"
    hotseat.apply(home)
    before = switches(hotseat)
    hotseat.await_another("switcher", hotseat.kill("switcher"), 120)
    assert hotseat.served("beta").status == 200
    assert hotseat.residents() == {"beta": "ready"}
    assert switches(hotseat) == before
    assert hotseat.condition("workspace", "default", "ActiveModelLoaded")["reason"] == "Loaded"


def test_a_name_of_no_model_is_a_condition_and_breaks_nothing(hotseat: Hotseat, guard: Guard) -> None:
    patch(hotseat, "gamma")
    wait_until(
        lambda: hotseat.condition("workspace", "default", "ActiveModelLoaded").get("reason") == "UnknownModel",
        10,
        "the condition",
    )
    assert hotseat.condition("workspace", "default", "Ready")["status"] == "True"
    assert hotseat.chat("beta").status == 200
    hotseat.apply(model("gamma"))
    await_loaded(hotseat, "gamma")
    assert hotseat.residents() == {"gamma": "ready"}
    hotseat.delete("model", "gamma")


def test_a_failed_load_is_told_on_the_workspace(hotseat: Hotseat, guard: Guard) -> None:
    hotseat.apply(model("broken", "--fault", "exit-loading:0"))
    wait_until(lambda: hotseat.is_ready("broken"), 60)
    patch(hotseat, "broken")
    wait_until(
        lambda: hotseat.condition("workspace", "default", "ActiveModelLoaded").get("reason") == "ModelFailed",
        60,
        "the condition",
    )
    hotseat.delete("model", "broken")
    patch(hotseat, None)
    wait_until(lambda: not hotseat.condition("workspace", "default", "ActiveModelLoaded"), 10, "no condition")
