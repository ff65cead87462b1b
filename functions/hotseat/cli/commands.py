"""Commands for a running hotseat: show its state, load, unload, park, pin and unpin models."""

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotseat import __version__
from hotseat.cli import switch_plot
from hotseat.cli.events import PHASES, Activity, line, models_of
from hotseat.cli.options import (
    Command,
    check_until,
    complete_model,
    connect,
    history_of,
    history_options,
    model_argument,
    output_option,
    server_options,
    typed,
)
from hotseat.cli.terminal import age, for_stdout, is_live, live, printable, table, took, transfer

if TYPE_CHECKING:
    from hotseat.cli.client import Client

Row = Mapping[str, Any]


def since(moment: str | None) -> str:
    """Return the age of an RFC 3339 time."""
    return age((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()) if moment else ""


def until(moment: str | None) -> str:
    """Return the time until an RFC 3339 time, `now` if it has passed."""
    seconds = (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds() if moment else None
    return "" if seconds is None else f"in {age(seconds)}" if seconds >= 1 else "now"


def print_as(output: str, raw: Any, names: Sequence[str], text: str) -> None:
    """Print in the requested format: the server's response, names only, or a table."""
    if output == "json":
        click.echo(for_stdout(json.dumps(raw, indent=2, ensure_ascii=False)))
    elif output == "name":
        click.echo(for_stdout("".join(f"{name}\n" for name in names)), nl=False)
    else:
        click.echo(text)


@click.command(
    cls=Command, examples=["hotseat models", "hotseat models -o json", "hotseat --url http://gpu-box:8000 models"]
)
@output_option("table", "json", "name")
@server_options(top=False)
@click.pass_context
def models(ctx: click.Context, output: str) -> None:
    """List the models and their states."""
    body = connect(ctx).get("/v1/models", "data")
    listed = body["data"]
    headers = ["NAME", "ENGINE", "STATE", "AGE", "WORKSPACE", "OTHER-NAMES", "DESCRIPTION"]
    print_as(output, body, [model["id"] for model in listed], table(headers, [_model_row(model) for model in listed]))


def _model_row(model: Row) -> list[str]:
    status = model.get("status") or {}
    state, progress = str(status.get("state") or ""), status.get("progress") or {}
    if progress.get("total"):
        left = progress.get("remaining")
        state += f"({100 * progress['done'] // progress['total']}%{'' if left is None else f',{age(left)} left'})"
    state += ",pinned" if status.get("pinned") else ""
    return [
        model["id"],
        _engine(model),
        state,
        since(status.get("since")),
        str(model.get("workspace") or ""),
        ",".join(name for name in model.get("names") or () if name != model["id"]),
        str(model.get("description") or ""),
    ]


def _engine(model: Row) -> str:
    """Return the engine, or what a name stands for that is not one of a Model."""
    how = model.get("strategy") or model.get("profile")
    return str(model.get("engine") or "") + (f"({how})" if how else "")


@click.command(cls=Command, examples=["hotseat ps", "hotseat ps -o wide", "hotseat ps -o name"])
@output_option("table", "wide", "json", "name")
@server_options(top=False)
@click.pass_context
def ps(ctx: click.Context, output: str) -> None:
    """Show resident models, queues and fetches of weights.

    REASON says why the requests of a model wait, EXPECTED when it is expected to serve them, by what its loads took before.

    With -o wide also why in a sentence, saved prompt caches, and the last transitions of each instance: age, states and trigger.
    """
    body = connect(ctx).get("/running", "running")
    text = table(
        ["WORKSPACE", "MODEL", "STATE", "GPUS", "DEVICES", "IN-FLIGHT", "AGE", "ADDRESS"], _resident_rows(body)
    )
    if output == "wide":
        text += "\n\n" + table(["INSTANCE", "AGE", "FROM", "TO", "WHY"], _transition_rows(body))
    if upstreams := _upstream_rows(body, every=output == "wide"):
        text += "\n\n" + table(UPSTREAM_HEADERS, upstreams)
    if output == "wide" and body.get("prompts"):
        text += "\n\n" + table(PROMPT_HEADERS, prompt_rows(body["prompts"]))
    if body.get("parked"):
        text += "\n\n" + table(["PARKED", "WORKSPACE", "MEMORY", "AGE", "PROMPTS"], _parked_rows(body))
    if body.get("peers"):
        text += "\n\n" + table(PEER_HEADERS, [_peer_row(row) for row in body["peers"]])
    if body.get("fetching"):
        text += "\n\n" + table(
            ["FETCHING", "WORKSPACE", "PROGRESS"],
            [[row["model"], row["workspace"], transfer(row)] for row in body["fetching"]],
        )
    if body.get("waiting"):
        headers = ["WAITING", "COUNT", "OLDEST", "REASON", "EXPECTED", "RATE", "TENANTS"]
        text += "\n\n" + table(headers, [_queue_row(row) for row in body["waiting"]])
        if output == "wide":
            text += "\n\n" + table(
                ["WAITING", "WHY"], [[row["model"], row.get("message") or ""] for row in body["waiting"]]
            )
    print_as(output, body, [row["model"] for row in body["running"]], text)


def _queue_row(row: Row) -> list[str]:
    rate, tenants = row.get("rate"), row.get("tenants") or {}
    most = sorted(tenants.items(), key=lambda item: (-item[1], item[0]))
    named = ",".join(f"{name or '-'}:{count}" for name, count in most)
    return [
        row["model"],
        str(row["count"]),
        age(row["oldest_seconds"]),
        row.get("reason") or "",
        until(row.get("expected_at")),
        f"{rate:.2g}/s" if rate else "",
        named,
    ]


def _resident_rows(body: Row) -> list[list[str]]:
    """Return a row for each resident instance, and for each Workspace without one."""
    there = {space["name"]: space.get("gpus") for space in body.get("workspaces") or ()}
    spaces = {name: "-" if gpus is None else gpus for name, gpus in there.items()}
    rows = [
        [
            row["workspace"],
            row["model"],
            row["state"] + (",pinned" if row.get("pinned") else "") + _available(row),
            f"{'-' if row['gpus'] is None else row['gpus']}/{spaces.get(row['workspace'], '?')}",
            ",".join(row.get("devices") or ()) or "-",
            str(row["in_flight"]),
            since(row.get("since")),
            row.get("address") or "",
        ]
        for row in body["running"]
    ]
    empty = spaces.keys() - {row["workspace"] for row in body["running"]}
    return sorted([*rows, *([name, "", "free", f"0/{spaces[name]}", "-", "0", "", ""] for name in empty)])


def _available(row: Row) -> str:
    """Return how many servers of an external Model get requests, if not all do."""
    servers = row.get("upstreams") or ()
    there = sum(each["available"] for each in servers)
    return "" if there == len(servers) else f",{there}/{len(servers)} servers"


PEER_HEADERS = ["PEER", "WORKSPACE", "MODELS", "URL", "PROBLEM"]


def _peer_row(row: Row) -> list[str]:
    return [row["name"], row["workspace"], str(row["models"]), row["url"], row["problem"]]


UPSTREAM_HEADERS = ["UPSTREAM", "MODEL", "CIRCUIT", "HEALTHY", "RETRY-IN", "PROBLEM"]


def _upstream_rows(body: Row, *, every: bool) -> list[list[str]]:
    """Return a row for each server of external Models, or for those that get no requests."""
    return [
        [
            server["url"],
            row["model"],
            server["circuit"],
            {True: "yes", False: "no"}.get(server["healthy"], ""),
            "" if server["retry_in"] is None else age(server["retry_in"]),
            server["problem"],
        ]
        for row in body["running"]
        for server in row.get("upstreams") or ()
        if every or not server["available"]
    ]


def _transition_rows(body: Row) -> list[list[str]]:
    """Return a row for each transition of each instance, oldest first. Servers of earlier versions send none."""
    return [
        [row["instance"], since(step["at"]), step["from"] or "-", step["to"] or "-", step["why"]]
        for row in (*body["running"], *(body.get("parked") or ()))
        for step in row.get("story") or ()
    ]


PROMPT_HEADERS = ["PROMPTS", "WORKSPACE", "SLOTS", "TOKENS", "SIZE", "AGE"]


def prompt_rows(prompts: Sequence[Row]) -> list[list[str]]:
    """Return a row for each model with saved prompts."""
    return [
        [
            row["model"],
            row["workspace"],
            str(row["slots"]),
            str(row["tokens"]),
            _bytes(row["bytes"]),
            since(row["used_at"]),
        ]
        for row in prompts
    ]


def _bytes(size: int | None) -> str:
    """Return a size with a unit, and nothing for 0."""
    from hotseat.api.units import format_bytes  # noqa: PLC0415 - its import takes longer than most commands

    return format_bytes(size) if size else ""


def _parked_rows(body: Row) -> list[list[str]]:
    """Return a row for each parked model."""
    from hotseat.api.units import format_bytes  # noqa: PLC0415 - its import takes longer than most commands

    return [
        [
            row["model"],
            row["workspace"],
            "" if row.get("memory") is None else format_bytes(row["memory"]),
            since(row.get("since")),
            {True: "kept", False: "lost"}.get(row.get("keeps_prompts"), ""),
        ]
        for row in body["parked"]
    ]


@click.command(
    cls=Command,
    examples=["hotseat switches", "hotseat switches -o json", "hotseat switches --since 24h --plot out.png"],
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png|.svg",
              help="Draw the switches instead: who was resident when, each phase to scale, and who waited. Needs matplotlib.")  # fmt: skip
@history_options("switches that have ended")
@output_option("table", "json", "name")
@server_options(top=False)
@click.pass_context
def switches(ctx: click.Context, plot: Path | None, begin: str | None, end: str | None, output: str) -> None:
    """List recent switches and the duration of each phase, newest last.

    SAVED and RESTORED are the sizes of the prompt caches that were saved and restored. They and their phases are shown if
    there were any.
    """
    check_until(ctx, begin, end)
    if plot is not None:
        switch_plot.check(plot)
    body = history_of(ctx, "switches", begin, end) if begin else connect(ctx).get("/api/switches", "switches")
    if plot is not None:
        click.echo(switch_plot.plot(connect(ctx), body["switches"], plot, up_to_now=end is None))
        return
    kept = any(row.get("saved") or row.get("restored") for row in body["switches"])
    phases = [phase for phase in PHASES if kept or phase not in ("save", "restore")]
    rows = [
        [
            ",".join(models_of(row.get("from"))),
            ",".join(models_of(row.get("to"))),
            str(row.get("reason") or ""),
            row["outcome"],
            *(took((row.get("phases") or {}).get(phase)) for phase in phases),
            *([_bytes(row.get("saved")), _bytes(row.get("restored"))] if kept else []),
            since(row.get("started_at")),
        ]
        for row in body["switches"]
    ]
    headers = [
        "FROM",
        "TO",
        "REASON",
        "OUTCOME",
        *(phase.upper() for phase in phases),
        *(("SAVED", "RESTORED") if kept else ()),
        "AGE",
    ]
    print_as(output, body, [row["id"] for row in body["switches"]], table(headers, rows))


@click.command(cls=Command, examples=["hotseat load gemma", "hotseat load gemma --no-wait"])
@model_argument
@click.option("--wait/--no-wait", default=True, help="Wait until the model is loaded (default), or return immediately.")
@output_option("table", "json", "name")
@server_options(top=False)
@click.pass_context
def load(ctx: click.Context, model: str, wait: bool, output: str) -> None:
    """Load a model. A model that has to make room finishes its requests first."""
    client = connect(ctx)
    with watching(client, f"{model}  waiting", wanted=wait):
        answer = client.load(model, wait=wait)
    print_as(output, answer, [answer["model"]], f"{printable(answer['model'])} {answer['state']}")


@click.command(cls=Command, examples=["hotseat unload gemma", "hotseat unload --all"])
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("--all", "everything", is_flag=True, help="Unload all models.")
@click.option(
    "--wait/--no-wait", default=True, help="Wait until the accelerator is free (default), or return immediately."
)
@output_option("table", "json")
@server_options(top=False)
@click.pass_context
def unload(ctx: click.Context, model: str | None, everything: bool, wait: bool, output: str) -> None:
    """Unload a model, or all models. Requests in flight finish first."""
    if (model is None) is not everything:
        raise click.UsageError("name a model or use --all, but not both", ctx)
    client = connect(ctx)
    with watching(client, f"{model or 'all'}  unloading", wanted=wait):
        answer = client.unload(model, wait=wait) if model else client.act("/api/models/unload", wait=wait)
    done = "unloaded" if wait else "unloading"
    print_as(output, answer, [], f"{printable(answer['model'])} {answer['state']}" if model else f"all models {done}")


@click.command(cls=Command, examples=["hotseat park gemma", "hotseat park gemma --no-wait"])
@model_argument
@click.option(
    "--wait/--no-wait", default=True, help="Wait until the accelerator is free (default), or return immediately."
)
@output_option("table", "json")
@server_options(top=False)
@click.pass_context
def park(ctx: click.Context, model: str, wait: bool, output: str) -> None:
    """Put a model to sleep: its process stays, and the accelerator is free. Requests in flight finish first.

    The next request wakes it. For models with `lifecycle.release: Park`, or with requests for sleep and wake in their documents.
    """
    client = connect(ctx)
    with watching(client, f"{model}  parking", wanted=wait):
        answer = client.park(model, wait=wait)
    print_as(output, answer, [], _parked_text(answer) if wait else f"{printable(answer['model'])} {answer['state']}")


def _parked_text(answer: Row) -> str:
    """Return what a command to park has done: how long it took, what is free now, and what the engine still holds."""
    name, state, seconds = printable(answer["model"]), answer["state"], answer["seconds"]
    if state != "parked":
        return f"{name} {state}: it was stopped instead, after {took(seconds)}; `hotseat events` says why"
    gpus, memory, held = answer["gpus"], _bytes(answer["accelerator_memory"]), _bytes(answer["host_memory"])
    freed = f"{gpus} GPU{'' if gpus == 1 else 's'}" + (f" ({memory})" if memory else "")
    return f"{name} parked in {took(seconds)}; freed {freed}" + (f", holds {held} of host memory" if held else "")


@click.command(cls=Command, examples=["hotseat pin gemma", "hotseat pin gemma --no-wait"])
@model_argument
@click.option("--wait/--no-wait", default=True, help="Wait until the model is loaded (default), or return immediately.")
@output_option("table", "json", "name")
@server_options(top=False)
@click.pass_context
def pin(ctx: click.Context, model: str, wait: bool, output: str) -> None:
    """Load a model and keep it loaded until `unpin`.

    A pinned model is not evicted, and its idle timeout does not apply. Requests for models that do not fit beside it get
    503 `pinned`.
    """
    client = connect(ctx)
    with watching(client, f"{model}  waiting", wanted=wait):
        answer = client.pin(model, wait=wait)
    print_as(output, answer, [answer["model"]], f"{printable(answer['model'])} {answer['state']}, pinned")


@click.command(cls=Command, examples=["hotseat unpin gemma"])
@model_argument
@output_option("table", "json", "name")
@server_options(top=False)
@click.pass_context
def unpin(ctx: click.Context, model: str, output: str) -> None:
    """Allow a pinned model to be evicted again, whether it was pinned by `pin`, its document or its schedule."""
    answer = connect(ctx).unpin(model)
    print_as(output, answer, [answer["model"]], f"{printable(answer['model'])} {answer['state']}")


@contextmanager
def watching(client: "Client", initial: str, *, wanted: bool) -> Iterator[None]:
    """Show progress on the terminal, from the events of the server."""
    if not (wanted and is_live(sys.stderr)):
        yield
        return
    activity, began = Activity(), time.monotonic()

    def listen() -> None:
        try:
            for event in client.events():
                activity.update(event, time.monotonic())
        except click.ClickException:
            return  # the command itself reports the error

    def text() -> str:
        now = time.monotonic()
        return activity.text(now) or f"{initial}  {now - began:.1f}s"

    threading.Thread(target=listen, name="events", daemon=True).start()
    with live(sys.stderr, text):
        yield


@click.command(cls=Command, examples=["hotseat logs gemma -n 20", "hotseat logs gemma -f"])
@model_argument
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True, help="Number of past lines to print."
)
@server_options(top=False, short=False)  # -n are lines
@click.pass_context
def logs(ctx: click.Context, model: str, follow: bool, lines: int) -> None:
    """Print the log of a model's engine."""
    for text in connect(ctx).log_lines(model, lines, follow=follow):
        click.echo(for_stdout(text))


@click.command(
    cls=Command,
    examples=["hotseat events", "hotseat events --history 50 --no-follow -o json", "hotseat events --since 24h"],
)
@click.option("-f/ ", "--follow/--no-follow", default=True, help="Keep printing new events (default), or exit.")
@click.option(
    "--history", type=click.IntRange(min=0), default=10, show_default=True, help="Number of past events to print."
)
@history_options("events")
@output_option("table", "json")
@server_options(top=False)
@click.pass_context
def events(  # noqa: PLR0917 — one parameter an option
    ctx: click.Context, follow: bool, history: int, begin: str | None, end: str | None, output: str
) -> None:
    """Print events, one per line: switches and their phases, and models that are ready, released or failed.

    `-o json` prints CloudEvents. With --since the command prints events of the history and exits.
    """
    check_until(ctx, begin, end)
    if begin and (wrong := typed(ctx) & {"follow", "history"}):
        raise click.UsageError(f"--since excludes --{min(wrong)}", ctx)
    listed = history_of(ctx, "events", begin, end)["events"] if begin else None
    for event in connect(ctx).events(history=history, follow=follow) if listed is None else listed:
        click.echo(for_stdout(json.dumps(event, ensure_ascii=False) if output == "json" else line(event)))


@click.command(cls=Command, examples=["hotseat version", "hotseat version -o json"])
@output_option("table", "json")
def version(output: str) -> None:
    """Print the version of this program."""
    print_as(output, {"version": __version__, "python": sys.version.split()[0]}, [], f"hotseat {__version__}")
