"""Metrics: what is counted of what, bounded labels, both formats, and the documentation."""

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

import hotseat
from hotseat.core.events import event_type
from hotseat.core.policy.api import Preference
from hotseat.core.scheduler.preferences import _REASONS
from hotseat.telemetry.metrics import Metrics, Reading, families

ROOT = Path(__file__).parents[3]
OPENMETRICS = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.4"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
Labels = tuple[tuple[str, str], ...]


def samples(metrics: Metrics, accept: str = "") -> dict[tuple[str, Labels], Sample]:
    """All samples by name and labels, as a scraper reads them. No two have the same."""
    body, content_type = metrics.expose(accept)
    assert content_type.startswith("application/openmetrics-text" if accept else "text/plain; version=0.0.4")
    found = (parse_openmetrics if accept else parse_text)(body.decode())
    rows = [sample for family in found for sample in family.samples]
    by_key = {(each.name, tuple(sorted(each.labels.items()))): each for each in rows}
    assert len(by_key) == len(rows)
    return by_key


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    found = samples(metrics).get((name, tuple(sorted(labels.items()))))
    return None if found is None else found.value


def event(kind: str, subject: str = "a", **data: Any) -> dict[str, Any]:
    return {"type": event_type(kind), "subject": subject, "data": data}


def switch(outcome: str, **data: Any) -> dict[str, Any]:
    whole = {"from": ["b"], "to": "a", "reason": "demand", "phases": {"drain": 0.1, "load": 25.0}, **data}
    return event(f"switch.{outcome}", **whole)


def full() -> Metrics:
    """Metrics with at least one sample of each family."""
    every = {family.name: family for family in families() if family.kind == "gauge"}
    read_counters = ("resident_seconds", "idle_seconds", "switching_gpu_seconds", "events_undelivered")
    names = [*every, *(f"hotseat_{each}_total" for each in read_counters)]
    labels = {family.name: family.labels for family in families()}
    readings = [Reading(name, dict.fromkeys(labels[name], "x"), 0.5) for name in names if "build_info" not in name]
    metrics = Metrics(lambda: readings)
    metrics.request("a", "chat", 200, 700.0, 1500.0, 0.012, TRACE)
    metrics.speed("a", 55.0)
    metrics.reconciled("documents", 0.2)
    metrics.fallback("a", "b", "Loading")
    metrics.upstream_retry("a", "timeout")
    metrics.read_tokens(
        lambda: {
            ("a", "prompt"): 3,
            ("a", "hotseat_prompt_cache_hits"): 1,
            ("a", "hotseat_prompt_cache_reused_tokens"): 2,
        }
    )
    for each in (
        switch("completed"),
        event("model.ready", seconds=25.0),
        event("model.failed", reason="ParkFailed"),
        event("model.parked", seconds=1.0),
        event("model.woken", seconds=1.0),
        event("model.prompts_dropped", reason="Full"),
    ):
        metrics.event(each)
    return metrics


def test_a_scrape_within_the_first_request_of_a_model_is_answered() -> None:
    metrics = Metrics(lambda: ())
    scrapes: list[bytes] = []

    class Scraped(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            super().__setitem__(key, value)
            scrapes.append(metrics.expose()[0])

    metrics._requests._counts = Scraped()  # type: ignore[assignment]
    for name in ("_rows", "_sums"):
        setattr(metrics._requests.duration, name, Scraped())
    metrics.request("a", "chat", 200, 0.2, None)
    assert len(scrapes) >= 4
    assert value(metrics, "hotseat_request_duration_seconds_count", model="a") == 1
    assert value(metrics, "hotseat_requests_total", model="a", route="chat", status="200") == 1


def test_every_metric_is_documented_and_no_other() -> None:
    rows = {
        cells[1].strip(" `"): tuple(cell.strip() for cell in cells[2:4])
        for line in (ROOT / "docs" / "metrics.md").read_text().splitlines()
        if line.startswith("| `hotseat_") and len(cells := line.split("|")) > 4
    }
    told = {name: kind for name, (kind, _) in rows.items()}
    registered = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in full().registry.collect()
    }
    assert told == registered == {family.name: family.kind for family in families()}
    assert all(tuple(filter(None, rows[f.name][1].replace("`", "").split(", "))) == f.labels for f in families())


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_each_metric_has_the_labels_that_are_declared(accept: str) -> None:
    declared = {family.name: {*family.labels} for family in families()}
    seen = set()
    for name, labels in samples(full(), accept):
        whole = next(each for each in (name, name.rsplit("_", 1)[0]) if each in declared)
        seen.add(whole)
        assert {key for key, _ in labels} - {"le"} == declared[whole], name
    assert seen == declared.keys()


