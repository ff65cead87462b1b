"""GET /metrics/engines: the metrics of engines that serve, merged, with labels that tell whose each is."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hotseat.gateway import engine_metrics as scraping
from tests.unit.gateway.relay.fake_engine import Engine, Peer
from tests.unit.gateway.test_fallback_routing import model
from tests.unit.gateway.test_inference import Router

LINT = 3  # exit status of promtool: it can be read, but vLLM's names are not to its taste
Script = Callable[[Peer], None]
VLLM = b"""# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/a"} 2.0
# HELP vllm:prompt_tokens_total Prompt tokens.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0"} 5.0
vllm:prompt_tokens_created{engine="0"} 1.7e+09
# HELP vllm:e2e_request_latency_seconds Latency.
# TYPE vllm:e2e_request_latency_seconds histogram
vllm:e2e_request_latency_seconds_bucket{le="0.3"} 1.0
vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 2.0
vllm:e2e_request_latency_seconds_sum 1.0
vllm:e2e_request_latency_seconds_count 2.0
"""


def plain(body: bytes, status: bytes = b"200 OK") -> Script:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(
            b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
        )

    return script


@pytest.fixture
def router() -> Iterator[Router]:
    made = Router("asyncio")
    yield made
    made.close()


@pytest.fixture
def engines() -> Iterator[Callable[[Script], Engine]]:
    with ExitStack() as made:
        yield lambda script: made.enter_context(Engine(script))


def serve(router: Router, *rows: tuple[str, str, dict[str, Any]], **resident: Any) -> None:
    """Tell of Models: name, address and spec of each. RESIDENT has other fields of their instances."""
    models = [model(name, **spec) for name, _, spec in rows]
    residents = [
        {"model": name, "instance": f"w/{name}@1", "state": "ready", "epoch": 1, "address": address, **resident}
        for name, address, _ in rows
    ]
    router.world.tell("w", *models, residents=residents)


def get(router: Router) -> str:
    answer = router.gateway.test_client().get("/metrics/engines", headers={"Authorization": "Bearer k"})
    assert (answer.status_code, answer.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return answer.text


def samples(text: str) -> dict[tuple[str, ...], float]:
    """All samples by name and labels. Each family has one HELP and one TYPE."""
    heads = [line.rsplit(" ", 1)[0] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len({*heads})
    rows = [each for family in text_string_to_metric_families(text) for each in family.samples]
    found = {
        (each.name, *(f"{key}={value}" for key, value in sorted(each.labels.items()))): each.value for each in rows
    }
    assert len(found) == len(rows)
    return found


def of(model: str, *more: str) -> tuple[str, ...]:
    return tuple(sorted((f"model={model}", "workspace=w", *more)))


def test_families_of_several_engines_are_merged(router: Router, engines: Callable[[Script], Engine]) -> None:
    serve(
        router,
        ("a", engines(plain(VLLM)).address, {}),
        ("b", engines(plain(VLLM.replace(b" 2.0", b" 3.0"))).address, {}),
    )
    text = get(router)
    found = samples(text)
    for name, count in (("a", 2), ("b", 3)):
        assert found["vllm:num_requests_running", *of(name, "engine=0", "model_name=org/a")] == count
        assert found["vllm:prompt_tokens_total", *of(name, "engine=0")] == 5
        assert found["vllm:e2e_request_latency_seconds_bucket", *of(name, "le=0.3")] == 1
        assert found["hotseat_engine_scrape_success", *of(name)] == 1
    assert text.count("# HELP vllm:num_requests_running Number of requests.") == 1
    if shutil.which("promtool") is not None:
        checked = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), check=False)
        assert checked.returncode in {0, LINT}


def test_an_engines_own_labels_of_these_names_are_kept_under_others(
    router: Router, engines: Callable[[Script], Engine]
) -> None:
    serve(router, ("a", engines(plain(b'x{model="org/a",workspace="y"} 1\n')).address, {}))
    assert samples(get(router))["x", *of("a", "exported_model=org/a", "exported_workspace=y")] == 1


def test_a_name_with_two_types_has_none(router: Router, engines: Callable[[Script], Engine]) -> None:
    serve(
        router,
        ("a", engines(plain(b"# TYPE x_total counter\nx_total 1\n")).address, {}),
        ("b", engines(plain(b"# TYPE x_total gauge\nx_total 2\n")).address, {}),
    )
    text = get(router)
    assert (samples(text)["x_total", *of("a")], samples(text)["x_total", *of("b")]) == (1, 2)
    assert "# TYPE x_total untyped" in text


@pytest.mark.parametrize("status", [b"404 Not Found", b"405 Method Not Allowed", b"501 Not Implemented"])
def test_an_engine_without_metrics_is_left_out(
    router: Router, engines: Callable[[Script], Engine], status: bytes
) -> None:
    serve(router, ("a", engines(plain(b"{}", status)).address, {}))
    assert samples(get(router)) == {}


def endless(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    peer.until_closed()


@pytest.mark.parametrize(
    "script",
    [
        plain(b"x 1\n", b"500 Internal Server Error"),
        plain(b"<html>no metrics</html>"),
        plain(b'x{a="b", ="c"} 1\n'),
        plain(b'x{a="\xff"} 1\n'),
        plain(b"x 1\n" * 1000),  # more than it may be
        lambda peer: peer.reset(),
        lambda peer: peer.send(b"garbage\r\n\r\n") if peer.request() else None,
        endless,
    ],
)
def test_an_engine_that_fails_is_told_and_the_others_are_there(
    router: Router, engines: Callable[[Script], Engine], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scraping, "MAX_SIZE", 1000)
    monkeypatch.setattr(scraping, "TIMEOUT", 0.5)
    serve(router, ("a", engines(script).address, {}), ("b", engines(plain(b"x 1\n")).address, {}))
    began = time.monotonic()
    assert samples(get(router)) == {
        ("hotseat_engine_scrape_success", *of("a")): 0,
        ("hotseat_engine_scrape_success", *of("b")): 1,
        ("x", *of("b")): 1,
    }
    assert time.monotonic() - began < 10


def test_engines_are_asked_with_their_key_and_for_text(
    router: Router, engines: Callable[[Script], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ITS_KEY", "secret")
    engine = engines(plain(b"x 1\n"))
    serve(router, ("a", engine.address, {"engineKey": {"env": "ITS_KEY"}}))
    get(router)
    (request,) = engine.requests
    assert request.startswith(b"GET /metrics HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in request
    assert b"Accept: text/plain;version=0.0.4\r\n" in request


def test_external_servers_and_engines_without_metrics_are_not_asked(
    router: Router, engines: Callable[[Script], Engine]
) -> None:
    engine = engines(plain(b"x 1\n"))
    external = {"engine": "external", "url": engine.address}
    serve(router, ("a", engine.address, {"engine": "ollama"}), ("b", engine.address, external))
    assert (samples(get(router)), engine.connections) == ({}, 0)


@pytest.mark.parametrize("state", ["loading", "releasing", "saving", "restoring", "unproven"])
def test_engines_that_do_not_serve_are_not_asked(
    router: Router, engines: Callable[[Script], Engine], state: str
) -> None:
    engine = engines(plain(b"x 1\n"))
    serve(router, ("a", engine.address, {}), state=state)
    assert (samples(get(router)), engine.connections) == ({}, 0)


def test_pods_of_one_model_are_told_apart(router: Router, engines: Callable[[Script], Engine]) -> None:
    pods = [engines(plain(b"x 1\n")), engines(plain(b"x 2\n"))]
    serve(router, ("a", pods[0].address, {}), moreAddresses=[pods[1].address])
    found = samples(get(router))
    assert [found["x", *of("a", f"instance={pod.address.removeprefix('http://')}")] for pod in pods] == [1, 2]


def test_an_instance_that_drains_beside_another_of_its_model_is_told_apart(
    router: Router, engines: Callable[[Script], Engine]
) -> None:
    """As after `replicas` went from 2 to 1."""
    addresses = [engines(plain(b"x 1\n")).address, engines(plain(b"x 2\n")).address]
    residents = [
        {"model": "a", "instance": f"w/a@{epoch}", "state": state, "epoch": epoch, "address": address}
        for epoch, state, address in ((1, "ready", addresses[0]), (2, "draining", addresses[1]))
    ]
    router.world.tell("w", model("a"), residents=residents)
    found = samples(get(router))
    assert [found["x", *of("a", f"instance={each.removeprefix('http://')}")] for each in addresses] == [1, 2]
