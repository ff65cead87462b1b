"""Threads for short jobs that may hang."""

import threading
import time
from queue import SimpleQueue

from hotseat.runtimes.local.reused_threads import ReusedThreads


def test_jobs_one_after_another_share_a_thread_and_one_that_hangs_holds_up_no_other() -> None:
    threads, ran, hang = ReusedThreads("check"), SimpleQueue[threading.Thread](), threading.Event()

    def run() -> threading.Thread:
        threads.run(lambda: ran.put(threading.current_thread()))
        return ran.get(timeout=10)

    def wait_idle() -> None:
        while not threads._idle:
            time.sleep(0.001)

    first = run()
    wait_idle()
    assert run() is first
    wait_idle()
    threads.run(lambda: hang.wait() and None)
    second = run()
    assert second is not first
    wait_idle()
    hang.set()
    end = time.monotonic() + 10
    while first.is_alive() and second.is_alive():  # one idle thread is enough
        assert time.monotonic() < end
        time.sleep(0.001)
    assert run() in (first, second)
