"""The command for profiles: which names stand for other models."""

import click

from hotseat.cli.commands import print_as
from hotseat.cli.options import Command, connect, output_option, server_options
from hotseat.cli.terminal import table


@click.command(cls=Command, examples=["hotseat profile", "hotseat profile coding", "hotseat profile --none"])
@click.argument("name", required=False)
@click.option("--none", "off", is_flag=True, help="Make no profile active.")
@click.option("--workspace", metavar="NAME", help="Workspace to switch. Default: each that has the profile.")
@output_option("table", "json", "name")
@server_options(top=False)
@click.pass_context
def profile(ctx: click.Context, name: str | None, off: bool, workspace: str | None, output: str) -> None:
    """List the profiles, or switch to one.

    While a profile is active, its names stand for other models. On a cluster, set spec.activeProfile of the Workspace instead.
    """
    if name is not None and off:
        raise click.UsageError("name a profile or use --none, but not both", ctx)
    if workspace is not None and name is None and not off:
        raise click.UsageError("--workspace needs a profile or --none", ctx)
    client = connect(ctx)
    switches = name is not None or off
    body = client.switch_profile(name, workspace) if switches else client.get("/api/profiles", "profiles")
    rows = [
        [
            each["name"],
            each["workspace"],
            "active" if each["active"] else "",
            ", ".join(f"{pin}={target or '(off)'}" for pin, target in each["pins"].items()),
        ]
        for each in body["profiles"]
    ]
    names = [each["name"] for each in body["profiles"]]
    print_as(output, body, names, table(["PROFILE", "WORKSPACE", "STATE", "NAMES"], rows))
