"""Several GPUs, shared GPUs, and several engines of one model. Each mock locks the seat of every whole GPU that it is given."""

import time
from typing import Any

from .conftest import Up
from .harness import Hotseat, eventually, model, workspace

GPUS = "CUDA_VISIBLE_DEVICES"
TWO = workspace(capacity={"gpus": 2})
SHARED = {"env": {"HOTSEAT_MOCK_SEAT": ""}}  # several may be on one GPU


def visible(hotseat: Hotseat, name: str) -> str | None:
    """What an engine was told about GPUs."""
    return hotseat.stats(name)["devices"]


def seats(hotseat: Hotseat) -> list[tuple[str, str, list[str]]]:
    rows = hotseat.get("/running").json()["running"]
    return sorted((row["model"], row["state"], row["devices"]) for row in rows)


def test_two_models_get_a_gpu_each_and_one_without_sees_none(up: Up) -> None:
    hotseat = up(TWO, model("a"), model("b"), model("cpu", resources={"gpus": 0}), seats=2)
    for name in ("a", "b", "cpu"):
        assert hotseat.ask(name).by == name
    assert (visible(hotseat, "a"), visible(hotseat, "b"), visible(hotseat, "cpu")) == ("0", "1", "")
    assert seats(hotseat) == [("a", "ready", ["0"]), ("b", "ready", ["1"]), ("cpu", "ready", [])]


def test_a_gpu_that_is_freed_is_given_to_the_next(up: Up) -> None:
    hotseat = up(TWO, model("a"), model("b"), model("c"), seats=2)
    hotseat.ask("a")
    hotseat.ask("b")
    assert hotseat.ask("c").by == "c"
    (stayed,) = [name for name, _, _ in seats(hotseat) if name != "c"]
    free = {"a": "1", "b": "0"}[stayed]
    assert visible(hotseat, "c") == free
    assert seats(hotseat) == sorted([(stayed, "ready", [str(1 - int(free))]), ("c", "ready", [free])])


def test_a_model_that_needs_two_gets_both(up: Up) -> None:
    hotseat = up(TWO, model("a"), model("b"), model("large", resources={"gpus": 2}), seats=2)
    hotseat.ask("a")
    hotseat.ask("b")
    assert hotseat.ask("large").by == "large"
    assert visible(hotseat, "large") == "0,1"
    assert seats(hotseat) == [("large", "ready", ["0", "1"])]


def test_documents_name_gpus_and_have_the_last_word(up: Up) -> None:
    own = model("own", env=[{"name": GPUS, "value": "7"}])
    hotseat = up(workspace(capacity={"gpus": 2, "devices": ["GPU-aa", "5"]}), model("a"), own, seats=2)
    hotseat.expected_errors.append(f"env sets {GPUS}")
    hotseat.ask("a")
    hotseat.ask("own")
    assert (visible(hotseat, "a"), visible(hotseat, "own")) == ("GPU-aa", "7")
    assert f"env sets {GPUS}" in hotseat.get("/api/models/own/logs").body.decode()


def test_hotseat_hands_out_no_gpu_that_it_was_not_given(up: Up) -> None:
    hotseat = up(TWO, model("a"), model("b"), env={GPUS: "4,2"}, seats=2)
    hotseat.ask("a")
    hotseat.ask("b")
    assert (visible(hotseat, "a"), visible(hotseat, "b")) == ("4", "2")


