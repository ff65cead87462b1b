"""How a model is told in /v1/models: llama-server's words for user interfaces, with our own state beside them."""

import pytest

from hotseat.core.messages import InstanceState
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.gateway.apis.openai import describe_status

WORDS = {
    "unloaded": "unloaded",
    "fetching": "loading",
    "failed": "unloaded",
    "loading": "loading",
    "ready": "loaded",
    "quiescing": "loaded",
    "draining": "loaded",
    "parking": "sleeping",
    "parked": "sleeping",
    "waking": "loading",
    "saving": "unloaded",
    "restoring": "loading",
    "releasing": "unloaded",
    "unproven": "unloaded",
}


@pytest.mark.parametrize("state", WORDS)
def test_every_state_has_a_word_of_llama_server(state: str) -> None:
    told = describe_status(ModelStatus("a", state))
    assert (told["value"], told["state"], told.get("failed")) == (WORDS[state], state, state == "failed" or None)


def test_no_state_is_forgotten() -> None:
    assert WORDS.keys() - {"unloaded", "fetching", "failed"} == {state.value for state in InstanceState}


@pytest.mark.parametrize(("code", "more"), [(3, {"exit_code": 3}), (0, {"exit_code": 0}), (None, {})])
def test_a_failed_one_has_its_exit_code_where_that_is_known(code: int | None, more: dict[str, int]) -> None:
    told = describe_status(ModelStatus("a", "failed", message="Exited: x", exit_code=code))
    assert {key: told[key] for key in told.keys() & {"failed", "exit_code"}} == {"failed": True, **more}
