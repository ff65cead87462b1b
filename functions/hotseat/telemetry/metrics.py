"""Prometheus metrics.

Switches, loads and failures are counted from events, requests by the gateway; gauges, and counters that are kept elsewhere,
are read when scraped. docs/metrics.md is generated from this registry. Labels are bounded: a `model` is the name
of a document or empty, never text from a client.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from hotseat import __version__
from hotseat.core.events import event_type, shown_model_of

disable_created_metrics()  # type: ignore[no-untyped-call] # a series more for each counter and histogram, which nobody reads

# Upper bounds of buckets.
_REQUESTS_TAKE = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)  # seconds
_SWITCHES_TAKE = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800)  # seconds
_TOKENS_TAKE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800)  # seconds
_CALLS_TAKE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds
_TOKENS_PER_SECOND = (1, 2.5, 5, 10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500, 1000)


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of a gauge, or of a counter that is kept elsewhere, by the name as scraped."""

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


# prometheus_client adds `_total` to the names of counters.
_COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "hotseat_requests": (
        "Requests that were answered, by the model that answered, or refused. Without a model if refused before it was known.",
        ("model", "route", "status"),
    ),
    "hotseat_tokens": (
        "Tokens that engines report (kind: prompt, cached, completion). Counted from the first scrape on, with the last 100 requests.",
        ("model", "kind"),
    ),
    "hotseat_switches": (
        "Switches that ended, by reason (demand, ordered, default, schedule, pin) and outcome. Each model that is evicted counts.",
        ("from_model", "to_model", "reason", "outcome"),
    ),
    "hotseat_loads": (
        "Loads that ended, by outcome: completed, failed, cancelled.",
        ("model", "outcome"),
    ),
    "hotseat_fallbacks": ("Requests that were routed to a fallback.", ("model", "fallback", "reason")),
    "hotseat_model_failures": ("Failures to fetch, load, keep, park, wake or release a model.", ("model", "reason")),
    "hotseat_parks": ("Attempts to put an engine to sleep, by outcome.", ("model", "outcome")),
    "hotseat_prompt_cache_dropped": ("Prompt caches that were not kept, by reason.", ("model", "reason")),
    "hotseat_prompt_cache_hits": (
        "Requests that waited for a switch after which their engine still had at least half of their prompt. Counted as hotseat_tokens.",
        ("model",),
    ),
    "hotseat_prompt_cache_reused_tokens": (
        "Tokens of prompts that requests which waited for a switch found in the cache after it. Counted as hotseat_tokens.",
        ("model",),
    ),
    "hotseat_upstream_retries": (
        "Requests that were sent to a server (engine external) again, by reason: unreachable, disconnected, timeout, status_ and the code.",
        ("model", "reason"),
    ),
    "hotseat_wakes": ("Attempts to wake a parked engine, by outcome.", ("model", "outcome")),
    "hotseat_resident_seconds": (
        "Seconds in which instances of a model could serve requests: ready, quiescing or draining.",
        ("workspace", "model"),
    ),
    "hotseat_idle_seconds": (
        "Those of hotseat_resident_seconds_total in which no request of the model was in flight.",
        ("workspace", "model"),
    ),
    "hotseat_switching_gpu_seconds": (
        "GPU seconds lost to switching: drain, save, release, load, restore, park and wake, times the GPUs of the instance.",
        ("workspace",),
    ),
    "hotseat_events_undelivered": ("Events that could not be delivered to the sink.", ()),
}
_HISTOGRAMS: Mapping[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "hotseat_request_duration_seconds": (
        "Time from a request's arrival to its end, for requests that reached a model.",
        ("model",),
        _REQUESTS_TAKE,
    ),
    "hotseat_queue_wait_seconds": (
        "Time that queued requests waited before they were dispatched.",
        ("model",),
        _SWITCHES_TAKE,
    ),
    "hotseat_time_to_first_token_seconds": (
        "Time from a request's arrival to the first bytes of the engine's answer, with its wait, for streamed answers.",
        ("model",),
        _TOKENS_TAKE,
    ),
    "hotseat_tokens_per_second": (
        "Tokens per second that were generated for a request: as its engine reports, else as its stream came. Counted as hotseat_tokens.",
        ("model",),
        _TOKENS_PER_SECOND,
    ),
    "hotseat_switch_phase_duration_seconds": ("Duration of a switch's phases.", ("to_model", "phase"), _SWITCHES_TAKE),
    "hotseat_load_duration_seconds": (
        "Time from the start of an engine until it was ready.",
        ("model",),
        _SWITCHES_TAKE,
    ),
    "hotseat_park_duration_seconds": (
        "Time from the request to sleep until the engine was verified to sleep.",
        ("model",),
        _SWITCHES_TAKE,
    ),
    "hotseat_wake_duration_seconds": (
        "Time from the request to wake until the engine answered.",
        ("model",),
        _SWITCHES_TAKE,
    ),
    "hotseat_reconcile_duration_seconds": (
        "On a switcher: time to apply the documents, or to write statuses (kind: documents, workspace_status, model_status).",
        ("kind",),
        _CALLS_TAKE,
    ),
}
_REQUESTS, _TOKENS = "hotseat_requests", "hotseat_tokens"
_REQUEST_DURATION, _QUEUE_WAIT, _TTFT = _OF_REQUESTS = (
    "hotseat_request_duration_seconds",
    "hotseat_queue_wait_seconds",
    "hotseat_time_to_first_token_seconds",
)
PROMPT_HITS, REUSED_TOKENS = "hotseat_prompt_cache_hits", "hotseat_prompt_cache_reused_tokens"
_OF_TOKENS = (_TOKENS, PROMPT_HITS, REUSED_TOKENS)
_READ_COUNTERS = (
    "hotseat_resident_seconds",
    "hotseat_idle_seconds",
    "hotseat_switching_gpu_seconds",
    "hotseat_events_undelivered",
)
_GPU = ("gpu", "uuid")  # labels: its number, as in nvidia-smi, and its UUID
_GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "hotseat_requests_in_flight": ("Requests in flight: an engine is answering them.", ("model",)),
    "hotseat_queued_requests": ("Requests in the queue of a model.", ("model",)),
    "hotseat_queued_request_bytes": ("Memory used by the bodies of queued requests.", ("workspace",)),
    "hotseat_oldest_queued_request_seconds": ("Age of the oldest queued request.", ("model",)),
    "hotseat_residents": ("Instances that hold accelerator memory, by state.", ("workspace", "model", "state")),
    "hotseat_pinned_models": ("Models that are pinned: once resident, they are not evicted.", ("workspace", "model")),
    "hotseat_parked_instances": (
        "Instances that are parked: their processes are kept, off the accelerator.",
        ("workspace", "model"),
    ),
    "hotseat_parked_host_memory_bytes": (
        "Host memory that a parked model was measured to hold.",
        ("workspace", "model"),
    ),
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
    "hotseat_backoff_seconds": (
        "Time until a model that has failed is tried again. Only while it is in back-off.",
        ("model",),
    ),
    "hotseat_events_queued": ("Events that wait to be delivered to the sink.", ()),
    "hotseat_leader": ("On a switcher: 1 if it leads, and 0 if it stands by.", ()),
    "hotseat_build_info": ("1, with the version of hotseat.", ("version",)),
}

