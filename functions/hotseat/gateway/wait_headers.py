"""Request headers that control waiting: tenant, priority, time limits, and what is told meanwhile."""

import re
from collections.abc import Mapping

from hotseat.api.model import PEER_HEADER
from hotseat.api.units import parse_duration
from hotseat.api.workspace import Loading, Tenants
from hotseat.core.errors import BadRequest, shortened
from hotseat.core.messages import message

PRIORITY = "X-Priority"
TIMEOUT = "X-Request-Timeout"
MAX_WAIT = "X-Hotseat-Max-Wait"
LOADING = "X-Hotseat-Loading"
LEAST, MOST = -1000, 1000  # priorities, as in documents
_DIGITS = len(str(MOST))  # a longer number is beyond the bound by its first digits alone
_LONGEST_TENANT = 100  # characters


@message
class WaitOptions:
    """Tenant, priority and time limits of one request.

    Times are seconds from the arrival of the request. None means no limit. `max_wait` limits the time in the
    queue. `timeout` is the time after which the client has no use for an answer: a request that cannot meet
    it is refused immediately. `from_peer`: another hotseat has sent it here.
    """

    tenant: str = ""
    priority: int = 0
    max_wait: float | None = None
    timeout: float | None = None
    from_peer: bool = False

    @property
    def limit(self) -> float | None:
        """Return the time in seconds after which the request leaves the queue, in any case."""
        return min((each for each in (self.max_wait, self.timeout) if each is not None), default=None)


NO_LIMITS = WaitOptions()


def wait_options(headers: Mapping[str, str], tenants: Tenants, key: str) -> WaitOptions:
    """Read the headers, by lower-case name, of a request with the key named `key`. Raise BadRequest if a header is invalid."""
    return WaitOptions(
        _tenant(headers, tenants, key),
        _priority(headers),
        _seconds(headers, MAX_WAIT),
        _seconds(headers, TIMEOUT),
        _header(headers, PEER_HEADER) is not None,
    )


def loading_option(headers: Mapping[str, str]) -> Loading | None:
    """Return what the client wants while its Model is not ready. None: it does not say. Raise BadRequest if that is invalid."""
    text = _header(headers, LOADING)
    if text is None:
        return None
    for each in Loading:
        if text.strip().lower() == each.lower():
            return each
    allowed = ", ".join(each.lower() for each in Loading)
    raise BadRequest(f"The header {LOADING} is {shortened(text)!r}; allowed: {allowed}.")


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return headers.get(name.lower())


def _tenant(headers: Mapping[str, str], tenants: Tenants, key: str) -> str:
    given = _header(headers, tenants.header) if tenants.header else None
    if not given:
        return key
    try:
        name = given.strip().encode("latin-1").decode()  # headers are read as Latin-1
    except UnicodeDecodeError:
        name = "\n"
    if len(name) > _LONGEST_TENANT or not name.isprintable():
        raise BadRequest(
            f"The header {tenants.header} is not a tenant name; allowed: up to {_LONGEST_TENANT} printable characters."
        )
    return name or key


def _priority(headers: Mapping[str, str]) -> int:
    text = _header(headers, PRIORITY)
    if text is None:
        return 0
    match = re.fullmatch(r"([+-]?)0*([0-9]+)", text)
    if not match:
        raise BadRequest(f"The header {PRIORITY} is {shortened(text)!r}; allowed: an integer from {LEAST} to {MOST}.")
    return min(MOST, max(LEAST, int(match[1] + match[2][:_DIGITS])))


def _seconds(headers: Mapping[str, str], name: str) -> float | None:
    """Read a duration such as 20s, or a number of seconds."""
    text = _header(headers, name)
    if text is None:
        return None
    try:
        return float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except ValueError:
        raise BadRequest(
            f"The header {name} is {shortened(text)!r}; allowed: a duration such as 20s, or a number of seconds."
        ) from None
