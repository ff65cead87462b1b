"""`hotseat pull` and `hotseat cache`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hotseat.cli import options
from hotseat.cli.main import main
from hotseat.sources.cache import UseLocks
from tests.origins import Origins, serve
from tests.unit.sources.test_cache import A, put


@pytest.fixture
def origin() -> Iterator[Origins]:
    with serve() as origin:
        origin.files["/w.gguf"] = b"w" * 2048
        yield origin


@pytest.fixture(autouse=True)
def nobody_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(options, "DEFAULT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HOTSEAT_URL", raising=False)
    monkeypatch.delenv("HOTSEAT_CACHE_DIR", raising=False)


def hotseat(*argv: str, **more: str) -> Result:
    return CliRunner().invoke(main, argv, **more)


def test_a_source_is_pulled_without_a_server_to_where_up_looks_for_it(origin: Origins, tmp_path: Path) -> None:
    done = hotseat("pull", f"{origin.url}/w.gguf")
    assert done.exit_code == 0, done.output
    path = Path(done.stdout.strip())
    assert path.read_bytes() == b"w" * 2048
    assert path.is_relative_to(tmp_path / "hotseat")
    assert hotseat("pull", f"{origin.url}/w.gguf").stdout == done.stdout
    assert len(origin.asked) == 1


def test_what_cannot_be_pulled_is_said(origin: Origins) -> None:
    done = hotseat("pull", f"{origin.url}/none?key=secret")
    assert done.exit_code == 1
    assert done.stderr == f"Error: {origin.url}/none answered 404: no such file\n"
    assert "pvc:// needs a cluster" in hotseat("pull", "pvc://claim/a").stderr
    assert "name a model or a source" in hotseat("pull").stderr
    assert "no hotseat answers" in hotseat("pull", "gemma").stderr


def test_the_sources_of_a_file_are_pulled(origin: Origins, tmp_path: Path) -> None:
    document = {
        "apiVersion": "hotseat.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": "a"},
        "spec": {"engine": "llamacpp", "source": f"{origin.url}/w.gguf"},
    }
    (tmp_path / "models.yaml").write_text(json.dumps(document))
    done = hotseat("pull", "-f", str(tmp_path / "models.yaml"), "-o", "json")
    assert done.exit_code == 0, done.output
    assert [row["source"] for row in json.loads(done.stdout)["pulled"]] == [f"{origin.url}/w.gguf"]
    (tmp_path / "models.yaml").write_text("kind: Modle")
    assert hotseat("pull", "-f", str(tmp_path / "models.yaml")).exit_code == 1


def test_the_cache_is_listed_and_pruned_without_a_server(tmp_path: Path) -> None:
    folder = put(A, tmp_path / "hotseat", 2048, days=2)
    lines = hotseat("cache", "ls").stdout.splitlines()
    assert lines[1].split() == [A, "complete", "2Ki", "2d", "-", str(folder)]
    assert hotseat("cache", "ls", "-o", "name").stdout == f"{A}\n"
    assert "nothing to prune" in hotseat("cache", "prune", "--older-than", "72h").stdout
    assert hotseat("cache", "prune", "--dry-run").stdout.splitlines()[-1] == "would delete 2Ki"
    refused = hotseat("cache", "prune", input="n\n")
    assert (refused.exit_code, folder.exists()) == (1, True)
    assert hotseat("cache", "prune", "--yes").stdout == "deleted 2Ki\n"
    assert not folder.exists()
    assert "nothing to prune" in hotseat("cache", "prune").stdout


def test_what_is_in_use_is_shown_and_kept(tmp_path: Path) -> None:
    put(A, tmp_path)
    locks = UseLocks(tmp_path)
    locks.hold([A])
    assert "now" in hotseat("cache", "--cache-dir", str(tmp_path)).stdout
    assert "nothing to prune" in hotseat("cache", "prune", "-y", "--cache-dir", str(tmp_path)).stdout
    locks.close()


def test_a_server_that_is_named_is_not_replaced_by_the_cache_of_this_machine() -> None:
    done = hotseat("cache", "prune", "--yes", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "no hotseat answers" in done.stderr


@pytest.mark.parametrize("argv", [("cache", "gemma"), ("cache", "prune", "--older-than", "soon")])
def test_what_makes_no_sense_is_refused(argv: tuple[str, ...]) -> None:
    assert hotseat(*argv).exit_code == 2
