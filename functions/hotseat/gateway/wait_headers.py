"""Request headers that control waiting: tenant, priority, time limits, and what is told meanwhile."""

import re
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

import msgspec

from hotseat.api.model import PEER_HEADER
from hotseat.api.units import parse_duration
from hotseat.api.workspace import Loading, Tenants
from hotseat.core.errors import BadRequest, shortened
from hotseat.core.messages import message

PRIORITY = "X-Priority"
TIMEOUT = "X-Request-Timeout"
MAX_WAIT = "X-Hotseat-Max-Wait"
LOADING = "X-Hotseat-Loading"
KEEP_ALIVE = "X-Hotseat-Keep-Alive"
LEAST, MOST = -1000, 1000  # priorities, as in documents
_DIGITS = len(str(MOST))  # a longer number is beyond the bound by its first digits alone
_LONGEST_TENANT = 100  # characters
_NUMBER = r"[0-9]+(\.[0-9]*)?"
LONGEST_KEEP_ALIVE = 1e9  # seconds; more is for ever


@message
class WaitOptions:
    """Tenant, priority and time limits of one request.

    Times are seconds from the arrival of the request. None means no limit. `max_wait` limits the time in the
    queue. `timeout` is the time after which the client has no use for an answer: a request that cannot meet
    it is refused immediately. `keep_alive` is how long the engine stays without a request after this one, instead of
    the idle timeout of its Model. `from_peer`: another hotseat has sent it here.
    """

    tenant: str = ""
    priority: int = 0
    max_wait: float | None = None
    timeout: float | None = None
    keep_alive: float | None = None  # seconds without a request after which the engine is unloaded
    from_peer: bool = False

    @property
    def limit(self) -> float | None:
        """Return the time in seconds after which the request leaves the queue, in any case."""
        if self.max_wait is None or self.timeout is None:
            return self.timeout if self.max_wait is None else self.max_wait
        return min(self.max_wait, self.timeout)


NO_LIMITS = WaitOptions()


def wait_options(headers: Mapping[str, str], tenants: Tenants, key: str) -> WaitOptions:
    """Read the headers, by lower-case name, of a request with the key named `key`. Raise BadRequest if a header is invalid."""
    return WaitOptions(
        _tenant(headers, tenants, key),
        _priority(headers),
        _seconds(headers, MAX_WAIT),
        _seconds(headers, TIMEOUT),
        _keep_alive(headers),
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


class _OllamaBody(msgspec.Struct):
    keep_alive: Any = None


_BODIES = msgspec.json.Decoder(_OllamaBody)


def with_keep_alive(options: WaitOptions, body: bytes) -> WaitOptions:
    """Return the options with the `keep_alive` of a request of Ollama's API. Raise BadRequest if it is invalid."""
    if b"keep_alive" not in body:
        return options
    try:
        given = _BODIES.decode(body).keep_alive
    except (msgspec.DecodeError, RecursionError):
        return options  # what is wrong with it is said where it is translated
    if given is None:
        return options
    seconds = read_keep_alive(given)
    if seconds is None:
        raise BadRequest(
            f"`keep_alive` is {shortened(str(given))!r}; allowed: a duration such as 10m, a number of seconds, -1 for ever.",
            param="keep_alive",
        )
    return replace(options, keep_alive=seconds)


def read_keep_alive(value: Any) -> float | None:
    """Return the seconds of a duration such as 10m, or of a number of seconds. A negative one is for ever. None: it is neither."""
    if isinstance(value, str):
        sign, text = (-1.0, value[1:]) if value.startswith("-") else (1.0, value)
        try:
            value = sign * (float(text) if re.fullmatch(_NUMBER, text) else parse_duration(text))
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return inf if value < 0 or value > LONGEST_KEEP_ALIVE else float(value)


def _keep_alive(headers: Mapping[str, str]) -> float | None:
    text = _header(headers, KEEP_ALIVE)
    if text is None:
        return None
    seconds = read_keep_alive(text.strip())
    if seconds is None:
        raise BadRequest(
            f"The header {KEEP_ALIVE} is {shortened(text)!r}; allowed: a duration such as 10m, a number of seconds, -1 for ever."
        )
    return seconds


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
