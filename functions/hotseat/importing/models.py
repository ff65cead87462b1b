"""Models and peers of llama-swap as Models: names, sleep calls, settings."""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from hotseat.api.filters import PROTECTED
from hotseat.api.model import Capability
from hotseat.api.types import NAME_PATTERN, VARIABLE_PATTERN, Json, Method
from hotseat.api.workspace import Loading
from hotseat.importing import commands
from hotseat.importing.commands import ENVIRONMENT, EngineMapping, Macros, engine_of, is_windows, unknown
from hotseat.importing.external import LOOPBACK, external_spec, is_elsewhere, key_in, unreachable, without_password
from hotseat.importing.reader import MODEL_KEYS, PEER_KEYS, PEER_LOST, Reader
from hotseat.importing.writer import Draft, Note, compact, model_draft
from hotseat.manifests.problems import Path

LONGEST = 63


def labels(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return a unique label for each name. A name that is a label stays the same."""
    names = list(names)
    used = {*taken, *(name for name in names if is_label(name))}
    found = {}
    for name in names:
        found[name] = name if is_label(name) else free(label(name), used)
        used.add(found[name])
    return found


def label(name: str) -> str:
    """Return the label that is most similar to a name."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not plain or not plain[0].isalpha():
        plain = f"m-{plain}".rstrip("-")
    return plain[:LONGEST].rstrip("-")


def is_label(name: str) -> bool:
    """Whether a name is valid as metadata.name."""
    return len(name) <= LONGEST and re.fullmatch(NAME_PATTERN.strip("^$"), name) is not None


def free(wanted: str, used: Container[str]) -> str:
    """Return a label, or the first with a number behind it that is not used."""
    found, number = wanted, 1
    while found in used:
        number += 1
        found = f"{wanted[: LONGEST - 4]}-{number}"
    return found


OFF = ("disable", "disabled", "off", "false")


def sleep_calls(reader: Reader, path: Path, macros: Macros) -> tuple[Json, list[Note]]:
    """Return the fields of lifecycle, and notes."""
    calls = {verb: _method_calls(reader, path, macros, verb) for verb in ("sleep", "wake")}
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


def _method_calls(reader: Reader, path: Path, macros: Macros, verb: str) -> list[Json]:
    """Return the requests of a list, or the single request of former versions."""
    listed = (*path, f"{verb}Endpoints")
    if reader.items(listed):
        places = [(*listed, index) for index, _ in enumerate(reader.items(listed))]
        return [_method_call(reader, macros, [(*at, key) for key in _KEYS]) for at in places]
    former = [(*path, f"{verb}{key.capitalize()}") for key in _KEYS]
    return [_method_call(reader, macros, former)] if reader.text(former[0]) else []


_KEYS = ("endpoint", "method", "body", "timeout")


def _method_call(reader: Reader, macros: Macros, places: Sequence[Path]) -> Json:
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


FILTERS = ("stripParams", "strip_params", "setParams", "setParamsByID")


def parameter_filters(reader: Reader, path: Path, macros: Macros) -> tuple[Json, list[Note]]:
    """Return the field `filters` of a Model, and notes. `model` is protected in llama-swap too, where it is ignored."""
    notes = [
        Note("no equivalent", f"filters.{key}", f"{compact(value)}: {reader.unknown((*path, key), FILTERS)}")
        for key, value in reader.mapping(path).items()
        if key not in FILTERS
    ]
    listed = ",".join(reader.text((*path, key)) for key in FILTERS[:2])
    strip = [name for each in macros.fill(listed).split(",") if (name := each.strip()) and name != PROTECTED]
    by_name = {
        macros.fill(key): _parameters(reader.mapping((*path, "setParamsByID", key)), macros)
        for key in reader.mapping((*path, "setParamsByID"))
    }
    found: Json = {"strip": strip, **_parameters(reader.mapping((*path, "setParams")), macros), "byName": by_name}
    return {key: value for key, value in found.items() if value}, notes


def _parameters(given: Json, macros: Macros) -> Json:
    """Return the parameters that are set, and those with a `?` behind their names, which are set if the client has not sent them."""
    filled: Json = {
        name: value for name, value in macros.fill_all(given).items() if name.removesuffix("?") != PROTECTED
    }
    forced = {name: value for name, value in filled.items() if not name.endswith("?")}
    default = {plain: value for name, value in filled.items() if (plain := name.removesuffix("?")) not in forced}
    return {key: value for key, value in (("set", forced), ("default", default)) if value}


def external_models(reader: Reader, taken: Iterable[str]) -> tuple[list[Draft], list[Note]]:
    """Return Models for the models of peers, and notes. API keys of peers are never copied."""
    drafts: list[Draft] = []
    notes: list[Note] = []
    used = set(taken)
    given = [model for peer in reader.mapping(("peers",)) for model in reader.texts(("peers", peer, "models"))]
    for peer in reader.mapping(("peers",)):
        path = ("peers", peer)
        proxy, models = reader.text((*path, "proxy")), reader.texts((*path, "models"))
        lost = [
            Note(
                "no equivalent",
                f"peers.{peer}.{key}",
                f"{compact(value)}: {PEER_LOST.get(key) or reader.unknown((*path, key), PEER_KEYS)}",
            )
            for key, value in reader.mapping(path).items()
            if key not in PEER_KEYS
        ]
        macros = Macros(peer, reader.mapping(("macros",)), {})
        stated = macros.fill(reader.text((*path, "apiKey")))
        key, keyed = key_in(stated, peer) if stated else (None, [])
        if why := unreachable(proxy):
            notes.append(
                Note("no equivalent", f"peers.{peer}", f"{', '.join(models)} at {without_password(proxy)}: {why}")
            )
            continue
        filters, unknown_filters = parameter_filters(reader, (*path, "filters"), macros)
        for model in models:
            name = free(label(model), used)
            # As in llama-swap: PEER/MODEL always, MODEL alone if it is not ambiguous.
            names = [*([model] if given.count(model) == 1 and model not in used else []), f"{peer}/{model}"]
            spec = external_spec(proxy, key) | {"names": names, "engineModelName": model, "filters": filters}
            origin = f"{model} of the peer {peer} (line {reader.line(path)})"
            drafts.append(model_draft(name, spec, origin, [*lost, *keyed, *unknown_filters]))
            used |= {name, *names}
    return drafts, notes


_KEY_VARIABLES = ("LLAMA_API_KEY", "VLLM_API_KEY")  # of llama-server and vLLM
SHORTEST_START = 15  # seconds
HIGHEST = 1000  # priority of a Model


@dataclass(frozen=True, slots=True)
class Common:
    """Settings for all models. `labels` has values for metadata.name, by name of the model."""

    labels: Mapping[str, str]
    macros: Mapping[str, Any]
    environ: Mapping[str, str]
    preload: frozenset[str]
    priorities: Mapping[str, int]
    more_names: Mapping[str, list[str]]


@dataclass(slots=True)
class ModelImport:
    """Converts one model, and collects notes."""

    reader: Reader
    id: str
    common: Common
    notes: list[Note] = field(default_factory=list)
    macros: Macros = field(init=False)

    def __post_init__(self) -> None:
        self.macros = Macros(self.id, self.common.macros, self.reader.mapping(self._at("macros")))

    def draft(self) -> Draft:
        """Return the document."""
        if self._is_elsewhere():
            return self._external_draft()
        name = self.common.labels[self.id]
        env, late = self._env()
        engine = self._engine(late)
        names, engine_name = self._names(name), self._engine_model_name(name)
        spec: Json = {
            "engine": engine.name,
            "source": engine.source,
            "names": names,
            "engineModelName": engine_name,
            "command": engine.command,
            "args": engine.args,
            "env": env,
            "engineKey": self._engine_key(engine, env),
            "port": self._port(),
            "health": self._health(),
            "stopCommand": self._stop_command(),
            "lifecycle": self._lifecycle(),
            "scheduling": self._scheduling(),
            "concurrency": self._concurrency(),
            "description": self._fill("description"),
            "capabilities": self._capabilities(),
            "metadata": self._metadata(),
            "loading": self._loading(),
            "unlisted": self.reader.flag(self._at("unlisted"), default=False),
            "filters": self._filters(),
        }
        return self._finish(spec)

    def _finish(self, spec: Json) -> Draft:
        self._lost()
        origin = f"{self.id} (line {self.reader.line(('models', self.id))})"
        return model_draft(self.common.labels[self.id], spec, origin, tuple(dict.fromkeys(self.notes)))

    def _is_elsewhere(self) -> bool:
        """Whether proxy names another host, at which engine external can reach the server."""
        proxy = self.macros.fill(self.reader.text(self._at("proxy")))
        return is_elsewhere(proxy) and not unreachable(proxy)

    def _external_draft(self) -> Draft:
        """Return the document of a model that another host serves."""
        names = self._names(self.common.labels[self.id])
        self._changed("cmd", "it is not run: start the server at proxy yourself; requests go to it as they are")
        start = self.reader.number(("healthCheckTimeout",))
        spec = external_spec(self._fill("proxy")) | {
            "names": names,
            "engineModelName": self._engine_model_name(self.common.labels[self.id]),
            "health": self._health(),
            "lifecycle": {"connectTimeout": f"{max(SHORTEST_START, 120 if start is None else start)}s"}
            | self._timeouts(),
            "scheduling": self._scheduling(),
            "concurrency": self._concurrency(),
            "description": self._fill("description"),
            "capabilities": self._capabilities(),
            "metadata": self._metadata(),
            "loading": self._loading(),
            "unlisted": self.reader.flag(self._at("unlisted"), default=False),
            "filters": self._filters(),
        }
        unused = [
            key
            for key in ("cmdStop", "env", "ttl", "unloadTimeout", "sleepEndpoints", "wakeEndpoints")
            if self.reader.get(self._at(key))
        ]
        if unused:
            self._changed(
                ", ".join(unused), "left out: hotseat does not start, stop or put to sleep what runs elsewhere"
            )
        return self._finish(spec)

    def _at(self, *path: str | int) -> Path:
        return ("models", self.id, *path)

    def _changed(self, field_: str, text: str) -> None:
        self.notes.append(Note("changed", field_, text))

    def _no_equivalent(self, field_: str, text: str) -> None:
        self.notes.append(Note("no equivalent", field_, text))

    def _fill(self, key: str, default: str = "") -> str:
        """Return a text with macros and current environment variables substituted."""
        text = self.macros.fill(self.reader.text(self._at(key)) or default)
        self._complain(key, text, later=("PORT",))
        if "${PORT}" in text and key != "proxy":
            self._no_equivalent(key, "${PORT} is known only when the model runs, and is kept as text")
        return self._resolved(key, text)

    def _complain(self, key: str, text: str, *, later: tuple[str, ...]) -> None:
        if name := unknown(text, later):
            self.reader.problem(f"the macro ${{{name}}} is not defined", self._at(key))

    def _resolved(self, key: str, text: str) -> str:
        for variable in dict.fromkeys(ENVIRONMENT.findall(text)):
            if variable not in self.common.environ:
                message = (
                    f"the environment variable {variable} is not set; only cmd can use variables that are set later"
                )
                self.reader.problem(message, self._at(key))
                continue
            self._changed(key, f"the environment variable {variable} was substituted at import")
            text = text.replace(f"${{env.{variable}}}", self.common.environ[variable])
        return text

    # How it runs ------------------------------------------------------------------------------------------------------

    def _engine(self, late: list[str]) -> EngineMapping:
        words = self._words("cmd")
        if not words:
            if not self.reader.text(self._at("cmd")).strip():
                self.reader.problem("is missing: the command that serves the model", self._at("cmd"))
            return EngineMapping("custom")
        engine = engine_of(words, late, plain=self._is_plain())
        if is_windows(self.macros.fill(self.reader.text(self._at("cmd")))):
            self._changed(
                "cmd", "it has paths of Windows, which are kept; hotseat runs on Linux, where D:\\x may be /mnt/d/x"
            )
        if engine.name == "llamacpp":
            self._changed("cmd", "engine llamacpp adds --model, --host, --port and --alias")
        return engine

    def _engine_key(self, engine: EngineMapping, env: list[Json]) -> Json:
        """Return the key that the engine wants, as its command, its variables or hotseat's say."""
        words = [*engine.command, *engine.args]
        for word, following in pairwise([*words, ""]):
            flag, equals, value = word.partition("=")
            value = value if equals else following
            if flag == "--api-key-file" and value:
                self._changed("cmd", "engineKey.file is the file of --api-key-file, which must have one key only")
                return {"file": value}
            if flag != "--api-key" or not value:
                continue
            if late := re.fullmatch(r"\{env:(.*)\}", value):
                return {"env": late[1]}
            better = "better is a variable (engineKey.env) or a file (engineKey.file)"
            self._changed("cmd", f"engineKey has the key of --api-key in plain text, as cmd has; {better}")
            return {"value": value.replace("{{", "{").replace("}}", "}").split(",")[0]}
        for variable in env:
            if variable["name"] in _KEY_VARIABLES:
                self._changed("env", f"engineKey has {variable['name']} in plain text, as env has")
                return {"value": variable["value"].split(",")[0]}
        own = (entry.partition("=")[0] for entry in self.reader.texts(self._at("env")) if ENVIRONMENT.search(entry))
        return next(({"env": name} for name in own if name in _KEY_VARIABLES), {})

    def _is_plain(self) -> bool:
        """Whether the model listens on ${PORT} of this machine."""
        return self.reader.get(self._at("proxy")) is None or self._fill("proxy") in {
            f"http://{host}:${{PORT}}" for host in LOOPBACK[:2]
        }

    def _words(self, key: str) -> list[str]:
        text = self.macros.fill(commands.without_comments(self.reader.text(self._at(key))))
        self._complain(key, text, later=("PORT", "PID") if key == "cmdStop" else ("PORT",))
        try:
            return commands.words(text)
        except ValueError as error:
            self.reader.problem(f"is not a valid command line: {error}", self._at(key))
            return []

    def _env(self) -> tuple[list[Json], list[str]]:
        """Return variables with values, and assignments with variables that are known only at start, for env(1)."""
        found: dict[str, str] = {}
        late: list[str] = []
        for index, entry in enumerate(self.reader.texts(self._at("env"))):
            name, equals, value = entry.partition("=")
            if not equals or not _is_variable(name):
                self.reader.problem("is not NAME=value", self._at("env", index), found=entry)
            elif value == f"${{env.{name}}}":
                self._changed("env", f"{name} is left out: engines inherit the environment of hotseat")
            elif ENVIRONMENT.search(value):
                late.append(entry)
            else:
                found[name] = value
        if late:
            self._changed("env", f"env(1) sets {', '.join(e.partition('=')[0] for e in late)} when it starts")
        return [{"name": name, "value": value} for name, value in found.items()], late

    def _port(self) -> int | None:
        proxy = self.macros.fill(self.reader.text(self._at("proxy")))
        in_command = "${PORT}" in self.macros.fill(commands.without_comments(self.reader.text(self._at("cmd"))))
        if not proxy or "${PORT}" in proxy:
            if not in_command and self.reader.get(self._at("cmd")) is not None:
                where = (
                    "proxy uses ${PORT}, but cmd does not"
                    if proxy
                    else "cmd has no ${PORT}, and proxy is not set: the port is unknown"
                )
                self.reader.problem(f"{where}", self._at("proxy" if proxy else "cmd"))
            self._odd_proxy(proxy.replace("${PORT}", "1"), proxy)
            return None
        proxy = self._fill("proxy")
        try:
            port = urlsplit(proxy).port or (443 if proxy.startswith("https") else 80)
        except ValueError:
            self.reader.problem("is not a URL", self._at("proxy"), found=proxy)
            return None
        if in_command:
            self._changed("proxy", f"its port is {port}, so ${{PORT}} in cmd is {port} too")
        self._odd_proxy(proxy, proxy)
        return port

    def _odd_proxy(self, address: str, shown: str) -> None:
        url = urlsplit(address or "http://localhost")
        if url.hostname not in LOOPBACK or url.scheme != "http" or url.path not in ("", "/"):
            text = f"{without_password(shown)}: hotseat sends requests to http://127.0.0.1:PORT; use engine external for another server"
            self._no_equivalent("proxy", text)

    def _health(self) -> Json:
        path = self._fill("checkEndpoint", "/health")
        if path == "none":
            self._no_equivalent(
                "checkEndpoint",
                "none: hotseat waits until GET health.path (default /health) returns 2xx; set another path there",
            )
        elif not path.startswith("/"):
            self.reader.problem("is not a path", self._at("checkEndpoint"), found=path, allowed="/… or none")
        return {"path": path} if path.startswith("/") and path != "/health" else {}

    def _stop_command(self) -> list[str]:
        words = self._words("cmdStop")
        if any("${PID}" in word for word in words):
            self._no_equivalent(
                "cmdStop", f"{' '.join(words)}: hotseat stops the whole process tree itself, with SIGTERM, then SIGKILL"
            )
            return []
        return [commands.as_field(word) for word in words]

    def _lifecycle(self) -> Json:
        ttl = self.reader.number(self._at("ttl"))
        if ttl is None or ttl < 0:
            ttl = self.reader.number(("globalTTL",)) or 0
        start = self.reader.number(("healthCheckTimeout",))
        stop = self.reader.number(self._at("unloadTimeout")) or self.reader.number(("unloadTimeout",))
        lifecycle: Json = {"idleTimeout": f"{ttl}s"} if ttl else {}
        lifecycle["startTimeout"] = f"{max(SHORTEST_START, 120 if start is None else start)}s"
        if stop:
            lifecycle["stopTimeout"] = f"{stop}s"
        if self.id in self.common.preload:
            lifecycle["preload"] = True
        lifecycle |= self._timeouts()
        parked, notes = sleep_calls(self.reader, self._at(), self.macros)
        self.notes += notes
        return lifecycle | parked

    def _timeouts(self) -> Json:
        stated = self.reader.mapping(self._at("timeouts"))
        if lost := {key: value for key, value in stated.items() if key != "responseHeader"}:
            self._no_equivalent(
                "timeouts", f"{compact(lost)}: hotseat's own connections to engines have no such settings"
            )
        limit = self.reader.number(self._at("timeouts", "responseHeader"))
        return {"responseStartTimeout": f"{limit}s"} if limit else {}

    def _capabilities(self) -> list[str]:
        """Return the kinds of requests, where they are known for sure. What else is stated is kept as metadata."""
        stated = self.reader.mapping(self._at("capabilities"))
        if stated:
            self._changed("capabilities", "they are kept in spec.metadata; spec.capabilities has the kinds of requests")
        return [Capability.RERANK.value] if stated.get("reranker") is True else []

    def _scheduling(self) -> Json:
        wanted = self.common.priorities.get(self.id, 0)
        priority = max(-HIGHEST, min(HIGHEST, wanted))
        if priority != wanted:
            self._changed(
                "routing.scheduler.settings.fifo.priority", f"{wanted} is out of range, and becomes {priority}"
            )
        return {"priority": priority} if priority else {}

    def _concurrency(self) -> int:
        limit = self.reader.number(self._at("concurrencyLimit")) or 0
        if limit:
            self._changed("concurrencyLimit", f"requests beyond {limit} are queued; llama-swap answers them with 429")
        return limit

    # What it is called ------------------------------------------------------------------------------------------------

    def _names(self, name: str) -> list[str]:
        """Return the names that clients send, with the displayed id first. Empty if there is only metadata.name."""
        wanted = [self.id]
        for index, alias in enumerate(self.reader.items(self._at("aliases"))):
            path = self._at("aliases", index)
            wanted.append(self.reader.text((*path, "id")) if isinstance(alias, dict) else self.reader.text(path))
            if isinstance(alias, dict) and alias.keys() - {"id"}:
                self._no_equivalent(
                    "aliases", f"{compact(alias)}: an alias has no title of its own and is listed with its Model"
                )
        wanted += self.common.more_names.get(self.id, [])
        names = list(dict.fromkeys((self.id, *(self.macros.fill(it) for it in wanted[1:]))))
        if name != self.id:
            self._changed(
                "name of the model", f"{self.id} is no RFC 1035 label; it stands in names, and metadata.name is {name}"
            )
        return [] if names == [name] else names

    def _engine_model_name(self, name: str) -> str:
        """Return the name that the engine gets: as in llama-swap, at least for the id of the model."""
        return self._fill("useModelName") or ("" if name == self.id else self.id)

    def _loading(self) -> str | None:
        """Return what clients get while the model loads, if it differs from the rest."""
        common = self.reader.flag(("sendLoadingState",), default=False)
        own = self.reader.flag(self._at("sendLoadingState"), default=common)
        return None if own == common else Loading.REASONING.value if own else Loading.HOLD.value

    def _metadata(self) -> Json:
        found: Json = self.macros.fill_all(self.reader.mapping(self._at("metadata")))
        if "${" in compact(found):
            self._no_equivalent("metadata", "${…} is known only when the model runs, and is kept as text")
        title = self._fill("name")
        if title:
            self._changed("name", "it becomes spec.metadata.name")
        capabilities = self.reader.mapping(self._at("capabilities"))
        return ({"name": title} if title else {}) | ({"capabilities": capabilities} if capabilities else {}) | found

    def _filters(self) -> Json:
        filters, notes = parameter_filters(self.reader, self._at("filters"), self.macros)
        self.notes += notes
        return filters

    # What is lost -----------------------------------------------------------------------------------------------------

    def _lost(self) -> None:
        for key in self.reader.mapping(self._at()):
            if key not in MODEL_KEYS:
                self._no_equivalent(key, self.reader.unknown(self._at(key), MODEL_KEYS))


def _is_variable(name: str) -> bool:
    return re.fullmatch(VARIABLE_PATTERN.strip("^$"), name) is not None
