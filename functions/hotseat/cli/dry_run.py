"""`hotseat up --dry-run`: what would run for each Model, on which GPUs, from which weights, and what is missing on this machine."""

import json
import os
import re
import shlex
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from hotseat.api.model import Model
from hotseat.api.units import format_bytes
from hotseat.api.workspace import Workspace
from hotseat.control.host_resources import assign_gpus, port_conflicts
from hotseat.control.scheduling_spec import capacity_of, scheduling_spec_of
from hotseat.core.policy.api import NOTHING
from hotseat.engines.base import is_remote, load_engine
from hotseat.manifests.loading import Manifest
from hotseat.runtimes.local.gpus import Gpus, MemoryProof, find_accelerators, find_gpus, overridden
from hotseat.runtimes.local.launch import CannotStart, PortReservations, make_plan
from hotseat.sources.base import SourceError, cached, redacted

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])

MISSING = 1  # exit code
CONNECT_TIMEOUT = 3.0  # seconds, to find out whether a server elsewhere accepts connections
_PORT = 49_999  # stands for the port that is chosen at the start
_SECRET_NAME = re.compile(r"(?i)(?:keys?|tokens?|secrets?|pass|passwords?|passwd|pat|credentials?)$")
_SECRET_FLAG = re.compile(r"(?i)--?(?:[a-z0-9_-]*[_-])?(?:api[_-]keys?|keys?|tokens?|secrets?|passwords?|auth)|-hft")
# Of a word that has several, such as the script of `sh -c` or JSON: what names a secret, and what follows it.
_WITHIN = re.compile(
    r"""(?i)((?:keys?|tokens?|secrets?|passwords?|passwd|auth)["']?\s*(?:[:=]\s*|\s)["']?)[^\s"',}]+"""
)
_FILES = (".gguf", ".safetensors", ".jinja", ".jinja2", ".bin", ".onnx", ".pt", ".pth", ".gbnf", ".yaml", ".yml")
_WRAPPERS = ("env", "nice", "nohup", "numactl", "taskset", "ionice", "stdbuf", "setsid")
_CONTAINERS = ("docker", "podman", "nerdctl")  # paths in their commands may be paths in a container
HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the weights of a Model come from. `state`: here, fetched (before the first load), engine (fetches them) or missing."""

    source: str
    state: str
    path: str | None = None


@dataclass(slots=True)
class Plan:
    """What would run for one Model. `devices` are its GPUs; `missing` has what this machine lacks."""

    model: str
    engine: str
    workspace: str
    argv: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    url: str | None = None
    gpus: int = 0
    devices: tuple[str, ...] = ()
    devices_from: str = ""
    weights: Weights | None = None
    missing: list[str] = field(default_factory=list)


def dry_run_options(command: AnyCommand) -> AnyCommand:
    """Add the options --dry-run and --output."""
    text = "Format of --dry-run."
    command = click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help=text,
        expose_value=False,
        callback=_keep,
    )(command)
    text = (
        "Print what would run for each Model, on which GPUs and from which weights, and what is missing on this machine. Nothing is "
        "started or fetched. The exit code is 1 if something is missing."
    )
    return click.option("--dry-run", is_flag=True, help=text, expose_value=False, callback=_keep)(command)


def _keep(context: click.Context, param: click.Parameter, value: Any) -> None:
    context.meta[f"hotseat.dry_run.{param.name}"] = value


def end_if_dry_run(manifest: Manifest, host: str, port: int, cache_dir: Path) -> None:
    """With --dry-run: print the plans, and end the program."""
    context = click.get_current_context()
    if not context.meta.get("hotseat.dry_run.dry_run"):
        return
    accelerators = find_accelerators()
    plans = make_plans(manifest, cache_dir, accelerators, find_gpus(accelerators))
    general = _taken(host, port)
    ok = not general and not any(plan.missing for plan in plans)
    if context.meta["hotseat.dry_run.output"] == "json":
        click.echo(json.dumps({"ok": ok, "missing": general, "models": [asdict(plan) for plan in plans]}, indent=2))
    else:
        click.echo("\n\n".join([*map(_text, plans), _summary(plans, general)]))
        for conflict in port_conflicts(manifest.models, manifest.workspaces):
            click.echo(f"warning: {conflict}", err=True)
    context.exit(0 if ok else MISSING)


def make_plans(manifest: Manifest, cache_dir: Path, accelerators: MemoryProof | None, gpus: Gpus) -> list[Plan]:
    """Return the plan of each Model on a machine with these GPUs."""
    devices = assign_gpus(manifest.workspaces, {}, gpus.names, gpus.ids)
    workspaces = {each.name: each for each in manifest.workspaces}
    memory: Mapping[int, int] = getattr(accelerators, "totals", dict)()
    plans = []
    for model in manifest.models:
        workspace = workspaces[model.spec.workspace]
        plan = Plan(model.shown_name, model.spec.engine, workspace.name)
        if model.spec.engine == "external":
            _plan_external(model, plan)
        else:
            _plan_devices(model, plan, workspace, devices.get(workspace.name), gpus, memory)
            _plan_launch(model, plan, cache_dir)
        plan.missing += _missing_keys(model)
        plans.append(plan)
    return plans


def _plan_external(model: Model, plan: Plan) -> None:
    url = model.spec.url
    if url is None:
        return
    plan.url = redacted(url)
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), CONNECT_TIMEOUT).close()
    except (OSError, ValueError) as error:
        plan.missing.append(f"{plan.url} accepts no connection: {getattr(error, 'strerror', None) or error}")


def _plan_devices(  # noqa: PLR0917 - what a machine has
    model: Model,
    plan: Plan,
    workspace: Workspace,
    assigned: tuple[str, ...] | None,
    gpus: Gpus,
    memory: Mapping[int, int],
) -> None:
    """Find the GPUs that a Model gets if it is loaded alone."""
    plan.gpus = model.spec.resources.gpus
    if not plan.gpus:
        return
    if chosen := overridden(gpus.vendor, model):
        values = {each.name: each.value for each in model.spec.env}
        plan.devices = tuple(values[chosen[0]].split(","))
        plan.devices_from = f"{chosen[0]} of the Model"
        return
    capacity = capacity_of(workspace, assigned)
    claim = scheduling_spec_of(model, workspace).claim
    place = claim.place(NOTHING, capacity)
    if place is None:
        needs = f"{plan.gpus} GPU{'' if plan.gpus == 1 else 's'}"
        if claim.memory:
            needs += f" with {format_bytes(claim.memory)} together"
        has = f"{len(assigned or ())} here ({', '.join(assigned or ()) or 'none'}), of {workspace.spec.capacity.gpus} that it states"
        plan.missing.append(f"it needs {needs}, and the Workspace {workspace.name} has {has}")
        return
    plan.devices = place
    plan.devices_from = (
        f"the Workspace {workspace.name}" if gpus.names is not None else "no driver reports the GPUs of this machine"
    )
    stated, there = model.spec.resources.accelerator_memory, [memory.get(int(each)) for each in place if each.isdigit()]
    total = sum(each for each in there if each is not None)
    if stated and there and None not in there and stated > total:
        plan.missing.append(
            f"it needs {format_bytes(stated)} of GPU memory, and GPU {', '.join(place)} has {format_bytes(total)}"
        )


def _plan_launch(model: Model, plan: Plan, cache_dir: Path) -> None:
    """Find the command, the weights, and what is missing for them."""
    spec = model.spec
    try:
        engine = load_engine(spec.engine)
    except KeyError:
        plan.missing.append(f"no engine {spec.engine} is installed")
        return
    with tempfile.TemporaryDirectory() as stand_in:
        weights: str | None = None
        if spec.source is not None:
            plan.weights = _weights(spec.source, engine.fetches(model), cache_dir, plan.missing)
            weights = plan.weights.path
            if plan.weights.state in ("fetched", "missing"):  # engines look for the file: one stands for it
                Path(stand_in, "model.gguf").touch()
                weights = stand_in
                model = model.model_copy(update={"spec": spec.model_copy(update={"source": stand_in})})
        if spec.port is not None:
            try:
                with PortReservations().reserve(spec.port, model.name):
                    pass
            except CannotStart as problem:
                plan.missing.append(str(problem))
        try:
            launch = make_plan(model, engine, spec.port or _PORT, cache_dir, {})
        except CannotStart as problem:
            plan.missing.append(str(problem))
            return
    name = "WEIGHTS" if plan.weights is None or plan.weights.state == "fetched" else plan.weights.source
    words = (word.replace(f"{stand_in}/model.gguf", stand_in).replace(stand_in, name) for word in launch.argv)
    shown = [word.replace(str(_PORT), "PORT") for word in words]
    plan.argv = hidden(shown, launch.env)
    own = {name: value for name, value in launch.env.items() if os.environ.get(name) != value}
    plan.env = {name: HIDDEN if _SECRET_NAME.search(name) else redacted(value) for name, value in own.items()}
    plan.missing += _missing_program(launch.argv, launch.env.get("PATH", os.defpath))
    plan.missing += _missing_files(launch.argv, weights)


def _weights(source: str, fetches: bool, cache_dir: Path, missing: list[str]) -> Weights:
    """Return where weights come from. Add to MISSING why they cannot be had."""
    shown = redacted(source)
    if is_remote(source) and not fetches:
        return Weights(shown, "engine")
    try:
        path = cached(source, cache_dir)
    except SourceError as problem:
        missing.append(str(problem))
        return Weights(shown, "missing")
    return Weights(shown, "fetched") if path is None else Weights(shown, "here", str(path))


def hidden(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return a command without the values of secrets: of flags, of NAME=VALUE, in URLs, and of variables that hold one."""
    secrets = [value for name, value in environ.items() if _SECRET_NAME.search(name) and len(value) >= 4]  # noqa: PLR2004 - not 1 or on
    found: list[str] = []
    follows = False
    for word in argv:
        flag, equals, _ = word.partition("=")
        shown = word
        if follows or (equals and (_SECRET_FLAG.fullmatch(flag) or _SECRET_NAME.search(flag))):
            shown = HIDDEN if follows else f"{flag}={HIDDEN}"
        elif equals and (inner := word[len(flag) + 1 :].partition("="))[1] and _SECRET_NAME.search(inner[0]):
            shown = f"{flag}={inner[0]}={HIDDEN}"
        elif any(mark in word for mark in (" ", "{", ": ")):
            shown = _WITHIN.sub(rf"\1{HIDDEN}", word)
        for secret in secrets:
            shown = shown.replace(secret, HIDDEN)
        follows = not equals and _SECRET_FLAG.fullmatch(word) is not None
        found.append(redacted(re.sub(r"(?i)(bearer|basic) +\S+", rf"\1 {HIDDEN}", shown)))
    return tuple(found)


