"""Ports of engines: those that are stated, and those that are chosen."""

import pytest

from hotseat.runtimes.local import launch as launching
from hotseat.runtimes.local.launch import CannotStart, PortReservations


def test_a_chosen_port_that_another_program_gets_meanwhile_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug once: the model had failed, and its clients were told that something else listens there."""
    asked: list[int] = []

    def can_listen(port: int) -> bool:
        asked.append(port)
        return len(asked) > 2

    monkeypatch.setattr(launching, "_can_listen", can_listen)
    with PortReservations().reserve(None, "m") as port:
        assert asked[-1] == port
    assert len(asked) == 3


def test_a_stated_port_that_is_taken_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_can_listen", lambda _: False)
    with (
        pytest.raises(CannotStart, match="port 4321 is in use by another program"),
        PortReservations().reserve(4321, "m"),
    ):
        pass


def test_no_port_is_promised_twice() -> None:
    ports = PortReservations()
    with ports.reserve(None, "m") as port, pytest.raises(CannotStart), ports.reserve(port, "m"):
        pass
