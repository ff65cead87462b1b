"""Threads for short jobs that may hang."""

import threading
from queue import SimpleQueue

from hotseat.runtimes.local.reused_threads import ReusedThreads


def test_jobs_one_after_another_share_a_thread_and_one_that_hangs_holds_up_no_other() -> None:
    threads, ran, hang = ReusedThreads("check"), SimpleQueue[int](), threading.Event()

    def run() -> int:
        threads.run(lambda: ran.put(threading.get_ident()))
        return ran.get(timeout=10)

    seen = {run() for _ in range(20)}
    assert len(seen) < 20, "a thread is idle a moment after its job"
    threads.run(lambda: hang.wait() and None)
    run()
    hang.set()
