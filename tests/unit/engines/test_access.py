"""How a request reaches an engine: where a URL leads, headers with keys, and limits by kind of request."""

import pytest

from hotseat.api.model import Capability, Model
from hotseat.engines.access import DialAddress, EngineAccess, TlsSettings, access_of, engine_headers, secret_variables
from hotseat.engines.external import External
from hotseat.secret_values import SecretMissing


def model(engine: str = "external", **spec) -> Model:
    if engine == "external":
        spec = {"url": "http://h"} | spec
    return Model.model_validate({"metadata": {"name": "m"}, "spec": {"engine": engine, **spec}})


def access(**spec) -> EngineAccess:
    found = access_of(model(**spec))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("url", "target", "there"),
    [
        ("http://h", "/v1/chat/completions", "/v1/chat/completions"),
        ("http://h/", "/v1/chat/completions?a=b", "/v1/chat/completions?a=b"),
        ("https://openrouter.ai/api", "/v1/chat/completions", "/api/v1/chat/completions"),
        ("https://api.openai.com/v1", "/v1/chat/completions", "/v1/chat/completions"),
        ("https://api.openai.com/v1/", "/v1/models", "/v1/models"),
        ("https://api.groq.com/openai/v1", "/v1/embeddings", "/openai/v1/embeddings"),
        ("https://g.example.com/v1beta/openai", "/v1/chat/completions", "/v1beta/openai/chat/completions"),
        ("https://z.example.com/api/paas/v4", "/v1/chat/completions", "/api/paas/v4/chat/completions"),
        (
            "https://r.openai.azure.com/openai/deployments/gpt-4o?api-version=2024-10-21",
            "/v1/chat/completions?x=1",
            "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21&x=1",
        ),
        ("https://h/v1", "/v1", "/v1"),
        ("https://h/llm/v1", "/props", "/llm/props"),
        ("https://h/v1", "/v10/x", "/v10/x"),
        ("https://h/very1", "/v1/x", "/very1/v1/x"),
    ],
)
def test_a_path_in_a_url_goes_before_that_of_the_request_and_a_version_stands_for_v1(url, target, there):
    assert access(url=url).target(url, target.encode()) == there.encode()


@pytest.mark.parametrize(
    "url", ["http://h:99999", "http://h:0", "http://h:x/", "https://u@h", "ftp://h", "http://h/#a"]
)
def test_a_url_that_cannot_be_reached_is_refused(url):
    its = model().model_copy(update={"spec": model().spec.model_copy(update={"url": url})})
    assert any("url has a" in problem for problem in External().check(its))


def test_connections_are_shared_by_what_is_connected_to_and_how():
    plain, secure = access(), access(url="https://h:8443/v1", tls={"caFile": "/ca", "serverName": "n"})
    assert plain.dial("http://h:80/x?y") == "http://h:80"
    dialed = secure.dial("https://h:8443/v1")
    assert isinstance(dialed, DialAddress)
    assert dialed.tls == TlsSettings("/ca", "n")
    assert dialed.startswith("https://h:8443#")
    assert dialed == secure.dial("https://h:8443/v2?z")
    assert dialed != access(url="https://h:8443").dial("https://h:8443")
    insecure = access(url="https://h", tls={"insecureSkipVerify": True}).dial("https://h")
    assert insecure != access(url="https://h").dial("https://h")


def test_an_engine_of_hotseat_without_a_key_is_reached_as_it_is():
    assert access_of(model("custom", command=["x", "{port}"])) is None
    keyed = access_of(model("custom", command=["x", "{port}"], engineKey={"value": "k"}))
    assert keyed is not None
    assert keyed.dial("http://127.0.0.1:1") == "http://127.0.0.1:1"
    assert keyed.target("http://127.0.0.1:1", b"/v1/x?y") == b"/v1/x?y"
    assert keyed.limit(Capability.CHAT)[0] is None


def test_the_headers_of_a_key(monkeypatch):
    monkeypatch.setenv("KEY", "k2")
    assert access(engineKey={"value": "k1"}).headers() == b"Authorization: Bearer k1\r\n"
    its = access(
        engineKey={"env": "KEY", "header": "X-Api-Key"}, headers=[{"name": "Authorization", "value": "Basic eA=="}]
    )
    assert its.headers() == b"X-Api-Key: k2\r\nAuthorization: Basic eA==\r\n"
    assert its.names == {b"x-api-key", b"authorization"}
    monkeypatch.delenv("KEY")
    with pytest.raises(SecretMissing, match=r"Model/m: spec.engineKey.env: the environment variable KEY is not set"):
        its.headers()
    with pytest.raises(SecretMissing, match=r"spec.headers\[1\].env"):
        engine_headers(model(headers=[{"name": "A", "value": "b"}, {"name": "B", "env": "KEY"}]))


def test_variables_with_secrets_are_found_wherever_they_are():
    its = model(engineKey={"env": "A"}, headers=[{"name": "x", "env": "B"}, {"name": "y", "value": "C"}])
    assert secret_variables(its) == secret_variables((its, its)) == {"A", "B"}


@pytest.mark.parametrize(
    ("lifecycle", "limits"),
    [
        (
            {},
            {
                "chat": 300,
                "completion": 300,
                "embedding": 60,
                "rerank": 60,
                "speech": 120,
                "transcription": 600,
                None: 300,
            },
        ),
        ({"responseStartTimeout": "10s"}, {"chat": 10, "embedding": 10, None: 10}),
        ({"responseStartTimeout": "0s"}, {"chat": None, "embedding": None, None: None}),
        (
            {"responseStartTimeouts": {"chat": "5s", "speech": "0s"}},
            {"chat": 5, "speech": None, "embedding": 60, None: 300},
        ),
        ({"responseStartTimeout": "9s", "responseStartTimeouts": {"chat": "5s"}}, {"chat": 5, "speech": 9}),
    ],
)
def test_limits_of_an_upstream_by_kind(lifecycle, limits):
    its = access(lifecycle=lifecycle)
    assert {kind: its.limit(None if kind is None else Capability(kind))[0] for kind in limits} == limits


def test_an_engine_of_hotseat_has_limits_by_kind_where_they_are_stated():
    its = access(engine="custom", command=["x", "{port}"], lifecycle={"responseStartTimeouts": {"chat": "5s"}})
    assert its.limit(Capability.CHAT) == (5, "responseStartTimeouts.chat")
    assert its.limit(Capability.EMBEDDING) == (None, "responseStartTimeout")
