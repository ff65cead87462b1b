"""Servers that run elsewhere, as Models of engine external: the one place that decides which of them can be reached."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.engines.external import External
from hotseat.importing.writer import Draft, Note, model_draft
from hotseat.sources.base import redacted

MOCK_ANSWER = "This is a mock response."
LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 - addresses to connect to


def external_spec(url: str, key: Json | None = None) -> Json:
    """Return the fields of a Model for the server at a URL. KEY says where its API key is."""
    spec: Json = {"engine": "external", "url": url.rstrip("/")}
    return spec if key is None else spec | {"engineKey": key}


def unreachable(url: str) -> str:
    """Return the reason why engine external does not support this server. Empty if it does."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "it is not a URL"
    if "@" in parts.netloc or "$" in url:
        return "engine external supports neither passwords nor macros"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "engine external needs http://HOST:PORT"
    model = Model.model_validate({"metadata": {"name": "m"}, "spec": external_spec(url)})
    return "; ".join(External().check(model))


def key_in(stated: str, owner: str) -> tuple[Json, list[Note]]:
    """Return where the key of an upstream is, and notes. A key itself is never written: it becomes a variable named after its owner."""
    for pattern in (r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)", r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}"):
        if match := re.fullmatch(pattern, stated):
            return {"env": match[1]}, []
    name = re.sub(r"[^A-Z0-9]+", "_", owner.upper()).strip("_")
    variable = f"{'_' if name[:1].isdigit() else ''}{name}_API_KEY"
    return {"env": variable}, [
        Note("changed", "key", f"it is not written: put it into the variable {variable} of hotseat")
    ]


def external_draft(  # noqa: PLR0917 - what a Model of another server is made of
    label: str,
    model: str,
    url: str,
    names: Sequence[str],
    origin: str,
    notes: Sequence[Note] = (),
    *,
    key: Json | None = None,
) -> Draft | Note:
    """Return a Model that a server elsewhere calls MODEL, or a note with the reason why hotseat cannot reach it."""
    if why := unreachable(url):
        return Note("no equivalent", origin, f"{', '.join(names)} at {without_password(url)}: {why}")
    called = [] if list(names) == [label] else list(names)
    return model_draft(label, external_spec(url, key) | {"names": called, "engineModelName": model}, origin, notes)


def mock_draft(label: str, name: str, origin: str, notes: Sequence[Note] = (), *, answer: str = MOCK_ANSWER) -> Draft:
    """Return a Model whose answers are made up."""
    names = [] if name == label else [name]
    spec: Json = {"engine": "external", "names": names, "mockResponse": answer, "allowMockResponse": True}
    return model_draft(label, spec, origin, notes)


def is_elsewhere(url: str) -> bool:
    """Whether a URL names another host than this one."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return bool(host) and host not in LOOPBACK


def without_password(url: str) -> str:
    """Return an address without its user and password, and without a query, which may have a key."""
    return redacted(url)