@pytest.mark.parametrize(
    "accept",
    ["", "text/plain;version=0.0.4", "*/*", "text/plain;version=x", "application/openmetrics-text;version=1.x"],
)
def test_prometheus_text_has_no_exemplars(accept: str) -> None:
    body, content_type = full().expose(accept)
    assert (TRACE.encode() in body, content_type) == (False, "text/plain; version=0.0.4; charset=utf-8")


def test_exemplars_are_those_of_the_last_traced_request_in_a_bucket() -> None:
    metrics = Metrics(lambda: ())
    for trace in ("0" * 31 + "1", TRACE, None):
        metrics.request("a", "chat", 200, 0.3, 0.3, 0.3, trace)
    metrics.request("a", "chat", 200, 400.0, 1000.0, 1000.0, "f" * 32)
    found = samples(metrics, OPENMETRICS)
    for name, last in (
        ("hotseat_request_duration_seconds", "600.0"),
        ("hotseat_queue_wait_seconds", "1200.0"),
        ("hotseat_time_to_first_token_seconds", "1200.0"),
    ):
        buckets = {dict(labels)["le"]: each for (key, labels), each in found.items() if key == f"{name}_bucket"}
        exemplars = {le: each.exemplar.labels["trace_id"] for le, each in buckets.items() if each.exemplar}
        assert exemplars == {"0.5": TRACE, last: "f" * 32}
        assert (buckets["0.25"].value, buckets["0.5"].value, buckets["+Inf"].value) == (0, 3, 4)


def test_requests_without_a_wait_or_a_stream_are_in_no_such_histogram() -> None:
    metrics = Metrics(lambda: ())
    metrics.request("a", "chat", 200, 0.3, None)
    assert {name for name, _ in samples(metrics) if name.endswith("_count")} == {
        "hotseat_request_duration_seconds_count"
    }


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("hotseat_request_duration_seconds", 0.005, 600),
        ("hotseat_queue_wait_seconds", 0.005, 1800),
        ("hotseat_time_to_first_token_seconds", 0.01, 1800),
        ("hotseat_load_duration_seconds", 0.005, 1800),
        ("hotseat_switch_phase_duration_seconds", 0.005, 1800),
        ("hotseat_tokens_per_second", 1, 1000),
        ("hotseat_reconcile_duration_seconds", 0.001, 30),
    ],
)
def test_buckets_fit_what_is_measured(name: str, first: float, last: float) -> None:
    bounds = sorted({float(dict(labels)["le"]) for key, labels in samples(full()) if key == f"{name}_bucket"})
    assert (bounds[0], bounds[-2], bounds[-1]) == (first, last, float("inf"))


def test_loads_and_switches_by_outcome() -> None:
    metrics = Metrics(lambda: ())
    for each in (
        event("model.ready", seconds=1.0),
        switch("completed", reason="ordered"),
        switch("failed", phase="load"),
        switch("failed", phase="release"),  # nothing was loaded
        switch("cancelled", phase="load"),
        switch("cancelled", phase="drain", **{"from": []}),
    ):
        metrics.event(each)
    loads = {
        dict(labels)["outcome"]: each.value for (name, labels), each in samples(metrics).items() if "_loads_" in name
    }
    assert loads == {"completed": 1, "failed": 1, "cancelled": 1}
    labels = {"from_model": "b", "to_model": "a"}
    assert value(metrics, "hotseat_switches_total", reason="ordered", outcome="completed", **labels) == 1
    assert value(metrics, "hotseat_switches_total", reason="demand", outcome="failed", **labels) == 2
    assert (
        value(metrics, "hotseat_switches_total", from_model="", to_model="a", reason="demand", outcome="cancelled") == 1
    )


def test_the_reasons_of_switches_are_few_and_documented() -> None:
    """A switch is decided for requests or a load order, else for a preference."""
    reasons = {"demand", "ordered", *_REASONS.values()}
    assert _REASONS.keys() == set(Preference)
    text = next(family.text for family in families() if family.name == "hotseat_switches_total")
    assert {each.strip() for each in text.partition("(")[2].partition(")")[0].split(",")} == reasons


def test_the_version_is_there() -> None:
    assert value(Metrics(lambda: ()), "hotseat_build_info", version=hotseat.__version__) == 1


def test_counters_that_are_kept_elsewhere_are_read() -> None:
    total = iter((1.5, 2.5))

    def read() -> Iterable[Reading]:
        labels: Mapping[str, str] = {"workspace": "w", "model": "a"}
        return [Reading("hotseat_resident_seconds_total", labels, next(total))]

    metrics = Metrics(read)
    found = [value(metrics, "hotseat_resident_seconds_total", workspace="w", model="a") for _ in range(2)]
    assert found == [1.5, 2.5]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_improve() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=full().expose()[0], capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
