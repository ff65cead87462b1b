"""What a fetch reports and logs of its source."""

from pathlib import Path

import pytest

from hotseat.core.messages import CacheObserved, CacheState
from hotseat.runtimes.local import weights

SOURCE = "https://ada:PASSWORD@h/x.gguf?token=SECRET"


@pytest.mark.parametrize("broken", [False, True])
def test_no_key_of_a_source_is_reported_or_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, broken: bool
) -> None:
    """A child that dies without a word, and a bug."""
    reported: list[CacheObserved] = []
    monkeypatch.setattr(weights, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(weights, "fetch_command", lambda *_: ["sh", "-c", "exit 1"])
    if broken:
        monkeypatch.setattr(weights.WeightsFetch, "_attempt", lambda _: 1 / 0)
    weights.WeightsFetch("a", SOURCE, tmp_path, {}, reported.append, clock=lambda: 0.0).run()  # type: ignore[arg-type]
    assert reported[-1].state is CacheState.FAILED
    assert "the fetch of https://h/x.gguf " in reported[-1].message
    assert "https://h/x.gguf" in caplog.text
    assert not [secret for secret in ("SECRET", "PASSWORD", "ada") if secret in f"{reported} {caplog.text}"]
