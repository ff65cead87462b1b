"""OpenAI's client and a real synthesizer, espeak-ng. No package ships one that transcribes, so transcriptions meet only the mock."""

import array
import io
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from .conftest import Up
from .harness import Hotseat, model

SERVER = Path(__file__).with_name("speech_server.py")
SHORT, LONG = "Hello.", "Hello. This is a sentence that takes some seconds, because it goes on and on."


@pytest.fixture(scope="module")
def hotseat(shared_up: Up) -> Hotseat:
    command = [sys.executable, str(SERVER), "{port}"]
    return shared_up(
        model("chat"),
        model("voice", engine="custom", command=command, args=[], names=["tts-1", "voice"], capabilities=["speech"]),
    )


@pytest.fixture
def client(hotseat: Hotseat) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{hotseat.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def read(content: bytes) -> tuple[float, list[int]]:
    """Return the seconds and the samples of a WAV."""
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        samples = array.array("h", file.readframes(file.getnframes()))
    return len(samples) / 22050, list(samples)


def loud(samples: list[int]) -> list[bool]:
    """Return of each twentieth of a second whether there is a sound in it."""
    return [max(map(abs, samples[at : at + 1102])) > 1000 for at in range(0, len(samples), 1102)]


def test_speech_after_a_load_and_after_a_switch(client: openai.OpenAI, hotseat: Hotseat) -> None:
    first = client.audio.speech.create(model="tts-1", voice="alloy", input=LONG, response_format="wav")
    assert first.response.headers["content-type"] == "audio/wav"
    assert first.response.headers["x-hotseat-model"] == "tts-1"
    seconds, samples = read(first.content)
    assert 3 < seconds < 8, "15 words, of which it says 175 in a minute"
    sounds = loud(samples)
    assert sounds.count(True) > len(sounds) / 2, "it speaks"
    assert not sounds[-1], "and ends with a pause"
    client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}])
    assert set(hotseat.running()) == {"chat"}
    again = client.audio.speech.create(model="voice", voice="alloy", input=LONG, response_format="wav")
    assert again.content == first.content
    assert set(hotseat.running()) == {"tts-1"}


def test_text_voice_and_speed_arrive(client: openai.OpenAI) -> None:
    def seconds(text: str, voice: str = "alloy", speed: float = 1.0) -> float:
        answer = client.audio.speech.create(model="voice", voice=voice, input=text, speed=speed, response_format="wav")
        return read(answer.content)[0]

    assert seconds(SHORT) < seconds(LONG) / 3
    assert seconds(LONG, speed=2.0) < 0.7 * seconds(LONG)
    assert seconds(LONG, "hans") != seconds(LONG)
    with pytest.raises(openai.BadRequestError, match="no such voice"):
        seconds(SHORT, "nobody")


def test_speech_is_streamed_as_it_comes(client: openai.OpenAI) -> None:
    asked = {"model": "voice", "voice": "alloy", "input": LONG, "response_format": "wav"}
    with client.audio.speech.with_streaming_response.create(**asked) as answer:
        streamed = b"".join(answer.iter_bytes(4096))
    whole = client.audio.speech.create(**asked).content
    assert read(streamed)[0] == pytest.approx(read(whole)[0], rel=0.05), "it breathes by chance"


def test_voices_of_the_loaded_model(hotseat: Hotseat, client: openai.OpenAI) -> None:
    client.audio.speech.create(model="voice", voice="alloy", input=SHORT)
    assert hotseat.get("/v1/audio/voices?model=tts-1").json() == {"voices": ["alloy", "hans"]}