def test_what_needs_more_gpus_than_there_are_is_refused_and_never_sees_those_of_others(up: Up) -> None:
    """A limit once: such engines were started, and saw all GPUs."""
    late = workspace("late", capacity={"gpus": 1})
    large = model("large", workspace="default", resources={"gpus": 2})
    hotseat = up(TWO, late, model("a", workspace="default"), large, model("b", workspace="late"), env={GPUS: "4"})
    hotseat.expected_errors.append("GPUs (capacity.gpus), but of the GPUs on this machine")
    assert hotseat.ask("a").by == "a"
    for name, why in (("large", "2 GPUs (available: 1 GPU; capacity.gpus states 2"), ("b", "1 GPU (available: 0 GPUs")):
        refused = hotseat.ask(name)
        assert (refused.status, refused.code) == (503, "too_large")
        assert why in refused.body.decode()
    assert seats(hotseat) == [("a", "ready", ["4"])]
    assert visible(hotseat, "a") == "4"
    rows = hotseat.get("/running").json()["workspaces"]
    assert {row["name"]: row["gpus"] for row in rows} == {"default": 1, "late": 0}
    assert (
        "Workspace late states 1 GPUs (capacity.gpus), but of the GPUs on this machine (4) it gets none"
        in hotseat.log()
    )
    hotseat.write([workspace("late", capacity={"gpus": 1}), model("b", workspace="late")])  # the other one leaves
    eventually(lambda: hotseat.ask("b").status == 200)
    assert visible(hotseat, "b") == "4"


def test_without_any_gpu_counts_are_trusted_again_once_no_gpu_is_stated(up: Up) -> None:
    """A bug once: a Workspace kept the no GPUs that it had got, until hotseat ended."""
    hotseat = up(workspace(capacity={"gpus": 1, "devices": ["0"]}), model("a"), env={GPUS: ""})
    hotseat.expected_errors.append("GPUs (capacity.gpus), but of the GPUs on this machine")
    assert hotseat.ask("a").code == "too_large"
    hotseat.write([workspace(capacity={"gpus": 1}), model("a")])
    eventually(lambda: hotseat.ask("a").status == 200)


def test_a_gpu_that_goes_to_another_workspace_is_waited_for(up: Up) -> None:
    """A bug once: whoever renamed a Workspace had the models of both on its GPU until the old one's had gone."""
    hotseat = up(workspace(capacity={"gpus": 1}), model("a", "--stop-time", "4"), env={GPUS: "0"})
    hotseat.ask("a")
    hotseat.write([workspace("other", capacity={"gpus": 1}), model("b", workspace="other")])
    eventually(lambda: ("a", "releasing", ["0"]) in seats(hotseat))
    assert hotseat.ask("b").by == "b"
    assert seats(hotseat) == [("b", "ready", ["0"])]
    assert hotseat.loads() == {"a": 1, "b": 1}


def test_a_workspace_that_comes_back_has_no_gpu_that_is_another_ones_by_now(up: Up) -> None:
    """A bug once: it had the GPU of its earlier time, beside the Workspace that had got that, and two engines were on it."""

    def documents(*names: str) -> list[dict[str, Any]]:
        return [each for name in names for each in (workspace(name), model(f"of-{name}", workspace=name))]

    def become(*names: str) -> None:
        hotseat.write(documents(*names))
        eventually(lambda: {row["name"] for row in hotseat.get("/running").json()["workspaces"]} == {*names})

    hotseat = up(*documents("east"), seats=2)
    hotseat.ask("of-east")
    become("west")
    assert hotseat.ask("of-west").by == "of-west"
    eventually(lambda: seats(hotseat) == [("of-west", "ready", ["0"])])
    become("east", "west")
    assert hotseat.ask("of-east").by == "of-east"
    assert seats(hotseat) == [("of-east", "ready", ["1"]), ("of-west", "ready", ["0"])]
    assert hotseat.loads() == {"of-east": 2, "of-west": 1}, "who has a GPU is not disturbed"


def test_models_that_claim_memory_share_a_gpu_as_long_as_it_has_handle(up: Up) -> None:
    def claims(name: str, memory: str) -> dict[str, Any]:
        return model(name, "--memory", memory, resources={"acceleratorMemory": memory})

    space = workspace(capacity={"gpus": 2, "acceleratorMemory": "48Gi"})
    models = (claims("a", "16Gi"), claims("b", "15Gi"), claims("c", "8Gi"), claims("d", "17Gi"))
    hotseat = up(space, *models, **SHARED)
    for name in "abc":
        hotseat.ask(name)
    assert seats(hotseat) == [("a", "ready", ["0"]), ("b", "ready", ["1"]), ("c", "ready", ["0"])]
    hotseat.ask("d")  # 9 GiB are left in all, and 17 on neither
    assert {name for name, _, _ in seats(hotseat)} < set("abcd")
    shares: dict[str, int] = {}
    sizes = {"a": 16, "b": 15, "c": 8, "d": 17}
    for name, _, (device,) in seats(hotseat):
        shares[device] = shares.get(device, 0) + sizes[name]
    assert max(shares.values()) <= 24


