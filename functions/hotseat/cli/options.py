"""What the commands share: which hotseat they talk to, how they print, and examples in their help."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:  # the HTTP client takes longer to import than `hotseat version` takes to run
    from click.shell_completion import CompletionItem

    from hotseat.cli.client import Client

DEFAULT_URL = "http://127.0.0.1:8000"
COMPLETION_TIMEOUT = 1.0  # seconds that a pressed Tab may take

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])


class Command(click.Command):
    """A command whose help ends with examples: commands that can be typed as they stand."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Example" if len(self.examples) == 1 else "Examples"):
                formatter.write("".join(f"  {example}\n" for example in self.examples))


def _keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Remember an option wherever it stands on the command line; the last one given counts."""
    if value is not None:
        ctx.meta[f"hotseat.{param.name}"] = value


def server_options(*, top: bool) -> Callable[[AnyCommand], AnyCommand]:
    """Options --url and --api-key. Those of the whole program (`top`) read the environment; a command's own win."""
    where = f"Where hotseat answers  [env var: HOTSEAT_URL; default: {DEFAULT_URL}]"
    key = "Key that it wants  [env var: HOTSEAT_API_KEY]"

    def add(command: AnyCommand) -> AnyCommand:
        for name, metavar, text in (("--api-key", "KEY", key), ("--url", "URL", where)):
            envvar = "HOTSEAT" + name[1:].replace("-", "_").upper() if top else None
            option = click.option(name, metavar=metavar, envvar=envvar, help=text, expose_value=False, callback=_keep)
            command = option(command)
        return command

    return add


def output_option(*choices: str) -> Callable[[AnyCommand], AnyCommand]:
    """Option --output; the first choice is the default."""
    return click.option(
        "-o", "--output", type=click.Choice(choices), default=choices[0], show_default=True, help="Format."
    )


def connect(ctx: click.Context, **settings: float) -> "Client":
    """Build the client for the hotseat that the options name."""
    from hotseat.cli.client import Client  # noqa: PLC0415 - see above

    try:
        return Client(ctx.meta.get("hotseat.url", DEFAULT_URL), ctx.meta.get("hotseat.api_key"), **settings)
    except ValueError as error:
        raise click.UsageError(f"--url or HOTSEAT_URL: {error}", ctx) from error


def complete_model(ctx: click.Context, _param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Names of models for the shell; none where no hotseat answers."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only when Tab is pressed

    try:
        names = connect(ctx, answer_timeout=COMPLETION_TIMEOUT).names()
    except click.ClickException:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def model_argument(command: AnyCommand) -> AnyCommand:
    """Argument MODEL: a name or an alias, completed by the shell."""
    return click.argument("model", shell_complete=complete_model)(command)
