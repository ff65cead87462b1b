"""A hotseat for each module, in a namespace that goes with it."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from .harness import Guard, Hotseat, deploy, destroy

# Files that run one after the other, because one of them takes KEDA's operator away for a while.
WITH_KEDA = {"test_adopted_deployment.py", "test_keda_autoscaling.py", "test_keda_runtime.py", "test_runtimes.py"}


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker of pytest-xdist a whole file, or all files with KEDA."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", maxsplit=1)[0]
        return "keda" if Path(file).name in WITH_KEDA else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Return the scheduler, whatever --dist says."""
    return _ByFile(config, log)


@pytest.fixture(scope="module")
def hotseat(request: pytest.FixtureRequest) -> Iterator[Hotseat]:
    """Give a hotseat with a Workspace `default` and no models."""
    before = request.session.testsfailed
    home = deploy(f"hotseat-test-{uuid.uuid4().hex[:6]}")
    yield home
    destroy(home, failed=request.session.testsfailed > before)


@pytest.fixture
def guard(hotseat: Hotseat) -> Iterator[Guard]:
    """Watch the seats; no test may end with two models on one."""
    with Guard(hotseat) as guard:
        yield guard
    assert guard.found == []
