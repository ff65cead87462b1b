"""A hotseat for each module, in a namespace that goes with it."""

import uuid
from collections.abc import Iterator

import pytest

from .harness import Guard, Hotseat, deploy, destroy


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
