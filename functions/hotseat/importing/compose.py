"""Services of Docker Compose that serve models, as documents."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hotseat.api.types import Json
from hotseat.importing.containers import EngineContainer, engine_of_container
from hotseat.importing.models import free
from hotseat.importing.models import label as label_of
from hotseat.importing.reader import Reader
from hotseat.importing.writer import Draft, Imported, Note, compact, documents, model_draft
from hotseat.manifests.nodes import parse
from hotseat.manifests.problems import ManifestErrors, Path, Problem

# Settings of the container, which an engine that is a process of this machine does not need.
CONTAINER = (
    "restart", "container_name", "hostname", "networks", "network_mode", "depends_on", "ipc", "shm_size", "ulimits", "expose", "logging",
    "labels", "stdin_open", "tty", "pull_policy", "profiles", "init", "security_opt", "cap_add", "privileged", "extra_hosts", "dns", "user",
    "working_dir", "stop_signal", "stop_grace_period", "devices", "group_add", "platform", "healthcheck", "ports", "scale",
)  # fmt: skip
USED = ("image", "command", "entrypoint", "environment", "env_file", "volumes", "deploy", "runtime", "gpus", "build")
_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-?+])([^}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))")
SECRET = re.compile(r"(?i)(?:key|api_?keys|token|secret|pass|password|passwd|credentials?)$")
_PASSWORD = re.compile(r"://[^/\s:@]*:[^/\s@]*@")  # in a URL


def convert(content: str, file: str, environ: Mapping[str, str]) -> Imported:
    """Return the documents for a Compose file. Raise ManifestErrors if it is not one."""
    trees = list(parse(content, file, yaml_1_2=True))
    if len(trees) != 1 or isinstance(trees[0], Problem):
        raise ManifestErrors(
            [it for it in trees if isinstance(it, Problem)] or [Problem(file, "is not one YAML document")]
        )
    reader = Reader(trees[0], file)
    services = [_Service(reader, name, environ) for name in reader.mapping(("services",))]
    left: list[str] = []
    models: list[tuple[_Service, Json]] = []
    notes: list[Note] = []
    for service in services:
        found = service.specs()
        notes += [] if found else service.notes
        left += [] if found or service.notes else [service.name]
        models += [(service, spec) for spec in found]
    labelled = labels_of([spec.pop("label") for _, spec in models])
    drafts = [_draft(service, name, spec) for (service, spec), name in zip(models, labelled, strict=True)]
    notes += _without_doubles(drafts)
    if left:
        notes.append(
            Note(
                "changed",
                "services",
                f"left out, as they serve no models: {', '.join(left)}; keep them in the Compose file, and point them to hotseat",
            )
        )
    devices = sorted({device for service, _ in models for device in service.device_ids})
    gpus = max([len(devices), 1, *(int(draft.document["spec"]["resources"]["gpus"]) for draft in drafts)])
    capacity: Json = {"gpus": gpus} | ({"devices": devices} if len(devices) == gpus else {})
    text = f"the Models take turns on {gpus} GPU(s); in Compose they all ran at once. To let several share a GPU, set acceleratorMemory"
    notes.append(Note("assumed", "capacity", text))
    notes += [
        Note("no equivalent", key, reader.unknown((key,), TOP))
        for key in reader.mapping(())
        if key not in TOP and not key.startswith("x-")
    ]
    if reader.problems:
        raise ManifestErrors(reader.problems)
    return documents(file, drafts, {"capacity": capacity}, notes)


TOP = ("services", "version", "name", "volumes", "networks", "secrets", "configs", "include")


def labels_of(wanted: Iterable[str]) -> list[str]:
    """Return a unique label for each name, also where two names are the same."""
    found: list[str] = []
    for name in wanted:
        found.append(free(label_of(name), found))
    return found


def _without_doubles(drafts: Iterable[Draft]) -> Iterator[Note]:
    """Yield a note for each name that two services have. The first keeps it."""
    seen: set[str] = set()
    for draft in drafts:
        spec, label = draft.document["spec"], draft.document["metadata"]["name"]
        doubled = [name for name in spec.get("names", []) if name in seen]
        for name in doubled:
            spec["names"] = [label]
            yield Note("changed", "services", f"{name} is served twice; the second Model is {label}")
        seen.update(spec.get("names", []), [label])


def _draft(service: "_Service", label: str, spec: Json) -> Draft:
    reader = service.reader
    if not spec.get("names") and spec.get("engineModelName"):
        spec["names"] = [spec["engineModelName"]]
    if spec.get("names") == [label]:
        spec["names"] = []
    origin = f"service {service.name} (line {reader.line(('services', service.name))})"
    return model_draft(label, spec, origin, tuple(dict.fromkeys(service.notes)))


@dataclass(slots=True)
class _Service:
    """One service, and notes on it."""

    reader: Reader
    name: str
    environ: Mapping[str, str]
    notes: list[Note] = field(default_factory=list)
    device_ids: list[str] = field(default_factory=list)
    secrets: dict[str, None] = field(default_factory=dict)  # names of variables

    def _at(self, *path: str | int) -> Path:
        return ("services", self.name, *path)

    def specs(self) -> list[Json]:
        """Return the specs of the Models that the service serves. Empty: it serves none."""
        gpus = self._gpus()
        container = EngineContainer(
            self.name,
            self._text(self.reader.text(self._at("image")), "image"),
            self._command("entrypoint"),
            self._command("command"),
            dict(self._environment()),
            tuple(self.secrets),
            tuple(self._volumes()),
            self._port(),
            gpus,
            tuple(self.device_ids),
        )
        found = engine_of_container(container)
        if found is None:
            if gpus:
                line = self.reader.line(self._at())
                text = f"line {line}: it has a GPU, but hotseat cannot tell which model it serves; write a Model of engine custom"
                self.notes = [Note("no equivalent", f"services.{self.name}", text)]
            else:
                self.notes = []
            return []
        self.notes += found.notes
        if found.specs:
            self._rest()
        return [{**spec, "resources": {"gpus": gpus}} for spec in found.specs]

    def _rest(self) -> None:
        keys = self.reader.mapping(self._at())
        if left := [key for key in CONTAINER if key in keys]:
            self.notes.append(
                Note("changed", ", ".join(left), "left out: hotseat starts the engine, checks it, and has the port")
            )
        for key in keys:
            if key not in (*CONTAINER, *USED) and not key.startswith("x-"):
                self.notes.append(Note("no equivalent", key, self.reader.unknown(self._at(key), (*CONTAINER, *USED))))
        if self.reader.get(self._at("env_file")) is not None:
            self.notes.append(
                Note(
                    "no equivalent",
                    "env_file",
                    f"{compact(self.reader.get(self._at('env_file')))}: start hotseat with these variables",
                )
            )

    def _gpus(self) -> int:
        """Return the number of GPUs that the service has."""
        devices = self.reader.items(self._at("deploy", "resources", "reservations", "devices"))
        stated = self.reader.get(self._at("gpus"))
        if isinstance(stated, list):
            devices = [*devices, *stated]
        elif stated == "all":
            devices = [*devices, {"count": "all", "capabilities": ["gpu"]}]
        total = 0
        for device in devices:
            if not isinstance(device, dict) or not _is_gpu(device):
                continue
            given = device.get("device_ids")
            ids = [str(each) for each in given] if isinstance(given, list) else []
            count = self._text(str(device.get("count", "all")), "deploy")
            self.device_ids += ids
            if ids or count.isdigit():
                total += len(ids) or int(count)
            else:
                total += self._all(count)
        if not total and self.reader.text(self._at("runtime")) == "nvidia":
            visible = dict(self._environment()).get("NVIDIA_VISIBLE_DEVICES", "all")
            self.device_ids = [] if visible in ("all", "", "none", "void") else visible.split(",")
            total = len(self.device_ids) or self._all(visible)
        return total

    def _all(self, stated: str) -> int:
        self.notes.append(
            Note("assumed", "gpus", f"{stated}: the Model takes one GPU; set resources.gpus if it needs several")
        )
        return 1

    def _environment(self) -> Iterator[tuple[str, str]]:
        value = self.reader.get(self._at("environment"))
        if isinstance(value, dict):
            pairs = [(str(name), "" if each is None else _scalar(each)) for name, each in value.items()]
        else:
            pairs = [
                (name, each)
                for name, _, each in (str(it).partition("=") for it in self.reader.items(self._at("environment")))
            ]
        for name, each in pairs:
            if SECRET.search(name) or _PASSWORD.search(each):
                self.secrets[name] = None
                self.notes.append(
                    Note("changed", "environment", f"{name} is not written: engines inherit the environment of hotseat")
                )
            elif each:
                yield name, self._text(each, "environment")

    def _volumes(self) -> Iterator[tuple[str, str]]:
        for index, each in enumerate(self.reader.items(self._at("volumes"))):
            if isinstance(each, dict):
                yield self._text(str(each.get("source", "")), "volumes"), str(each.get("target", ""))
            else:
                parts = self._text(self.reader.text(self._at("volumes", index)), "volumes").split(":")
                if len(parts) > 1:
                    yield parts[0], parts[1]

    def _port(self) -> int | None:
        """Return the port within the container."""
        for each in self.reader.items(self._at("ports")):
            text = (
                str(each.get("target", ""))
                if isinstance(each, dict)
                else self._text(str(each), "ports").rpartition(":")[2]
            )
            if (number := text.partition("/")[0]).isdigit():
                return int(number)
        return None

    def _command(self, key: str) -> list[str]:
        value = self.reader.get(self._at(key))
        if isinstance(value, list):
            return [self._text(text, key) for text in self.reader.texts(self._at(key))]
        text = self._text(self.reader.text(self._at(key)), key)
        try:
            return shlex.split(text)
        except ValueError as error:
            self.reader.problem(f"is not a valid command line: {error}", self._at(key))
            return []

    def _text(self, text: str, where: str) -> str:
        """Return a text with variables filled in, as Compose does."""

        def value(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            name, operator, rest = match[1] or match[4], match[2] or "", match[3] or ""
            if SECRET.search(name):
                return f"${{env.{name}}}"
            known = self.environ.get(name)
            if known is not None and (known or ":" not in operator):
                return rest if "+" in operator else known
            if "-" in operator:
                self.notes.append(Note("assumed", where, f"{name} is not set: {rest or 'empty'}, as the file says"))
                return rest
            if "+" not in operator:
                self.notes.append(
                    Note("assumed", where, f"{name} is not set, and is empty; import again with this variable")
                )
            return ""

        return _VARIABLE.sub(value, text)


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_gpu(device: Mapping[str, Any]) -> bool:
    """Whether a reserved device is a GPU: by its driver, its capabilities, or for lack of both."""
    stated = device.get("capabilities", ["gpu"])
    return "gpu" in (stated if isinstance(stated, list) else [stated]) or device.get("driver") == "nvidia"
