"""`hotseat key`: API keys in a file, which holds hashes of them."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click
import yaml
from pydantic import ValidationError

from hotseat.cli.options import Command, output_option
from hotseat.cli.terminal import for_stdout, table
from hotseat.gateway.auth import Operation
from hotseat.gateway.key_file import KeyEntry, KeyFileError, hash_of, is_plain, parse_entries
from hotseat.private_files import opener

PREFIX = "hs-"
RANDOM_BYTES = 32
_file = click.option("--file", "path", type=click.Path(path_type=Path, dir_okay=False), envvar="HOTSEAT_API_KEY_FILE", required=True,
                     help="File of API keys, as for `hotseat up --api-key-file`.  [env var: HOTSEAT_API_KEY_FILE]")  # fmt: skip


@click.group()
def key() -> None:
    """Make, list and remove API keys in a file.

    A running hotseat reads the file again when it changes.
    """


@key.command(
    cls=Command,
    examples=(
        "hotseat key new alice --file keys.yaml",
        'hotseat key new ci --models "qwen*" --operations infer --requests-per-minute 60 --file keys.yaml',
    ),
)
@click.argument("name")
@click.option("--models", multiple=True, metavar="PATTERN", help="Shell pattern of names of Models that the key may use. Can be repeated.  "
              "[default: *]")  # fmt: skip
@click.option(
    "--operations",
    metavar="LIST",
    help=f"What the key may do, separated by commas: {', '.join(Operation)}.  [default: all]",
)
@click.option(
    "--requests-per-minute",
    type=click.IntRange(1),
    metavar="N",
    help="Maximum number of requests for models in a minute.",
)
@click.option(
    "--concurrency", type=click.IntRange(1), metavar="N", help="Maximum number of requests for models at once."
)
@click.option(
    "--weight", type=click.IntRange(1, 1000), metavar="N", help="Weight of the key in the fair share.  [default: 1]"
)
@_file
def new(  # noqa: PLR0917 — one parameter an option
    name: str,
    models: tuple[str, ...],
    operations: str | None,
    requests_per_minute: int | None,
    concurrency: int | None,
    weight: int | None,
    path: Path,
) -> None:
    """Make an API key and print it, once.

    FILE gets the SHA-256 of the key, its NAME and what it may do.
    """
    made = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    stated = {
        "name": name,
        "hash": hash_of(made),
        "models": list(models),
        "operations": [each.strip() for each in operations.split(",")] if operations is not None else None,
        "requestsPerMinute": requests_per_minute,
        "concurrency": concurrency,
        "weight": weight,
    }
    entry = {field: value for field, value in stated.items() if value}
    try:
        KeyEntry.model_validate(entry)
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        raise click.UsageError(f"{problem['loc'][0]}: {problem['msg']}") from None
    with _locked(path) as file:
        text = file.read()
        if any(each.name == name for each in _entries(path, text)):
            raise click.ClickException(
                f"{path} has a key of the name {name}; remove it with `hotseat key rm {name}` first"
            )
        _write(file, _added(text, entry))
    click.echo(made)


@key.command(cls=Command, examples=("hotseat key ls --file keys.yaml",))
@output_option("table", "json", "name")
@_file
def ls(output: str, path: Path) -> None:
    """List the keys of a file, without the keys themselves."""
    try:
        entries = _entries(path, path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if output == "json":
        shown = [each.model_dump(mode="json", by_alias=True, exclude={"hash", "key"}) for each in entries]
        click.echo(for_stdout(json.dumps({"keys": shown}, indent=2, ensure_ascii=False)))
    elif output == "name":
        click.echo("".join(f"{each.name}\n" for each in entries), nl=False)
    else:
        click.echo(
            for_stdout(
                table(["NAME", "MODELS", "OPERATIONS", "PER-MINUTE", "CONCURRENCY", "WEIGHT"], list(map(_row, entries)))
            )
        )


@key.command(cls=Command, examples=("hotseat key rm alice --file keys.yaml",))
@click.argument("name")
@_file
def rm(name: str, path: Path) -> None:
    """Remove the key NAME from a file."""
    if not path.exists():
        raise click.ClickException(f"{path} does not exist")
    with _locked(path) as file:
        text = file.read()
        names = [each.name for each in _entries(path, text)]
        if name not in names:
            raise click.ClickException(f"{path} has no key of the name {name}; it has: {', '.join(names) or 'none'}")
        if len(names) == 1:
            raise click.ClickException(
                f"{name} is the last key of {path}; hotseat needs one, or stop it and delete the file"
            )
        _write(file, _removed(text, names.index(name)))


def _row(entry: KeyEntry) -> list[str]:
    limits = (entry.requests_per_minute, entry.concurrency)
    numbers = ("" if each is None else str(each) for each in limits)
    return [entry.name, ",".join(entry.models), ",".join(entry.operations), *numbers, str(entry.weight)]


def _entries(path: Path, text: str) -> tuple[KeyEntry, ...]:
    if is_plain(text) and any(line.strip() and not line.strip().startswith("#") for line in text.splitlines()):
        raise click.ClickException(f"{path} has one key a line; `hotseat key` works on a list of keys with names")
    try:
        return parse_entries(text)
    except KeyFileError as error:
        raise click.ClickException(f"{path} {error}") from None


def _added(text: str, entry: dict[str, Any]) -> str:
    """Return a list with one more entry. In block style, the rest stays as it is."""
    if _is_flow(text):
        return json.dumps([*yaml.safe_load(text), entry], indent=2) + "\n"
    before = text if not text or text.endswith("\n") else text + "\n"
    return before + yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)


def _removed(text: str, number: int) -> str:
    """Return a list without one entry. In block style, the rest stays as it is, also comments before the next entry."""
    if _is_flow(text):
        return json.dumps([each for at, each in enumerate(yaml.safe_load(text)) if at != number], indent=2) + "\n"
    lines = text.splitlines(keepends=True)
    listed = yaml.compose(text, Loader=yaml.SafeLoader)
    starts = [] if listed is None else [node.start_mark.line for node in listed.value]
    begin, end = starts[number], starts[number + 1] if number + 1 < len(starts) else len(lines)
    while number + 1 < len(starts) and not lines[end - 1].partition("#")[0].strip():
        end -= 1
    return "".join(lines[:begin] + lines[end:])


def _is_flow(text: str) -> bool:
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "").startswith("[")


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """Open a file for reading and writing, and create it if it is missing. Others wait until it is closed.

    The file is changed in its place: a container may have it mounted.
    """
    try:
        path.touch(0o600)
        with open(path, "r+", encoding="utf-8", opener=opener) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be changed: {getattr(error, 'strerror', None) or error}") from None


def _write(file: IO[str], text: str) -> None:
    file.seek(0)
    file.write(text)
    file.truncate()
    file.flush()
    os.fsync(file.fileno())
