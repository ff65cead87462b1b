"""Why an engine ended by itself."""

import re
import signal
from collections.abc import Sequence
from pathlib import Path

SHOWN_LINES = 5
READ_LINES = 30  # last lines that are searched for a lack of memory: a traceback may follow it
OUT_OF_MEMORY = re.compile(
    r"out of memory|outofmemory|cudaMalloc failed|unable to allocate .*buffer|std::bad_alloc", re.IGNORECASE
)
SIGNAL_REASONS: dict[int, str] = {
    signal.SIGKILL: "Killed",
    signal.SIGSEGV: "Segfault",
    signal.SIGABRT: "Aborted",
    signal.SIGTERM: "Terminated",
}


def oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since boot; 0 if unknown."""
    try:
        fields = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    except OSError:
        return 0
    return int(fields.get("oom_kill", 0))


def explain_exit(code: int, output: Sequence[str], *, ready: bool, oom_killed: bool) -> tuple[str, str]:
    """Return the reason and the message for an engine that ended by itself.

    `code` is negative for a signal. `output`: the last lines of this run.
    """
    how = f"the engine exited with code {code}" if code >= 0 else f"the engine was ended by {_signal_name(-code)}"
    if not ready:
        how += " while it was loading"
    if code == 0 and not ready:
        how += " (if the command started a server that keeps running elsewhere, use engine external with its url)"
    if code == -signal.SIGKILL and oom_killed:
        return "OutOfMemory", with_output(f"{how}: the kernel reports out of memory", output)
    if code != 0 and any(OUT_OF_MEMORY.search(line) for line in output[-READ_LINES:]):
        return "OutOfMemory", with_output(f"{how}: out of memory", output)
    if not ready:
        return "ExitedWhileLoading", with_output(how, output)
    return "Exited" if code >= 0 else SIGNAL_REASONS.get(-code, "Signal"), with_output(how, output)


def with_output(message: str, output: Sequence[str]) -> str:
    """Return the message with the last lines of the log, if there are any."""
    shown = [line for line in output if line.strip()][-SHOWN_LINES:]
    return "\n".join([f"{message}. Its last output:", *shown]) if shown else message


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
