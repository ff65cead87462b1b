"""The coalescing worker: few calls for many marks, none lost, retries, and no thread while nothing is due."""

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hotseat.coalesce import CoalescingWorker


class Calls:
    """Work that counts its calls. Each takes what to do from `steps`: a delay to return, or an error to raise."""

    def __init__(self) -> None:
        self.steps: list[float | Exception | None] = []
        self.times: list[float] = []
        self.changed = threading.Condition()
        self.gate = threading.Event()  # a call ends only once it is set
        self.gate.set()

    def __call__(self) -> float | None:
        with self.changed:
            self.times.append(time.monotonic())
            self.changed.notify_all()
        assert self.gate.wait(5)
        step = self.steps.pop(0) if self.steps else None
        if isinstance(step, Exception):
            raise step
        return step

    def wait(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.times) >= count, 30)


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def create(calls: Calls) -> Iterator[Callable[..., CoalescingWorker]]:
    workers: list[CoalescingWorker] = []

    def made(**options: object) -> CoalescingWorker:
        workers.append(CoalescingWorker("test-worker", calls, **options))  # type: ignore[arg-type]
        return workers[-1]

    yield made
    for worker in workers:
        worker.close(5)
        assert not worker._running


def is_idle(worker: CoalescingWorker) -> bool:
    with worker._changed:
        return worker._changed.wait_for(lambda: not worker._running, 30)


def test_many_marks_are_one_call_and_the_thread_ends_after_it(
    create: Callable[..., CoalescingWorker], calls: Calls
) -> None:
    worker = create()
    for _ in range(100):
        worker.mark(60.0)
    worker.mark()
    assert is_idle(worker)
    assert len(calls.times) == 1
    began = time.monotonic()
    worker.mark(0.02)
    assert is_idle(worker)
    assert len(calls.times) == 2
    assert calls.times[1] - began >= 0.02


def test_the_earliest_mark_counts(create: Callable[..., CoalescingWorker], calls: Calls) -> None:
    worker = create()
    worker.mark(60.0)
    worker.mark()
    worker.mark(60.0)
    calls.wait(1)


def test_a_mark_during_a_call_causes_another(create: Callable[..., CoalescingWorker], calls: Calls) -> None:
    worker = create()
    calls.gate.clear()
    worker.mark()
    calls.wait(1)
    worker.mark()
    worker.mark()
    calls.gate.set()
    assert is_idle(worker)
    assert len(calls.times) == 2


def test_work_says_when_it_is_called_again(create: Callable[..., CoalescingWorker], calls: Calls) -> None:
    worker = create()
    calls.steps = [0.01, 0.02, None]
    worker.mark()
    assert is_idle(worker)
    assert len(calls.times) == 3
    assert calls.times[2] - calls.times[1] >= 0.02


def test_what_fails_is_tried_again_with_growing_pauses(
    create: Callable[..., CoalescingWorker], calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    worker = create(retry=(0.01, 0.04))
    calls.steps = [*(OSError("away") for _ in range(5)), None]
    with caplog.at_level(logging.WARNING):
        worker.mark()
        assert is_idle(worker)
    pauses = [after - before for before, after in zip(calls.times, calls.times[1:], strict=False)]
    assert all(pause >= least for pause, least in zip(pauses, [0.01, 0.02, 0.04, 0.04, 0.04], strict=True))
    assert {(each.levelname, each.message, each.exc_info) for each in caplog.records} == {
        ("WARNING", "test-worker: away", False)
    }


def test_a_bug_is_logged_with_its_traceback_and_ends_nothing(
    create: Callable[..., CoalescingWorker], calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    worker = create(retry=(0.01, 0.01))
    calls.steps = [ValueError("a bug"), None]
    worker.mark()
    assert is_idle(worker)
    assert len(calls.times) == 2
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert "Traceback" in caplog.text


def test_a_paused_worker_calls_nothing_before_it_is_started(
    create: Callable[..., CoalescingWorker], calls: Calls
) -> None:
    worker = create(paused=True)
    worker.mark()
    assert (worker._running, calls.times) == (False, [])
    worker.start()
    calls.wait(1)


def test_a_closed_worker_ends_its_call_and_begins_none(create: Callable[..., CoalescingWorker], calls: Calls) -> None:
    worker = create()
    calls.gate.clear()
    worker.mark()
    calls.wait(1)
    calls.steps = [0.0]
    closing = threading.Thread(target=worker.close, args=(5,))
    closing.start()
    while not worker._closed:
        pass
    worker.mark()
    calls.gate.set()
    closing.join(5)
    worker.mark()
    assert is_idle(worker)
    assert len(calls.times) == 1


def test_without_a_thread_to_be_had_the_next_mark_tries_again(
    create: Callable[..., CoalescingWorker],
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def none(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    worker = create()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        worker.mark()
    assert "test-worker: cannot start a thread" in caplog.text
    worker.mark(60.0)
    calls.wait(1)


def test_a_start_without_a_thread_is_the_callers_problem(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    """No mark may come before something else is started, so that nothing would try again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    worker = CoalescingWorker("test-worker", calls, paused=True)
    worker.mark()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        worker.start()
    monkeypatch.undo()
    worker.start()
    calls.wait(1)
    worker.close(5)
