"""A hotseat and commands for it; an API server and a doctor that looks at it."""

from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from hotseat.cli.main import main
from tests.unit.cli.fake_cluster import good_cluster, kubeconfig
from tests.unit.cli.fake_hotseat import FakeHotseat


@pytest.fixture
def fake() -> FakeHotseat:
    return FakeHotseat()


@pytest.fixture
def hotseat(fake: FakeHotseat) -> Iterator[Callable[..., Result]]:
    """Run a command on the hotseat of the test."""
    with fake.serving() as url:
        yield lambda *args: CliRunner().invoke(main, ["--url", url, *args])


@pytest.fixture
def api():
    fake = FakeHotseat()
    fake.answers = good_cluster()
    return fake


@pytest.fixture
def doctor(api, tmp_path):
    """Run the doctor on the cluster of the test."""
    with api.serving() as url:
        file = str(kubeconfig(tmp_path / "kubeconfig", url))
        yield lambda *args, **kwargs: CliRunner().invoke(main, ["doctor", "--kubeconfig", file, *args], **kwargs)
