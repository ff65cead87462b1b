"""What llama.cpp itself tells of its tokens, and its own paths."""

from .conftest import Up
from .harness import eventually
from .test_llamacpp_prompts import gemma


def test_tokens_of_a_real_engine_with_and_without_usage_and_its_own_paths(up: Up) -> None:
    hotseat = up(gemma("a"))
    whole = hotseat.ask("a", "Say hello.", max_tokens=5, temperature=0).json()
    asked = hotseat.ask(
        "a", "Say hello.", max_tokens=5, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    plain = hotseat.ask("a", "Say hello.", max_tokens=5, temperature=0, stream=True)
    embedded = hotseat.post("/v1/completions", {"model": "a", "prompt": "Hello", "max_tokens": 2}).json()
    rows = eventually(lambda: len(found := hotseat.get("/api/requests").json()["requests"]) == 4 and found)[::-1]
    for row, usage in ((rows[0], whole["usage"]), (rows[1], asked.data()[-1]["usage"]), (rows[3], embedded["usage"])):
        assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert "usage" not in plain.data()[-1] or plain.data()[-1]["usage"] is None
    assert rows[2]["prompt_tokens"] == rows[0]["prompt_tokens"], "from its timings"
    assert rows[2]["completion_tokens"] == 5
    assert rows[2]["cached_tokens"] > 0, "the same prompt as before"
    assert all(row["tokens_per_second"] > 0 for row in rows[:3])
    assert hotseat.get("/upstream/a/props").json()["total_slots"] >= 1
    assert hotseat.post("/upstream/a/props", {}).code == "path_not_allowed"
    assert hotseat.post("/upstream/a/tokenize", {"content": "Hello"}).json()["tokens"]
