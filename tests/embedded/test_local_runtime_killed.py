"""After `kill -9` of hotseat no engine survives, or the next start takes it down first."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hotseat.core.messages import InstanceReady, InstanceReleased, Start, Stop
from hotseat.runtimes.local.orphans import StateDirInUse
from hotseat.runtimes.local.runtime import LocalRuntime
from tests.fakes import Observations, small_model

from .harness import lives

ROOT = Path(__file__).parents[2]

OWNER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.fakes import Observations, small_model
from hotseat.core.messages import InstanceReady, Start
from hotseat.runtimes.local.runtime import LocalRuntime

folder, told = Path(sys.argv[1]), Observations()
runtime = LocalRuntime(folder / "state", folder / "cache")
stop = ["/bin/sh", "-c", f"echo x >> {folder}/stopped"]
model = small_model(folder, "a", f"daemon={folder}/daemon", "ignore-term", stopCommand=stop)
runtime.begin([model], told)
runtime.start(Start("a", "a@1", 1))
told.await_one(InstanceReady, "a@1")
log = runtime.logs("a")
while not (folder / "daemon").exists():
    time.sleep(0.01)
print(log.tail(10)[0].partition("pid ")[2].split()[0], (folder / "daemon").read_text(), flush=True)
time.sleep(600)
"""


class Owner:
    """A process with a LocalRuntime whose engine is loaded, with a daemon beside it, both deaf to SIGTERM."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", OWNER, str(folder), str(ROOT)], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.engine, self.daemon = (psutil.Process(int(word)) for word in self.process.stdout.readline().split())
        self.supervisor = psutil.Process(self.engine.ppid())

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for process in (self.supervisor, self.engine, self.daemon):
            if gone([process], 0):
                continue
            process.kill()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path)
    yield owner
    owner.close()


def gone(processes: list[psutil.Process], timeout: float) -> bool:
    """Whether all of them ended in that time."""
    end = time.monotonic() + timeout
    while any(map(lives, processes)):
        if time.monotonic() >= end:
            return False
        time.sleep(0.005)
    return True


def test_no_engine_survives_the_kill_of_hotseat(owner: Owner) -> None:
    owner.kill()
    assert gone([owner.engine, owner.daemon, owner.supervisor], timeout=1.0)


def test_what_survives_the_kill_of_hotseat_and_supervisor_is_taken_down_by_the_next_start(
    owner: Owner, tmp_path: Path
) -> None:
    owner.supervisor.suspend()  # so that it cannot clean up between the two
    owner.kill()
    owner.supervisor.kill()
    assert gone([owner.engine], timeout=1.0)  # by the kernel
    assert not gone([owner.daemon], timeout=0)
    assert not (tmp_path / "stopped").exists()

    runtime, told = LocalRuntime(tmp_path / "state", tmp_path / "cache"), Observations()
    runtime.begin([small_model(tmp_path, "b")], told)
    assert gone([owner.daemon], timeout=0)
    assert (tmp_path / "stopped").read_text() == "x\n"
    runtime.start(Start("b", "b@2", 2))
    told.await_one(InstanceReady, "b@2")
    runtime.stop(Stop("b", "b@2", 2, 5))
    told.await_one(InstanceReleased, "b@2")
    runtime.close()


def test_a_living_hotseat_is_left_alone(owner: Owner, tmp_path: Path) -> None:
    with pytest.raises(StateDirInUse, match=f"pid {owner.process.pid}"):
        LocalRuntime(tmp_path / "state", tmp_path / "cache").begin([], Observations())
    assert not gone([owner.engine, owner.daemon], timeout=0.1)


def test_a_signal_to_every_process_ends_no_supervisor(owner: Owner) -> None:
    """As a service manager does; hotseat itself still has to drain."""
    owner.supervisor.terminate()
    owner.supervisor.send_signal(signal.SIGINT)
    assert not gone([owner.supervisor], timeout=0.1)
