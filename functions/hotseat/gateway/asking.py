"""What a request's headers say of how it may wait: who asks, how important it is, and for how long it is worth an answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hotseat.core.errors import BadRequest
from hotseat.core.units import parse_duration
from hotseat.core.workspaces import Tenants

PRIORITY = "X-Priority"
TIMEOUT = "X-Request-Timeout"
MAX_WAIT = "X-Hotseat-Max-Wait"
LEAST, MOST = -1000, 1000  # priorities, as in documents
_LONGEST_TENANT = 100  # characters


@dataclass(frozen=True, slots=True)
class Asking:
    """How one request may wait. Times are seconds from its arrival, None: as long as it takes.

    `max_wait` is how long it waits for its turn. `timeout` is when its client has no use for an answer any longer: where that
    cannot be met, it is refused at once.
    """

    tenant: str = ""
    priority: int = 0
    max_wait: float | None = None
    timeout: float | None = None

    @property
    def limit(self) -> float | None:
        """Seconds after which it waits no longer, in any case."""
        return min((each for each in (self.max_wait, self.timeout) if each is not None), default=None)


def asking(environ: Mapping[str, Any], tenants: Tenants, key: str) -> Asking:
    """Read the headers of a request that came with a key of that name. Raises BadRequest for one that makes no sense."""
    return Asking(
        _tenant(environ, tenants, key), _priority(environ), _seconds(environ, MAX_WAIT), _seconds(environ, TIMEOUT)
    )


def _header(environ: Mapping[str, Any], name: str) -> str | None:
    value: str | None = environ.get("HTTP_" + name.upper().replace("-", "_"))
    return value


def _tenant(environ: Mapping[str, Any], tenants: Tenants, key: str) -> str:
    given = _header(environ, tenants.header) if tenants.header else None
    if not given:
        return key
    try:
        name = given.strip().encode("latin-1").decode()  # WSGI reads bytes as Latin-1
    except UnicodeDecodeError:
        name = "\n"
    if len(name) > _LONGEST_TENANT or not name.isprintable():
        raise BadRequest(
            f"The header {tenants.header} is not a tenant name; allowed: up to {_LONGEST_TENANT} printable characters."
        )
    return name or key


def _priority(environ: Mapping[str, Any]) -> int:
    text = _header(environ, PRIORITY)
    if text is None:
        return 0
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise BadRequest(f"The header {PRIORITY} is {text!r}; allowed: an integer from {LEAST} to {MOST}.")
    return min(MOST, max(LEAST, int(text)))


def _seconds(environ: Mapping[str, Any], name: str) -> float | None:
    """Read a duration such as 20s, or a number of seconds."""
    text = _header(environ, name)
    if text is None:
        return None
    try:
        return float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except ValueError:
        raise BadRequest(
            f"The header {name} is {text!r}; allowed: a duration such as 20s, or a number of seconds."
        ) from None
