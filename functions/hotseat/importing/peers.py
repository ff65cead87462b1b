"""Convert peers of llama-swap to Models of engine external, where that is possible."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from hotseat.api.types import API_VERSION, Json
from hotseat.importing.naming import labels
from hotseat.importing.reader import Reader
from hotseat.importing.settings import PEER_KEYS
from hotseat.importing.writer import Draft, Note


def external_models(reader: Reader, taken: Iterable[str]) -> tuple[list[Draft], list[Note]]:
    """Return Models for the models of peers, and notes. API keys of peers are never copied."""
    drafts: list[Draft] = []
    notes: list[Note] = []
    used = set(taken)
    for peer in reader.mapping(("peers",)):
        path = ("peers", peer)
        proxy, models = reader.text((*path, "proxy")), reader.texts((*path, "models"))
        lost = [
            Note("no equivalent", f"peers.{peer}.{key}", "requests are passed on unchanged")
            for key in sorted(reader.mapping(path).keys() - PEER_KEYS)
        ]
        if why := _unreachable(proxy, has_key=bool(reader.get((*path, "apiKey")))):
            notes.append(Note("no equivalent", f"peers.{peer}", f"{', '.join(models)} at {_shown(proxy)}: {why}"))
            continue
        called = labels(models, used)
        used |= {*called.values(), *models}
        for model, name in called.items():
            spec: Json = {"engine": "external", "url": proxy.rstrip("/")}
            if name != model:
                spec["names"] = [model]
            document = {"apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": name}}
            spec["engineModelName"] = model
            drafts.append(
                Draft({**document, "spec": spec}, f"{model} of the peer {peer} (line {reader.line(path)})", lost)
            )
    return drafts, notes


def _shown(proxy: str) -> str:
    """Return an address without its user and password."""
    return proxy.replace(f"{urlsplit(proxy).netloc.rpartition('@')[0]}@", "")


def _unreachable(proxy: str, *, has_key: bool) -> str:
    """Return the reason why engine external does not support this peer. Empty if it does."""
    url = urlsplit(proxy)
    if has_key:
        return "it requires a key, and hotseat sends no key to an engine"
    if "@" in url.netloc or "$" in proxy:
        return "engine external supports neither passwords nor macros"
    if url.scheme != "http" or not url.hostname or url.path not in ("", "/") or url.query:
        return "engine external supports http://HOST:PORT only"
    return ""
