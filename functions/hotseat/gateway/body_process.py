"""Parse a large body in a process of its own, so that no other request waits for the interpreter's lock."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from hotseat.core.errors import BadRequest, Unavailable
from hotseat.gateway import body as here
from hotseat.gateway.parameters import Changes

if TYPE_CHECKING:
    from hotseat.gateway.body import Body

log = logging.getLogger(__name__)

TIMEOUT = 60.0  # seconds; a body of 64 MiB takes 10 at most
_COMMAND = (sys.executable, "-I", "-c", "from hotseat.gateway.body_process import main; main()")


def parse(raw: bytes) -> "Body":
    """Parse a body. Raise BadRequest if it is invalid."""
    answer, _ = _run(raw, {})
    return here.Body(raw, answer["model"], stream=answer["stream"])


def rename(body: "Body", name: str, changes: Sequence[Changes] = ()) -> bytes:
    """Replace the top-level `model`, and change parameters."""
    _, renamed = _run(body.raw, {"model": body.model, "name": name, "changes": changes})
    return renamed


def _run(raw: bytes, task: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Run a task. Return its answer, and the bytes that follow it. Raise the error that it answers with.

    The body is passed in files in memory: copies of it in this process would hold the interpreter's lock.
    """
    with open(_file(), "w+b", buffering=0) as source, open(_file(), "w+b", buffering=0) as sink:
        source.write(json.dumps(task).encode() + b"\n")
        source.write(raw)
        source.seek(0)
        try:
            done = subprocess.run(
                _COMMAND, stdin=source, stdout=sink, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            raise BadRequest("The request body takes too long to parse.") from None
        if done.returncode:
            log.error("a body could not be parsed: %s", done.stderr.decode(errors="replace")[-1000:])
            raise Unavailable("hotseat cannot parse the request body at the moment", code="overloaded", retry_after=1.0)
        sink.seek(0)
        answer = msgspec.json.decode(sink.readline())
        if "error" in answer:
            raise BadRequest(answer["error"], code=answer["code"], param=answer["param"])
        rest = bytearray(os.fstat(sink.fileno()).st_size - sink.tell())
        sink.readinto(rest)
        return answer, cast("bytes", rest)


def _file() -> int:
    return os.memfd_create("body", os.MFD_CLOEXEC)


def main() -> None:
    """Do one task: a line of standard input, the rest of which is the body. The answer is a line on standard output."""
    task, raw = json.loads(sys.stdin.buffer.readline()), sys.stdin.buffer.read()
    renamed = b""
    try:
        if task:
            changes = [Changes(*each) for each in task["changes"]]
            renamed = here.rename_here(here.Body(raw, task["model"], stream=False), task["name"], changes=changes)
            answer: dict[str, Any] = {}
        else:
            body = here.parse_here(raw)
            answer = {"model": body.model, "stream": body.stream}
    except BadRequest as error:
        answer = {"error": error.message, "code": error.code, "param": error.param}
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n" + renamed)
