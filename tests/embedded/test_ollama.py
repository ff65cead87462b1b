"""Ollama's official client, unchanged, against mocks that have OpenAI's API only."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ollama
import pytest

from .conftest import Up
from .harness import Hotseat, eventually, model

WEIGHTS = b"GGUF" * 2**18


def weather(city: str) -> str:
    """Get the weather of a city.

    Args:
        city: Name of the city.
    """
    return f"rain in {city}"


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(
        model("a", names=["llama3.2"]),
        model("b", "--load-time", "0.4", "--tokens-per-second", "200"),
        model("vectors", capabilities=["embedding"]),
        model("broken", "--fault", "error-500"),
        model("cut", "--fault", "cut-midstream:3"),
        model("failing", "--fault", "exit-loading:3"),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


@pytest.fixture
def client(hotseat: Hotseat) -> Iterator[ollama.Client]:
    with ollama.Client(host=hotseat.url, timeout=60) as client:
        yield client


def say(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


# Chats ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama3.2", "llama3.2:latest", "a"])
def test_a_chat(client: ollama.Client, name: str) -> None:
    answer = client.chat(model=name, messages=say("hello there"), options={"num_predict": 5, "num_ctx": 512})
    assert (answer.model, answer.done, answer.done_reason) == (name, True, "stop")
    assert (answer.message.role, answer.message.content) == ("assistant", "a: hello there 3 4")
    assert (answer.prompt_eval_count, answer.eval_count) == (2, 5)
    assert answer.total_duration >= answer.eval_duration >= 0


def test_a_streamed_chat_comes_as_it_is_made(client: ollama.Client, hotseat: Hotseat) -> None:
    parts = list(client.chat(model="b", messages=say("hello"), options={"num_predict": 40}, stream=True))
    assert "".join(part.message.content for part in parts).startswith("b: hello 2 3")
    assert [part.done for part in parts] == [False] * 40 + [True]
    assert (parts[-1].eval_count, parts[-1].done_reason) == (40, "stop")
    assert parts[-1].eval_duration >= 100_000_000, "39 pauses of 5 ms were measured as the time of the answer"
    assert {part.model for part in parts} == {"b"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_given_back(client: ollama.Client, hotseat: Hotseat, stream: bool) -> None:
    def ask(messages: list[Any]) -> ollama.Message:
        answer = client.chat(model="a", messages=messages, tools=[weather], stream=stream)
        parts = list(answer) if stream else [answer]
        assert parts[-1].done_reason == "stop"
        calls = [call for part in parts for call in part.message.tool_calls or ()]
        text = "".join(part.message.content or "" for part in parts)
        return ollama.Message(role="assistant", content=text, tool_calls=calls or None)

    messages: list[Any] = say("weather Paris")
    first = ask(messages)
    (call,) = first.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("weather", {"city": "weather Paris"})
    result = {"role": "tool", "content": weather("Paris"), "tool_name": "weather"}
    assert (ask([*messages, first, result]).content or "").startswith("a: weather Paris")
    sent = hotseat.stats("llama3.2")["last"]["body"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"]


def test_images_formats_and_thinking_reach_the_engine(client: ollama.Client, hotseat: Hotseat) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    picture = {"role": "user", "content": "what is it?", "images": [b"\x89PNG\r\n"]}
    client.chat(model="a", messages=[picture], format=schema, think=True)
    body = hotseat.stats("llama3.2")["last"]["body"]
    assert body["messages"][0]["content"][0]["image_url"]["url"] == "data:image/png;base64,iVBORw0K"
    assert body["response_format"]["json_schema"]["schema"] == schema
    assert body["chat_template_kwargs"] == {"enable_thinking": True}


def test_a_load_comes_in_between(client: ollama.Client, hotseat: Hotseat) -> None:
    for name in ("a", "b", "a"):
        parts = list(client.chat(model=name, messages=say("x"), stream=True))
        assert parts[0].message.content == f"{name}:"
    assert hotseat.loads() == {"a": 2, "b": 1}


# Prompts --------------------------------------------------------------------------------------------------------------


def test_a_prompt(client: ollama.Client, hotseat: Hotseat) -> None:
    answer = client.generate(model="a", prompt="why blue", system="Be brief.", options={"num_predict": 3})
    assert (answer.response, answer.done) == ("a: why blue", True)
    assert [m["role"] for m in hotseat.stats("llama3.2")["last"]["body"]["messages"]] == ["system", "user"]
    parts = list(client.generate(model="a", prompt="why blue", raw=True, stream=True, options={"num_predict": 3}))
    assert "".join(part.response for part in parts) == "a: why blue"
    assert hotseat.stats("llama3.2")["last"]["path"] == "/v1/completions"


def test_a_model_is_loaded_and_unloaded_without_a_prompt(client: ollama.Client, hotseat: Hotseat) -> None:
    assert client.generate(model="llama3.2").done_reason == "load"
    assert hotseat.running() == {"llama3.2": "ready"}
    assert [each.name for each in client.ps().models] == ["llama3.2:latest"]
    assert hotseat.stats("llama3.2")["requests"] == 0
    assert client.chat(model="llama3.2:latest", messages=[], keep_alive=0).done_reason == "unload"
    eventually(lambda: not hotseat.running())
    assert client.ps().models == []


def test_a_request_says_how_long_its_model_stays(client: ollama.Client, hotseat: Hotseat) -> None:
    def expires() -> str:
        (row,) = hotseat.get("/api/ps").json()["models"]
        return row["expires_at"]

    client.chat(model="a", messages=say("x"))
    assert expires().startswith("9999")  # as its document says
    client.generate(model="a", prompt="x", keep_alive="10m")
    assert not expires().startswith("9999")
    client.generate(model="a", prompt="x")
    assert not expires().startswith("9999")
    client.chat(model="a", messages=say("x"), keep_alive=-1)
    assert expires().startswith("9999")
    assert client.chat(model="a", messages=say("x"), keep_alive=0).message.content.startswith("a: x")
    eventually(lambda: not hotseat.running())
    client.chat(model="a", messages=say("x"))  # loaded again, it stays again
    assert expires().startswith("9999")
    hotseat.post("/v1/chat/completions", {"model": "a", "messages": say("x")}, X_Hotseat_Keep_Alive="0")
    eventually(lambda: not hotseat.running())
    with pytest.raises(ollama.ResponseError, match="`keep_alive` is 'soon'"):
        client.chat(model="a", messages=say("x"), keep_alive="soon")


# Embeddings -----------------------------------------------------------------------------------------------------------


def test_embeddings(client: ollama.Client) -> None:
    both = client.embed(model="vectors", input=["one", "two words"])
    assert (both.model, len(both.embeddings), both.prompt_eval_count) == ("vectors", 2, 3)
    assert client.embed(model="vectors", input="one").embeddings == [both.embeddings[0]]
    assert client.embeddings(model="vectors", prompt="two words").embedding == both.embeddings[1]


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("unknown", (404, "The model `unknown` does not exist")),
        ("vectors", (400, "does not support chat")),
        ("broken", (500, "broken was told to answer 500")),
        ("failing", (503, "failing failed")),
    ],
)
def test_errors_are_raised_with_their_status(
    client: ollama.Client, name: str, error: tuple[int, str], stream: bool
) -> None:
    with pytest.raises(ollama.ResponseError, match=error[1]) as raised:
        list(client.chat(model=name, messages=say("x"), stream=stream))
    assert raised.value.status_code == error[0]


def test_a_stream_that_breaks_off_ends_with_an_error(client: ollama.Client, hotseat: Hotseat) -> None:
    parts = []
    with pytest.raises(ollama.ResponseError, match="closed the connection"):
        parts.extend(client.chat(model="cut", messages=say("x"), stream=True))
    received = client.chat(model="cut", messages=say("x"), stream=True)
    assert next(received).message.content == "cut:"


def test_what_documents_decide_is_not_changed(client: ollama.Client) -> None:
    calls = [
        lambda: client.create(model="new", from_="a"),
        lambda: client.push("a"),
        lambda: client.copy("a", "b"),
    ]
    for call in calls:
        with pytest.raises(ollama.ResponseError, match="document of kind Model") as raised:
            call()
        assert raised.value.status_code == 405
    with pytest.raises(ollama.ResponseError, match="document of kind Model"):
        client.delete("a")


def test_a_key_is_needed_where_there_are_keys(up: Up) -> None:
    hotseat = up(model("a"), options=("--api-key", "k"))
    with (
        ollama.Client(host=hotseat.url) as stranger,
        ollama.Client(host=hotseat.url, headers={"Authorization": "Bearer k"}) as client,
    ):
        for call in (stranger.list, stranger.ps, lambda: stranger.chat(model="a", messages=say("x"))):
            with pytest.raises(ollama.ResponseError) as raised:
                call()
            assert raised.value.status_code == 401
        assert [each.model for each in client.list().models] == ["a:latest"]
        assert client.chat(model="a", messages=say("x")).message.content.startswith("a: x")


# Models ---------------------------------------------------------------------------------------------------------------


def test_models_are_listed_and_shown(client: ollama.Client) -> None:
    names = {each.model for each in client.list().models}
    assert {"llama3.2:latest", "b:latest", "vectors:latest"} <= names
    assert client.show("llama3.2").capabilities == ["completion", "tools"]
    assert client.show("vectors:latest").capabilities == ["embedding"]
    with pytest.raises(ollama.ResponseError) as raised:
        client.show("unknown")
    assert raised.value.status_code == 404


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[str]:
    """A server of a folder with weights."""
    (tmp_path / "w.gguf").write_bytes(WEIGHTS)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_pull_fetches_weights_and_loads_nothing(up: Up, origin: str) -> None:
    def remote(name: str, file: str) -> dict[str, Any]:
        made = model(name, engine="custom", source=f"{origin}/{file}", command=["/bin/false", "{model}", "{port}"])
        del made["spec"]["args"]
        return made

    hotseat = up(model("a"), remote("far", "w.gguf"), remote("lost", "missing.gguf"))
    with ollama.Client(host=hotseat.url, timeout=60) as client:
        assert client.chat(model="a", messages=say("x")).done
        assert client.pull("a").status == "success"
        states = [part.status for part in client.pull("far:latest", stream=True)]
        assert (states[0], states[-1]) == ("pulling manifest", "success")
        assert next(each.size for each in client.list().models if each.model == "far:latest") == len(WEIGHTS)
        assert client.pull("far").status == "success"
        with pytest.raises(ollama.ResponseError, match="404"):
            list(client.pull("lost", stream=True))
        with pytest.raises(ollama.ResponseError, match="fetches no other ones") as raised:
            client.pull("unknown")
        assert raised.value.status_code == 404
        assert hotseat.running() == {"a": "ready"}
        assert hotseat.loads() == {"a": 1}
