"""Servers that run elsewhere, as Models of engine external: the one place that decides which of them can be reached."""

from urllib.parse import urlsplit

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.engines.external import External

LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 - addresses to connect to


def external_spec(url: str) -> Json:
    """Return the fields of a Model for the server at a URL."""
    return {"engine": "external", "url": url.rstrip("/")}


def unreachable(url: str, *, has_key: bool = False) -> str:
    """Return the reason why engine external does not support this server. Empty if it does."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "it is not a URL"
    if has_key:
        return "it requires a key, and hotseat sends no key to an engine"
    if "@" in parts.netloc or "$" in url:
        return "engine external supports neither passwords nor macros"
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        return "engine external supports http://HOST:PORT only"
    model = Model.model_validate({"metadata": {"name": "m"}, "spec": external_spec(url)})
    return "engine external supports http://HOST:PORT only" if External().check(model) else ""


def is_elsewhere(url: str) -> bool:
    """Whether a URL names another host than this one."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return bool(host) and host not in LOOPBACK


def without_password(url: str) -> str:
    """Return an address without its user and password."""
    try:
        return url.replace(f"{urlsplit(url).netloc.rpartition('@')[0]}@", "")
    except ValueError:
        return url.rpartition("@")[2]
