"""Weights are brought by a child process; here it is a script that plays one."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from hotseat.api.model import Model
from hotseat.core.messages import CacheObserved, CacheState, Fetch, InstanceFailed, Start
from hotseat.runtimes.local import weights as fetching
from hotseat.runtimes.local.runtime import LocalRuntime
from hotseat.sources.base import complete, entry
from tests.fakes import Observations

SOURCE = "https://example.invalid/weights.gguf"
MODEL = Model.model_validate(
    {
        "metadata": {"name": "a"},
        "spec": {"engine": "custom", "source": SOURCE, "command": ["/bin/true", "{port}", "{model}"]},
    }
)


class Fetches:
    """A runtime whose fetches run `script`, with the number of the attempt as `attempt`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = folder / "cache"
        self.runtime = LocalRuntime(folder / "state", self.cache)
        self.told = Observations()
        self.script = ""
        self.attempts = 0
        monkeypatch.setattr(fetching, "fetch_command", self._command)
        monkeypatch.setattr(fetching, "FIRST_PAUSE", 0.01)

    def _command(self, source: str, cache_dir: Path) -> tuple[str, ...]:
        assert (source, cache_dir) == (SOURCE, self.cache)
        self.attempts += 1
        say = "def say(**what): print(json.dumps(what), flush=True)"
        return (
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import json, sys, time\n{say}\nattempt = {self.attempts}\n{self.script}",
        )

    def fetch(self) -> None:
        self.runtime.begin([MODEL], self.told)
        assert self.told.await_one(CacheObserved).state is CacheState.ABSENT
        self.runtime.fetch(Fetch("a"))


@pytest.fixture
def fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetches]:
    fetches = Fetches(tmp_path, monkeypatch)
    yield fetches
    fetches.runtime.close()


def states(told: Observations) -> list[CacheState]:
    return [each.state for each in told.seen if isinstance(each, CacheObserved)]


def test_progress_then_cached(fetches: Fetches) -> None:
    fetches.script = "say(done=5, total=10, file='w')\nsay(path='/w')"
    fetches.fetch()
    fetches.told.await_one(CacheObserved, state=CacheState.CACHED)
    progress = fetches.told.await_one(CacheObserved, done=5)
    assert (progress.state, progress.total) == (CacheState.FETCHING, 10)


def test_progress_is_told_once_a_second_over_all_attempts(fetches: Fetches) -> None:
    fetches.script = """
for n in range(1, 31):
    say(done=n, total=None)
    time.sleep(0.01)
if attempt == 1:
    say(error='busy', retryable=True)
    sys.exit(1)
say(path='/w')
"""
    fetches.fetch()
    fetches.told.await_one(CacheObserved, state=CacheState.CACHED)
    told = zip(fetches.told.seen, fetches.told.times, strict=True)
    times = [time for each, time in told if isinstance(each, CacheObserved) and each.done is not None]
    assert times
    assert all(later - earlier > 0.9 for earlier, later in pairwise(times))


def test_lines_that_are_no_answer_are_passed_over(fetches: Fetches) -> None:
    fetches.script = """
print("Downloading", 5, "[]", "null", "[1, 2]", sep="\\n")
say(done="much", total=[])
say(done=5, total="unknown")
say(path="/w")
print(5)
"""
    fetches.fetch()
    fetches.told.await_one(CacheObserved, state=CacheState.CACHED)
    assert [each.done for each in fetches.told.seen if isinstance(each, CacheObserved)] == [None, None, 5, None]
    assert fetches.told.await_one(CacheObserved, done=5).total is None


def test_a_failure_of_a_strange_type_is_told_as_text(fetches: Fetches) -> None:
    fetches.script = "say(error=5, retryable=0); sys.exit(1)"
    fetches.fetch()
    assert fetches.told.await_one(CacheObserved, state=CacheState.FAILED).message == "5"


def test_what_nobody_expected_ends_the_fetch_and_its_child_and_may_be_ordered_again(fetches: Fetches) -> None:
    fetches.script = "print('[' * 100_000, flush=True)\ntime.sleep(600)"  # deeper than a parser goes
    fetches.fetch()
    assert "RecursionError" in fetches.told.await_one(CacheObserved, state=CacheState.FAILED).message
    assert not [child for child in psutil.Process().children() if "time.sleep(600)" in " ".join(child.cmdline())]
    fetches.script = "say(path='/w')"
    fetches.runtime.fetch(Fetch("a"))
    fetches.told.await_one(CacheObserved, state=CacheState.CACHED)


