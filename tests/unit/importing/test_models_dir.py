"""Folders of GGUF files: which of them are Models, and how these are called."""

import os
import time
from pathlib import Path

import pytest

from hotseat.importing import models_dir
from hotseat.importing.loading import Inputs, load, snapshot
from hotseat.importing.models_dir import SETTLED, find, gguf_files, settled
from hotseat.manifests import ManifestErrors

LONG_AGO = time.time() - 3600


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")


def names(folder: Path) -> dict[str, tuple[str, ...]]:
    found, _ = find(gguf_files(folder))
    return {str(each.file.below): each.names for each in found}


def projectors(folder: Path) -> dict[str, str]:
    found, _ = find(gguf_files(folder))
    return {each.names[0]: each.projector.below.name if each.projector else "" for each in found}


@pytest.fixture(autouse=True)
def all_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_dir, "SETTLED", 0.0)


def test_a_model_is_called_as_its_file_or_as_the_folder_that_is_its_own(folder: Path) -> None:
    put(folder, "Qwen3-8B-Q4_K_M.gguf", "gemma/model-Q8_0.gguf", "org/Llama.gguf", "two/a.gguf", "two/b.gguf")
    assert names(folder) == {
        "Qwen3-8B-Q4_K_M.gguf": ("Qwen3-8B-Q4_K_M",),
        "gemma/model-Q8_0.gguf": ("gemma", "model-Q8_0"),
        "org/Llama.gguf": ("org", "Llama"),
        "two/a.gguf": ("two/a", "a"),
        "two/b.gguf": ("two/b", "b"),
    }


def test_each_name_is_that_of_one_model(folder: Path) -> None:
    put(folder, "a.gguf", "a/x.gguf", "one/model.gguf", "two/model.gguf")
    assert names(folder) == {
        "a.gguf": ("a",),
        "a/x.gguf": ("a/x", "x"),
        "one/model.gguf": ("one",),
        "two/model.gguf": ("two",),
    }


def test_a_split_model_is_one_and_only_when_all_its_parts_are_there(folder: Path) -> None:
    put(folder, *(f"big-{n:05}-of-00003.gguf" for n in (1, 2)), *(f"own/m-{n:05}-of-00002.gguf" for n in (1, 2)))
    assert names(folder) == {"own/m-00001-of-00002.gguf": ("own", "m")}
    _, notes = find(gguf_files(folder))
    assert notes == ["big-00001-of-00003.gguf: not a Model yet, big-00003-of-00003.gguf is missing"]
    assert load(Inputs(models_dirs=(folder,))).notes == (f"{folder}: {notes[0]}",)
    put(folder, "big-00003-of-00003.gguf")
    assert names(folder)["big-00001-of-00003.gguf"] == ("big",)


def test_a_projector_belongs_to_the_model_of_its_name_or_of_its_folder(folder: Path) -> None:
    put(
        folder, "Qwen2.5-VL-7B-Q4.gguf", "gemma.gguf", "mmproj-Qwen2.5-VL-7B-f16.gguf", "mmproj-BF16.gguf",
        "own/model.gguf", "own/mmproj-BF16.gguf", "own/mmproj-F16.gguf", "many/m-Q4.gguf", "many/m-Q8.gguf", "many/mmproj-model-f16.gguf",
        "mixed/a-1.gguf", "mixed/b-1.gguf", "mixed/mmproj-a.gguf",
    )  # fmt: skip
    assert projectors(folder) == {
        "Qwen2.5-VL-7B-Q4": "mmproj-Qwen2.5-VL-7B-f16.gguf",
        "gemma": "",
        "own": "mmproj-F16.gguf",
        "many/m-Q4": "mmproj-model-f16.gguf",
        "many/m-Q8": "mmproj-model-f16.gguf",
        "mixed/a-1": "mmproj-a.gguf",
        "mixed/b-1": "",
    }


def test_other_files_and_links_to_folders_above_are_passed_over(folder: Path) -> None:
    put(folder, "a.gguf", ".hidden/b.gguf", ".c.gguf", "mtp-a.gguf", "README.md", "d.gguf.part")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "link.gguf").symlink_to(folder / ".c.gguf")
    (folder / "dangling.gguf").symlink_to(folder / "nothing")
    assert [*names(folder)] == ["a.gguf", "link.gguf"]


