"""OpenAI's routes with OpenAI's own client, and those of llama.cpp beside them: each loads the model that it names, and no other does."""

import base64
import io
import signal
import sys
import threading
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from .conftest import Up
from .harness import Hotseat, eventually, model

SERVER = Path(__file__).with_name("websocket_server.py")


def realtime(name: str, **spec: object) -> dict[str, object]:
    document = model(name, engine="custom", command=[sys.executable, str(SERVER), name, "{port}"], **spec)
    return document | {"spec": {**document["spec"], "args": []}}


@pytest.fixture(scope="module")
def shared(shared_up: Up) -> Hotseat:
    return shared_up(
        model("a", names=["gpt-5", "a"], scheduling={"maxWait": "200ms"}),
        model("images", names=["dall-e-2", "images"], capabilities=["image"]),
        model("voice", names=["tts-1", "voice"], capabilities=["speech"]),
        model("ears", names=["whisper-1", "ears"], capabilities=["transcription"]),
        model("judge", capabilities=["rerank", "moderation"]),
        realtime(
            "live", names=["gpt-realtime", "live"], capabilities=["realtime"], lifecycle={"drainTimeout": "300ms"}
        ),
    )


@pytest.fixture
def hotseat(shared: Hotseat) -> Hotseat:
    return shared.fresh()


@pytest.fixture
def client(hotseat: Hotseat) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{hotseat.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("streamed", [False, True])
def test_a_chat_and_a_tool(client: openai.OpenAI, streamed: bool) -> None:
    def ask(said: str, **more: Any) -> Any:
        asked = {"model": "gpt-5", "messages": [{"role": "user", "content": said}], **more}
        if not streamed:
            return client.chat.completions.create(**asked).choices[0].message
        with client.chat.completions.stream(**asked) as stream:
            return stream.get_final_completion().choices[0].message

    assert ask("hello").content.startswith("a: hello")
    tool = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    (call,) = ask("weather", tools=[tool]).tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "weather"}')


def test_responses(client: openai.OpenAI, hotseat: Hotseat) -> None:
    whole = client.responses.create(model="gpt-5", input="hello")
    assert (whole.output_text, whole.model) == ("a: hello", "a")
    with client.responses.create(model="gpt-5", input="hi", stream=True) as stream:
        events = list(stream)
    assert [event.type for event in events] == ["response.created", "response.output_text.delta", "response.completed"]
    assert events[1].delta == "a: hi"
    with pytest.raises(openai.NotFoundError, match="hotseat keeps none"):
        client.responses.retrieve(whole.id)
    with pytest.raises(openai.BadRequestError, match="does not support chat"):
        client.responses.create(model="dall-e-2", input="hello")
    assert hotseat.loads() == {"a": 1}


def test_images(client: openai.OpenAI, hotseat: Hotseat) -> None:
    assert len(client.images.generate(model="dall-e-2", prompt="a cat", n=2).data) == 2
    for _ in range(2):
        edited = client.images.edit(model="dall-e-2", prompt="a dog", image=[io.BytesIO(b"\x89PNG" * 100_000)])
        assert b"images" in base64.b64decode(edited.data[0].b64_json or "")
    assert 'name="model"\r\n\r\nimages\r\n' in hotseat.stats("dall-e-2")["last"]["body"]
    assert hotseat.loads() == {"images": 1}


def test_audio(client: openai.OpenAI, hotseat: Hotseat) -> None:
    """What is spoken by one model is sent to the other one, byte for byte."""
    with client.audio.speech.with_streaming_response.create(model="tts-1", voice="x", input="hello") as spoken:
        assert spoken.headers["content-type"] == "audio/wav"
        sound = spoken.read()
    with wave.open(io.BytesIO(sound)) as file:
        assert file.readframes(100) == b"voice: hello"
    heard = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", sound), language="en")
    assert heard.text.startswith("ears: heard ")
    assert heard.model == "ears"
    assert sound.decode("latin-1") in hotseat.stats("whisper-1")["last"]["body"]
    with pytest.deprecated_call():  # by OpenAI
        translated = client.audio.translations.create(model="whisper-1", file=("a.wav", sound))
    assert translated.text.startswith("ears: ")
    assert hotseat.loads() == {"voice": 1, "ears": 1}


def test_moderations_and_rerank(client: openai.OpenAI, hotseat: Hotseat) -> None:
    assert client.moderations.create(model="judge", input="bad words").results[0].flagged
    body = {"model": "judge", "query": "a cat", "documents": ["a dog", "a cat"]}
    for path in ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking"):
        answer = hotseat.post(path, body)
        assert [result["index"] for result in answer.json()["results"]] == [1, 0]
    assert hotseat.loads() == {"judge": 1}


