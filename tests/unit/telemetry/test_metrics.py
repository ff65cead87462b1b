"""Metrics are counted on one thread and collected on others."""

from typing import Any

from hotseat.telemetry.metrics import Metrics


def test_a_scrape_within_the_first_request_of_a_model_is_answered() -> None:
    metrics = Metrics(lambda: ())
    scrapes: list[bytes] = []

    class Scraped(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            super().__setitem__(key, value)
            scrapes.append(metrics.expose()[0])

    metrics._requests._counts = Scraped()
    for name in ("_rows", "_sums"):
        setattr(metrics._requests.duration, name, Scraped())
    metrics.request("a", "chat", 200, 0.2, None)
    assert len(scrapes) >= 4
    last = metrics.expose()[0].decode()
    assert 'hotseat_request_duration_seconds_count{model="a"} 1.0' in last
    assert 'hotseat_requests_total{model="a",route="chat",status="200"} 1.0' in last
