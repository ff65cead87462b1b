"""A configuration of llama-swap, imported and served for real: turns, names, idle times, and who may be resident together.

Nothing counts GPUs here, groups and sets alone decide. The mocks of one group share a seat of their own, and die where they
meet on it: `close` of the harness looks for that.
"""

import os
import sys
from pathlib import Path

import pytest
import yaml

from hotseat.importing import convert

from .conftest import Up
from .harness import Hotseat, eventually
from .receiver import Receiver

MOCK = f"{sys.executable} -S -P -m hotseat.engines.mock_server --name ${{MODEL_ID}} --port ${{PORT}} --log ${{log}}"
PACKAGE = Path(__file__).parents[2] / "functions"

GROUPS = f"""
macros:
  log: {{folder}}/mock.log
  mock: {MOCK} --load-time 0.1
  chat: ${{mock}} --stop-time 0.2 --seat {{folder}}/chat
groups:
  chats: {{members: [Org/Chat-A.Q4, chat-b]}}
  pair: {{swap: false, members: [left, right]}}
  always: {{swap: false, exclusive: false, persistent: true, members: [embed]}}
models:
  Org/Chat-A.Q4: {{cmd: "${{chat}}", env: &path ["PYTHONPATH={PACKAGE}"], aliases: [gpt-4o-mini], useModelName: inner}}
  chat-b: {{cmd: "${{chat}}", env: *path}}
  left: {{cmd: "${{mock}} --seat {{folder}}/left", env: *path}}
  right: {{cmd: "${{mock}} --seat {{folder}}/right", env: *path}}
  embed: {{cmd: "${{mock}} --seat {{folder}}/embed", env: *path}}
  brief: {{cmd: "${{mock}} --seat {{folder}}/brief", env: *path, ttl: 1}}
"""

MATRIX = f"""
macros: {{log: "{{folder}}/mock.log", mock: "{MOCK} --load-time 0.1"}}
matrix: {{sets: {{talk: "(g | q) & v"}}}}
models:
  g: {{cmd: "${{mock}} --seat {{folder}}/llm", env: &path ["PYTHONPATH={PACKAGE}"]}}
  q: {{cmd: "${{mock}} --seat {{folder}}/llm", env: *path}}
  v: {{cmd: "${{mock}} --seat {{folder}}/v", env: *path}}
  lonely: {{cmd: "${{mock}} --seat {{folder}}/llm", env: *path}}
"""


def serve(up: Up, folder: Path, config: str) -> Hotseat:
    text = config.replace("{folder}", str(folder))
    made = convert(text, "config.yaml", os.environ)
    return up(*[it for it in yaml.safe_load_all(made.text) if it], folder=folder)


@pytest.fixture(scope="module")
def shared(shared_up: Up, tmp_path_factory: pytest.TempPathFactory) -> Hotseat:
    return serve(shared_up, tmp_path_factory.mktemp("groups"), GROUPS)


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


def test_alternating_requests_are_answered_each_by_its_own_model(hotseat: Hotseat) -> None:
    for _ in range(2):
        assert hotseat.ask("Org/Chat-A.Q4").by == "Org/Chat-A.Q4"
        assert hotseat.running() == {"Org/Chat-A.Q4": "ready"}
        assert hotseat.ask("chat-b").by == "chat-b"
        assert hotseat.running() == {"chat-b": "ready"}
    assert hotseat.loads() == {"Org/Chat-A.Q4": 2, "chat-b": 2}


def test_every_name_that_clients_knew_leads_to_the_model(hotseat: Hotseat) -> None:
    for name in ("gpt-4o-mini", "Org/Chat-A.Q4", "org-chat-a-q4"):
        assert hotseat.ask(name).by == "Org/Chat-A.Q4"
    assert hotseat.loads() == {"Org/Chat-A.Q4": 1}
    assert hotseat.stats("Org/Chat-A.Q4")["last"]["body"]["model"] == "inner"


def test_members_of_a_group_that_does_not_swap_are_resident_together(hotseat: Hotseat) -> None:
    hotseat.ask("chat-b")
    calls = [hotseat.send("left"), hotseat.send("right")]
    assert [call.answer().by for call in calls] == ["left", "right"]
    assert hotseat.running() == {"left": "ready", "right": "ready"}  # exclusive: the chat has left
    hotseat.ask("chat-b")
    assert hotseat.running() == {"chat-b": "ready"}


def test_a_persistent_model_stays_and_is_loaded_beside_the_others(hotseat: Hotseat) -> None:
    hotseat.ask("chat-b")
    hotseat.ask("embed")
    assert hotseat.running() == {"chat-b": "ready", "embed": "ready"}
    hotseat.ask("left")
    assert hotseat.running() == {"embed": "ready", "left": "ready"}
    assert hotseat.loads()["embed"] == 1


def test_a_model_of_no_group_swaps_as_before_and_leaves_after_its_ttl(hotseat: Hotseat) -> None:
    hotseat.ask("left")
    assert hotseat.ask("brief").by == "brief"
    assert hotseat.running() == {"brief": "ready"}
    eventually(lambda: not hotseat.running(), 10)


def test_a_crowd_that_wants_everything_at_once_is_served_and_no_two_meet(hotseat: Hotseat) -> None:
    names = ["Org/Chat-A.Q4", "chat-b", "left", "right", "embed", "brief"]
    calls = [(name, hotseat.send(name)) for _ in range(3) for name in names]
    assert [call.answer().by for _, call in calls] == [name for name, _ in calls]
    assert max(hotseat.loads().values()) == 1


def test_a_matrix_lets_those_of_one_set_be_together(up: Up, tmp_path: Path) -> None:
    hotseat = serve(up, tmp_path, MATRIX)
    for name, resident in (("g", "g"), ("v", "gv"), ("q", "qv"), ("lonely", ["lonely"]), ("v", "v")):
        assert hotseat.ask(name).by == name
        assert sorted(hotseat.running()) == sorted(resident)
    assert hotseat.loads() == {"g": 1, "v": 2, "q": 1, "lonely": 1}


def test_a_proxy_to_another_host_is_reached_there(up: Up, tmp_path: Path) -> None:
    elsewhere = Receiver(host="127.0.0.2")
    try:
        config = f"models:\n  Org/Far: {{cmd: ssh box serve, proxy: '{elsewhere.url}', useModelName: inner}}\n"
        hotseat = serve(up, tmp_path, config)
        answer = hotseat.post("/v1/chat/completions", {"model": "Org/Far", "messages": []})
        assert answer.status == 200
        assert [(path, b'"inner"' in body) for path, _, body in elsewhere.requests] == [("/v1/chat/completions", True)]
    finally:
        elsewhere.close()
