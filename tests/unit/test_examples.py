"""examples/compose.yaml: the documents in it are valid, and its command is one that hotseat takes."""

from pathlib import Path

import click
import yaml

from hotseat.cli.up import up
from hotseat.importing.formats import recognise
from hotseat.manifests.files import Text
from hotseat.manifests.loading import load_texts

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples/compose.yaml"


def test_the_example_for_docker_compose() -> None:
    text = FILE.read_text(encoding="utf-8")
    compose = yaml.safe_load(text)
    assert recognise(text, "compose.yaml") == "compose"
    service = compose["services"]["hotseat"]
    manifest = load_texts(
        [
            Text(
                "models.yaml",
                Path("/etc/hotseat/models.yaml"),
                Path("/etc/hotseat"),
                compose["configs"]["models"]["content"],
            )
        ]
    )
    assert [model.name for model in manifest.models] == ["qwen", "embed"]
    program, command, *options = service["command"]
    assert (program, command) == ("hotseat", "up")
    parsed = up.make_context("up", options, resilient_parsing=False)
    assert isinstance(parsed, click.Context)
    assert parsed.params["files"] == (Path(service["configs"][0]["target"]),)
    containerfile = (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8")
    folders = {volume.partition(":")[2] for volume in service["volumes"]}
    assert folders == {str(parsed.params["state_dir"]), str(parsed.params["cache_dir"])}
    assert all(folder in containerfile for folder in folders)  # which the image's user can write