def _program(argv: Sequence[str]) -> list[str]:
    """Return the programs of a command: the first word, and what wrappers such as env(1) run."""
    found: list[str] = []
    words = iter(argv)
    for word in words:
        if "=" in word or word.startswith("-"):
            continue
        found.append(word)
        if Path(word).name not in _WRAPPERS:
            break
    return found


def _missing_program(argv: Sequence[str], path: str) -> Iterator[str]:
    for program in _program(argv):
        if shutil.which(program, path=path) is not None:
            continue
        if "\\" in program or program.lower().endswith(".exe"):
            yield f"{program} is a program of Windows"
        elif shutil.which(program, os.F_OK, path):
            yield f"{program} is not executable"
        elif "/" in program:
            yield f"{program} does not exist"
        else:
            yield f"{program} is not on the PATH"


def _missing_files(argv: Sequence[str], weights: str | None) -> Iterator[str]:
    """Yield files that a command names and that do not exist."""
    if argv and Path(argv[0]).name in _CONTAINERS:
        return
    for word in dict.fromkeys(argv[1:]):
        path = word.partition("=")[2] if word.startswith("-") else word
        own = weights is not None and path.startswith(weights)
        if path.startswith("/") and path.endswith(_FILES) and not own and "\0" not in path and not Path(path).exists():
            yield f"{path} does not exist"


