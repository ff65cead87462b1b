"""The metrics of the engines that serve, in one exposition, with labels that tell whose each is. No engine is loaded or woken for it."""

import http.client
import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from hotseat.control.registry import ModelRegistry
from hotseat.core.messages import InstanceState
from hotseat.engines.access import engine_headers
from hotseat.engines.base import metrics_path
from hotseat.secret_values import SecretMissing

log = logging.getLogger(__name__)

SUCCESS = "hotseat_engine_scrape_success"
TIMEOUT = 2.0  # seconds for each engine, from the connection to the last byte
MAX_SIZE = 4 * 2**20  # bytes of an answer
MAX_THREADS = 16
_CHUNK = 65536  # bytes
_SERVING = frozenset({InstanceState.READY, InstanceState.QUIESCING, InstanceState.DRAINING})
_OK = 200
_NO_METRICS = frozenset({404, 405, 501})  # of engines that have none, or were not told to count


class ScrapeFailed(Exception):
    """The metrics of an engine could not be had."""


@dataclass(frozen=True, slots=True)
class Target:
    """An engine that may have metrics. `labels` are added to its samples."""

    address: str  # HOST:PORT
    path: str
    headers: dict[str, str]
    labels: dict[str, str]


def engine_metrics(registry: ModelRegistry) -> bytes:
    """Return the metrics of all engines that serve, in Prometheus's text format.

    SUCCESS says of each engine whether its metrics are among them. Engines without metrics are left out.
    """
    found = list(_targets(registry))
    merged = _MergedFamilies()
    if found:
        with ThreadPoolExecutor(min(len(found), MAX_THREADS), thread_name_prefix="scrape") as threads:
            answers = list(threads.map(_scrape, found))
        for target, (success, families) in zip(found, answers, strict=True):
            if success is not None:
                merged.success.samples.append(Sample(SUCCESS, target.labels, success))
                merged.add(families, target.labels)
    return generate_latest(merged)


def _targets(registry: ModelRegistry) -> Iterator[Target]:
    routes = registry.routes()
    for handle in registry.handles:
        serving = [each for each in handle.gate.residency.residents if each.state in _SERVING]
        engines = Counter(each.model for each in serving for _ in each.addresses)
        for resident in serving:
            route = routes.get(resident.model)
            path = None if route is None else metrics_path(route.model)
            if route is None or path is None:
                continue
            labels = {"model": route.shown_name, "workspace": handle.name}
            several = route.model.spec.scheduling.replicas > 1 or engines[resident.model] > 1
            try:
                headers = dict(line.split(": ", 1) for line in engine_headers(route.model).decode().splitlines())
            except SecretMissing as problem:
                log.info("metrics of %s: %s", route.shown_name, problem)
                headers = {}  # it refuses the request, which is then told
            for address in resident.addresses:
                netloc = urlsplit(address).netloc
                yield Target(netloc, path, headers, {**labels, "instance": netloc} if several else labels)


def _scrape(target: Target) -> tuple[int | None, list[Metric]]:
    """Return 1 and the metrics of an engine, 0 if it failed, or None if it has none."""
    try:
        text = _fetch(target)
        return (None, []) if text is None else (1, list(text_string_to_metric_families(text)))
    except (ScrapeFailed, OSError, http.client.HTTPException, ValueError, IndexError) as problem:
        log.info("metrics of %s at %s: %s", target.labels["model"], target.address, problem or type(problem).__name__)
        return 0, []


def _fetch(target: Target) -> str | None:
    """Return the text of the metrics; None if the engine has none. Raise ScrapeFailed, OSError, HTTPException or ValueError."""
    until = time.monotonic() + TIMEOUT
    connection = http.client.HTTPConnection(target.address, timeout=TIMEOUT)
    try:
        connection.request("GET", target.path, headers={"Accept": "text/plain;version=0.0.4", **target.headers})
        response = connection.getresponse()
        if response.status in _NO_METRICS:
            return None
        if response.status != _OK:
            raise ScrapeFailed(f"status {response.status}")
        body = bytearray()
        while part := response.read1(_CHUNK):
            body += part
            if len(body) > MAX_SIZE:
                raise ScrapeFailed(f"more than {MAX_SIZE} bytes")
            if time.monotonic() > until:
                raise ScrapeFailed(f"no end within {TIMEOUT:g} s")
        return body.decode()
    finally:
        connection.close()


class _MergedFamilies(Collector):
    """Families of several engines. Each name has one type and one help text."""

    def __init__(self) -> None:
        self.success = Metric(
            SUCCESS, "1 if the metrics of an engine are here, 0 if it did not answer with any.", "gauge"
        )
        self._families = {SUCCESS: self.success}

    def add(self, families: list[Metric], labels: dict[str, str]) -> None:
        """Add the families of one engine. Where it has such a label itself, that becomes exported_LABEL, as in Prometheus."""
        for family in families:
            name = f"{family.name}_total" if family.type == "counter" else family.name  # as it is written
            known = self._families.get(name)
            if known is None:
                known = self._families[name] = Metric(family.name, family.documentation, family.type)
            elif known.type != family.type:  # of one engine a gauge, of the other a counter
                self._families[name] = untyped = Metric(name, known.documentation, "unknown")
                untyped.samples, known = known.samples, untyped
            for sample in family.samples:
                own = {f"exported_{key}" if key in labels else key: value for key, value in sample.labels.items()}
                known.samples.append(sample._replace(labels={**own, **labels}))

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield from self._families.values()
