"""Fixtures that start hotseat, and stop it whatever happens."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import Hotseat

Up = Callable[..., Hotseat]


def _starter(stack: contextlib.ExitStack, new_folder: Callable[[], Path]) -> Up:
    def start(*documents: dict[str, Any], options: tuple[str, ...] = (), **more: Any) -> Hotseat:
        hotseat = Hotseat(more.pop("folder", None) or new_folder(), documents, *options, **more)
        stack.callback(hotseat.close)
        return hotseat

    return start


@pytest.fixture
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Start a hotseat of the test's own with these documents: `up(model("a"), options=("--api-key", "k"))`."""
    with contextlib.ExitStack() as stack:
        yield _starter(stack, lambda: tmp_path_factory.mktemp("hotseat"))


@pytest.fixture(scope="module")
def shared_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Start one that all tests of a module use."""
    with contextlib.ExitStack() as stack:
        yield _starter(stack, lambda: tmp_path_factory.mktemp("hotseat"))