def test_a_model_that_outgrows_its_claim_is_told_and_placed_by_what_it_takes(up: Up) -> None:
    hotseat = up(
        workspace(capacity={"gpus": 1, "acceleratorMemory": "24Gi"}),
        model("a", "--memory", "14Gi", resources={"acceleratorMemory": "8Gi"}),
        model("b", "--memory", "12Gi", resources={"acceleratorMemory": "12Gi"}),
        **SHARED,
    )
    hotseat.ask("a")
    event = hotseat.wait_event("model.outgrown", "a")
    assert (event["data"]["claimed"], event["data"]["seen"]) == (8 * 2**30, 14 * 2**30)
    hotseat.ask("b")
    assert seats(hotseat) == [("b", "ready", ["0"])]
    metric = "hotseat_accelerator_memory_bytes"
    eventually(lambda: (metric, "seen", "b") in hotseat.metrics())
    figures = hotseat.metrics()
    assert figures[metric, "claimed", "a"] == 8 * 2**30
    assert figures[metric, "seen", "b"] == 12 * 2**30


# Replicas -------------------------------------------------------------------------------------------------------------

SLOW = {"tokens": 100, "tokens_per_second": 25}  # 4 s


def busy(hotseat: Hotseat, name: str) -> list[int]:
    return sorted(row["in_flight"] for row in hotseat.get("/running").json()["running"] if row["model"] == name)


def test_replicas_answer_in_parallel_and_go_when_another_model_needs_the_seat(up: Up) -> None:
    hotseat = up(TWO, model("a", scheduling={"replicas": 2}, concurrency=1), model("b"), seats=2)
    assert hotseat.ask("a").by == "a"
    calls = [hotseat.send("a", mock=SLOW) for _ in range(2)]
    eventually(lambda: busy(hotseat, "a") == [1, 1])
    assert seats(hotseat) == [("a", "ready", ["0"]), ("a", "ready", ["1"])]
    asked = time.monotonic()
    waiting = hotseat.send("b")
    eventually(lambda: ("a", "draining") in [(name, state) for name, state, _ in seats(hotseat)])
    assert waiting.answer().by == "b"
    assert time.monotonic() - asked < 10
    assert [call.answer().by for call in calls] == ["a", "a"]  # nothing was cut
    assert [(name, state) for name, state, _ in seats(hotseat)] == [("a", "ready"), ("b", "ready")]
    assert hotseat.loads() == {"a": 2, "b": 1}
    switch = hotseat.wait_event("switch.completed", "b")
    assert switch["data"]["from"] == ["a#2"]
    moved = ("hotseat_switches_total", "a", "completed", "demand", "b")
    assert hotseat.metrics()[moved] == 1


def test_one_engine_is_enough_where_nobody_waits_for_long(up: Up) -> None:
    hotseat = up(TWO, model("a", scheduling={"replicas": 2}, concurrency=2), seats=2)
    for call in [hotseat.send("a", mock={"tokens": 2, "tokens_per_second": 20}) for _ in range(6)]:
        assert call.answer().by == "a"
    assert hotseat.loads() == {"a": 1}


def test_an_unload_takes_all_replicas(up: Up) -> None:
    hotseat = up(TWO, model("a", scheduling={"replicas": 2}, concurrency=1), seats=2)
    calls = [hotseat.send("a", mock=SLOW) for _ in range(2)]
    eventually(lambda: busy(hotseat, "a") == [1, 1])
    for call in calls:
        call.leave()
    assert hotseat.post("/api/models/a/unload?wait=10s").status == 200
    assert hotseat.running() == {}
    hotseat.wait_event("model.released", "a", count=2)
