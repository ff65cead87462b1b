"""Configurations of llama-swap that are served as they are, whole or in parts, also beside documents."""

from pathlib import Path

import pytest

from hotseat.importing.loading import Inputs, load
from hotseat.manifests import ManifestErrors

CONFIG = """\
macros: {server: "llama-server --port ${PORT}"}
models:
  Org/One: {cmd: "${server} -m /models/one.gguf", ttl: 300, filters: {unheardOf: 1}}
"""
DOCUMENT = "apiVersion: hotseat.dev/v1alpha1\nkind: Model\nmetadata: {name: doc}\nspec: {engine: mock}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_configuration_is_served_as_it_is_and_what_was_changed_is_noted(folder: Path) -> None:
    write(folder, config=CONFIG)
    manifest = load(Inputs((folder / "config.yaml",)))
    (one,) = manifest.models
    assert (one.spec.engine, one.spec.source, one.spec.names) == ("llamacpp", "/models/one.gguf", ("Org/One",))
    assert one.spec.lifecycle.idle_timeout == 300
    assert any("filters.unheardOf" in note and "config.yaml" in note for note in manifest.notes)
    assert load(Inputs((folder / "config.yaml",)), known=manifest) is manifest
    write(folder, config=CONFIG.replace("300", "400"))
    assert load(Inputs((folder / "config.yaml",)), known=manifest).models[0].spec.lifecycle.idle_timeout == 400


def test_documents_stand_beside_it(folder: Path) -> None:
    write(folder, config=CONFIG, doc=DOCUMENT)
    assert {m.name for m in load(Inputs((folder,))).models} == {"org-one", "doc"}


def test_parts_are_merged_as_llama_swap_does(folder: Path) -> None:
    write(
        folder,
        a="healthCheckTimeout: 90\nmacros: {server: 'llama-server --port ${PORT}'}\nhooks: {on_startup: {preload: [one]}}\n",
        b="models:\n  one: {cmd: '${server} -m /models/one.gguf'}\nhealthCheckTimeout: 90\n",
        c="# nothing\nmodels:\n  two: {cmd: '${server} -m /models/two.gguf'}\nhooks: {on_startup: {preload: [two]}}\n",
    )
    models = {m.name: m.spec for m in load(Inputs((folder,))).models}
    assert {name: spec.source for name, spec in models.items()} == {
        "one": "/models/one.gguf",
        "two": "/models/two.gguf",
    }
    assert {(spec.lifecycle.start_timeout, spec.lifecycle.preload) for spec in models.values()} == {(90.0, True)}


@pytest.mark.parametrize(
    ("more", "line", "words"),
    [
        ("models:\n  Org/One: {cmd: 'x ${PORT}'}\n", 2, "Org/One is in "),
        ("healthCheckTimeout: 1\nmacros: {server: other}\n", 2, "is another value than in "),
        ("macros: [a]\n", 1, "is another value than in "),
        ("models:\n  two: {cmd: 'x ${PORT} ${nobody}'}\n", 2, "the macro ${nobody} is not defined"),
        (
            "models:\n  two: {cmd: x --port 1, proxy: 'http://127.0.0.1:1', aliases: [a], checkEndpoint: x}\n",
            2,
            "is not a path",
        ),
    ],
)
def test_a_problem_names_the_part_and_the_line(folder: Path, more: str, line: int, words: str) -> None:
    write(folder, a=CONFIG, b=more)
    with pytest.raises(ManifestErrors) as caught:
        load(Inputs((folder,)))
    (found,) = caught.value.problems
    assert (Path(found.file).name, found.line) == ("b.yaml", line)
    assert words in found.message


def test_lists_of_several_parts_keep_their_places(folder: Path) -> None:
    group = "groups:\n  {}:\n    members:\n    - {}\n"
    write(
        folder,
        a=CONFIG + group.format("g", "Org/One"),
        b="models:\n  two: {cmd: 'x --port ${PORT}'}\n" + group.format("h", "nobody"),
    )
    with pytest.raises(ManifestErrors) as caught:
        load(Inputs((folder,)))
    (found,) = caught.value.problems
    assert (Path(found.file).name, found.line, found.message) == ("b.yaml", 6, "no such model")


def test_what_has_no_models_is_told(folder: Path) -> None:
    write(folder, a="healthCheckTimeout: 90\n")
    with pytest.raises(ManifestErrors, match="a configuration of llama-swap or llmsnap, with models"):
        load(Inputs((folder,)))


@pytest.mark.parametrize(
    "text", ["spec: {}\n", "a: [\n", "models: {}\nkind: Model\n", "- 1\n", DOCUMENT.replace("kind", "kid")]
)
def test_what_is_no_configuration_is_read_as_documents(folder: Path, text: str) -> None:
    write(folder, a=text)
    with pytest.raises(ManifestErrors) as caught:
        load(Inputs((folder,)))
    assert "import" not in str(caught.value)
