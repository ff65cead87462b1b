"""Why an engine ended, as machines and people read it."""

import signal

import pytest

from hotseat.runtimes.local.exits import explain_exit, oom_kills


@pytest.mark.parametrize(
    ("code", "output", "ready", "oom_killed", "reason"),
    [
        (0, [], True, False, "Exited"),
        (7, ["bye"], True, False, "Exited"),
        (7, ["bye"], False, False, "ExitedWhileLoading"),
        (-signal.SIGSEGV, [], True, False, "Segfault"),
        (-signal.SIGSEGV, [], False, False, "ExitedWhileLoading"),
        (-signal.SIGKILL, [], True, False, "Killed"),
        (-signal.SIGKILL, [], True, True, "OutOfMemory"),
        (-signal.SIGKILL, [], False, True, "OutOfMemory"),
        (1, [], True, True, "Exited"),  # the kernel killed another process
        (-signal.SIGABRT, [], True, False, "Aborted"),
        (-signal.SIGUSR1, [], True, False, "Signal"),
        (-40, [], True, False, "Signal"),
        (1, ["CUDA out of memory. Tried to allocate 2 GiB", *["  at x.py"] * 10], False, False, "OutOfMemory"),
        (0, ["CUDA out of memory"], True, False, "Exited"),  # it went on living, and ended well
    ],
)
def test_reasons(code: int, output: list[str], ready: bool, oom_killed: bool, reason: str) -> None:
    assert explain_exit(code, output, ready=ready, oom_killed=oom_killed)[0] == reason


def test_the_message_ends_with_the_last_lines() -> None:
    _, message = explain_exit(3, [*map(str, range(9)), "", "last"], ready=False, oom_killed=False)
    assert message.splitlines() == [
        "the engine exited with code 3 while it was loading. Its last output:", "5", "6", "7", "8", "last",
    ]  # fmt: skip


def test_the_message_stands_alone_without_output() -> None:
    assert explain_exit(-40, [], ready=True, oom_killed=False)[1] == "the engine was ended by signal 40"


def test_the_kernel_counts() -> None:
    assert oom_kills() >= 0


def test_one_that_ends_well_while_it_loads_may_have_started_a_server_elsewhere() -> None:
    reason, message = explain_exit(0, ["started elsewhere"], ready=False, oom_killed=False)
    assert reason == "ExitedWhileLoading"
    assert "use engine external with its url" in message
    assert "external" not in explain_exit(1, [], ready=False, oom_killed=False)[1]
