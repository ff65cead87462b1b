"""What the options of `hotseat up` become."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from hotseat.app import Settings
from hotseat.cli import up
from hotseat.cli.main import main

MODEL = "apiVersion: hotseat.dev/v1alpha1\nkind: Model\nmetadata: {name: a}\nspec: {engine: mock}\n"


def settings(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> Settings:
    (folder / "m.yaml").write_text(MODEL)
    served: list[Settings] = []
    monkeypatch.setattr(up, "set_up_logging", lambda *_, **__: None)
    monkeypatch.setattr(up, "_check_port", lambda _host, port, *_: port)
    monkeypatch.setattr(up, "_serve", lambda its, *_: served.append(its))
    result = CliRunner().invoke(main, ["up", "-f", str(folder / "m.yaml"), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return served[0]


def test_a_server_may_be_called_by_the_name_that_it_was_told_to_listen_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which may resolve to a loopback address, as the name of the machine does on Debian."""
    assert "gpu-box" in settings(monkeypatch, tmp_path, "--host", "gpu-box", "--no-auth").hosts
    its = settings(monkeypatch, tmp_path, "--allowed-host", "a.example", "--allowed-host", "b.example")
    assert {"a.example", "b.example"} <= set(its.hosts)
