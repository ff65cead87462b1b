"""An engine for /v1/audio/speech: espeak-ng, a real synthesizer, behind as much of OpenAI's API as a test needs. The wheel has its voices."""

import ctypes
import io
import json
import sys
import wave
from http.server import BaseHTTPRequestHandler, HTTPServer

import espeakng_loader

PORT = int(sys.argv[1])
VOICES = {"alloy": b"en-us", "hans": b"de"}
SYNCHRONOUS, UTF8, RATE = 2, 1, 1  # output mode, encoding of the text, and the parameter words per minute
WORDS = 175  # a minute, at speed 1

espeak = ctypes.CDLL(espeakng_loader.get_library_path())
SAMPLES = espeak.espeak_Initialize(SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), 0)  # a second
pieces: list[bytes] = []


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
def take(samples: int | None, count: int, _events: int) -> int:
    if samples and count > 0:
        pieces.append(ctypes.string_at(samples, 2 * count))
    return 0


espeak.espeak_SetSynthCallback(take)


def speech(text: str, voice: str, speed: float) -> bytes:
    """Return a WAV with one channel of 16 bits."""
    assert espeak.espeak_SetVoiceByName(VOICES[voice]) == 0
    espeak.espeak_SetParameter(RATE, int(WORDS * speed), 0)
    pieces.clear()
    said = text.encode()
    assert espeak.espeak_Synth(said, ctypes.c_size_t(len(said) + 1), 0, 0, 0, UTF8, None, None) == 0
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(SAMPLES)
        made.writeframes(b"".join(pieces))
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200, "text/plain", b"ok\n")
        else:
            self._answer(200, "application/json", json.dumps({"voices": sorted(VOICES)}).encode())

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked.get("voice") not in VOICES:
            error = {"message": "no such voice", "type": "invalid_request_error", "param": "voice", "code": None}
            self._answer(400, "application/json", json.dumps({"error": error}).encode())
            return
        self._answer(200, "audio/wav", speech(asked["input"], asked["voice"], asked.get("speed", 1.0)))

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


HTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