def test_a_file_that_is_written_is_no_model_until_it_has_settled(folder: Path) -> None:
    put(folder, "a.gguf", "b.gguf")
    (folder / "empty.gguf").touch()
    files = gguf_files(folder)
    changed = max(file.changed for file in files)
    monkey = models_dir.SETTLED
    models_dir.SETTLED = SETTLED
    try:
        assert settled(files, changed + SETTLED / 2) == []
        assert [file.below.name for file in settled(files, changed + SETTLED)] == ["a.gguf", "b.gguf"]
        assert len(settled(files, changed - 3600)) == 2  # the clock was set back
    finally:
        models_dir.SETTLED = monkey


# As documents ---------------------------------------------------------------------------------------------------------

DOCUMENTS = """\
apiVersion: hotseat.dev/v1alpha1
kind: Workspace
metadata: {name: default}
spec:
  modelDefaults: {args: [--n-gpu-layers, "99"], lifecycle: {idleTimeout: 5m}}
---
apiVersion: hotseat.dev/v1alpha1
kind: Model
metadata: {name: mine}
spec: {engine: llamacpp, source: models/used.gguf, names: [named]}
"""


def test_each_is_a_model_of_llama_cpp_with_the_defaults_of_the_workspace(folder: Path) -> None:
    put(folder, "used.gguf", "named.gguf", "mine.gguf", "Vision 1.gguf", "mmproj-other.gguf", "plain.gguf")
    file = folder.parent / "documents.yaml"
    file.write_text(DOCUMENTS)
    manifest = load(Inputs((file,), (folder,)))
    assert [m.name for m in manifest.models] == ["mine", "vision-1", "plain"], "documents take precedence"
    _, vision, plain = manifest.models
    assert (vision.spec.names, vision.spec.engine) == (("Vision 1",), "llamacpp")
    assert vision.spec.source == str(folder / "Vision 1.gguf")
    assert vision.spec.args == ("--n-gpu-layers", "99")
    assert plain.spec.lifecycle.idle_timeout == 300
    assert load(Inputs((file,), (folder,)), known=manifest) is manifest


def test_a_virtual_model_keeps_its_name(folder: Path) -> None:
    put(folder, "fast.gguf", "big/fast-2.gguf", "plain.gguf")
    file = folder.parent / "documents.yaml"
    members = "members: [{model: plain}]"
    file.write_text(
        "apiVersion: hotseat.dev/v1alpha1\nkind: Workspace\nmetadata: {name: default}\nspec:\n  virtualModels:\n"
        f"  - {{name: fast, {members}}}\n  - {{name: fast-2, {members}}}\n"
    )
    found = {model.name: model.spec.names for model in load(Inputs((file,), (folder,))).models}
    assert found == {"big": ("big",), "plain": ()}


def test_a_projector_is_an_argument_after_the_default_ones(folder: Path) -> None:
    put(folder, "v/model.gguf", "v/mmproj-F16.gguf")
    file = folder.parent / "documents.yaml"
    file.write_text(DOCUMENTS)
    found = load(Inputs((file,), (folder,))).models[-1]
    assert found.spec.args == ("--n-gpu-layers", "99", "--mmproj", str(folder / "v" / "mmproj-F16.gguf"))


def test_without_documents_they_are_all_there_is(folder: Path) -> None:
    put(folder, "a.gguf")
    other = folder.parent / "other"
    put(other, "a.gguf", "b.gguf")
    manifest = load(Inputs(models_dirs=(folder,)))
    assert [(m.name, m.spec.names) for m in manifest.models] == [("a", ())]
    assert [w.name for w in manifest.workspaces] == ["default"]
    (folder / "a.gguf").unlink()
    assert load(Inputs(models_dirs=(folder,))).models == ()


def test_a_folder_that_cannot_be_read_is_a_problem(folder: Path) -> None:
    with pytest.raises(ManifestErrors, match="models: cannot be read: No such file or directory"):
        load(Inputs(models_dirs=(folder,)))


def test_a_change_of_the_folder_is_seen(folder: Path) -> None:
    put(folder, "a.gguf")
    inputs = Inputs(models_dirs=(folder,))
    before = snapshot(inputs)
    assert snapshot(inputs) == before
    put(folder, "sub/b.gguf")
    after = snapshot(inputs)
    assert after != before
    os.utime(folder / "a.gguf", (LONG_AGO, LONG_AGO))
    assert snapshot(inputs) != after
