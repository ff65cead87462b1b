"""`hotseat validate` and `hotseat schema`."""

import dataclasses
import json
from pathlib import Path

import click

from hotseat.api.model import DOCUMENTS
from hotseat.cli.options import Command, output_option
from hotseat.control.port_conflicts import port_conflicts
from hotseat.manifests import Manifest, ManifestErrors, load
from hotseat.manifests.files import name_of
from hotseat.manifests.schema import schema as schema_of

INVALID = 2  # exit code


@click.command(
    cls=Command,
    examples=(
        "hotseat validate models.yaml",
        "hotseat validate models/ -o json",
        "kubectl get models,workspaces -o yaml | hotseat validate -",
    ),
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@output_option("text", "json")
@click.pass_context
def validate(context: click.Context, files: tuple[Path, ...], output: str) -> None:
    """Validate documents without serving them.

    FILE is a file of Models and Workspaces, a folder of such files, or - for standard input. All files are checked
    together, and all problems are reported at once. The exit code is 2 if there is a problem.
    """
    try:
        manifest = load(files)
    except ManifestErrors as errors:
        if output == "json":
            click.echo(
                json.dumps({"ok": False, "problems": [dataclasses.asdict(it) for it in errors.problems]}, indent=2)
            )
        else:
            click.echo(str(errors), err=True)
        context.exit(INVALID)
    if output == "json":
        counts = {"models": len(manifest.models), "workspaces": len(manifest.workspaces)}
        click.echo(json.dumps({"ok": True, **counts, "problems": []}, indent=2))
    else:
        for conflict in port_conflicts(manifest.models, manifest.workspaces):
            click.echo(f"warning: on one machine {conflict}", err=True)
        click.echo(f"{', '.join(map(name_of, files))}: {_summary(manifest)}: ok")


@click.command(
    cls=Command,
    examples=(
        "hotseat schema > hotseat.schema.json",
        "# yaml-language-server: $schema=hotseat.schema.json   (first line of models.yaml)",
    ),
)
@click.argument("kind", required=False, type=click.Choice([kind.lower() for kind in DOCUMENTS]))
def schema(kind: str | None) -> None:
    """Print the JSON Schema of the documents, for editors.

    KIND is model or workspace. Without KIND, the schema accepts both.
    """
    click.echo(json.dumps(schema_of(kind and kind.capitalize()), indent=2))


def _summary(manifest: Manifest) -> str:
    models, workspaces = len(manifest.models), len(manifest.workspaces)
    return f"{models} model{'' if models == 1 else 's'}, {workspaces} workspace{'' if workspaces == 1 else 's'}"
