"""The loop of the worker."""

import asyncio
import sys

import pytest
import uvloop

from hotseat.gateway.worker import new_loop


def test_the_loop_is_uvloops_or_where_that_is_missing_asyncios(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = new_loop()
    assert isinstance(loop, uvloop.Loop)
    loop.close()
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_loop()
    assert isinstance(loop, asyncio.SelectorEventLoop)
    loop.close()
