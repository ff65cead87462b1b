"""`hotseat pull` and `hotseat cache`: fetch weights, list what is kept on this machine, and prune it."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from hotseat.cli.client import ClientError, ServerUnreachable
from hotseat.cli.commands import PROMPT_HEADERS, print_as, prompt_rows, since, watching
from hotseat.cli.options import Command, complete_model, connect, in_cluster, output_option, server_options
from hotseat.cli.terminal import NOTHING, live, printable, table, transfer

ATTEMPTS = 3
LINE_INTERVAL = 10.0  # seconds between lines of progress where the output is no terminal

cache_dir_option = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="HOTSEAT_CACHE_DIR",
    help="Directory for downloaded weights.  [env var: HOTSEAT_CACHE_DIR]",
)


@click.command(
    cls=Command,
    examples=[
        "hotseat pull gemma",
        "hotseat pull hf://ggml-org/gemma-3-270m-it-GGUF/gemma-3-270m-it-Q8_0.gguf",
        "hotseat pull -f models.yaml",
    ],
)
@click.argument("wanted", nargs=-1, metavar="[MODEL|SOURCE]...", shell_complete=complete_model)
@click.option("-f", "--file", "files", type=click.Path(path_type=Path), multiple=True,
              help="Fetch the sources of all Models of a file or folder, without a server. Can be repeated.")  # fmt: skip
@cache_dir_option
@output_option("table", "json")
@server_options(top=False)
@click.pass_context
def pull(
    ctx: click.Context, wanted: tuple[str, ...], files: tuple[Path, ...], cache_dir: Path | None, output: str
) -> None:
    """Fetch the weights of models or sources.

    A model is fetched by the running hotseat that serves it, on a cluster by its Job, and nothing is loaded. A source is fetched on this
    machine, without a server, into the directory that `hotseat up` uses. A fetch that was interrupted resumes.
    """
    if not wanted and not files:
        raise click.UsageError("name a model or a source, or use --file", ctx)
    named = [(each, each) for each in wanted if "://" in each]
    rows: list[dict[str, Any]] = []
    for each in wanted:
        if "://" not in each:
            client = connect(ctx)
            with watching(client, f"{each}  fetching", wanted=True):
                client.pull(each)
            rows.append({"model": each})
    for name, source in [*named, *_sources_of(files)]:
        rows.append({"source": name, "path": _fetch(source, _directory(cache_dir))})
    text = "\n".join(row["path"] if "path" in row else f"{printable(row['model'])} cached" for row in rows)
    print_as(output, {"pulled": rows}, [], text)


def _checked_duration(_ctx: click.Context, _param: click.Parameter, text: str) -> str:
    _duration(text)
    return text


@click.command(
    cls=Command,
    examples=[
        "hotseat cache",
        "hotseat cache prune --dry-run --older-than 720h",
        "hotseat cache --clear gemma",
    ],
)
@click.argument("what", required=False, metavar="[ls|prune|MODEL]", shell_complete=complete_model)
@click.option("--clear", is_flag=True, help="Delete the saved prompt caches of a model, or of all models.")
@click.option("--older-than", metavar="DURATION", default="0", callback=_checked_duration,
              help="Prune only weights that were not used for so long, such as 36h.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would be pruned, and delete nothing.")
@click.option("-y", "--yes", is_flag=True, help="Prune without asking.")
@cache_dir_option
@output_option("table", "json", "name")
@server_options(top=False)
@click.pass_context
def cache(  # noqa: PLR0917
    ctx: click.Context,
    what: str | None,
    clear: bool,
    older_than: str,
    dry_run: bool,
    yes: bool,
    cache_dir: Path | None,
    output: str,
) -> None:
    """List the fetched weights and the saved prompt caches, or delete them.

    `hotseat cache prune` deletes weights that no running hotseat serves and none fetches. Without a running hotseat, and
    with --cache-dir, weights are listed and pruned all the same.

    With --clear, prompt caches are deleted. What an engine has in memory is not deleted. It is saved again when its model is
    unloaded.
    """
    if clear:
        body = connect(ctx).clear_prompts(what)
        size = sum(row["bytes"] for row in body["prompts"])
        print_as(
            output, body, [row["model"] for row in body["prompts"]], f"deleted {_bytes(size) if size else 'nothing'}"
        )
    elif what == "prune":
        _prune(ctx, older_than, cache_dir, output, dry_run=dry_run, sure=yes)
    elif what in (None, "ls"):
        _list(ctx, cache_dir, output)
    else:
        raise click.UsageError("a model can be named with --clear only", ctx)


def _list(ctx: click.Context, cache_dir: Path | None, output: str) -> None:
    body = None if cache_dir else _ask(ctx, lambda client: client.get("/api/cache", "prompts"))
    if body is None:
        from hotseat.sources.cache import entries  # noqa: PLC0415 - most commands need no cache

        body = {"entries": [_row(each) for each in entries(_directory(cache_dir))], "prompts": []}
    kept = body.get("entries") or []
    text = _weights_table(kept) + (
        f"\n\n{table(PROMPT_HEADERS, prompt_rows(body['prompts']))}" if body["prompts"] else ""
    )
    print_as(output, body, [row["source"] for row in kept], text)


def _prune(
    ctx: click.Context, older_than: str, cache_dir: Path | None, output: str, *, dry_run: bool, sure: bool
) -> None:
    found = None if cache_dir else _ask(ctx, lambda client: client.prune(older_than, dry_run=True))
    local = found is None

    def prune(*, dry: bool) -> Any:
        if not local:
            return connect(ctx).prune(older_than, dry_run=dry)
        from hotseat.sources.cache import prune as prune_here  # noqa: PLC0415 - most commands need no cache

        try:
            pruned = prune_here(_directory(cache_dir), _duration(older_than), dry_run=dry)
        except OSError as error:
            raise ClientError(f"{error.filename}: {error.strerror}; nothing more is pruned") from None
        return {"entries": [_row(each) for each in pruned], "dry_run": dry}

    found = found or prune(dry=True)
    size = _bytes(sum(row["bytes"] for row in found["entries"]))
    if not dry_run and found["entries"]:
        if not sure:
            click.echo(_weights_table(found["entries"]), err=True)
            click.confirm(f"Delete {size}?", abort=True, err=True)
        found = prune(dry=False)
        size = _bytes(sum(row["bytes"] for row in found["entries"]))
    end = "nothing to prune" if not found["entries"] else f"would delete {size}" if dry_run else f"deleted {size}"
    shown = f"{_weights_table(found['entries'])}\n{end}" if dry_run and found["entries"] else end
    print_as(output, found, [row["source"] for row in found["entries"]], shown)


def _ask(ctx: click.Context, question: Any) -> Any:
    """Return the answer of the server. None: there is none on this machine, and no other was named."""
    try:
        return question(connect(ctx))
    except ServerUnreachable:
        if "hotseat.url" in ctx.meta or in_cluster(ctx):
            raise
        return None


def _weights_table(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ["WEIGHTS", "STATE", "SIZE", "USED", "MODELS", "PATH"],
        [
            [
                row["source"],
                row["state"],
                _bytes(row["bytes"]),
                "now" if row["in_use"] else since(row["used_at"]),
                ",".join(row.get("models") or ()) or NOTHING,
                row["path"],
            ]
            for row in rows
        ],
    )


def _row(each: Any) -> dict[str, Any]:
    from hotseat.api.units import format_time  # noqa: PLC0415 - its import takes longer than most commands

    return {
        "source": each.source,
        "state": each.state.value,
        "bytes": each.size,
        "path": str(each.path),
        "models": [],
        "in_use": each.in_use,
        "used_at": format_time(each.used_at),
    }


def _directory(cache_dir: Path | None) -> Path:
    from hotseat.sources.cache import default_cache_dir  # noqa: PLC0415 - most commands need no cache

    return (cache_dir or default_cache_dir()).absolute()


def _sources_of(files: Sequence[Path]) -> list[tuple[str, str]]:
    """Return the sources of the Models of files that have to be fetched, as they are shown and as they are."""
    if not files:
        return []
    from hotseat.engines.base import is_remote  # noqa: PLC0415 - documents take long to import
    from hotseat.manifests import ManifestErrors, load  # noqa: PLC0415
    from hotseat.sources.base import redacted  # noqa: PLC0415

    try:
        manifest = load(files)
    except ManifestErrors as errors:
        raise ClientError(str(errors)) from None
    sources = dict.fromkeys(model.spec.source for model in manifest.models if is_remote(model.spec.source))
    return [(redacted(source), source) for source in sources if source is not None]


def _fetch(source: str, cache_dir: Path) -> str:
    """Fetch a source in a process of its own, and return the path. Raise ClientError if that fails."""
    from hotseat.sources.base import SourceError, cached, fetch_command, redacted  # noqa: PLC0415

    try:
        there = cached(source, cache_dir)
    except SourceError as error:
        raise ClientError(str(error)) from None
    if there is not None:
        return str(there)
    shown = _Shown(redacted(source))
    for attempt in range(1, ATTEMPTS + 1):
        last: dict[str, Any] = {}
        with live(sys.stderr, shown.text):
            child = subprocess.Popen(fetch_command(source, cache_dir), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
            with child:
                try:
                    for line in child.stdout or ():
                        last = json.loads(line)
                        shown.update(last)
                finally:
                    child.kill()
        if "path" in last:
            return str(last["path"])
        if attempt == ATTEMPTS or not last.get("retryable", True):
            break
        time.sleep(2 * attempt)
    raise ClientError(last.get("error") or f"the fetch ended with code {child.returncode}")


class _Shown:
    """The progress of one fetch, as a line that is rewritten, or as a line now and then."""

    def __init__(self, source: str) -> None:
        from hotseat.core.transfer_rate import TransferRate  # noqa: PLC0415 - only what fetches needs it

        self._source = source
        self._progress: dict[str, Any] = {}
        self._rate = TransferRate()
        self._next_line = time.monotonic() + LINE_INTERVAL

    def update(self, message: Mapping[str, Any]) -> None:
        """Note the progress in a message of the child."""
        from hotseat.core.transfer_rate import seconds_left  # noqa: PLC0415

        if "done" not in message:
            return
        now, done, total = time.monotonic(), message["done"], message.get("total")
        rate = self._rate.update(now, done)
        self._progress = {"done": done, "total": total, "rate": rate, "remaining": seconds_left(done, total, rate)}
        if now >= self._next_line and not sys.stderr.isatty():
            self._next_line = now + LINE_INTERVAL
            click.echo(self.text(), err=True)

    def text(self) -> str:
        """Return the progress in one line."""
        return f"{printable(self._source)}  {transfer(self._progress) or 'fetching'}"


def _bytes(size: int) -> str:
    from hotseat.api.units import format_bytes  # noqa: PLC0415 - its import takes longer than most commands

    return format_bytes(size)


def _duration(text: str) -> float:
    from hotseat.api.units import parse_duration  # noqa: PLC0415 - its import takes longer than most commands

    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None
