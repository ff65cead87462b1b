"""The section of docs/cli.md that lists every command with its options, made from the commands themselves."""

from collections.abc import Collection, Iterator

import click

from hotseat.cli.main import COMMANDS, main


def commands() -> str:
    """Markdown of all commands, in the order of `hotseat --help`."""
    top = click.Context(main, info_name="hotseat")
    parts = ["## Options of every command", "", *_options(main, top)]
    for name in COMMANDS:
        parts += _command(main.get_command(top, name), click.Context(main, info_name="hotseat"))
    return "\n".join(parts)


def _command(command: click.Command | None, top: click.Context, heading: str = "##") -> Iterator[str]:
    if command is None:
        raise LookupError("a command of the table is not there")
    ctx = click.Context(command, info_name=command.name, parent=top)
    yield from ["", f"{heading} `{_synopsis(command, ctx)}`", ""]
    yield _prose(command.help or "")
    everywhere = {param.name for param in main.params}
    own = list(_options(command, ctx, without=everywhere))
    yield from ["", *own] if own else []
    if examples := _examples(command):
        yield from ["", "```sh", *examples, "```"]
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            yield from _command(command.get_command(ctx, name), ctx, "###")


def _synopsis(command: click.Command, ctx: click.Context) -> str:
    arguments = [part for part in command.collect_usage_pieces(ctx) if part != "[OPTIONS]"]
    return " ".join([ctx.command_path.split(" [")[0], *arguments])


def _options(command: click.Command, ctx: click.Context, without: Collection[str | None] = ()) -> Iterator[str]:
    """Yield a table of the options that are not among those of every command."""
    options = [param for param in command.params if isinstance(param, click.Option) and param.name not in without]
    if options:
        yield from ["| Option | What it does |", "|---|---|"]
    for names, text in filter(None, (option.get_help_record(ctx) for option in options)):
        if not text:
            raise ValueError(f"{ctx.command_path} {names} has no help")
        yield f"| `{_cell(names)}` | {_cell(text)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    paragraphs = text.replace("\b", "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _examples(command: click.Command) -> list[str]:
    return list(getattr(command, "examples", ()))
