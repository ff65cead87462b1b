"""`hotseat chat`: chat with a model, and show the progress while it is loaded."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import click

from hotseat.cli.client import Client, ClientError, stream_error
from hotseat.cli.options import Command, connect, model_argument, server_options
from hotseat.cli.terminal import for_stdout, live, printable, transfer

LOADING = "hotseat "  # prefix of comments about a model that is being loaded
STDIN = "-"

Message = dict[str, str]


@click.command(
    cls=Command,
    examples=[
        'hotseat chat gemma "Why do cats purr?"',
        "hotseat chat gemma",
        'hotseat chat gemma --system "Answer in French." --temperature 0 < question.txt',
        'git diff | hotseat chat gemma "Write a commit message for this:" -',
    ],
)
@model_argument
@click.argument("prompt", nargs=-1)
@click.option("--system", help="System prompt.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Maximum number of tokens in an answer.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), help="Sampling temperature. 0 always picks the most likely token."
)
@server_options(top=False)
@click.pass_context
def chat(  # noqa: PLR0917 - click passes them by name
    ctx: click.Context,
    model: str,
    prompt: tuple[str, ...],
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Chat with a model.

    With PROMPT, print one answer. Without PROMPT, start a conversation: /bye or Ctrl-D ends it, Ctrl-C stops an answer. If
    standard input is not a terminal, the prompt is read from there. A PROMPT word `-` stands for standard input.
    """
    settings = {"max_tokens": max_tokens, "temperature": temperature}
    body: dict[str, Any] = {"model": model} | {key: value for key, value in settings.items() if value is not None}
    messages = [{"role": "system", "content": system}] if system else []
    client = connect(ctx)
    if not prompt and sys.stdin.isatty():
        _converse(client, body, messages)
        return
    question = _question(prompt or (STDIN,))
    if not question:
        raise click.UsageError("the prompt is empty", ctx)
    Answer(client, {**body, "messages": [*messages, {"role": "user", "content": question}]}).show()


def _question(words: tuple[str, ...]) -> str:
    """Return the words as one text. Standard input becomes paragraphs of its own."""
    text = ""
    for word in words:
        part = sys.stdin.read().strip() if word == STDIN else word
        text += ("\n\n" if word == STDIN and text else " " if text else "") + part
    return text.strip()


def _converse(client: Client, body: dict[str, Any], messages: list[Message]) -> None:
    """Chat with the whole conversation as context. Failed answers are left out."""
    with suppress(ImportError):  # an optional module
        import readline  # noqa: F401, PLC0415 - gives input() its editing and history
    click.echo("/bye or Ctrl-D ends the conversation. Ctrl-C stops an answer.", err=True)
    while True:
        try:
            said = input(">>> ").strip()
        except EOFError:
            click.echo()
            return
        if said == "/bye":
            return
        if not said:
            continue
        context = [*messages, {"role": "user", "content": said}]
        answer = Answer(client, {**body, "messages": context})
        try:
            answer.show()
        except KeyboardInterrupt:
            click.echo()
        except ClientError as error:
            error.show()
        if answer.text:
            messages[:] = [*context, {"role": "assistant", "content": answer.text}]


class Answer:
    """One streamed answer: text on standard output, progress before it on standard error."""

    def __init__(self, client: Client, body: dict[str, Any]) -> None:
        self._client = client
        self._body = body
        self._state: dict[str, Any] = {}
        self._began = time.monotonic()
        self._reasoning = False
        self.text = ""

    def show(self) -> None:
        """Print the answer as it arrives, and keep it in `text`. Raise ClientError if it fails or ends early."""
        with live(sys.stderr, self._progress) as begin:
            try:
                for delta in self._deltas():
                    self._print(delta, begin)
            finally:
                begin()
                self._end_line()

    def _deltas(self) -> Iterator[dict[str, Any]]:
        """Yield the deltas of the answer. Comments update the progress."""
        finished = False
        for event in self._client.chat(self._body):
            if event.comment is not None:
                self._loading(event.comment)
            elif event.data == "[DONE]":
                return
            else:
                chunk = _object(event.data)
                if "error" in chunk:
                    raise stream_error(chunk["error"])
                for choice in chunk.get("choices") or ():
                    finished = finished or bool(choice.get("finish_reason"))
                    yield choice.get("delta") or {}
        if not finished:
            raise ClientError("the answer ended early")

    def _print(self, delta: dict[str, Any], begin: Any) -> None:
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning and sys.stdout.isatty():  # reasoning is for terminals only
            begin()
            self._reasoning = True
            click.secho(for_stdout(reasoning), dim=True, nl=False)
        if said := delta.get("content"):
            begin()
            if self._reasoning:
                click.echo("\n")
                self._reasoning = False
            self.text += said
            click.echo(for_stdout(said), nl=False)

    def _end_line(self) -> None:
        if self._reasoning or (self.text and not self.text.endswith("\n")):
            click.echo()

    def _loading(self, comment: str) -> None:
        with suppress(ValueError):  # not a comment of hotseat
            if comment.startswith(LOADING):
                self._state = json.loads(comment.removeprefix(LOADING))

    def _progress(self) -> str:
        """Return one line about a model that is not ready. Empty if there is no progress."""
        state = self._state
        if not state:
            return ""
        parts = [printable(str(state.get("model") or self._body["model"])), str(state.get("state") or "")]
        if state.get("state") == "waiting":
            parts += [f"position {state['position']}"] if state.get("position") else []
            parts += [f"after {printable(state['resident'])}"] if state.get("resident") else []
        if progress := state.get("progress"):
            parts.append(transfer(progress))
        return "  ".join([*parts, f"{time.monotonic() - self._began:.1f}s"])


def _object(text: str) -> dict[str, Any]:
    try:
        chunk = json.loads(text)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise ClientError(f"a part of the answer is not a JSON object: {text[:80]}")
    return chunk