_LABELS_READ = {
    **{name: labels for name, (_, labels) in _GAUGES.items()},
    **{f"{name}_total": _COUNTERS[name][1] for name in _READ_COUNTERS},
}


def families() -> list[Family]:
    """Return all metrics, sorted by name."""
    rows = [Family(f"{name}_total", "counter", labels, text) for name, (text, labels) in _COUNTERS.items()]
    rows += [Family(name, "histogram", labels, text) for name, (text, labels, _) in _HISTOGRAMS.items()]
    rows += [Family(name, "gauge", labels, text) for name, (text, labels) in _GAUGES.items()]
    return sorted(rows, key=lambda family: family.name)


class Metrics:
    """All metrics of one process. `read` returns the values of the gauges, and of counters that are kept elsewhere."""

    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(_ReadCollector(read))
        self._requests = _RequestCollector()  # before the histograms: what it collects may count in one of them
        registry.register(self._requests)
        counters = {
            n: Counter(n, text, labels, registry=registry)
            for n, (text, labels) in _COUNTERS.items()
            if n not in {_REQUESTS, *_OF_TOKENS, *_READ_COUNTERS}
        }
        histograms = {
            n: Histogram(n, text, labels, registry=registry, buckets=buckets)
            for n, (text, labels, buckets) in _HISTOGRAMS.items()
            if n not in _OF_REQUESTS
        }
        self._switches = counters["hotseat_switches"]
        self._fallbacks = counters["hotseat_fallbacks"]
        self._failures = counters["hotseat_model_failures"]
        self._upstream_retries = counters["hotseat_upstream_retries"]
        self._dropped_prompts = counters["hotseat_prompt_cache_dropped"]
        self._phases = histograms["hotseat_switch_phase_duration_seconds"]
        self._loads = counters["hotseat_loads"]
        self._load_durations = histograms["hotseat_load_duration_seconds"]
        self._speeds = histograms["hotseat_tokens_per_second"]
        self._reconciles = histograms["hotseat_reconcile_duration_seconds"]
        self._sleep_metrics = {
            "Park": (counters["hotseat_parks"], histograms["hotseat_park_duration_seconds"]),
            "Wake": (counters["hotseat_wakes"], histograms["hotseat_wake_duration_seconds"]),
        }

    def request(  # noqa: PLR0917 — called once for each request
        self,
        model: str,
        route: str,
        status: int,
        seconds: float,
        waited: float | None,
        ttft: float | None = None,
        trace_id: str | None = None,
    ) -> None:
        """Count a request that has ended. Call it on the event loop, as `refused`.

        Status 499: its client disconnected. `waited`: seconds in the queue; None: none. `ttft`: seconds until the first bytes of a
        stream; None: it was none. `trace_id` becomes the exemplar of its buckets.
        """
        requests = self._requests
        requests.add(model, route, status)
        requests.duration.observe(model, seconds, trace_id)
        if waited is not None:
            requests.wait.observe(model, waited, trace_id)
        if ttft is not None:
            requests.ttft.observe(model, ttft, trace_id)

    def refused(self, model: str, route: str, status: int) -> None:
        """Count a request that was refused at once. An empty model: its model is unknown."""
        self._requests.add(model, route, status)

    def read_tokens(self, tokens: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Set the function that returns the tokens so far, by model and kind. It is called at each scrape.

        PROMPT_HITS and REUSED_TOKENS are kinds as well, but metrics of their own.
        """
        self._requests.tokens = tokens

    def speed(self, model: str, tokens_per_second: float) -> None:
        """Count the generation speed of a request."""
        self._speeds.labels(model=model).observe(tokens_per_second)

    def reconciled(self, kind: str, seconds: float) -> None:
        """Count a reconciliation of the switcher."""
        self._reconciles.labels(kind=kind).observe(seconds)

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
                    from_model=shown_model_of(source),
                    to_model=data["to"],
                    reason=data["reason"],
                    outcome=_SWITCH_ENDS[kind],
                ).inc()
            if data.get("phase") == "load":
                self._loads.labels(model=data["to"], outcome=_SWITCH_ENDS[kind]).inc()
            for phase, seconds in data["phases"].items():
                self._phases.labels(to_model=data["to"], phase=phase).observe(seconds)
        elif kind == event_type("model.ready"):
            self._loads.labels(model=subject, outcome="completed").inc()
            self._load_durations.labels(model=subject).observe(data["seconds"])
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

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics and their content type.

        They are in Prometheus's text format, or if the header `Accept` names it, in that of OpenMetrics, which has exemplars.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version of letters
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type


_SLEEP_EVENTS = {event_type("model.parked"): "Park", event_type("model.woken"): "Wake"}
_SLEEP_FAILURES = {"ParkFailed", "ParkTimeout", "WakeFailed", "WakeTimeout"}
_SWITCH_ENDS = {event_type(f"switch.{outcome}"): outcome for outcome in ("completed", "failed", "cancelled")}


class _Buckets:
    """A histogram by model. The thread that observes is one, and others may collect at any moment."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._text, self._labels, self._bounds = _HISTOGRAMS[name]
        self._rows: dict[str, list[int]] = {}  # by model: how many were in each bucket, and above all
        self._sums: dict[str, float] = {}
        self._exemplars: dict[tuple[str, int], Exemplar] = {}  # the last of each bucket that has a trace

    def observe(self, model: str, value: float, trace_id: str | None) -> None:
        """Count a value."""
        row = self._rows.get(model)
        if row is None:
            self._sums[model] = 0.0  # before the row: another thread may collect at any moment
            row = self._rows[model] = [0] * (len(self._bounds) + 1)
        at = bisect_left(self._bounds, value)
        row[at] += 1
        self._sums[model] += value
        if trace_id is not None:
            self._exemplars[model, at] = Exemplar({"trace_id": trace_id}, value, time.time())

    def family(self) -> HistogramMetricFamily:
        """Return the family without samples."""
        return HistogramMetricFamily(self.name, self._text, labels=self._labels)

    def collect(self) -> HistogramMetricFamily:
        """Return the family."""
        family, bounds, exemplars = self.family(), [*map(floatToGoString, self._bounds), "+Inf"], self._exemplars.copy()
        for model, row in self._rows.copy().items():
            counts = enumerate(zip(bounds, accumulate(row), strict=True))
            buckets = [(le, count, exemplars.get((model, at))) for at, (le, count) in counts]
            family.add_metric([model], buckets, self._sums[model])  # type: ignore[arg-type] # None is no exemplar
        return family


class _RequestCollector(Collector):
    """What is counted of each request. The locks of prometheus_client's own counters would cost more than all else that counts it."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}
        self.duration, self.wait, self.ttft = self._histograms = [_Buckets(name) for name in _OF_REQUESTS]
        self.tokens: Callable[[], Mapping[tuple[str, str], int]] = dict

    def add(self, model: str, route: str, status: int) -> None:
        """Count a request."""
        key = (model, route, status)
        self._counts[key] = self._counts.get(key, 0) + 1

    def describe(self) -> Iterable[Metric]:
        return [*map(_counter, (_REQUESTS, *_OF_TOKENS)), *(each.family() for each in self._histograms)]

    def collect(self) -> Iterable[Metric]:
        requests, of_tokens = _counter(_REQUESTS), {name: _counter(name) for name in _OF_TOKENS}
        for (model, route, status), count in self._counts.copy().items():
            requests.add_metric([model, route, str(status)], count)
        for (model, kind), count in self.tokens().items():
            if kind in of_tokens:
                of_tokens[kind].add_metric([model], count)
            else:
                of_tokens[_TOKENS].add_metric([model, kind], count)
        return requests, *of_tokens.values(), *(each.collect() for each in self._histograms)


def _counter(name: str) -> CounterMetricFamily:
    text, labels = _COUNTERS[name]
    return CounterMetricFamily(name, text, labels=labels)


class _ReadCollector(Collector):
    """The gauges, and the counters that are kept elsewhere."""

    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        return self._families().values()

    def _families(self) -> dict[str, GaugeMetricFamily | CounterMetricFamily]:
        """Return the families without samples, by the names of their readings."""
        gauges = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in _GAUGES.items()}
        return {**gauges, **{f"{name}_total": _counter(name) for name in _READ_COUNTERS}}

    def collect(self) -> Iterable[Metric]:
        families = self._families()
        families["hotseat_build_info"].add_metric([__version__], 1)
        for reading in self._read():
            names = _LABELS_READ[reading.name]
            families[reading.name].add_metric([reading.labels[name] for name in names], reading.value)
        return families.values()
