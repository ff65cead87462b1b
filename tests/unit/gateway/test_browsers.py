"""Which requests a web page can have a browser send to hotseat, and what it can read of the answers."""

from typing import Any

import pytest

from hotseat.core.errors import BadRequest, Forbidden
from hotseat.gateway.browsers import BrowserRules, check_host
from hotseat.gateway.errors import api_kind

RULES = BrowserRules()


def environ(
    host: str | None, *, origin: str | None = None, method: str = "POST", listens: str = "127.0.0.1", **more: str
) -> dict[str, Any]:
    its = {"SERVER_NAME": listens, "REQUEST_METHOD": method, "SERVER_PROTOCOL": "HTTP/1.1", **more}
    its |= {} if host is None else {"HTTP_HOST": host}
    return its if origin is None else {**its, "HTTP_ORIGIN": origin}


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("listens", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
@pytest.mark.parametrize(
    "host",
    ["attacker.example:18207", "attacker.example", "localhost.attacker.example", "notlocalhost", "127.0.0.1.attacker.example",
     "gpu-box:8000", "127.0.0.1a", "example.com.:1"],
)  # fmt: skip
def test_a_name_that_an_attacker_may_have_rebound_is_refused(host: str, listens: str, method: str) -> None:
    with pytest.raises(Forbidden) as caught:
        RULES.check(environ(host, origin=f"http://{host}", method=method, listens=listens))
    assert api_kind(caught.value).status == 403
    assert api_kind(caught.value).code == "host_not_allowed"
    name = host.partition(":")[0].rstrip(".")
    assert f"--allowed-host {name}," in caught.value.message


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8000", "127.0.0.1", "[::1]:8000", "[::1]", "localhost", "LocalHost:8000", "localhost.:8000", "chat.localhost", "127.1:8000",
     "192.168.1.5:8000", "2130706433", "", None],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_names_of_this_machine_that_nobody_can_rebind_are_taken(host: str | None, method: str) -> None:
    RULES.check(environ(host, method=method))


@pytest.mark.parametrize("listens", ["0.0.0.0", "192.168.1.5", "::", "10.0.0.1"])
def test_a_server_for_others_is_reached_by_any_name(listens: str) -> None:
    RULES.check(environ("gpu-box:8000", listens=listens))


def test_an_option_names_further_hosts() -> None:
    rules = BrowserRules(hosts=frozenset({"gpu-box"}))
    rules.check(environ("GPU-box:8000"))
    with pytest.raises(Forbidden):
        rules.check(environ("a.gpu-box"))
    BrowserRules(hosts=frozenset({"*"})).check(environ("any.example"))


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://[", "http://localhost:8001", "", "http://localhost:8000@evil"]
)
def test_a_page_of_another_origin_sends_nothing(origin: str) -> None:
    if origin:
        with pytest.raises(Forbidden, match="--cors-origin") as caught:
            RULES.check(environ("localhost:8000", origin=origin))
        assert api_kind(caught.value).code == "origin_not_allowed"
    RULES.check(environ("localhost:8000", origin="http://localhost:8000"))
    BrowserRules(frozenset({origin})).check(environ("localhost:8000", origin=origin))


def test_long_names_are_cut_in_messages() -> None:
    for its in (environ("a" * 9000 + ".example"), environ("localhost", origin="http://" + "a" * 9000)):
        with pytest.raises(Forbidden) as caught:
            RULES.check(its)
        assert len(caught.value.message) < 1000


def test_cors_headers_are_for_allowed_origins_only() -> None:
    rules = BrowserRules(frozenset({"https://app.example"}))
    assert rules.headers(environ("h")) == rules.headers(environ("h", origin="https://app")) == []
    headers = dict(rules.headers(environ("h", origin="https://app.example")))
    assert headers == {
        "Access-Control-Allow-Origin": "https://app.example",
        "Vary": "Origin",
        "Access-Control-Expose-Headers": "*",
    }
    asked = {"HTTP_ACCESS_CONTROL_REQUEST_HEADERS": "X-Priority"}
    headers = dict(rules.headers(environ("h", origin="https://app.example", method="OPTIONS", **asked)))
    assert headers["Access-Control-Allow-Headers"] == "X-Priority"
    assert "POST" in headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize("host", ["a b/<>", "a/b", "a\x80", "a@b", "a:b", "[::1", "a,b:1:2", None])
def test_a_host_that_is_none_is_a_bad_request(host: str | None) -> None:
    with pytest.raises(BadRequest):
        check_host(environ(host))


@pytest.mark.parametrize("host", ["", "a", "a.b-c_d:80", "[::1]:8000", "a:"])
def test_a_host_as_it_should_be_is_taken(host: str) -> None:
    check_host(environ(host))
    check_host({**environ(None), "SERVER_PROTOCOL": "HTTP/1.0"})
