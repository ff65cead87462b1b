"""`hotseat chat`: one question, a conversation, and the wait for a model that must be loaded."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from hotseat.cli.main import main
from tests.unit.cli.fake_hotseat import BROKEN, FakeHotseat, error, model, sse

CHAT = "POST /v1/chat/completions"
SILENCE = 1.0  # seconds


def said(*words, finish="stop", **delta):
    """Chunks of a streamed answer."""
    deltas = [delta, *({"content": word} for word in words)]
    chunks = [{"choices": [{"index": 0, "delta": part, "finish_reason": None}]} for part in deltas]
    return [*sse(*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}), b"data: [DONE]\n\n"]


def loading(state, **more):
    fields = {"state": state, "model": "gemma", "position": None, "elapsed": 0.1, "progress": None, "resident": None}
    return sse("hotseat " + json.dumps(fields | more))


@pytest.fixture
def fake():
    return FakeHotseat()


@pytest.fixture
def chat(fake):
    with fake.serving() as url:
        yield lambda *args, **kwargs: CliRunner().invoke(main, ["--url", url, "chat", *args], **kwargs)


def test_a_question_is_answered(fake, chat):
    fake.answers[CHAT] = said("Because ", "they can.", role="assistant", content="")
    assert chat("gemma", "Why do", "cats purr?").stdout == "Because they can.\n"
    assert fake.last.json == {
        "model": "gemma",
        "messages": [{"role": "user", "content": "Why do cats purr?"}],
        "stream": True,
    }
    assert fake.last.headers["X-Hotseat-Loading"] == "comments"


def test_settings_are_sent_only_where_given(fake, chat):
    fake.answers[CHAT] = said("Oui.")
    chat("gemma", "Hi", "--system", "In French.", "--max-tokens", "9", "--temperature", "0")
    assert fake.last.json["messages"][0] == {"role": "system", "content": "In French."}
    assert (fake.last.json["max_tokens"], fake.last.json["temperature"]) == (9, 0.0)


def test_the_question_may_come_by_a_pipe(fake, chat):
    fake.answers[CHAT] = said("Yes.")
    chat("gemma", input="Is this\na question?\n")
    assert fake.last.json["messages"][-1]["content"] == "Is this\na question?"


def test_a_dash_puts_the_pipe_into_the_question(fake, chat):
    fake.answers[CHAT] = said("Yes.")
    chat("gemma", "Sum this up:", "-", input="a\nb\n")
    assert fake.last.json["messages"][-1]["content"] == "Sum this up:\n\na\nb"


def test_a_question_given_leaves_the_pipe_alone(fake, chat):
    fake.answers[CHAT] = said("Yes.")
    chat("gemma", "Hi", input="not for you")
    assert fake.last.json["messages"][-1]["content"] == "Hi"


def test_nothing_to_ask_is_a_usage_error(fake, chat):
    result = chat("gemma", input=" \n")
    assert (result.exit_code, fake.requests) == (2, [])
    assert "the prompt is empty" in result.stderr


def test_what_happens_before_the_answer_stays_out_of_it(fake, chat):
    fake.answers[CHAT] = [*loading("loading"), *said("Yes.", reasoning_content="Hm.")]
    result = chat("gemma", "Hi")
    assert (result.stdout, result.stderr) == ("Yes.\n", "")


def test_a_misspelt_model(fake, chat):
    fake.answers[CHAT] = error(404, "There is no model gema.", "model_not_found")
    fake.answers["GET /v1/models"] = {"data": [model("gemma")]}
    result = chat("gema", "Hi")
    assert (result.exit_code, result.stderr) == (1, "Error: There is no model gema; did you mean gemma?\n")


def test_a_load_that_fails_while_we_wait(fake, chat):
    failed = {
        "error": {"message": "gemma failed to load: out of memory", "type": "server_error", "code": "load_failed"}
    }
    fake.answers[CHAT] = [*loading("loading"), *sse(failed)]
    result = chat("gemma", "Hi")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: gemma failed to load: out of memory\n"


@pytest.mark.parametrize("end", [[], [BROKEN]])
def test_an_answer_that_breaks_off_is_printed_and_is_an_error(fake, chat, end):
    fake.answers[CHAT] = [*said("Because")[:2], *end]
    result = chat("gemma", "Hi")
    assert (result.exit_code, result.stdout) == (1, "Because\n")
    assert "ended early" in result.stderr


class Terminal:
    """The program on a terminal of its own; what it writes is collected, escapes and all."""

    def __init__(self, *args):
        self._fd, other = pty.openpty()
        # Who runs the tests in the background of a shell without job control has them ignore Ctrl-C.
        program = "from signal import *; signal(SIGINT, default_int_handler); from hotseat.cli.main import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *args],
            stdin=other, stdout=other, stderr=other, start_new_session=True,
            env=os.environ | {"TERM": "xterm", "INPUTRC": "/dev/null"},
        )  # fmt: skip
        os.close(other)
        self.seen = ""

    def type(self, text):
        os.write(self._fd, text.encode())

    def interrupt(self):
        os.killpg(self.process.pid, signal.SIGINT)

    def until(self, pattern, otherwise=None):
        """Read on until it matches what came since the last call; returns that. After a silence, do `otherwise` again."""
        while not re.search(pattern, self.seen):
            assert self._read(otherwise), f"it ended after {self.seen!r}"
        part, self.seen = self.seen, ""
        return part

    def end(self, otherwise=None):
        while self._read(otherwise):
            pass
        os.close(self._fd)
        return self.process.wait(20)

    def _read(self, otherwise):
        while otherwise and not select.select([self._fd], [], [], SILENCE)[0]:
            otherwise()
        try:
            self.seen += os.read(self._fd, 4096).decode()
        except OSError:  # how Linux says that nobody holds the other side
            return False
        return True


def test_a_conversation_on_a_terminal(fake):
    go_on = threading.Event()

    def slowly(_request):
        yield from loading("waiting", position=2, resident="qwen")
        go_on.wait(20)
        yield from said("They ", "can.", reasoning_content="Let me think.")

    fake.answers[CHAT] = slowly
    with fake.serving() as url:
        terminal = Terminal("--url", url, "chat", "gemma")
        terminal.until(">>> ")
        terminal.type("Why?\r")
        terminal.until(r"gemma  waiting  position 2  after qwen  \d\.\ds")
        go_on.set()
        answer = terminal.until(">>> ")
        # The progress is erased, thoughts are dim, then comes the answer.
        assert re.search(r"\r\x1b\[2K\x1b\[2mLet me think\.\x1b\[0m\r\n\r\nThey can\.\r\n", answer)

        fake.answers[CHAT] = error(503, "gemma failed to load", "load_failed")
        terminal.type("And this?\r")
        terminal.until("Error: gemma failed to load\r\n[^>]*>>> ")

        fake.answers[CHAT] = said("Good bye.")
        terminal.type("Once more\r")
        terminal.until(r"Good bye\.\r\n[^>]*>>> ")
        assert fake.last.json["messages"] == [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "They can."},
            {"role": "user", "content": "Once more"},
        ]
        terminal.type("/bye\r")
        assert terminal.end() == 0


def test_ctrl_c_ends_the_answer_and_then_the_conversation(fake):
    over = threading.Event()

    def endless(_request):
        yield from said("One, two,")[:2]
        over.wait(20)

    fake.answers[CHAT] = endless
    with fake.serving() as url:
        terminal = Terminal("--url", url, "chat", "gemma")
        terminal.until(">>> ")
        terminal.type("Count\r")
        terminal.until("One, two,")
        # Python overlooks a signal that comes just before a system call that blocks: a person presses again.
        terminal.interrupt()
        terminal.until(">>> ", otherwise=terminal.interrupt)
        terminal.interrupt()
        assert terminal.end(otherwise=terminal.interrupt) == 130
        assert "Traceback" not in terminal.seen
        over.set()


def test_loading_shows_what_the_server_does(fake):
    def event(kind, subject, **data):
        return {"type": f"dev.hotseat.{kind}.v1", "subject": subject, "time": "2026-01-01T00:00:00Z", "data": data}

    seen, shown = threading.Event(), threading.Event()

    def events(_request):
        yield from sse(event("switch.started", "gemma", **{"from": ["qwen"]}, to="gemma", switch="default/2"))
        seen.wait(20)
        yield from sse(event("model.released", "qwen"))
        shown.wait(20)

    def load(_request):
        shown.wait(20)
        return {"model": "gemma", "state": "ready"}

    fake.answers |= {"GET /api/events": events, "POST /api/models/gemma/load": load}
    with fake.serving() as url:
        terminal = Terminal("--url", url, "load", "gemma")
        terminal.until("gemma  waiting for qwen to leave  ")
        seen.set()
        terminal.until("gemma  loading  ")
        shown.set()
        assert terminal.end() == 0
        assert terminal.seen.endswith("\r\x1b[2Kgemma ready\r\n")
