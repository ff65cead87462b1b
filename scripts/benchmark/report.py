"""What was measured: rows, printed as a table and written as JSON."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, with the most or the least that it should be where there is a target."""

    part: str
    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def missed(self) -> bool:
        """Whether it has a target and is on the wrong side of it."""
        too_much = self.at_most is not None and self.value > self.at_most
        return too_much or (self.at_least is not None and self.value < self.at_least)

    @property
    def verdict(self) -> str:
        """Say ok or MISSED; nothing where there is no target."""
        if self.at_most is None and self.at_least is None:
            return ""
        return "MISSED" if self.missed else "ok"

    @property
    def target(self) -> str:
        """Write the target down."""
        if self.at_most is not None:
            return f"≤ {_number(self.at_most)}"
        return "" if self.at_least is None else f"≥ {_number(self.at_least)}"


def percentile(values: Sequence[float], share: float) -> float:
    """Value that `share` (0 to 1) of them do not exceed; of few values the largest, never one in between."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def median(values: Iterable[float]) -> float:
    """Middle of the values."""
    return statistics.median(values)


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out in columns."""
    heads = ("part", "what", "value", "unit", "target", "")
    cells = [heads, *((r.part, r.what, _number(r.value), r.unit, r.target, r.verdict) for r in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    lines = []
    for index, line in enumerate(cells):
        repeated = index > 1 and line[0] == cells[index - 1][0]
        part = ("" if repeated else line[0]).ljust(widths[0])
        rest = [c.rjust(w) if i == 1 else c.ljust(w) for i, (c, w) in enumerate(zip(line[1:], widths[1:], strict=True))]
        lines.append("  ".join([part, *rest]).rstrip())
    return "\n".join(lines)


def write_json(path: Path, machine: Mapping[str, Any], rows: Iterable[Row], notes: Sequence[str]) -> None:
    """Write all of it for programs."""
    results = [{**asdict(row), "verdict": row.verdict} for row in rows]
    text = json.dumps({"machine": machine, "notes": notes, "rows": results}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _number(value: float) -> str:
    """Three significant digits, and whole numbers in full."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
