"""Durations, quantities and times, as Kubernetes writes them and as numbers. Pure.

A duration is a Go duration string (`90s`, `5m`, `1h30m`, `250ms`), a memory quantity a Kubernetes
one (`24Gi`, `500M`). In Python they are seconds (float) and bytes (int). Durations without a unit
are refused, because the unit would be a guess, and so is `m` for memory: it would be a thousandth
of a byte.
"""

import re
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

DURATION_PATTERN = r"^(0|([0-9]+(\.[0-9]+)?(ms|s|m|h))+)$"
AUTO = "Auto"
AUTO_DURATION_PATTERN = rf"^({AUTO}|{DURATION_PATTERN[2:-2]})$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
BYTES_PATTERN = r"^[0-9]+(\.[0-9]+)?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
LIMIT = 2**63 - 1  # of what Kubernetes and Go hold: bytes, or nanoseconds (292 years)

_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_QUANTITY_PARTS = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MULTIPLIER = {
    "": Decimal(1), "m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30),
    "Ti": Decimal(2**40), "Pi": Decimal(2**50),
}  # fmt: skip


class Unreadable(ValueError):
    """A text is no duration or quantity. The message is a noun phrase that says what would be one."""


def parse_duration(value: Any) -> float:
    """Return the seconds of a duration string."""
    if isinstance(value, str) and re.fullmatch(DURATION_PATTERN, value):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))
        if seconds * 1e9 <= LIMIT:
            return seconds
    raise Unreadable("a duration such as 90s, 5m, 1h30m or 250ms")


def parse_auto_duration(value: Any) -> float | None:
    """Return the seconds of a duration string, or None for Auto."""
    try:
        return None if value is None or value == AUTO else parse_duration(value)
    except Unreadable as error:
        raise Unreadable(f"{error}, or {AUTO}") from None


def format_duration(seconds: float) -> str:
    """Return the shortest duration string that parses back to the same number of milliseconds."""
    milliseconds = round(seconds * 1000)
    if milliseconds % 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "") + (f"{rest}s" if rest else "")
    return text or "0s"


def format_time(seconds: float, precision: str = "milliseconds") -> str:
    """Return seconds since 1970 (Unix time) as RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def parse_quantity(value: Any) -> Decimal:
    """Return the number of a Kubernetes quantity. A number is returned as it is."""
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if isinstance(text, str) and (match := _QUANTITY_PARTS.fullmatch(text)):
        quantity = Decimal(match[1]) * _MULTIPLIER[match[2] or ""]
        if quantity <= LIMIT:
            return quantity
    raise Unreadable("a quantity such as 4, 0.5 or 500m")


def parse_bytes(value: Any) -> int:
    """Return the whole bytes of a memory quantity, rounded up as Kubernetes does."""
    try:
        quantity = parse_quantity(value)
    except Unreadable:
        quantity = None
    if quantity is None or (isinstance(value, str) and value.endswith("m")):
        raise Unreadable("an amount of memory such as 24Gi, 500M or a number of bytes")
    return int(quantity.to_integral_value(ROUND_CEILING))


def format_bytes(count: float) -> str:
    """Return a number of bytes with a binary unit and at most one decimal, for people (`1.5Gi`)."""
    for unit in ("", "Ki", "Mi", "Gi"):
        if count < 1024:  # noqa: PLR2004 - the step between binary units
            return f"{count:.1f}".removesuffix(".0") + unit
        count /= 1024
    return f"{count:.1f}".removesuffix(".0") + "Ti"


def _exact_bytes(value: int) -> str:
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
AutoDuration = Annotated[
    float | None,
    BeforeValidator(parse_auto_duration),
    PlainSerializer(lambda seconds: AUTO if seconds is None else format_duration(seconds), return_type=str),
    WithJsonSchema({"type": "string", "pattern": AUTO_DURATION_PATTERN}),
]
Bytes = Annotated[
    int,
    BeforeValidator(parse_bytes),
    PlainSerializer(_exact_bytes, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": BYTES_PATTERN}]}),
]
Cores = Annotated[
    float,
    BeforeValidator(lambda value: float(parse_quantity(value))),
    PlainSerializer(lambda value: f"{round(value * 1000)}m", return_type=str),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": QUANTITY_PATTERN}]}),
]
