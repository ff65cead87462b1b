"""An API server and a doctor that looks at it."""

import pytest
from click.testing import CliRunner

from hotseat.cli.main import main
from tests.unit.cli.fake_cluster import good_cluster, kubeconfig
from tests.unit.cli.fake_hotseat import FakeHotseat


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