def _missing_keys(model: Model) -> Iterator[str]:
    """Yield variables and files of secret values that are not there."""
    for where, value in _secret_values("spec", model.spec.model_dump(by_alias=True, exclude_none=True)):
        if isinstance(name := value.get("env"), str) and not os.environ.get(name):
            yield f"{where}: the environment variable {name} is not set"
        if isinstance(path := value.get("file"), str) and not Path(path).is_file():
            yield f"{where}: the file {path} does not exist"
        if isinstance(secret := value.get("secret"), dict):
            yield f"{where}: the Secret {secret.get('name')} is of a cluster; use env or file on one machine"


def _secret_values(where: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the secret values of a document: mappings with one of env, file and secret, beside the name of a header."""
    if isinstance(value, dict):
        places = value.keys() & {"env", "file", "secret"}
        if (
            len(places) == 1
            and value.keys() <= {*places, "header", "name"}
            and not isinstance(value[next(iter(places))], list | tuple)
        ):
            yield where, value
            return
        for key, each in value.items():
            if key not in ("metadata", "podTemplate"):
                yield from _secret_values(f"{where}.{key}", each)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _secret_values(f"{where}[{index}]", each)


def _taken(host: str, port: int) -> list[str]:
    """Return why hotseat itself cannot listen."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return [f"hotseat cannot listen on {host}:{port}: {error.strerror or error}; choose another port with --port"]
    return []


def _text(plan: Plan) -> str:
    """Return a plan for a terminal."""
    rows = [("run", shlex.join(plan.argv))] if plan.argv else []
    if plan.env:
        rows.append(("with", " ".join(f"{name}={shlex.quote(value)}" for name, value in plan.env.items())))
    if plan.url:
        rows.append(("send to", plan.url))
    if plan.engine != "external":
        rows.append(("on", _devices(plan)))
    if plan.weights is not None:
        rows.append(("weights", f"{plan.weights.source}: {_STATES[plan.weights.state].format(path=plan.weights.path)}"))
    rows += [("MISSING", each) for each in plan.missing]
    return "\n".join([f"{plan.model} ({plan.engine})", *(f"  {name + ':':<9} {text}" for name, text in rows)])


_STATES = {
    "here": "here ({path})",
    "fetched": "not here yet; hotseat fetches them before the first load",
    "engine": "the engine fetches them while it loads",
    "missing": "missing",
}


def _devices(plan: Plan) -> str:
    if not plan.gpus:
        return "no GPU"
    if not plan.devices:
        return f"{plan.gpus} GPU{'' if plan.gpus == 1 else 's'}, not assigned by hotseat"
    return f"GPU {', '.join(plan.devices)} ({plan.devices_from})"


def _summary(plans: Sequence[Plan], general: Sequence[str]) -> str:
    lacking = sum(bool(plan.missing) for plan in plans)
    count = f"{len(plans)} model{'' if len(plans) == 1 else 's'}"
    text = f"{count}: everything is here" if not lacking else f"{count}, of which {lacking} cannot run here yet"
    return "\n".join([*(f"MISSING: {each}" for each in general), text])
