"""Options that commands share: the server, the output format, and examples in the help."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:  # the HTTP client takes longer to import than `hotseat version` takes to run
    from click.shell_completion import CompletionItem

    from hotseat.cli.client import Client, Query
    from hotseat.cli.cluster import Cluster

PLUGIN: Final = "plugin"  # value of the context's obj in `kubectl hotseat` and `kn hotseat`
HISTORY_LIMIT = 10_000  # rows that a server returns at most
DEFAULT_URL = "http://127.0.0.1:8000"
COMPLETION_TIMEOUT = 1.0  # seconds

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])


class Command(click.Command):
    """A command with examples in its help."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Example" if len(self.examples) == 1 else "Examples"):
                formatter.write("".join(f"  {example}\n" for example in self.examples))


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Store an option of the program or of a command. The last value counts."""
    if not value or param.name is None:
        return
    ctx.meta[f"hotseat.{param.name}"] = value
    if param.name == "url":
        ctx.meta["hotseat.url_typed"] = ctx.get_parameter_source("url") is not ParameterSource.ENVIRONMENT


def server_options(*, top: bool, short: bool = True) -> Callable[[AnyCommand], AnyCommand]:
    """Add options that select a hotseat.

    The options of the program (`top`) also read environment variables. The options of a command override them.
    """
    where = f"URL of hotseat  [env var: HOTSEAT_URL; default: {DEFAULT_URL}]"
    key = "API key to send. The list of processes shows it; the variable does not  [env var: HOTSEAT_API_KEY]"
    ca = "Certificate of the server or its authority, in PEM  [env var: HOTSEAT_CA_FILE; default: those of the system]"

    def add(command: AnyCommand) -> AnyCommand:
        command = cluster_options(short=short)(command)
        text = "Use the router in the cluster of the kubeconfig. Implied by the next three options"
        command = click.option("--cluster", is_flag=True, help=text, expose_value=False, callback=_keep)(command)
        for name, metavar, text in (("--ca-file", "FILE", ca), ("--api-key", "KEY", key), ("--url", "URL", where)):
            envvar = "HOTSEAT" + name[1:].replace("-", "_").upper() if top else None
            option = click.option(name, metavar=metavar, envvar=envvar, help=text, expose_value=False, callback=_keep)
            command = option(command)
        return command

    return add


def cluster_options(*, short: bool = True) -> Callable[[AnyCommand], AnyCommand]:
    """Add options that select a cluster and a namespace. Without `short`, -n is free for another option."""
    options = (
        (("-n",) * short + ("--namespace",), "NAME", "Namespace of the router  [default: the context's]"),
        (("--context",), "NAME", "Context in the kubeconfig  [default: the current context]"),
        (("--kubeconfig",), "FILE", "Path of the kubeconfig  [env var: KUBECONFIG; default: ~/.kube/config]"),
    )

    def add(command: AnyCommand) -> AnyCommand:
        for names, metavar, text in options:
            command = click.option(*names, metavar=metavar, help=text, expose_value=False, callback=_keep)(command)
        return command

    return add


def output_option(*choices: str) -> Callable[[AnyCommand], AnyCommand]:
    """Add the option --output. The first choice is the default."""
    return click.option(
        "-o", "--output", type=click.Choice(choices), default=choices[0], show_default=True, help="Format."
    )


def history_options(what: str) -> Callable[[AnyCommand], AnyCommand]:
    """Add --since and --until, which list WHAT from the history instead of the present. See `history_of`."""
    options = (
        (
            "--since",
            "begin",
            f"List {what}, also before a restart of hotseat, since a time (RFC 3339), or since so long ago: 24h.",
        ),
        ("--until", "end", "End of the time that --since begins.  [default: now]"),
    )

    def add(command: AnyCommand) -> AnyCommand:
        for option, name, text in reversed(options):
            command = click.option(option, name, metavar="DURATION|TIME", help=text)(command)
        return command

    return add


def check_until(ctx: click.Context, begin: str | None, end: str | None) -> None:
    """Raise UsageError if --until stands alone."""
    if end and not begin:
        raise click.UsageError("--until needs --since", ctx)


def typed(ctx: click.Context) -> set[str]:
    """Return the names of the options of a command that the user has given."""
    return {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def history_of(
    ctx: click.Context, kind: str, begin: str, end: str | None, *, model: str | None = None, limit: int = HISTORY_LIMIT
) -> dict[str, Any]:
    """Return what GET /api/history/KIND returns. Print a warning if there is more than it returns at once."""
    client = connect(ctx)
    query: Query = {"since": begin, "until": end, "model": model, "limit": limit}
    body = client.get(f"/api/history/{kind}", kind, query)
    if len(body[kind]) == HISTORY_LIMIT:
        click.echo(f"only the newest {HISTORY_LIMIT} are listed; --until selects earlier ones", err=True)
    return body


def connect(ctx: click.Context, *, answer_timeout: float | None = None) -> "Client":
    """Return a client for the hotseat that the options select."""
    from hotseat.cli.client import ANSWER_TIMEOUT, Client  # noqa: PLC0415 - see above

    try:
        key, ca_file = (ctx.meta.get(f"hotseat.{name}") for name in ("api_key", "ca_file"))
        return Client(_url(ctx), key, ca_file=ca_file, answer_timeout=answer_timeout or ANSWER_TIMEOUT)
    except ValueError as error:
        raise click.UsageError(f"--url or HOTSEAT_URL: {error}", ctx) from error


def _url(ctx: click.Context) -> str:
    """Return the URL, in this order: --url, cluster options, HOTSEAT_URL, the cluster for plugins, this machine."""
    url: str | None = ctx.meta.get("hotseat.url")
    if url and (ctx.meta["hotseat.url_typed"] or not _names_cluster(ctx)):
        return url
    if not in_cluster(ctx):
        return DEFAULT_URL
    from hotseat.cli.cluster import router_url  # noqa: PLC0415 - most commands need no Kubernetes

    return router_url(ctx, cluster(ctx))


def cluster(ctx: click.Context) -> "Cluster":
    """Return the cluster that the options select."""
    from hotseat.cli.cluster import Cluster  # noqa: PLC0415 - see above

    kubeconfig = ctx.meta.get("hotseat.kubeconfig")
    path = Path(kubeconfig).expanduser() if kubeconfig else None
    return Cluster(path, ctx.meta.get("hotseat.context"), ctx.meta.get("hotseat.namespace"))


def in_cluster(ctx: click.Context) -> bool:
    """Whether the URL may have to be found by a kubeconfig."""
    return ctx.obj is PLUGIN or _names_cluster(ctx)


def _names_cluster(ctx: click.Context) -> bool:
    return any(f"hotseat.{name}" in ctx.meta for name in ("cluster", "kubeconfig", "context", "namespace"))


def complete_model(ctx: click.Context, _param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Return names of models for shell completion. Empty if no hotseat answers."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only when Tab is pressed

    if in_cluster(ctx) and "hotseat.url" not in ctx.meta:
        return []  # finding the router takes too long for a completion
    try:
        names = connect(ctx, answer_timeout=COMPLETION_TIMEOUT).names()
    except click.ClickException:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def model_argument(command: AnyCommand) -> AnyCommand:
    """Add the argument MODEL: a name of a model, with shell completion."""
    return click.argument("model", shell_complete=complete_model)(command)