@pytest.mark.parametrize("queued", [False, True])
def test_errors_are_the_clients_own(client: openai.OpenAI, hotseat: Hotseat, queued: bool) -> None:
    headers = {"X-Hotseat-Max-Wait": "0s"}
    if queued:
        holder = hotseat.send("a", mock={"hold": True})
        eventually(lambda: hotseat.running() == {"gpt-5": "ready"})
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.audio.transcriptions.create(model="nobody", file=b"a")
    with pytest.raises(openai.InternalServerError) as caught:
        client.audio.transcriptions.create(model="whisper-1", file=b"a", extra_headers=headers)
    assert (caught.value.status_code, caught.value.code) == (503, "wait_timeout")
    if queued:
        holder.leave()


# llama.cpp ------------------------------------------------------------------------------------------------------------


def test_a_request_without_a_model_goes_to_the_resident_one_and_switches_nothing(hotseat: Hotseat) -> None:
    for answer in (
        hotseat.post("/infill", {"input_prefix": "a"}),
        hotseat.get("/props"),
        hotseat.get("/props?model=a"),
    ):
        assert (answer.status, answer.code) == (409, "not_loaded")
    assert hotseat.loads() == {}
    assert hotseat.post("/infill", {"model": "gpt-5", "input_prefix": "a"}).json()["content"] == "a"
    assert hotseat.post("/infill", {"input_prefix": "a"}).json()["content"] == "a"
    assert hotseat.post("/tokenize", {"content": "a"}).status == 200
    assert hotseat.get("/props").json() == hotseat.get("/props?model=gpt-5").json() == {"model_alias": "a"}
    assert hotseat.get("/props?model=images").code == "not_loaded"
    assert hotseat.get("/v1/audio/voices?model=tts-1").code == "not_loaded"
    assert hotseat.post("/slots/0?action=erase").code == "path_not_allowed"
    assert hotseat.loads() == {"a": 1}
    assert hotseat.running() == {"gpt-5": "ready"}


# WebSockets -----------------------------------------------------------------------------------------------------------


OF_THE_CLIENT = "ignore:connect.. must be used as a context manager:DeprecationWarning"


@pytest.mark.filterwarnings(OF_THE_CLIENT)
def test_realtime(client: openai.OpenAI, hotseat: Hotseat) -> None:
    """OpenAI's client and a server of another package talk, after a load. The model is in flight until one of them closes."""
    hotseat.ask("a")
    with client.realtime.connect(model="gpt-realtime") as live:
        assert live.recv().session.path == "/v1/realtime?model=live"
        live.response.create(response={"instructions": "hello"})
        assert live.recv().text == "live: hello"
        assert hotseat.running() == {"gpt-realtime": "ready"}
        (row,) = hotseat.get("/running").json()["running"]
        assert row["in_flight"] == 1
    eventually(lambda: hotseat.get("/running").json()["running"][0]["in_flight"] == 0)
    ended = {key[3] for key in hotseat.metrics() if key[:3] == ("hotseat_requests_total", "gpt-realtime", "realtime")}
    assert ended <= {"101", "499"}, "either side may have closed the connection first"
    assert ended


@pytest.mark.filterwarnings(OF_THE_CLIENT)
def test_a_websocket_is_closed_when_its_model_has_to_leave(client: openai.OpenAI, hotseat: Hotseat) -> None:
    with client.realtime.connect(model="gpt-realtime") as live:
        live.recv()
        closed = threading.Event()

        def listen() -> None:
            try:
                live.recv()
            except Exception:
                closed.set()

        thread = threading.Thread(target=listen)
        thread.start()
        assert hotseat.ask("a").by == "a"
        assert closed.wait(30)
        thread.join()


@pytest.mark.filterwarnings(OF_THE_CLIENT)
def test_a_shutdown_waits_for_a_websocket_until_its_models_drain_deadline(up: Up) -> None:
    hotseat = up(realtime("live", lifecycle={"drainTimeout": "300ms"}))
    with (
        openai.OpenAI(base_url=f"{hotseat.url}/v1", api_key="unused") as client,
        client.realtime.connect(model="live") as live,
    ):
        live.recv()
        hotseat.signal(signal.SIGTERM)
        with pytest.raises(Exception, match="close"):
            live.recv()
        assert hotseat.ended() == 0
