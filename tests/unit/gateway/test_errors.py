"""What clients get for each kind of error."""

import json

import pytest

from hotseat.core import errors
from hotseat.core.errors import HotseatError, ModelLoading
from hotseat.gateway.errors import OPENAI, api_kind, error_body, error_headers, shape_of


def kinds(base: type[HotseatError] = HotseatError) -> list[type[HotseatError]]:
    return [
        base,
        *(kind for each in base.__subclasses__() if each.__module__ == errors.__name__ for kind in kinds(each)),
    ]


@pytest.mark.parametrize("kind", kinds())
def test_each_kind_has_a_status_a_code_and_one_of_openais_types(kind: type[HotseatError]) -> None:
    status, code, type_ = api_kind(kind("no"))
    assert 400 <= status < 600
    assert code.isidentifier()
    openais = {"invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "server_error"}
    assert type_ in openais or (kind, type_) == (ModelLoading, "model_loading"), "vllm-chill's type, for its clients"


def test_a_kind_without_a_row_is_presented_as_its_base() -> None:
    assert (
        api_kind(errors.Unreachable("no"))
        == api_kind(errors.UpstreamFailed("no"))
        == (502, "upstream_failed", "server_error")
    )


def test_an_errors_own_code_replaces_that_of_its_kind() -> None:
    error = errors.QueueFull("no", code="too_many_bytes", param="model")
    expected = {"message": "no", "type": "rate_limit_error", "param": "model", "code": "too_many_bytes"}
    assert error_body(error) == {"error": expected}
    assert json.loads(OPENAI.event(error_body(error)).removeprefix(b"data: ")) == {"error": expected}


def test_headers_of_an_error() -> None:
    assert error_headers(errors.Unavailable("no", retry_after=1.2)) == {"Retry-After": "2"}
    assert error_headers(errors.Unavailable("no", retry_after=0)) == {"Retry-After": "1"}
    assert error_headers(errors.Unavailable("no")) == {}
    assert error_headers(errors.UnsupportedEncoding("no")) == {"Accept-Encoding": "identity"}
    assert error_headers(errors.Unauthorized("no")) == {"WWW-Authenticate": 'Bearer realm="hotseat"'}


def test_a_long_text_of_a_client_is_cut_in_messages() -> None:
    assert errors.shortened("a" * 200) == "a" * 200
    assert errors.shortened("a" * 10**6) == "a" * 200 + "… (1000000 characters)"


@pytest.mark.parametrize(
    ("path", "body", "event"),
    [
        (
            "/v1/messages",
            {"type": "error", "error": {"type": "not_found_error", "message": "no", "code": "model_not_found"}},
            b'event: error\ndata: {"type":"error",',
        ),
        ("/api/chat", {"error": "no", "code": "model_not_found"}, b'{"error":"no",'),
        (
            "/api/models",
            {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": "model_not_found"}},
            b'data: {"error":',
        ),
    ],
)
def test_errors_have_the_shape_of_the_api_by_which_the_request_came(path: str, body: object, event: bytes) -> None:
    made = error_body(errors.UnknownModel("no"), shape_of(path))
    assert made == body
    assert shape_of(path).event(made).startswith(event)
