"""What web pages in browsers may do: CORS, and which requests are refused where no keys are required."""

import ipaddress
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache

from hotseat.core.errors import Forbidden, shortened
from hotseat.gateway.http.request import HOST

ANY = "*"
MAX_AGE = "600"  # seconds for which a browser need not ask again
# A name whose last label is a number is an IP address for browsers, so no domain can have it.
_ADDRESS = re.compile(r"\[.*\]|(?:.*\.)?[0-9]+")


@dataclass(frozen=True, slots=True)
class BrowserRules:
    """Rules for web pages. `origins` are those that may send requests and read answers (`*`: any).

    `hosts` are names of this server in addition to localhost (`*`: any).
    """

    origins: AbstractSet[str] = frozenset()
    hosts: AbstractSet[str] = frozenset()

    def check(self, headers: Mapping[str, str], method: str, address: str) -> None:
        """Raise Forbidden if the request may come from a web page that is not allowed. For servers without keys.

        `headers` are by lower-case name. `method`: POST also for a WebSocket. `address` is the one on which hotseat listens.
        Any web page in a browser on this machine could use the accelerator, and read logs. A page whose domain name
        resolves to a loopback address (DNS rebinding) is of the same origin for the browser, but Host has its name.
        """
        host, origin = headers.get("host"), headers.get("origin")
        if host and not self._is_own(host) and _is_loopback(address):
            name = shortened(_name(host))
            raise Forbidden(
                f"Requests for the host {name} are not allowed: hotseat listens on a loopback address and requires no API key, "
                f"so a web page could send them. To allow them, use --allowed-host {name}, or set an API key.",
                code="host_not_allowed",
            )
        if not origin or method != "POST" or self._allows(origin):
            return
        if not host or origin.partition("://")[2] != host:
            origin = shortened(origin)
            raise Forbidden(
                f"Requests of web pages from {origin} are not allowed. To allow them, use --cors-origin {origin}."
            )

    def headers(self, headers: Mapping[str, str], method: str) -> tuple[tuple[str, str], ...]:
        """Return the CORS headers of the answer. None if the page may not read it, or if there is no page."""
        origin = headers.get("origin")
        if origin is None or not self._allows(origin):
            return ()
        answer = (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))
        if method != "OPTIONS":
            return (*answer, ("Access-Control-Expose-Headers", "*"))
        wanted = headers.get("access-control-request-headers", "Authorization, Content-Type")
        return (
            *answer,
            ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            ("Access-Control-Allow-Headers", wanted),
            ("Access-Control-Max-Age", MAX_AGE),
        )

    def _allows(self, origin: str) -> bool:
        return not self.origins.isdisjoint({ANY, origin})

    def _is_own(self, host: str) -> bool:
        name = _name(host)
        return (
            name == "localhost"
            or name.endswith(".localhost")
            or not self.hosts.isdisjoint({ANY, name})
            or _ADDRESS.fullmatch(name) is not None
        )


def _name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    match = HOST.fullmatch(host)
    return (match[1] if match else host).lower().removesuffix(".")


@lru_cache(maxsize=8)
def _is_loopback(address: str) -> bool:
    """Whether a server's own address is reachable from its machine only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def sandboxed(fields: bytes) -> bytes:
    """Add to the headers of an engine's answer, which a browser can show as a page, that its scripts have an origin of their own."""
    return fields + b"Content-Security-Policy: sandbox\r\n"
