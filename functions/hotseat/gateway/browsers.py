"""What web pages in browsers may do: CORS, and which requests are refused where no keys are required."""

import ipaddress
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hotseat.core.errors import BadRequest, Forbidden, shortened

ANY = "*"
_HOST = re.compile(r"(\[[0-9A-Za-z:.%_~-]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
# A name whose last label is a number is an IP address for browsers, so no domain can have it.
_ADDRESS = re.compile(r"\[.*\]|(?:.*\.)?[0-9]+")


def check_host(environ: Mapping[str, Any]) -> None:
    """Raise BadRequest if the header Host is invalid, or missing in HTTP/1.1 (RFC 9112, 3.2)."""
    host = environ.get("HTTP_HOST")
    if host is None:
        if environ["SERVER_PROTOCOL"] == "HTTP/1.1":
            raise BadRequest("The header Host is missing.")
    elif not _HOST.fullmatch(host):
        raise BadRequest("The header Host is invalid.")


@dataclass(frozen=True, slots=True)
class BrowserRules:
    """Rules for web pages. `origins` are those that may send requests and read answers (`*`: any).

    `hosts` are names of this server in addition to localhost (`*`: any).
    """

    origins: AbstractSet[str] = frozenset()
    hosts: AbstractSet[str] = frozenset()

    def check(self, environ: Mapping[str, Any]) -> None:
        """Raise Forbidden if the request may come from a web page that is not allowed. For servers without keys.

        Any web page in a browser on this machine could use the accelerator, and read logs. A page whose domain name
        resolves to a loopback address (DNS rebinding) is of the same origin for the browser, but Host has its name.
        """
        host, origin = environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN")
        if host and not self._is_own(host) and _is_loopback(environ["SERVER_NAME"]):
            name = shortened(_name(host))
            raise Forbidden(
                f"Requests for the host {name} are not allowed: hotseat listens on a loopback address and requires no API key, "
                f"so a web page could send them. To allow them, use --allowed-host {name}, or set an API key.",
                code="host_not_allowed",
            )
        if not origin or environ["REQUEST_METHOD"] != "POST" or self._allows(origin):
            return
        if not host or origin.partition("://")[2] != host:
            origin = shortened(origin)
            raise Forbidden(
                f"Requests of web pages from {origin} are not allowed. To allow them, use --cors-origin {origin}."
            )

    def headers(self, environ: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the CORS headers of the answer. None if the page may not read it, or if there is no page."""
        origin = environ.get("HTTP_ORIGIN")
        if origin is None or not self._allows(origin):
            return []
        headers = [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]
        if environ["REQUEST_METHOD"] != "OPTIONS":
            return [*headers, ("Access-Control-Expose-Headers", "*")]
        wanted = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "Authorization, Content-Type")
        return [
            *headers,
            ("Access-Control-Allow-Methods", "GET, POST, OPTIONS"),
            ("Access-Control-Allow-Headers", wanted),
        ]

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
    match = _HOST.fullmatch(host)
    return (match[1] if match else host).lower().removesuffix(".")


@lru_cache(maxsize=8)
def _is_loopback(address: str) -> bool:
    """Whether a server's own address is reachable from its machine only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
