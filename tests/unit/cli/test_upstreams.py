"""What the commands show of servers of external Models and of peers."""

from typing import Any

from hotseat.cli.commands import _available, _peer_row, _upstream_rows
from hotseat.cli.events import line


def server(url: str, **more: Any) -> dict[str, Any]:
    known = {"circuit": "closed", "failures": 0, "healthy": None, "available": True, "problem": "", "retry_in": None}
    return {"url": url, **known, **more}


OPEN = server("http://b", circuit="open", available=False, healthy=False, problem="refused", retry_in=20.0)


def test_ps_counts_the_servers_that_get_requests_if_not_all_do() -> None:
    assert _available({}) == ""  # of an earlier version
    assert _available({"upstreams": [server("http://a")]}) == ""
    assert _available({"upstreams": [server("http://a"), OPEN]}) == ",1/2 servers"


def test_ps_lists_servers_that_get_no_requests_and_all_of_them_when_asked() -> None:
    body = {"running": [{"model": "m", "upstreams": [server("http://a", healthy=True), OPEN]}, {"model": "other"}]}
    bad = ["http://b", "m", "open", "no", "20s", "refused"]
    assert _upstream_rows(body, every=False) == [bad]
    assert _upstream_rows(body, every=True) == [["http://a", "m", "closed", "yes", "", ""], bad]


def test_ps_lists_peers() -> None:
    row = {"name": "office", "workspace": "w", "models": 3, "url": "http://p", "problem": "gone"}
    assert _peer_row(row) == ["office", "w", "3", "http://p", "gone"]


def test_events_have_a_line() -> None:
    event = {"time": "2026-01-01T00:00:00Z", "subject": "m"}
    failed = {"url": "http://a", "message": "refused", "retry_after": 30.0}
    told = line(event | {"type": "dev.hotseat.model.upstream_failed.v1", "data": failed})
    assert "m   http://a   refused   (next try in 30" in told
    told = line(event | {"type": "dev.hotseat.model.upstream_recovered.v1", "data": {"url": "http://a"}})
    assert "http://a" in told
