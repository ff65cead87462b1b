"""`hotseat top` where it prints once: what it asks, and how it fails."""

from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from hotseat.cli.main import main
from tests.unit.cli.fake_hotseat import FakeHotseat, error, model


@pytest.fixture
def fake() -> FakeHotseat:
    fake = FakeHotseat()
    fake.answers = {
        "GET /v1/models": {"data": [model("a")]},
        "GET /running": {
            "running": [],
            "workspaces": [{"name": "default", "gpus": 2, "policy": "batch", "effective_max_wait": None}],
        },
        "GET /api/queue": {"queue": []},
        "GET /api/gpus": {"gpus": []},
        "GET /api/switches": {"switches": []},
        "GET /api/requests": {"requests": []},
    }
    return fake


@pytest.fixture
def top(fake: FakeHotseat) -> Iterator[Callable[..., Result]]:
    with fake.serving() as url:
        yield lambda *args: CliRunner().invoke(main, ["--url", url, "--api-key", "k", "top", *args])


@pytest.mark.parametrize("args", [(), ("--once",)])
def test_what_is_no_terminal_gets_the_picture_once(
    fake: FakeHotseat, top: Callable[..., Result], args: tuple[str, ...]
) -> None:
    result = top(*args)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert result.stdout.splitlines()[2:] == [
        "default  2 GPUs, policy batch, 0 queued",
        "",
        "MODEL  STATE     FOR  IN-FLIGHT  TOKENS/S  QUEUED  OLDEST",
        "a      unloaded  -    -          -         -       -",
    ]
    assert {request.headers["Authorization"] for request in fake.requests} == {"Bearer k"}


def test_a_server_without_figures_of_gpus_is_no_problem(fake: FakeHotseat, top: Callable[..., Result]) -> None:
    del fake.answers["GET /api/gpus"]
    assert top().exit_code == 0


def test_a_refused_key_is_said(fake: FakeHotseat, top: Callable[..., Result]) -> None:
    fake.answers["GET /api/gpus"] = error(403, "The key may not read.", "forbidden")
    result = top()
    assert (result.exit_code, result.stderr) == (1, "Error: The key may not read.\n")
