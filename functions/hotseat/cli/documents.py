"""`hotseat validate`, `hotseat schema` and `hotseat import`: documents, without anything being run."""

import dataclasses
import json
import os
from pathlib import Path

import click

from hotseat.api.model import DOCUMENTS
from hotseat.cli.options import Command, output_option
from hotseat.control.host_resources import port_conflicts
from hotseat.importing import FORMATS, Imported, convert
from hotseat.importing.llamaswap import convert_texts
from hotseat.importing.ollama import read_server
from hotseat.manifests import Manifest, ManifestErrors, load
from hotseat.manifests.files import Text, name_of, read
from hotseat.manifests.loading import load_texts
from hotseat.manifests.problems import Problem
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


OLLAMA = "ollama"  # instead of a file


@click.command(
    name="import",
    cls=Command,
    examples=(
        "hotseat import config.yaml -o models.yaml && hotseat up -f models.yaml",
        "hotseat import config.yaml | hotseat up -f - --dry-run",
        "hotseat import ollama http://gpu-box:11434",
        "kubectl get modelapis -o yaml | hotseat import -",
    ),
)
@click.argument("file", metavar="FILE|ollama", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("url", required=False)
@click.option(
    "--from", "source", type=click.Choice(list(FORMATS)), help="Format of the file.  [default: told by its content]"
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="File to write.  [default: standard output]")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.pass_context
def import_(  # noqa: PLR0917 - one parameter an option
    context: click.Context, file: Path, url: str | None, source: str | None, output: Path | None, force: bool
) -> None:
    """Convert the configuration of another program.

    FILE is a configuration of llama-swap, llmsnap or LiteLLM, a folder with parts of one of llama-swap, documents of snipsnap
    (Model, Workspace), vllm-chill (VLLMModel) or kaos (ModelAPI), what `ollama list` prints, a file of Docker Compose, or - for
    standard input. `ollama` asks the server at URL for its models; the default is OLLAMA_HOST, or Ollama on this machine.

    Clients keep the model names that they use. Settings without an equivalent, settings that were changed, and what was assumed, are
    listed in comments above each document and on standard error. API keys are not written. The exit code is 2 if the file cannot be
    imported.
    """
    if url is not None and str(file) != OLLAMA:
        raise click.UsageError(f"{url} is one argument too many: only `hotseat import ollama` takes a URL")
    if output is not None and output.exists() and not force:
        raise click.UsageError(f"{output} exists already; use --force to overwrite it")
    try:
        made = _convert(file, url or "", source)
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


def _convert(file: Path, url: str, source: str | None) -> Imported:
    if str(file) == OLLAMA:
        return convert(*read_server(url, os.environ), os.environ, source=OLLAMA)
    texts = list(read([file]))
    if problems := [text for text in texts if isinstance(text, Problem)]:
        raise ManifestErrors(problems)
    found = [text for text in texts if isinstance(text, Text)]
    if file.is_dir():
        return convert_texts(found, os.environ)
    (text,) = found
    return convert(text.content, text.name, os.environ, source=source)


def _folder(output: Path | None) -> Path:
    return Path.cwd() if output is None else output.absolute().parent
