"""`hotseat import`: convert the configuration of another program to documents."""

import os
from pathlib import Path

import click

from hotseat.cli.documents import INVALID
from hotseat.cli.options import Command
from hotseat.importing import Imported, convert
from hotseat.manifests.files import Text, name_of, read
from hotseat.manifests.loading import load_texts
from hotseat.manifests.problems import ManifestErrors, Problem

FORMATS = ("llama-swap", "llmsnap")


@click.command(
    name="import",
    cls=Command,
    examples=(
        "hotseat import config.yaml -o models.yaml && hotseat up -f models.yaml",
        "hotseat import config.yaml | less",
    ),
)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="File to write.  [default: standard output]")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.pass_context
def import_(context: click.Context, file: Path, output: Path | None, force: bool) -> None:
    """Convert the configuration of llama-swap or llmsnap.

    FILE is a config.yaml of llama-swap or llmsnap, or - for standard input. Its models become Models, and its groups or
    matrix become a Workspace. Clients keep the model names that they use. Settings without an equivalent, and settings that
    were changed, are listed in comments above each document and on standard error. API keys are not written. The exit code
    is 2 if the file cannot be imported.
    """
    if output is not None and output.exists() and not force:
        raise click.UsageError(f"{output} exists already; use --force to overwrite it")
    try:
        made = _convert(file)
        manifest = load_texts([Text("the converted documents", Path(), _folder(output), made.text)])
    except ManifestErrors as errors:
        click.echo(str(errors), err=True)
        context.exit(INVALID)
    if output is None:
        click.echo(made.text, nl=False)
    else:
        output.write_text(made.text, encoding="utf-8")
    for name, note in made.notes:
        click.echo(f"{name}: {note}", err=True)
    where = "" if output is None else f" -> {output}"
    click.echo(f"{name_of(file)}: {len(manifest.models)} models, {len(made.notes)} notes{where}", err=True)


def _convert(file: Path) -> Imported:
    (text,) = read([file]) if not file.is_dir() else [Problem(name_of(file), "is a folder, not a file")]
    if isinstance(text, Problem):
        raise ManifestErrors([text])
    return convert(text.content, text.name, os.environ)


def _folder(output: Path | None) -> Path:
    return Path.cwd() if output is None else output.absolute().parent
