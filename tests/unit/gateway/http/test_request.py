"""How the head of a request is read."""

import pytest

from hotseat.core.errors import BadRequest
from hotseat.gateway.http.request import Listener, Request, single_slashes


@pytest.mark.parametrize(
    ("path", "means"),
    [
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("/v1//chat///completions", "/v1/chat/completions"),
        ("//health", "/health"),
        ("//v1//models/", "/v1/models/"),
        ("///", "/"),
        ("/api//models//a//b/load", "/api/models//a//b/load"),
        ("//v1/models/hf://org/repo", "/v1/models/hf://org/repo"),
    ],
)
def test_consecutive_slashes_mean_one_except_in_names_of_models(path: str, means: str) -> None:
    assert single_slashes(path) == means


def with_host(host: str | None, minor: int = 1) -> Request:
    fields = () if host is None else ((b"Host", host.encode("latin-1")),)
    return Request("GET", b"/", fields, minor=minor, listener=Listener("127.0.0.1", 1))


@pytest.mark.parametrize("host", ["a b/<>", "a/b", "a\x80", "a@b", "a:b", "[::1", "a,b:1:2", "a,b", "a, b", None])
def test_a_host_that_is_none_is_a_bad_request(host: str | None) -> None:
    with pytest.raises(BadRequest, match="Host"):
        with_host(host)


@pytest.mark.parametrize("host", ["", "a", "a.b-c_d:80", "[::1]:8000", "a:"])
def test_a_host_as_it_should_be_is_taken(host: str) -> None:
    with_host(host)
    with_host(None, minor=0)


@pytest.mark.parametrize(
    "target",
    [b"/v1/%63hat/completions?x=%20", b"//v1/chat%2Fcompletions?x=%20#f", b"http://h/v1/chat/completions?x=%20"],
)
def test_a_route_is_found_however_its_path_is_written(target: bytes) -> None:
    request = Request("POST", target, ((b"Host", b"a"),), minor=1, listener=Listener("127.0.0.1", 1))
    assert (request.path, request.query) == ("/v1/chat/completions", "x=%20")
