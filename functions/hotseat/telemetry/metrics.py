"""Prometheus metrics.

Switches and failures are counted from events, requests by the gateway; gauges are read when
scraped. docs/metrics.md is generated from this registry. Labels are bounded: a `model` is the name
of a document or empty, never text from a client.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from hotseat.core.events import event_type, shown_model_of

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of a gauge."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """One metric for the documentation: its name as scraped, its kind, labels and meaning."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


# Counters and histograms of seconds; prometheus_client adds `_total` to the names of counters.
_COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "hotseat_requests": (
        "Requests that were answered, by the model that answered, or refused. Without a model if refused before it was known.",
        ("model", "route", "status"),
    ),
    "hotseat_tokens": (
        "Tokens that engines report (kind: prompt, cached, completion). Counted from the first scrape on, with the last 100 requests.",
        ("model", "kind"),
    ),
    "hotseat_switches": ("Switches that ended.", ("from_model", "to_model", "outcome")),
    "hotseat_fallbacks": ("Requests that were routed to a fallback.", ("model", "fallback", "reason")),
    "hotseat_model_failures": ("Failures to fetch, load, keep, park, wake or release a model.", ("model", "reason")),
    "hotseat_parks": ("Attempts to put an engine to sleep, by outcome.", ("model", "outcome")),
    "hotseat_prompt_cache_dropped": ("Prompt caches that were not kept, by reason.", ("model", "reason")),
    "hotseat_prompt_cache_hits": (
        "Requests that waited for a switch after which their engine still had at least half of their prompt. Counted as hotseat_tokens.",
        ("model",),
    ),
    "hotseat_prompt_cache_tokens_spared": (
        "Tokens of prompts that requests which waited for a switch found in the cache after it. Counted as hotseat_tokens.",
        ("model",),
    ),
    "hotseat_upstream_retries": (
        "Requests that were sent to a server (engine external) again, by reason: unreachable, disconnected, timeout, status_ and the code.",
        ("model", "reason"),
    ),
    "hotseat_wakes": ("Attempts to wake a parked engine, by outcome.", ("model", "outcome")),
}
_HISTOGRAMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "hotseat_request_seconds": (
        "Time from a request's arrival to its end, for requests that reached a model.",
        ("model",),
    ),
    "hotseat_wait_seconds": ("Time that queued requests waited before they were dispatched.", ("model",)),
    "hotseat_switch_phase_seconds": ("Duration of a switch's phases.", ("to_model", "phase")),
    "hotseat_load_seconds": ("Time from the start of an engine until it was ready.", ("model",)),
    "hotseat_park_seconds": ("Time from the request to sleep until the engine was verified to sleep.", ("model",)),
    "hotseat_wake_seconds": ("Time from the request to wake until the engine answered.", ("model",)),
}
_REQUESTS, _REQUEST_SECONDS, _TOKENS = "hotseat_requests", "hotseat_request_seconds", "hotseat_tokens"
PROMPT_HITS, SPARED_TOKENS = "hotseat_prompt_cache_hits", "hotseat_prompt_cache_tokens_spared"
_OF_TOKENS = (_TOKENS, PROMPT_HITS, SPARED_TOKENS)
_GPU = ("gpu", "uuid")  # labels: its number, as in nvidia-smi, and its UUID
_GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "hotseat_requests_in_flight": ("Requests in flight: an engine is answering them.", ("model",)),
    "hotseat_requests_waiting": ("Requests in the queue of a model.", ("model",)),
    "hotseat_requests_waiting_bytes": ("Memory used by the bodies of queued requests.", ("workspace",)),
    "hotseat_oldest_wait_seconds": ("Age of the oldest queued request.", ("model",)),
    "hotseat_residents": ("Instances that hold accelerator memory, by state.", ("workspace", "model", "state")),
    "hotseat_pinned": ("Models that are pinned: once resident, they are not evicted.", ("workspace", "model")),
    "hotseat_parked": (
        "Instances that are parked: their processes are kept, off the accelerator.",
        ("workspace", "model"),
    ),
    "hotseat_parked_memory_bytes": ("Host memory that a parked model was measured to hold.", ("workspace", "model")),
    "hotseat_prompt_cache_bytes": ("Size of the saved prompt caches of a model.", ("workspace", "model")),
    "hotseat_effective_max_wait_seconds": (
        "Bound on waiting in force. Above maxWait if it had to be widened.",
        ("workspace",),
    ),
    "hotseat_accelerator_memory_bytes": (
        "Accelerator memory that a model claims, and the most that one of its engines was measured to use (kind: claimed, seen).",
        ("model", "kind"),
    ),
    "hotseat_gpu_memory_used_bytes": ("Memory of a GPU in use, by any process. NVIDIA only, on one machine.", _GPU),
    "hotseat_gpu_memory_total_bytes": ("Memory of a GPU.", _GPU),
    "hotseat_gpu_utilization_ratio": ("Share of the last moments in which a GPU computed, 0 to 1.", _GPU),
    "hotseat_gpu_temperature_celsius": ("Temperature of a GPU.", _GPU),
    "hotseat_gpu_power_watts": ("Power that a GPU draws.", _GPU),
    "hotseat_upstream_available": (
        "Whether a server of a model (engine external) gets requests: 1, or 0 while its circuit is open or its health checks fail.",
        ("model", "url"),
    ),
    "hotseat_events_undelivered": ("Events that could not be delivered to the sink since the start.", ()),
}


