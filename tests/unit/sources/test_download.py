"""How long an origin is waited for that takes requests and sends nothing. Time is the test's."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from urllib3.exceptions import ReadTimeoutError

from hotseat.sources import download
from hotseat.sources.base import SourceError


class Hanging:
    """A pool of connections to such an origin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.asked = 0
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self._pass)
        monkeypatch.setattr(download, "time", clock)

    def request(self, *_: object, **__: object) -> None:
        self.asked += 1
        self._pass(30.0)
        raise ReadTimeoutError(None, "", "read timed out")  # type: ignore[arg-type]

    def _pass(self, seconds: float) -> None:
        self.now += seconds


def test_an_origin_that_hangs_is_given_up_for_good_after_two_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging(monkeypatch)
    with pytest.raises(SourceError, match=r"https://origin/w: no data for 12\d s: .*read timed out") as told:
        download.download(hanging, download.RemoteFile("https://origin/w?key"), tmp_path / "w", lambda *_: None)  # type: ignore[arg-type]
    assert not told.value.retryable, "whoever waits has waited long enough"
    assert hanging.asked == 4
