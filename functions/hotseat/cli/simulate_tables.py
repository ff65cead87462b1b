"""Tables of `hotseat simulate`."""

from collections.abc import Callable, Sequence

from hotseat.cli.terminal import NOTHING, table, took
from hotseat.simulation.results import Figures, Waits

_WAITS = ("MEAN WAIT", "P50", "P99", "MAX")
_SMALL = 1.0  # requests per second below which rates have three decimals


def summary(results: Sequence[Figures]) -> str:
    """Return a table with the outcome of the requests, one row per policy."""
    columns: dict[str, Callable[[Figures], str]] = {
        "POLICY": lambda it: it.policy,
        "ANSWERED": lambda it: f"{it.answered} of {it.requests}",
        "REFUSED": lambda it: str(it.refused),
        "CUT": lambda it: str(it.cut),
        "GAVE UP": lambda it: str(it.given_up),
        "REQ/S": lambda it: f"{_rate(it.throughput)} of {_rate(it.offered)}",
        "MEAN WAIT": lambda it: took(it.waits.mean),
        "P50": lambda it: took(it.waits.p50),
        "P99": lambda it: took(it.waits.p99),
        "MAX": lambda it: took(it.waits.max),
        "TURN P99": lambda it: took(it.turns.p99),
        "BOUND": lambda it: took(it.effective_max_wait),
        "TOTAL": lambda it: took(it.seconds),
    }
    return table(list(columns), [[show(it) for show in columns.values()] for it in results])


def gpu_time(results: Sequence[Figures]) -> str:
    """Return a table with the use of the GPUs' time, one row per policy. The shares add up to 100%, except for rounding."""
    rows = []
    for it in results:
        parts = (it.serving, it.switching, it.idle, it.spare)
        whole = sum(parts) or 1.0
        rows.append((it.policy, str(it.switches), *(f"{part / whole:.1%}" for part in parts), f"{it.lost:.1%}"))
    return table(("POLICY", "SWITCHES", "SERVING", "SWITCHING", "IDLE", "SPARE", "LOST"), rows)


def by_model(results: Sequence[Figures]) -> str:
    """Return a table with one row for each model and policy."""
    rows = [
        (result.policy, name, str(it.waits.count), *_waits(it.waits), took(it.turns.p99), str(it.loads))
        for result in results
        for name, it in result.models.items()
    ]
    return table(("POLICY", "MODEL", "REQUESTS", *_WAITS, "TURN P99", "LOADS"), rows)


def _waits(waits: Waits) -> list[str]:
    return [took(seconds) for seconds in (waits.mean, waits.p50, waits.p99, waits.max)]


def _rate(per_second: float) -> str:
    if not per_second:
        return NOTHING  # all requests arrived at once
    return f"{per_second:.2f}" if per_second >= _SMALL else f"{per_second:.3f}"
