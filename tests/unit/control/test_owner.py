"""What one thread owns is used by it alone, before its loop runs, while it does, and after it."""

import asyncio
import threading

import pytest

from hotseat.control.owner import LoopOwner


def test_without_a_loop_it_is_used_in_turn() -> None:
    owner, inside, most = LoopOwner(), 0, 0

    def use() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        assert owner.call(lambda: True), "a call inside a call does not wait for itself"
        inside -= 1

    threads = [threading.Thread(target=lambda: [owner.call(use) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_results_and_errors_come_back_from_the_loop() -> None:
    owner, loop = LoopOwner(), asyncio.new_event_loop()
    results: list[object] = []

    def other() -> None:
        results.append(owner.call(threading.get_ident))
        with pytest.raises(ZeroDivisionError):
            owner.call(lambda: 1 // 0)
        owner.post(lambda: results.append("posted"))
        owner.call(lambda: None)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    loop.call_soon(owner.begin, loop)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    owner.end()
    loop.close()
    assert results == [threading.get_ident(), "posted"]


def test_who_waits_when_the_loop_ends_is_not_left_waiting() -> None:
    owner, loop = LoopOwner(), asyncio.new_event_loop()
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(owner.call(lambda: n))) for n in range(20)]

    def begin_and_stop() -> None:
        owner.begin(loop)
        for thread in threads:
            thread.start()
        loop.stop()

    loop.call_soon(begin_and_stop)
    loop.run_forever()
    owner.end()
    loop.close()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == list(range(20))
    assert owner.call(lambda: 7) == 7


def test_what_is_posted_and_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    owner, loop = LoopOwner(), asyncio.new_event_loop()
    done: list[bool] = []

    async def serve() -> None:
        owner.begin(loop)
        owner.post(lambda: 1 // 0)
        owner.post(lambda: done.append(True))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(serve())
    owner.end()
    loop.close()
    assert done
    assert "ZeroDivisionError" in caplog.text