def families() -> list[Family]:
    """Return all metrics, sorted by name."""
    rows = [Family(f"{name}_total", "counter", labels, text) for name, (text, labels) in _COUNTERS.items()]
    rows += [Family(name, "histogram", labels, text) for name, (text, labels) in _HISTOGRAMS.items()]
    rows += [Family(name, "gauge", labels, text) for name, (text, labels) in _GAUGES.items()]
    return sorted(rows, key=lambda family: family.name)


class Metrics:
    """All metrics of one process. `read` returns the values of the gauges."""

    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(_GaugeCollector(read))
        self._requests = _RequestCollector()
        registry.register(self._requests)
        counters = {
            n: Counter(n, text, labels, registry=registry)
            for n, (text, labels) in _COUNTERS.items()
            if n not in {_REQUESTS, *_OF_TOKENS}
        }
        histograms = {
            n: Histogram(n, text, labels, registry=registry, buckets=_SECONDS)
            for n, (text, labels) in _HISTOGRAMS.items()
            if n != _REQUEST_SECONDS
        }
        self._switches = counters["hotseat_switches"]
        self._fallbacks = counters["hotseat_fallbacks"]
        self._failures = counters["hotseat_model_failures"]
        self._upstream_retries = counters["hotseat_upstream_retries"]
        self._dropped_prompts = counters["hotseat_prompt_cache_dropped"]
        self._wait = histograms["hotseat_wait_seconds"]
        self._phases = histograms["hotseat_switch_phase_seconds"]
        self._loads = histograms["hotseat_load_seconds"]
        self._sleep_metrics = {
            "Park": (counters["hotseat_parks"], histograms["hotseat_park_seconds"]),
            "Wake": (counters["hotseat_wakes"], histograms["hotseat_wake_seconds"]),
        }

    def request(self, model: str, route: str, status: int, seconds: float, waited: float | None) -> None:
        """Count a request that has ended. Call it on the event loop, as `refused`.

        Status 499: its client disconnected. `waited`: seconds in the queue; None: none.
        """
        self._requests.add(model, route, status)
        self._requests.observe(model, seconds)
        if waited is not None:
            self._wait.labels(model=model).observe(waited)

    def refused(self, model: str, route: str, status: int) -> None:
        """Count a request that was refused at once. An empty model: its model is unknown."""
        self._requests.add(model, route, status)

    def read_tokens(self, tokens: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Set the function that returns the tokens so far, by model and kind. It is called at each scrape.

        PROMPT_HITS and SPARED_TOKENS are kinds as well, but metrics of their own.
        """
        self._requests.tokens = tokens

    def fallback(self, model: str, fallback: str, reason: str) -> None:
        """Count a request for a model that was routed to a fallback."""
        self._fallbacks.labels(model=model, fallback=fallback, reason=reason.lower()).inc()

    def upstream_retry(self, model: str, reason: str) -> None:
        """Count a request that is sent to a server of an external Model again."""
        self._upstream_retries.labels(model=model, reason=reason).inc()

    def event(self, event: Mapping[str, Any]) -> None:
        """Update the metrics from an event."""
        kind, data, subject = event["type"], event["data"], event.get("subject")
        if kind in _SWITCH_ENDS:
            for source in data["from"] or [""]:
                self._switches.labels(
                    from_model=shown_model_of(source), to_model=data["to"], outcome=_SWITCH_ENDS[kind]
                ).inc()
            for phase, seconds in data["phases"].items():
                self._phases.labels(to_model=data["to"], phase=phase).observe(seconds)
        elif kind == event_type("model.ready"):
            self._loads.labels(model=subject).observe(data["seconds"])
        elif kind == event_type("model.failed"):
            self._failures.labels(model=subject, reason=data["reason"]).inc()
            if data["reason"] in _SLEEP_FAILURES:
                self._sleep_metrics[data["reason"][:4]][0].labels(model=subject, outcome="failed").inc()
        elif kind == event_type("model.prompts_dropped"):
            self._dropped_prompts.labels(model=subject, reason=data["reason"]).inc()
        elif kind in _SLEEP_EVENTS:
            count, seconds = self._sleep_metrics[_SLEEP_EVENTS[kind]]
            count.labels(model=subject, outcome="completed").inc()
            seconds.labels(model=subject).observe(data["seconds"])

    def expose(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)


_SLEEP_EVENTS = {event_type("model.parked"): "Park", event_type("model.woken"): "Wake"}
_SLEEP_FAILURES = {"ParkFailed", "ParkTimeout", "WakeFailed", "WakeTimeout"}
_SWITCH_ENDS = {event_type(f"switch.{outcome}"): outcome for outcome in ("completed", "failed", "cancelled")}


class _RequestCollector(Collector):
    """What is counted of each request. The locks of prometheus_client's own counters would cost more than all else that counts it."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[str, list[int]] = {}  # by model: how many were in each bucket, and above all
        self._sums: dict[str, float] = {}
        self.tokens: Callable[[], Mapping[tuple[str, str], int]] = dict

    def add(self, model: str, route: str, status: int) -> None:
        """Count a request."""
        key = (model, route, status)
        self._counts[key] = self._counts.get(key, 0) + 1

    def observe(self, model: str, seconds: float) -> None:
        """Count the time that a request has taken."""
        row = self._seconds.get(model)
        if row is None:
            self._sums[model] = 0.0  # before the row: another thread may collect at any moment
            row = self._seconds[model] = [0] * (len(_SECONDS) + 1)
        row[bisect_left(_SECONDS, seconds)] += 1
        self._sums[model] += seconds

    def describe(self) -> Iterable[Metric]:
        return self._families()

    def _families(self) -> tuple[CounterMetricFamily, HistogramMetricFamily, *tuple[CounterMetricFamily, ...]]:
        text, labels = _COUNTERS[_REQUESTS]
        seconds, by = _HISTOGRAMS[_REQUEST_SECONDS]
        return (
            CounterMetricFamily(_REQUESTS, text, labels=labels),
            HistogramMetricFamily(_REQUEST_SECONDS, seconds, labels=by),
            *(CounterMetricFamily(name, _COUNTERS[name][0], labels=_COUNTERS[name][1]) for name in _OF_TOKENS),
        )

    def collect(self) -> Iterable[Metric]:
        requests, times, *others = self._families()
        of_tokens = dict(zip(_OF_TOKENS, others, strict=True))
        for (model, route, status), count in self._counts.copy().items():
            requests.add_metric([model, route, str(status)], count)
        for model, row in self._seconds.copy().items():
            bounds = [*map(floatToGoString, _SECONDS), "+Inf"]
            times.add_metric([model], list(zip(bounds, accumulate(row), strict=True)), self._sums[model])
        for (model, kind), count in self.tokens().items():
            if kind in of_tokens:
                of_tokens[kind].add_metric([model], count)
            else:
                of_tokens[_TOKENS].add_metric([model, kind], count)
        return requests, times, *others


class _GaugeCollector(Collector):
    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in _GAUGES.items()]

    def collect(self) -> Iterable[Metric]:
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in _GAUGES.items()}
        for reading in self._read():
            names = _GAUGES[reading.name][1]
            families[reading.name].add_metric([reading.labels[n] for n in names], reading.value)
        return families.values()
