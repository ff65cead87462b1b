"""The program `hotseat`: a table of commands, whose modules are imported when they run.

`hotseat version` and shell completion must not wait for the imports of a web server.
"""

import io
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

import click

from hotseat import __version__
from hotseat.cli.options import PLUGIN, server_options

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

INTERRUPTED = 130  # exit code after SIGINT, as in shells

# Name (also of the click command in the module), module, and help text.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "up": ("hotseat.cli.up", "Serve the models of a file or a folder."),
    "models": ("hotseat.cli.commands", "List the models and their states."),
    "ps": ("hotseat.cli.commands", "Show resident models, queues and fetches of weights."),
    "top": ("hotseat.cli.top", "Show residents, queues, GPUs and switches as they change."),
    "chat": ("hotseat.cli.chat", "Chat with a model."),
    "load": ("hotseat.cli.commands", "Load a model."),
    "unload": ("hotseat.cli.commands", "Unload a model, or all models."),
    "park": ("hotseat.cli.commands", "Put a model to sleep: its process stays, and the accelerator is free."),
    "pin": ("hotseat.cli.commands", "Load a model and keep it loaded."),
    "unpin": ("hotseat.cli.commands", "Allow a pinned model to be evicted again."),
    "logs": ("hotseat.cli.commands", "Print the log of a model's engine."),
    "events": ("hotseat.cli.commands", "Print events, one per line."),
    "switches": ("hotseat.cli.commands", "List recent switches and the duration of each phase."),
    "requests": (
        "hotseat.cli.requests",
        "List requests in flight and the last ones that ended, or cancel requests by their ids.",
    ),
    "pull": ("hotseat.cli.weights", "Fetch the weights of models or sources."),
    "cache": ("hotseat.cli.weights", "List the fetched weights and the saved prompt caches, or delete them."),
    "key": ("hotseat.cli.keys", "Make, list and remove API keys in a file."),
    "profile": ("hotseat.cli.profiles", "List the profiles, or switch to one."),
    "validate": ("hotseat.cli.documents", "Validate documents without serving them."),
    "schema": ("hotseat.cli.documents", "Print the JSON Schema of the documents, for editors."),
    "import": ("hotseat.cli.documents", "Convert the configuration of another program."),
    "simulate": ("hotseat.cli.simulate", "Run a load through the scheduler in simulated time."),
    "doctor": ("hotseat.cli.doctor", "Check that a cluster has everything that hotseat needs."),
    "version": ("hotseat.cli.commands", "Print the version of this program."),
}


class LazyGroup(click.Group):
    """Commands that are imported when they run, not when they are listed."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names of commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return a command. The error about an unknown command suggests a similar name."""
        if name not in COMMANDS:
            close = get_close_matches(name, COMMANDS, n=1)
            if close and not ctx.resilient_parsing:
                ctx.fail(f"No such command '{name}'. Did you mean {close[0]}?")
            return None
        command: click.Command = getattr(import_module(COMMANDS[name][0]), f"{name}_" if iskeyword(name) else name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Return completions of commands and options."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only when Tab is pressed

        named = [CompletionItem(name, help=COMMANDS[name][1]) for name in COMMANDS if name.startswith(incomplete)]
        return named + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Ctrl-C ends it without a message."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                click.echo(err=True)  # the terminal has written ^C
            raise click.exceptions.Exit(INTERRUPTED) from None


EPILOG = """
\b
Examples:
  hotseat up -f models.yaml
  hotseat chat gemma "Why do cats purr?"
  hotseat ps
"""


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@server_options(top=True)
@click.version_option(__version__, prog_name="hotseat", message="%(prog)s %(version)s")
def main() -> None:
    """Serve many models that take turns on one accelerator.

    `hotseat up` serves models. The other commands talk to a running hotseat, or work on files.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for characters that the locale does not have


def kubectl_plugin() -> None:
    """Run as `kubectl hotseat`: the same program, with the cluster of the kubeconfig as default."""
    main.main(prog_name="kubectl hotseat", obj=PLUGIN)


def kn_plugin() -> None:
    """Run as `kn hotseat`: the same as `kubectl hotseat`."""
    main.main(prog_name="kn hotseat", obj=PLUGIN)
