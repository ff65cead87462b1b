"""Large forms wait for their turn in a file, and pass through with little memory, however large they are."""

import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import Up
from .harness import PATIENCE, Hotseat, eventually, lives, model

PATH = "/v1/audio/transcriptions"
KIND = {"Content-Type": "multipart/form-data; boundary=limit"}
BEGIN = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
END = b'\r\n--limit\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n--limit--\r\n'
MB = 1_000_000
MODELS = (model("a"), model("ears", names=["whisper-1", "ears"], capabilities=["transcription"]))


def form(name: str, size: int) -> tuple[int, Iterator[bytes]]:
    """A form with a file of so many MB before the model, as it is sent: its size, and its pieces."""
    end = END % name.encode()
    piece = os.urandom(MB)

    def pieces() -> Iterator[bytes]:
        yield BEGIN
        for _ in range(size):
            yield piece
        yield end

    return len(BEGIN) + size * MB + len(end), pieces()


class Upload(threading.Thread):
    """Sends a form, and has the answer at its end."""

    def __init__(self, hotseat: Hotseat, name: str, size: int, *, chunked: bool = False) -> None:
        super().__init__()
        self.http = http.client.HTTPConnection(hotseat.address, timeout=2 * PATIENCE)
        self.size, self._pieces = form(name, size)
        self._headers = KIND if chunked else KIND | {"Content-Length": str(self.size)}
        self._chunked = chunked
        self.status, self.answer = 0, {}
        self.start()

    def run(self) -> None:
        try:
            self.http.request("POST", PATH, self._pieces, self._headers, encode_chunked=self._chunked)
            response = self.http.getresponse()
            self.status, self.answer = response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException):
            pass
        finally:
            self.http.close()

    def result(self) -> tuple[int, Any]:
        self.join()
        return self.status, self.answer


def forms_on_disk(hotseat: Hotseat) -> list[int]:
    """Sizes of the files without a name that the worker has open in the state directory."""
    found = []
    for each in Path(f"/proc/{hotseat.worker()}/fd").iterdir():
        try:
            if str(each.readlink()).startswith(f"{hotseat.state}/") and str(each.readlink()).endswith(" (deleted)"):
                found.append(each.stat().st_size)
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


def most_memory(pid: int) -> int:
    """Bytes of memory that the process has had at most, since `forget_memory`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def forget_memory(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_form_waits_for_a_switch_and_holds_little_memory(up: Up, chunked: bool) -> None:
    hotseat = up(*MODELS)
    assert Upload(hotseat, "whisper-1", 2).result()[0] == 200  # what is loaded late is loaded now
    holder = hotseat.send("a", mock={"hold": True})
    eventually(lambda: hotseat.running() == {"a": "ready"})
    worker = hotseat.worker()
    forget_memory(worker)
    before = most_memory(worker)
    upload = Upload(hotseat, "whisper-1", 100, chunked=chunked)
    eventually(lambda: hotseat.waiting() == 1)
    assert forms_on_disk(hotseat) == [upload.size]
    holder.leave()
    status, answer = upload.result()
    passed_on = upload.size - len("whisper-1") + len("ears")
    assert (status, answer) == (200, {"text": f"ears: heard {passed_on} bytes", "model": "ears"})
    assert most_memory(worker) - before < 10 * MB
    eventually(lambda: not forms_on_disk(hotseat))
    assert hotseat.loads() == {"ears": 2, "a": 1}


def test_nothing_is_left_on_the_disk_by_a_client_that_leaves_or_a_kill(up: Up) -> None:
    hotseat = up(*MODELS)
    holder = hotseat.send("a", mock={"hold": True})
    eventually(lambda: hotseat.running() == {"a": "ready"})
    for _ in range(2):
        upload = Upload(hotseat, "whisper-1", 20)
        eventually(lambda: hotseat.waiting() == 1)
        assert forms_on_disk(hotseat) == [upload.size]
        upload.http.sock.shutdown(socket.SHUT_RDWR)
        upload.join()
        eventually(lambda: not forms_on_disk(hotseat))
    assert hotseat.waiting() == 0
    upload = Upload(hotseat, "whisper-1", 20)
    eventually(lambda: hotseat.waiting() == 1)
    worker = psutil.Process(hotseat.worker())
    os.killpg(hotseat.process.pid, signal.SIGKILL)
    eventually(lambda: not lives(worker))
    upload.join()
    assert sum(each.stat().st_size for each in hotseat.state.rglob("*") if each.is_file()) < MB
    holder.leave()


def test_a_form_above_the_limit_is_refused_and_zero_holds_forms_in_memory(up: Up) -> None:
    hotseat = up(*MODELS, options=("--max-form", "5M"))
    assert Upload(hotseat, "whisper-1", 4).result()[0] == 200
    head = http.client.HTTPConnection(hotseat.address, timeout=PATIENCE)
    head.putrequest("POST", PATH)
    for name, value in (KIND | {"Content-Length": "6000000"}).items():
        head.putheader(name, value)
    head.endheaders()
    assert head.getresponse().status == 413
    head.close()
    hotseat.close()
    held = up(*MODELS, options=("--max-form", "0"))
    upload = Upload(held, "whisper-1", 4)
    assert upload.result()[0] == 200
    assert not forms_on_disk(held)
