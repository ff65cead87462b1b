"""Threads for connections, and the places and bytes that bound what they do."""

import threading
import time

import pytest

from hotseat.core.errors import QueueFull, Unavailable
from hotseat.gateway import limits
from hotseat.gateway.errors import api_kind
from hotseat.gateway.limits import BodyBudget, ConcurrencyLimit
from hotseat.gateway.threads import MIN_THREADS, Threads


class Jobs:
    """Jobs that go on until they are let go."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.begun = threading.Semaphore(0)

    def __call__(self) -> None:
        self.begun.release()
        self.over.wait(10)

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.begun.acquire(timeout=10)


@pytest.fixture
def jobs():
    made = Jobs()
    yield made
    made.over.set()


def eventually(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)


def test_each_job_has_a_thread_and_one_too_many_is_refused(jobs) -> None:
    threads = Threads(3, backlog=0)
    assert [threads.submit(jobs) for _ in range(4)] == [True, True, True, False]
    jobs.wait(3)
    jobs.over.set()
    eventually(lambda: threads.spare(3))
    assert threads.submit(jobs)
    assert not threads.spare(4)
    threads.shutdown()


def test_where_no_thread_can_be_made_those_that_are_there_go_on(jobs, monkeypatch) -> None:
    threads = Threads(100, backlog=1)
    assert threads.spare(2)
    no_thread(monkeypatch)
    assert [threads.submit(jobs) for _ in range(4)] == [True, True, True, False], "one may wait"
    assert not threads.spare(1)
    jobs.over.set()
    eventually(lambda: threads.spare(2))
    monkeypatch.undo()
    assert threads.spare(10), "once there are threads again, they are made"
    threads.shutdown()


def test_without_any_thread_nothing_waits(jobs, monkeypatch) -> None:
    no_thread(monkeypatch)
    assert not Threads(100).submit(jobs)


def test_a_job_that_fails_leaves_its_thread(caplog) -> None:
    threads = Threads(1)
    assert threads.submit(lambda: 1 / 0)
    eventually(lambda: threads.spare(1))
    assert "ZeroDivisionError" in caplog.text
    threads.shutdown()


def test_threads_without_a_job_end_but_for_a_few() -> None:
    others = set(threading.enumerate())
    threads = Threads(100, idle_time=0.02)
    assert threads.spare(40)
    mine = set(threading.enumerate()) - others
    eventually(lambda: sum(thread.is_alive() for thread in mine) == MIN_THREADS)
    threads.shutdown()
    eventually(lambda: not any(thread.is_alive() for thread in mine))


def test_places_are_counted_and_may_become_more_and_fewer() -> None:
    places = ConcurrencyLimit(1)
    places.take()
    with pytest.raises(QueueFull) as refused:
        places.take()
    kind = api_kind(refused.value)
    assert (kind.code, kind.status) == ("too_many_requests", 429)
    places.resize(2)
    places.take()
    places.resize(0)
    places.give_back()
    with pytest.raises(QueueFull):
        places.take()


def test_no_place_is_given_where_no_thread_would_be_left_for_probes(monkeypatch) -> None:
    threads = Threads()
    places = ConcurrencyLimit(10, threads)
    with monkeypatch.context() as without:
        no_thread(without)
        with pytest.raises(Unavailable) as refused:
            places.in_thread.take()
        assert (refused.value.code, refused.value.retry_after) == ("overloaded", 1.0)
        places.take()  # on the loop it needs no thread
        places.give_back()
    with places.in_thread:
        pass
    threads.shutdown()


def test_a_long_job_has_a_thread_beside_those_for_short_ones(jobs) -> None:
    threads = Threads(MIN_THREADS, backlog=0)
    places = ConcurrencyLimit(2, threads)
    for _ in range(2):
        places.in_thread.take()
        assert threads.submit(jobs)
    with pytest.raises(QueueFull):
        places.in_thread.take()
    jobs.wait(2)
    assert [threads.submit(jobs) for _ in range(MIN_THREADS + 1)] == [True] * MIN_THREADS + [False]
    jobs.over.set()
    threads.shutdown()


def test_requests_with_a_thread_have_a_bound_of_their_own(monkeypatch) -> None:
    monkeypatch.setattr(limits, "MOST_IN_THREADS", 1)
    places = ConcurrencyLimit(10)
    places.in_thread.take()
    with pytest.raises(QueueFull) as refused:
        places.in_thread.take()
    assert refused.value.code == "too_many_requests"
    places.take()
    places.give_back()
    places.in_thread.give_back()
    with places.in_thread:
        pass


def test_bodies_have_a_bound_together_and_one_alone_has_none() -> None:
    bodies = BodyBudget(100)
    assert bodies.take(1000) == 1000
    with pytest.raises(QueueFull) as refused:
        bodies.take(1)
    assert refused.value.code == "too_many_bytes"
    bodies.give_back(1000)
    assert bodies.take(60) + bodies.take(40) == 100
