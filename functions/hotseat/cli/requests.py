"""`hotseat requests`: requests in flight and the last ones that ended, and how one is cancelled."""

from collections.abc import Mapping
from typing import Any

import click

from hotseat.cli.commands import print_as, since
from hotseat.cli.options import (
    HISTORY_LIMIT,
    Command,
    check_until,
    complete_model,
    connect,
    history_of,
    history_options,
    output_option,
    server_options,
    typed,
)
from hotseat.cli.terminal import table, took

HEADERS = [
    "ID",
    "STATE",
    "MODEL",
    "ROUTE",
    "STATUS",
    "WAITED",
    "SWITCH",
    "TTFT",
    "TIME",
    "PROMPT",
    "CACHED",
    "GENERATED",
    "TOKENS/S",
    "AGE",
]


@click.command(
    cls=Command,
    examples=[
        "hotseat requests",
        "hotseat requests --model gemma --limit 20",
        "hotseat requests --since 24h",
        "hotseat requests cancel 5c1e9a-17",
    ],
)
@click.argument("cancel", nargs=-1, metavar="[cancel ID...]")
@click.option("--model", metavar="MODEL", shell_complete=complete_model, help="Only requests of this model.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Number of requests to list. With --since, 10000 by default.",
)
@history_options("requests that have ended")
@output_option("table", "json", "name")
@server_options(top=False)
@click.pass_context
def requests(  # noqa: PLR0917 — one parameter an option
    ctx: click.Context,
    cancel: tuple[str, ...],
    model: str | None,
    limit: int,
    begin: str | None,
    end: str | None,
    output: str,
) -> None:
    """List requests in flight and the last ones that ended, or cancel requests by their ids.

    Columns are those of `GET /api/requests`. TTFT is the time to the first bytes of a stream, SWITCH the part of WAITED in which
    the model was being switched to. Tokens are known if the engine reports them.
    """
    check_until(ctx, begin, end)
    client = connect(ctx)
    if cancel:
        if cancel[0] != "cancel" or len(cancel) == 1:
            raise click.UsageError("give no arguments, or `cancel` and one or more ids", ctx)
        answers = [client.cancel(id_) for id_ in cancel[1:]]
        ids = [answer["id"] for answer in answers]
        print_as(output, {"requests": answers}, ids, "\n".join(f"{id_} cancelled" for id_ in ids))
        return
    with client.near_miss(model or ""):
        if begin:
            limit = limit if "limit" in typed(ctx) else HISTORY_LIMIT
            body = history_of(ctx, "requests", begin, end, model=model, limit=limit)
            body["requests"].reverse()  # newest first, as without --since
        else:
            body = client.get("/api/requests", "requests", {"model": model, "limit": limit})
    print_as(
        output, body, [row["id"] for row in body["requests"]], table(HEADERS, [_row(row) for row in body["requests"]])
    )


def _row(row: Mapping[str, Any]) -> list[str]:
    def number(name: str) -> str:
        return "" if row.get(name) is None else f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name])

    return [
        row["id"],
        row["state"],
        row["model"],
        row["route"],
        number("status"),
        *(took(row.get(name)) for name in ("waited", "switch_seconds", "ttft", "seconds")),
        *(number(name) for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "tokens_per_second")),
        since(row["arrived_at"]),
    ]
