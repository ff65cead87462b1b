"""`hotseat up --top`: hotseat in a process of its own, and `hotseat top` in the terminal."""

import os
import secrets
import signal
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO

import click

from hotseat.cli.client import Client
from hotseat.cli.terminal import escape_controls, is_live
from hotseat.cli.top import show
from hotseat.private_files import make_directory, opener
from hotseat.runtimes.local.supervisor import PR_SET_PDEATHSIG, find_prctl

LAST = 10  # lines of the log that are printed if hotseat fails


def check_terminal() -> None:
    """Raise UsageError if this process has no terminal to show the picture in."""
    if not (is_live(sys.stdout) and sys.stdin.isatty()):
        raise click.UsageError("--top needs a terminal: leave it out, and use `hotseat top` elsewhere")


def own_key() -> str:
    """Return a key for the picture alone. It is kept in memory."""
    return secrets.token_urlsafe(32)


def fork_server(log: Path) -> int:
    """Fork. Return 0 in the child, which is to serve and writes to `log`, and in the parent the pid of the child.

    The child ends with its parent, as by Ctrl-C. Ctrl-C itself does not reach it.
    """
    make_directory(log.parent)
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    stream = open(log, "ab", opener=opener)  # noqa: SIM115 - the child keeps it
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _become_server(stream, parent)
    stream.close()
    return pid


def _become_server(log: IO[bytes], parent: int) -> None:
    os.setsid()
    find_prctl()(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it has ended before it could be tied to it
        os._exit(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)


def show_until_end(pid: int, client: Client, log: Path) -> None:
    """Show the picture until the user quits, and then stop the server `pid`. Raise ClickException if that has failed."""
    status: list[int] = []

    def ended() -> bool:
        if not status:
            found, code = os.waitpid(pid, os.WNOHANG)
            status.extend([os.waitstatus_to_exitcode(code)] if found else [])
        return bool(status)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, lambda *_: os.kill(pid, signal.SIGHUP))  # a reload
    try:
        with suppress(KeyboardInterrupt):
            show(client, ended)
    finally:
        if not ended():
            click.echo("Requests in flight finish. Ctrl-C stops immediately.", err=True)
        while not ended():
            with suppress(KeyboardInterrupt):  # one more for the server
                os.killpg(pid, signal.SIGINT)
                status.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    if status[0]:
        with log.open(errors="replace") as lines:
            last = escape_controls("".join(deque(lines, LAST)))
        raise click.ClickException(f"hotseat has ended with status {status[0]}. The end of {log}:\n{last}".rstrip())
