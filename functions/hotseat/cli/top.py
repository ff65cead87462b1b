"""`hotseat top`: residents, queues, GPUs and switches in a terminal, as they change."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from shutil import get_terminal_size
from typing import TYPE_CHECKING

import click

from hotseat.cli.options import Command, connect, server_options
from hotseat.cli.terminal import is_live, printable
from hotseat.cli.top_picture import Action, Answers, TopView, picture
from hotseat.cli.top_screen import Screen, styled

if TYPE_CHECKING:
    from hotseat.cli.client import Client

EVERY = 1.0  # seconds between two reads of the figures
SOONEST = 0.1  # seconds between two reads, however many events come
NOTICE = 5.0  # seconds for which it is shown what became of a command
RETRY = 0.5  # seconds until the next try to follow events
NOT_FOUND, REFUSED = 404, (401, 403)

_DONE = {"load": "loading", "unload": "unloading", "pin": "pinned", "unpin": "unpinned"}


@click.command(cls=Command, examples=["hotseat top", "hotseat top --once", "hotseat --url http://gpu-box:8000 top"])
@click.option(
    "--once", is_flag=True, help="Print the picture once. This is what happens if the output is not a terminal."
)
@server_options(top=False)
@click.pass_context
def top(ctx: click.Context, once: bool) -> None:
    """Show residents, queues, GPUs and switches as they change.

    For each model: its state and since when, requests in flight, the generated tokens per second of its last answer, queued
    requests and the age of the oldest, and why they wait. Keys load, unload and pin models. ? lists them.
    """
    client = connect(ctx)
    if once or not (is_live(sys.stdout) and sys.stdin.isatty()):
        lines = picture(read(client), TopView(client.url), datetime.now(UTC), _columns())
        click.echo("\n".join(styled(line).rstrip() for line in lines))
        return
    show(client)


def _columns() -> int:
    """Return the width of the terminal. What is not a terminal has room for everything, unless COLUMNS says less."""
    return get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 1000


def read(client: "Client") -> Answers:
    """Return what is to be shown. Raise ClientError."""
    return Answers(
        models=client.get("/v1/models", "data")["data"],
        running=client.get("/running", "running"),
        queue=client.get("/api/queue", "queue")["queue"],
        gpus=_optional(client, "/api/gpus", "gpus"),
        switches=client.get("/api/switches", "switches")["switches"],
        requests=_optional(client, "/api/requests", "requests"),
    )


def _optional(client: "Client", path: str, part: str) -> list[dict[str, object]]:
    """Return the rows of a route that servers of earlier versions do not have."""
    from hotseat.cli.client import ApiError  # noqa: PLC0415 - it takes longer to import than the help takes to print

    try:
        found: list[dict[str, object]] = client.get(path, part)[part]
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        return []
    return found


def show(client: "Client", over: Callable[[], bool] = lambda: False) -> None:
    """Show the picture until the user quits, or until `over`. Raise ClientError if the key is refused."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # warnings would be written over the picture
    view, said_at = TopView(client.url), 0.0
    with Screen() as screen, suppress(EOFError, KeyboardInterrupt):
        feed = Feed(client, screen.wake)
        while not view.over and not over():
            if feed.refused is not None:
                raise feed.refused
            answers, view.problem = feed.answers, feed.problem
            if feed.said:
                view.notice, feed.said, said_at = feed.said, "", time.monotonic()
            elif time.monotonic() - said_at > NOTICE:
                view.notice = ""
            screen.draw(picture(answers, view, datetime.now(UTC), *screen.size))
            for key in screen.keys(EVERY):
                action = view.press(key, answers)
                if action is not None:
                    feed.act(action)


class Feed:
    """Reads what is to be shown in threads of its own: once a second, and at once after an event. `changed` is called after each read.

    Fields are replaced, not changed, so that another thread can read them at any moment.
    """

    def __init__(self, client: "Client", changed: Callable[[], None]) -> None:
        self.answers = Answers()
        self.problem = "reading its state"  # empty: hotseat answers
        self.refused: click.ClickException | None = None  # the key does not allow it
        self.said = ""  # what became of a command
        self._client, self._changed = client, changed
        self._news = threading.Event()
        for run in (self._poll, self._follow):
            threading.Thread(target=run, name="top", daemon=True).start()

    def act(self, action: Action) -> None:
        """Send a command, and tell later what became of it."""
        threading.Thread(target=self._act, args=(action,), name="top", daemon=True).start()

    def _act(self, action: Action) -> None:
        try:
            send = getattr(self._client, action.what)
            answer = send(action.model) if action.what == "unpin" else send(action.model, wait=False)
            self.said = f"{_DONE[action.what]} {printable(answer['model'])}"
        except click.ClickException as error:
            self.said = " ".join(error.format_message().split())
        self._news.set()
        self._changed()

    def _poll(self) -> None:
        from hotseat.cli.client import ApiError  # noqa: PLC0415 - see above

        while True:
            self._news.clear()
            try:
                self.answers, self.problem = read(self._client), ""
            except ApiError as error:
                if error.status in REFUSED:
                    self.refused = error
                self.problem = error.format_message()
            except click.ClickException as error:
                self.problem = error.format_message()
            except (KeyError, TypeError, ValueError) as error:  # what answers is not hotseat, or another version
                self.problem = f"its answer cannot be read: {error!r}"
            self._changed()
            time.sleep(SOONEST)
            self._news.wait(EVERY - SOONEST)

    def _follow(self) -> None:
        while True:
            with suppress(click.ClickException):
                for _ in self._client.events():
                    self._news.set()
            time.sleep(RETRY)
