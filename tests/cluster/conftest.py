"""A hotseat for each module, in a namespace that goes with it."""

import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from .harness import Guard, Hotseat, apply_crds, deploy, destroy, open_workspace

# Files that run one after the other, because one of them takes KEDA's operator away for a while.
WITH_KEDA = {
    "test_adopted_deployment.py",
    "test_keda_autoscaling.py",
    "test_keda_runtime.py",
    "test_prompts.py",
    "test_runtimes.py",
}


# Those that take longest come first, so that no worker is left with one of them at the end. Files with KEDA before all.
LONGEST = (
    "test_restarts.py",
    "test_failures.py",
    "test_nodes.py",
    "test_fetches.py",
    "test_knative_runtime.py",
    "test_switching.py",
    "test_objects.py",
    "test_active_model.py",
    "test_deployment_runtime.py",
    "test_plugins.py",
    "test_admin.py",
    "test_doctor.py",
    "test_chart.py",
    "test_deployment_install.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests of this folder by file: those that take longest first."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)} | dict.fromkeys(WITH_KEDA, -1)
    here = Path(__file__).parent
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)) if item.path.parent == here else -2)


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker of pytest-xdist a whole file, or all files with KEDA."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", maxsplit=1)[0]
        return "keda" if Path(file).name in WITH_KEDA else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Return the scheduler, whatever --dist says."""
    config.option.loadscopereorder = False  # else by the number of tests
    return _ByFile(config, log)


class Installations:
    """Installs hotseat for one module after another: for the next one while the tests of this one run."""

    def __init__(self, session: pytest.Session) -> None:
        fixtures = ((item.path, getattr(item, "fixturenames", ())) for item in session.items)
        self._files = list(dict.fromkeys(path for path, names in fixtures if "hotseat" in names))
        self._workers = int(getattr(session.config, "workerinput", {}).get("workercount", 1))
        self._installer = ThreadPoolExecutor(1)
        self._next: Future[Hotseat] | None = None

    def take(self, file: Path) -> Hotseat:
        """Return a new hotseat for the tests of a file. Install another one if this worker will surely need it."""
        taken = (self._next or self._install()).result()
        left = len(self._files) - self._files.index(file) - 1
        self._next = self._install() if left >= self._workers else None
        return taken

    def close(self) -> None:
        """Delete what nobody has taken."""
        if self._next is not None:
            destroy(self._next.result(), failed=False)
        self._installer.shutdown()

    def _install(self) -> "Future[Hotseat]":
        return self._installer.submit(deploy, f"hotseat-test-{uuid.uuid4().hex[:6]}")


@pytest.fixture(scope="session")
def installations(request: pytest.FixtureRequest) -> Iterator[Installations]:
    """Give what installs hotseat."""
    installations = Installations(request.session)
    yield installations
    installations.close()


@pytest.fixture(scope="module")
def hotseat(request: pytest.FixtureRequest, installations: Installations) -> Iterator[Hotseat]:
    """Give a hotseat with a Workspace `default` and no models."""
    before = request.session.testsfailed
    home = installations.take(request.path)
    open_workspace(home)
    yield home
    destroy(home, failed=request.session.testsfailed > before)


@pytest.fixture
def guard(hotseat: Hotseat) -> Iterator[Guard]:
    """Watch the seats; no test may end with two models on one."""
    with Guard(hotseat) as guard:
        yield guard
    assert guard.found == []


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Hotseat]:
    """A namespace of the test's own with the CRDs and nothing else."""
    before = request.session.testsfailed
    home = Hotseat(f"hotseat-test-{uuid.uuid4().hex[:6]}")
    apply_crds()
    home.kubectl("create", "namespace", home.namespace)
    yield home
    destroy(home, failed=request.session.testsfailed > before)
