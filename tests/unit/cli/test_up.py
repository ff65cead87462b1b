"""What the options of `hotseat up` become."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from hotseat.app import Settings
from hotseat.cli import up
from hotseat.cli.main import main
from hotseat.gateway.http.interfaces import HttpLimits
from hotseat.importing import models_dir
from hotseat.importing.loading import Inputs

MODEL = "apiVersion: hotseat.dev/v1alpha1\nkind: Model\nmetadata: {name: a}\nspec: {engine: mock}\n"


def served(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> tuple[Settings, HttpLimits]:
    (folder / "m.yaml").write_text(MODEL)
    found: list[tuple[Settings, HttpLimits]] = []
    monkeypatch.setattr(up, "set_up_logging", lambda *_, **__: None)
    monkeypatch.setattr(up, "_check_port", lambda _host, port, *_: port)
    monkeypatch.setattr(up, "_serve", lambda its, limits, *_: found.append((its, limits)))
    result = CliRunner().invoke(main, ["up", "-f", str(folder / "m.yaml"), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


def settings(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> Settings:
    return served(monkeypatch, folder, *options)[0]


def test_a_server_may_be_called_by_the_name_that_it_was_told_to_listen_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which may resolve to a loopback address, as the name of the machine does on Debian."""
    assert "gpu-box" in settings(monkeypatch, tmp_path, "--host", "gpu-box", "--no-auth").hosts
    its = settings(monkeypatch, tmp_path, "--allowed-host", "a.example", "--allowed-host", "b.example")
    assert {"a.example", "b.example"} <= set(its.hosts)


def test_files_and_folders_are_named_in_any_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    more, models = tmp_path / "more", tmp_path / "models"
    for folder in (more, models):
        folder.mkdir()
    (more / "w.yaml").write_text(MODEL.replace("name: a", "name: b"))
    (models / "c.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(models_dir, "SETTLED", 0.0)
    its = settings(monkeypatch, tmp_path, "--models-dir", str(models), "--config-dir", str(more))
    assert its.inputs == Inputs((tmp_path / "m.yaml", more), (models,))
    (more / "n.yaml").write_text(MODEL.replace("name: a", "name: n"))
    assert settings(monkeypatch, tmp_path, str(more / "n.yaml")).inputs.files == (more / "n.yaml", tmp_path / "m.yaml")


def test_without_anything_to_serve_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(up, "set_up_logging", lambda *_, **__: None)
    result = CliRunner().invoke(main, ["up"])
    assert result.exit_code == 2
    assert "nothing to serve: name a file of documents, or use --models-dir DIR" in result.output
    result = CliRunner().invoke(main, ["up", "--models-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert f"no GGUF file in {tmp_path}" in result.output


def test_limits_on_clients_are_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert served(monkeypatch, tmp_path)[1] == HttpLimits()
    options = ("--max-header", "8Ki", "--header-timeout", "5s", "--body-timeout", "1m", "--keepalive-timeout", "90s")
    assert served(monkeypatch, tmp_path, *options)[1] == HttpLimits(8192, 5.0, 60.0, 90.0)
    result = CliRunner().invoke(main, ["up", "-f", str(tmp_path / "m.yaml"), "--header-timeout", "soon"])
    assert result.exit_code == 2
    assert "a duration such as" in result.output


def test_a_history_does_not_take_the_place_of_another_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(up, "set_up_logging", lambda *_, **__: None)
    monkeypatch.setattr(up, "_check_port", lambda _host, port, *_: port)
    (tmp_path / "m.yaml").write_text(MODEL)
    for path, why in (("m.yaml", "is no history of hotseat"), (".", "cannot be read: Is a directory")):
        refused = CliRunner().invoke(main, ["up", "-f", str(tmp_path / "m.yaml"), "--history", str(tmp_path / path)])
        assert (refused.exit_code, why in refused.output) == (2, True), refused.output
    assert (tmp_path / "m.yaml").read_text() == MODEL
