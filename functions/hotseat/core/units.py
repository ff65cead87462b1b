"""Durations and quantities as Kubernetes writes them, and as numbers once they are read.

A duration is a Go duration string (`90s`, `5m`, `1h30m`, `250ms`), a memory quantity a Kubernetes one (`24Gi`, `500M`).
In Python they are seconds (float) and bytes (int). Bare numbers are refused for durations: nobody should have to guess a unit.
"""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

DURATION_PATTERN = r"^(0|([0-9]+(\.[0-9]+)?(ms|s|m|h))+)$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"

_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MULTIPLIER = {
    "": Decimal(1), "m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30),
    "Ti": Decimal(2**40), "Pi": Decimal(2**50),
}  # fmt: skip


def parse_duration(value: Any) -> float:
    """Seconds of a duration string; ValueError says what is allowed."""
    if isinstance(value, str) and re.match(DURATION_PATTERN, value):
        return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))
    raise ValueError("a duration such as 90s, 5m, 1h30m or 250ms")


def format_duration(seconds: float) -> str:
    """Shortest duration string that parses back to the same number of milliseconds."""
    milliseconds = round(seconds * 1000)
    if milliseconds % 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "") + (f"{rest}s" if rest else "")
    return text or "0s"


def parse_quantity(value: Any) -> Decimal:
    """Number that a Kubernetes quantity stands for; ValueError says what is allowed."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return Decimal(str(value))
    if isinstance(value, str) and re.match(QUANTITY_PATTERN, value):
        number, unit = re.match(r"([0-9.]+)([A-Za-z]*)$", value).groups()  # type: ignore[union-attr]
        return Decimal(number) * _MULTIPLIER[unit]
    raise ValueError("a quantity such as 24Gi, 500M or 2")


def format_bytes(count: float) -> str:
    """Binary quantity with at most one decimal, for people (`1.5Gi`)."""
    for unit in ("", "Ki", "Mi", "Gi"):
        if count < 1024:  # noqa: PLR2004
            return f"{count:.1f}".removesuffix(".0") + unit
        count /= 1024
    return f"{count:.1f}".removesuffix(".0") + "Ti"


def _bytes(value: Any) -> int:
    return int(parse_quantity(value))


def _plain(value: int) -> str:
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if value and value % int(_MULTIPLIER[unit]) == 0:
            return f"{value // int(_MULTIPLIER[unit])}{unit}"
    return str(value)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
]
Bytes = Annotated[
    int,
    BeforeValidator(_bytes),
    PlainSerializer(_plain, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": QUANTITY_PATTERN}]}),
]
Cores = Annotated[
    float,
    BeforeValidator(lambda value: float(parse_quantity(value))),
    PlainSerializer(lambda value: f"{round(value * 1000)}m", return_type=str),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": QUANTITY_PATTERN}]}),
]
