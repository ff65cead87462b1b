"""A hotseat for each module, in a namespace that goes with it."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Guard, Hotseat, deploy, destroy

# Files that run one after the other, because one of them takes KEDA's operator away for a while.
WITH_KEDA = {"test_adopted_deployment.py", "test_keda_autoscaling.py", "test_keda_runtime.py", "test_runtimes.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a worker of pytest-xdist run a whole file (--dist loadgroup), or all files with KEDA."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            name = item.path.name
            item.add_marker(pytest.mark.xdist_group("keda" if name in WITH_KEDA else name))


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