def test_a_fetch_without_a_thread_is_told_and_may_be_ordered_again(
    fetches: Fetches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(self: fetching.WeightsFetch) -> None:
        raise RuntimeError("can't start new thread")

    fetches.script = "say(path='/w')"
    with monkeypatch.context() as patch:
        patch.setattr(fetching.WeightsFetch, "start", no_thread)
        fetches.fetch()
        assert "new thread" in fetches.told.await_one(CacheObserved, state=CacheState.FAILED).message
    fetches.runtime.fetch(Fetch("a"))
    fetches.told.await_one(CacheObserved, state=CacheState.CACHED)


def test_what_may_pass_is_tried_again(fetches: Fetches) -> None:
    fetches.script = "if attempt < 3: say(error='busy', retryable=True); sys.exit(1)\nsay(path='/w')"
    fetches.fetch()
    fetches.told.await_one(CacheObserved, state=CacheState.CACHED)
    assert fetches.attempts == 3


def test_what_does_not_pass_fails_in_the_end(fetches: Fetches) -> None:
    fetches.script = "sys.exit(9)"
    fetches.fetch()
    assert "code 9" in fetches.told.await_one(CacheObserved, state=CacheState.FAILED).message
    assert fetches.attempts == 3


def test_what_cannot_pass_fails_at_once_and_may_be_ordered_again(fetches: Fetches) -> None:
    fetches.script = "say(error='no such file', retryable=False); sys.exit(1)"
    fetches.fetch()
    assert fetches.told.await_one(CacheObserved, state=CacheState.FAILED).message == "no such file"
    assert fetches.attempts == 1
    fetches.script = "say(path='/w')"
    fetches.runtime.fetch(Fetch("a"))
    fetches.told.await_one(CacheObserved, state=CacheState.CACHED)


def test_a_second_order_joins_the_first_and_close_kills_the_child(fetches: Fetches) -> None:
    fetches.script = "say(done=1, total=2)\ntime.sleep(600)"
    fetches.fetch()
    fetches.told.await_one(CacheObserved, done=1)
    fetches.runtime.fetch(Fetch("a"))
    began = time.monotonic()
    fetches.runtime.close()
    assert time.monotonic() - began < 10, "it waited for the child"
    assert fetches.attempts == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch-a"]
    assert not [child for child in psutil.Process().children() if "time.sleep(600)" in " ".join(child.cmdline())]
    assert CacheState.FAILED not in states(fetches.told)


def test_another_source_ends_the_fetch_of_the_old_one(fetches: Fetches) -> None:
    fetches.script = "say(done=1, total=2)\ntime.sleep(600)"
    fetches.fetch()
    fetches.told.await_one(CacheObserved, done=1)
    other = MODEL.model_copy(update={"spec": MODEL.spec.model_copy(update={"source": "/missing"})})
    fetches.runtime.update([other])
    assert "/missing" in fetches.told.await_one(CacheObserved, state=CacheState.FAILED).message


def test_no_start_without_weights(fetches: Fetches) -> None:
    fetches.runtime.begin([MODEL], fetches.told)
    fetches.runtime.start(Start("a", "a@1", 1))
    assert "have not been fetched yet" in fetches.told.await_one(InstanceFailed, "a@1").message


def test_a_start_whose_weights_have_vanished_says_that_they_are_absent(fetches: Fetches) -> None:
    fetches.runtime.begin([MODEL], fetches.told)
    fetches.told.seen.clear()
    fetches.runtime.start(Start("a", "a@1", 1))
    fetches.told.await_one(InstanceFailed, "a@1")
    assert states(fetches.told) == [CacheState.ABSENT], "so that they are fetched"


def test_weights_that_have_vanished_are_fetched_again(fetches: Fetches) -> None:
    weights = keep(fetches.cache)
    fetches.runtime.begin([MODEL], fetches.told)
    assert states(fetches.told) == [CacheState.CACHED]
    weights.unlink()
    fetches.script = "say(path='/w')"
    fetches.runtime.fetch(Fetch("a"))
    fetches.told.await_one(CacheObserved, state=CacheState.FETCHING)


@pytest.mark.parametrize(("there", "reason"), [(False, "CommandNotFound"), (True, "CommandNotExecutable")])
def test_a_look_finds_a_missing_program(fetches: Fetches, tmp_path: Path, there: bool, reason: str) -> None:
    program = tmp_path / "serve"
    if there:
        program.touch(mode=0o644)
    spec = MODEL.spec.model_copy(update={"command": (str(program), "{port}"), "source": None})
    fetches.runtime.begin([MODEL.model_copy(update={"spec": spec})], fetches.told)
    fetches.runtime.fetch(Fetch("a"))
    failed = fetches.told.await_one(CacheObserved, state=CacheState.FAILED)
    assert failed.reason == reason
    assert str(program) in failed.message


def test_a_disk_that_takes_nothing_is_found_by_a_look_and_told_with_the_path(fetches: Fetches, tmp_path: Path) -> None:
    spec = MODEL.spec.model_copy(update={"command": ("/bin/true", "{port}"), "source": None, "stop_command": ("true",)})
    fetches.runtime.begin([MODEL.model_copy(update={"spec": spec})], fetches.told)
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "state").touch()
    fetches.runtime.fetch(Fetch("a"))
    looked = fetches.told.await_one(CacheObserved, state=CacheState.FAILED)
    fetches.runtime.start(Start("a", "a@1", 1))
    started = fetches.told.await_one(InstanceFailed, "a@1")
    assert {looked.reason, started.reason} == {"CannotStart"}
    assert str(tmp_path / "state") in looked.message
    assert str(tmp_path / "state") in started.message


def keep(cache: Path) -> Path:
    """Put weights where an earlier fetch would have left them."""
    weights = entry(SOURCE, cache) / "files" / "weights.gguf"
    weights.parent.mkdir(parents=True)
    weights.touch()
    complete(SOURCE, cache, weights)
    return weights


def test_weights_of_an_earlier_fetch_are_cached(fetches: Fetches) -> None:
    keep(fetches.cache)
    fetches.runtime.begin([MODEL], fetches.told)
    assert states(fetches.told) == [CacheState.CACHED]
