"""Convert sleep and wake requests of llmsnap to lifecycle.sleep and lifecycle.wake."""

from collections.abc import Sequence

from hotseat.api.types import Json, Method
from hotseat.importing.macros import Macros
from hotseat.importing.reader import Reader
from hotseat.importing.writer import Note, compact
from hotseat.manifests.problems import Path

OFF = ("disable", "disabled", "off", "false")


def of(reader: Reader, path: Path, macros: Macros) -> tuple[Json, list[Note]]:
    """Return the fields of lifecycle, and notes."""
    calls = {verb: _calls(reader, path, macros, verb) for verb in ("sleep", "wake")}
    mode = reader.get((*path, "sleepMode"))
    if mode is None:
        mode = reader.get(("sleepMode",))
    if not calls["sleep"] or not calls["wake"]:
        lost = {verb: made for verb, made in calls.items() if made}
        text = "the model is stopped instead: parking needs requests for both sleep and wake"
        notes = [Note("no equivalent", f"{verb}Endpoints", f"{compact(made)}: {text}") for verb, made in lost.items()]
        own = reader.get((*path, "sleepMode"))
        return {}, notes + ([Note("no equivalent", "sleepMode", f"{compact(own)}: {text}")] if own is not None else [])
    release = "Stop" if mode is False or str(mode).lower() in OFF else "Park"
    text = f"{compact(mode)}: it becomes lifecycle.release: {release}"
    return {"release": release, **calls}, [Note("changed", "sleepMode", text)] if mode is not None else []


def _calls(reader: Reader, path: Path, macros: Macros, verb: str) -> list[Json]:
    """Return the requests of a list, or the single request of former versions."""
    listed = (*path, f"{verb}Endpoints")
    if reader.items(listed):
        places = [(*listed, index) for index, _ in enumerate(reader.items(listed))]
        return [_call(reader, macros, [(*at, key) for key in _KEYS]) for at in places]
    former = [(*path, f"{verb}{key.capitalize()}") for key in _KEYS]
    return [_call(reader, macros, former)] if reader.text(former[0]) else []


_KEYS = ("endpoint", "method", "body", "timeout")


def _call(reader: Reader, macros: Macros, places: Sequence[Path]) -> Json:
    endpoint, method, body, timeout = places
    call: Json = {"path": macros.fill(reader.text(endpoint))}
    verb = reader.text(method).upper() or Method.POST
    if verb not in list(Method):
        reader.problem("is not a method", method, found=verb, allowed=", ".join(Method))
    elif verb != Method.POST:
        call["method"] = verb
    if text := macros.fill(reader.text(body)):
        call["body"] = text
    if seconds := reader.number(timeout):
        call["timeout"] = f"{seconds}s"
    if not call["path"].startswith("/"):
        reader.problem("is not a path", endpoint, found=call["path"], allowed="/…")
    return call
