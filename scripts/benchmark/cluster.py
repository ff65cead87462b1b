"""`scripts/bench --cluster`: the phases of switches between two mock engines on a cluster, with one runtime or several in turn.

It sees what the API server shows: watches of pods, Deployments and the Workspace, stamped with this machine's clock, for pods' own
times are whole seconds. The engine's first line of output is stamped by its node, so that the clocks of both should agree.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmark.report import Row, median, percentile, table, write_json
from hotseat.api.types import Json
from hotseat.kube import pods
from hotseat.kube.client import Change, Kube, KubeError, Watcher
from hotseat.kube.constants import DEPLOYMENTS, MODEL, MODELS, PODS, SERVICES, WORKSPACES, Resource
from hotseat.kube.containers import CONTAINER

ROOT = Path(__file__).parents[2]
LOAD = 1.0  # seconds that the engine pretends to load
ROUND = 5  # switches with one runtime before the next has its turn
PATIENCE = 120.0  # seconds for anything
NAMESPACES = Resource("v1", "Namespace", "namespaces", namespaced=False)
SECRETS = Resource("v1", "Secret", "secrets")
SCALED_OBJECTS = Resource("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
PAUSED = "autoscaling.keda.sh/paused-replicas"
# What is applied for each runtime beside knative/, and instead of it where Knative is not measured.
ROLES = {"Knative": (), "Deployment": ("deployment/role",), "KEDA": ("deployment/role", "keda/role")}
ALONE = {"Deployment": "deployment", "KEDA": "keda"}


class Unexpected(Exception):
    """Something that makes the measurement worthless."""


@dataclass(frozen=True, slots=True)
class Phases:
    """One switch, in seconds. The parts follow one another from the request until the answer, and add up to `total`."""

    decide: float  # request sent → the switcher decides
    drain: float  # → it stops the old one
    release: float  # → it has the proof that the old pod is gone
    schedule: float  # → the new pod is bound to its node
    start: float  # → the engine's first line: sandbox, containers, its program's start
    load: float  # → the engine serves
    ready: float  # → the switcher knows
    publish: float  # → residency is in the Workspace's status
    forward: float  # → answer
    total: float
    stop: (
        float  # of release: hotseat's write that stops the old one → the status of its pod is terminal, both as watched
    )
    scale: float  # of schedule: the proof → hotseat's write that starts the new one, as watched
    address: float  # of start: the new pod bound → its address is known
    own: float  # total less stop, scale → first line, and load


@dataclass(slots=True)
class Sightings:
    """When something was first seen, by what it was."""

    workspace: str
    at: dict[tuple[str, ...], float] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)  # the newest of each Model that nobody deleted
    rows: list[Json] = field(default_factory=list)  # the Workspace's switches
    paused: dict[str, bool] = field(default_factory=dict)  # by Model, where KEDA scales it
    news: threading.Condition = field(default_factory=threading.Condition)

    def see(self, resource: Resource, change: Change, item: Json) -> None:
        """Take word from a watch."""
        now = time.time()
        with self.news:
            if resource is WORKSPACES:
                self._workspace(item, now)
            elif resource is PODS:
                self._pod(change, item, now)
            else:
                self._scale(resource, item, now)
            self.news.notify_all()

    def _scale(self, resource: Resource, item: Json, now: float) -> None:
        """Note hotseat's write that starts or stops an engine: the pause of a ScaledObject, else the scale of a Deployment."""
        model = item["metadata"]["labels"][MODEL]
        if resource is SCALED_OBJECTS:
            up = PAUSED not in (item["metadata"].get("annotations") or {})
            if self.paused.get(model, True) is not up:
                return
            self.paused[model], version = not up, item["metadata"]["resourceVersion"]
            self._note(now, "up" if up else "down", model, version)
        elif model not in self.paused:
            self._note(
                now, "up" if item["spec"].get("replicas") else "down", model, str(item["metadata"]["generation"])
            )

    def _note(self, now: float, *what: str) -> None:
        self.at.setdefault(what, now)

    def _pod(self, change: Change, pod: Json, now: float) -> None:
        uid, model = pods.uid(pod), pod["metadata"]["labels"][MODEL]
        if change is Change.PUT and not pods.is_terminating(pod) and pods.node(pod):
            self.pods[model] = pod
        for what, true in (
            ("bound", pods.node(pod)), ("address", pods.ip(pod)), ("deleted", pods.is_terminating(pod)), ("terminal", pods.terminal(pod)),
        ):  # fmt: skip
            if true:
                self._note(now, what, uid)

    def _workspace(self, item: Json, now: float) -> None:
        if item["metadata"]["name"] != self.workspace:
            return
        status: Json = item.get("status") or {}
        self.rows = status.get("switches") or []
        for each in status.get("residents") or ():
            if each["state"] == "ready":
                self._note(now, "published", each["instance"])

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Give the condition's first true value."""
        with self.news:
            if not self.news.wait_for(condition, PATIENCE):
                raise Unexpected(f"{what} has not come within {PATIENCE:g} s")
            return condition()


class Bench:
    """Two models in a namespace, and what is seen of them."""

    def __init__(self, kube: Kube, namespace: str, router: str, runtime: str) -> None:
        self._kube, self._namespace, self._router = kube, namespace, router
        self._by_scale = runtime != "Knative"  # else a pod is deleted before its Deployment is scaled to zero
        self._seen = Sightings(workspace_of(runtime))
        self._watchers = [self._follow(PODS, MODEL), self._follow(DEPLOYMENTS, MODEL), self._follow(WORKSPACES)]
        if runtime == "KEDA":
            self._watchers.append(self._follow(SCALED_OBJECTS, MODEL))
        for each in self._watchers:
            each.start()
            if not each.wait_synced(PATIENCE):
                raise Unexpected("the API server does not answer")

    def _follow(self, resource: Resource, selector: str = "") -> Watcher:
        return Watcher(
            self._kube, resource, self._namespace, lambda c, o: self._seen.see(resource, c, o), selector=selector
        )

    def close(self) -> None:
        """Look no longer."""
        for each in self._watchers:
            each.stop()

    def ask(self, model: str) -> tuple[float, float]:
        """When a request was sent, and when its answer was there."""
        host, _, port = self._router.removeprefix("http://").partition(":")
        body = json.dumps({"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]})
        where = "127.0.0.1" if host.endswith(".localhost") else host  # as curl and browsers have it; resolvers differ
        with contextlib.closing(http.client.HTTPConnection(where, int(port or 80), timeout=PATIENCE)) as connection:
            connection.connect()
            sent = time.time()
            headers = {"Content-Type": "application/json", "Host": host}
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status != 200:
            raise Unexpected(f"{model}: {answer.status} {text[:300]!r}")
        return sent, time.time()

    def switch(self, old: str, new: str) -> Phases:
        """Measure one."""
        leaving = pods.uid(self._seen.pods[old])
        known = {row["id"] for row in self._seen.rows}
        sent, answered = self.ask(new)
        row = self._seen.wait(lambda: self._ended(new, known), f"the record of the switch to {new}")
        if row["outcome"] != "completed" or row["from"] != [old]:
            raise Unexpected(f"a switch to {new} took another course: {row}")
        pod, seen, took = self._seen.pods[new], self._seen.at, row["phases"]
        decided, ended = _seconds(row["startedAt"]), _seconds(row["endedAt"])
        proof = ended - took["load"]
        bound, uid = seen["bound", pods.uid(pod)], pods.uid(pod)
        started = max(when for what, when in seen.items() if what[:2] == ("up", new))
        stopped = seen["deleted", leaving]
        if self._by_scale:
            stopped = max(when for what, when in seen.items() if what[:2] == ("down", old))
        first = self._first_line(pod)
        published = max(when for what, when in seen.items() if what[0] == "published" and f"/{new}@" in what[1])
        stop = seen["terminal", leaving] - stopped
        return Phases(
            decide=decided - sent,
            drain=took["drain"],
            release=proof - decided - took["drain"],
            schedule=bound - proof,
            start=first - bound,
            load=LOAD,
            ready=ended - first - LOAD,
            publish=published - ended,
            forward=answered - published,
            total=answered - sent,
            stop=stop,
            scale=started - proof,
            address=seen["address", uid] - bound,
            own=answered - sent - stop - (first - started) - LOAD,
        )

    def _ended(self, new: str, known: set[str]) -> Json | None:
        rows = (row for row in self._seen.rows if row["id"] not in known and row["to"] == new and row.get("endedAt"))
        return next(rows, None)

    def _first_line(self, pod: Json) -> float:
        path = PODS.path(self._namespace, pod["metadata"]["name"], "log")
        text = self._kube.text(path, container=pods.engine_container(pod), timestamps="true")
        return _seconds(text.partition(" ")[0])


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def workspace_of(runtime: str) -> str:
    """Return the name of the Workspace for a runtime."""
    return f"bench-{runtime.lower()}"


def names_of(runtime: str) -> tuple[str, str]:
    """Return the names of the two Models for a runtime."""
    return f"{workspace_of(runtime)}-a", f"{workspace_of(runtime)}-b"


def manifests(runtimes: Sequence[str]) -> list[str]:
    """Return the folders to apply for all these runtimes: as few objects as they need."""
    roles = dict.fromkeys(role for each in runtimes for role in ROLES[each])
    if "Knative" in runtimes:
        return ["knative", *roles]
    base = ALONE[runtimes[-1] if len(runtimes) == 1 else "KEDA"]
    return [base]


@contextlib.contextmanager
def installed(kube: Kube, given: str | None, runtimes: Sequence[str]) -> Iterator[str]:
    """Give a namespace with hotseat in it: one that is there, or a new one that goes at the end."""
    if given is not None:
        yield given
        return
    name = f"hotseat-bench-{secrets.token_hex(3)}"
    kube.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        key = {"metadata": {"name": "hotseat-demand"}, "stringData": {"key": secrets.token_hex(32)}}
        kube.create(SECRETS.path(name), {"apiVersion": "v1", "kind": "Secret", **key})
        waits = ("ksvc", "Ready") if "Knative" in runtimes else ("deployment", "Available")
        crds = ["apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds")]
        folders = [["apply", "-k", str(ROOT / each)] for each in reversed(manifests(runtimes))]  # roles first
        for command in (crds, *folders, ["wait", waits[0], "--all", f"--for=condition={waits[1]}", "--timeout=120s"]):
            subprocess.run(["kubectl", "-n", name, *command], check=True, stdout=subprocess.DEVNULL)
        yield name
    finally:
        kube.delete(NAMESPACES.path(name=name), background=True)


@contextlib.contextmanager
def documents(kube: Kube, namespace: str, runtime: str, *, device: bool) -> Iterator[None]:
    """Two mock engines that take turns on one GPU, for as long as this lasts; without `device` only hotseat counts it."""
    workspace = workspace_of(runtime)
    spec: Json = {"engine": "mock", "workspace": workspace, "args": ["--load-time", str(LOAD)]}
    if not device:
        nothing = {"name": CONTAINER, "resources": {"limits": {pods.GPU_RESOURCE: "0"}}}
        spec["podTemplate"] = {"spec": {"containers": [nothing]}}
    home = {"capacity": {"gpus": 1}, "runtime": runtime}
    made = [(WORKSPACES, workspace, home), *((MODELS, name, spec) for name in names_of(runtime))]
    try:
        for resource, name, content in made:
            head = {"apiVersion": resource.api, "kind": resource.kind, "metadata": {"name": name}}
            kube.apply(resource.path(namespace, name), {**head, "spec": content})
        yield
    finally:
        for resource, name, _ in reversed(made):
            with contextlib.suppress(KubeError):
                if resource is WORKSPACES:
                    _await_end(kube, namespace, runtime)
                kube.delete(resource.path(namespace, name))


def _await_end(kube: Kube, namespace: str, runtime: str) -> None:
    """Wait until no pod holds a GPU that the next runtime needs."""
    until = time.monotonic() + PATIENCE
    chosen = f"{MODEL} in ({','.join(names_of(runtime))})"
    while kube.get(PODS.path(namespace), labelSelector=chosen)["items"] and time.monotonic() < until:
        time.sleep(0.5)


def router_of(kube: Kube, namespace: str) -> str:
    """Return the URL of the router: that of its Knative Service, else the address of its pod."""
    try:
        service = kube.find(SERVICES.path(namespace, "hotseat-router"))
    except KubeError:
        service = None
    if service is not None:
        return str(service["status"]["url"])
    label = "app.kubernetes.io/part-of=hotseat,app.kubernetes.io/component=router"
    (address,) = filter(None, map(pods.ip, kube.get(PODS.path(namespace), labelSelector=label)["items"]))
    return f"http://{address}:8080"


def measure(kube: Kube, namespace: str, runtime: str, switches: int, rest: float, *, device: bool) -> Iterator[Phases]:
    """Switch to and fro; the resident is idle for `rest` seconds before each."""
    names = names_of(runtime)
    with (
        documents(kube, namespace, runtime, device=device),
        contextlib.closing(Bench(kube, namespace, router_of(kube, namespace), runtime)) as bench,
    ):
        for name in names:
            _warm_up(bench, name)
        for old, new in itertools.islice(itertools.cycle((names[::-1], names)), switches):
            time.sleep(rest)
            yield bench.switch(old, new)


def measure_in_turn(kube: Kube, namespace: str, options: argparse.Namespace, found: dict[str, list[Phases]]) -> None:
    """Measure all runtimes, a few switches each in turn, so that what else the machine does concerns them alike."""
    while any(len(each) < options.switches for each in found.values()):
        for runtime, so_far in found.items():
            count = min(ROUND, options.switches - len(so_far))
            for each in measure(kube, namespace, runtime, count, options.rest, device=not options.no_device):
                so_far.append(each)
                print(".", end="", file=sys.stderr, flush=True)


def _warm_up(bench: Bench, name: str) -> None:
    """Ask until it answers: the router learns of a new Model a moment later, and its Revision has to be there."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            bench.ask(name)
        except Unexpected:
            if time.monotonic() > until:
                raise
            time.sleep(1.0)
        else:
            return


WHAT = {
    "decide": "decide: request sent → switch decided", "drain": "drain: → old one stopped",
    "release": "release: → its pod proven gone", "stop": "of it, stop written → pod terminal",
    "schedule": "schedule: → new pod bound", "scale": "of it, proof → start written",
    "start": "start: → engine's first line", "address": "of it, bound → address known",
    "load": "load: → engine serves", "ready": "ready: → switcher knows", "publish": "publish: → in the status",
    "forward": "forward: → answer", "total": f"total, engine loads in {LOAD:g} s",
    "own": "own: total less pod stop, pod start, load",
}  # fmt: skip
# Seconds, by runtime.
_PLAIN = {("release", "p50"): 0.6, ("total", "p50"): 2.8, ("own", "p50"): 0.1}
TARGETS: dict[str, dict[tuple[str, str], float]] = {
    "Knative": {("total", "p50"): 5.0, ("own", "p50"): 0.1, ("own", "p95"): 0.3},
    "Deployment": _PLAIN,
    "KEDA": _PLAIN,
}


def rows_of(found: Mapping[str, list[Phases]]) -> list[Row]:
    """Return median and p95 of each phase, by runtime."""
    assert set(WHAT) == {each.name for each in fields(Phases)}
    figures = {"p50": median, "p95": lambda values: percentile(values, 0.95)}
    return [
        Row(
            f"{runtime} {part}",
            what,
            round(figure([getattr(each, name) for each in phases]), 3),
            "s",
            at_most=TARGETS[runtime].get((name, part)),
        )
        for part, figure in figures.items()
        for runtime, phases in found.items()
        if phases
        for name, what in WHAT.items()
    ]


def _runtimes(text: str) -> list[str]:
    known = {each.lower(): each for each in ROLES}
    try:
        return [known[each.strip().lower()] for each in text.split(",")]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"runtime {error}; allowed: {', '.join(ROLES)}") from None


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench --cluster", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--namespace", metavar="NAME", help="with hotseat in it; default: a new one, deleted afterwards"
    )
    parser.add_argument("--runtime", type=_runtimes, action="extend", metavar="NAME[,NAME]",
                        help=f"{', '.join(ROLES)} (default Knative); several are measured in turn")  # fmt: skip
    parser.add_argument("--switches", type=int, default=20, metavar="N", help="with each runtime")
    parser.add_argument("--rest", type=float, default=7.0, metavar="S",
                        help="before each: the kubelet takes 1 to 2 s longer to stop a pod younger than about 6 s")  # fmt: skip
    parser.add_argument(
        "--no-device", action="store_true", help="pods ask for no GPU: where others use those that there are"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--each", action="store_true", help="show each switch as well")
    options = parser.parse_args()
    found: dict[str, list[Phases]] = {each: [] for each in options.runtime or ["Knative"]}
    load = f"load average {os.getloadavg()[0]:.2f} at the start"
    try:
        kube = Kube.connect()
        with installed(kube, options.namespace, list(found)) as namespace:
            measure_in_turn(kube, namespace, options, found)
        print(file=sys.stderr)
    except (Unexpected, KubeError, OSError, subprocess.CalledProcessError) as problem:
        print(f"could not be measured to the end: {problem}", file=sys.stderr)
        if not any(found.values()):
            return 2
    if options.each:
        names = [each.name for each in fields(Phases)]
        print(" ".join(f"{name:>10}" for name in ("runtime", *names)))
        for runtime, phases in found.items():
            for each in phases:
                print(" ".join([f"{runtime:>10}", *(f"{getattr(each, name):10.3f}" for name in names)]))
    rows = rows_of(found)
    print(load)
    print(table(rows))
    if options.json:
        write_json(options.json, {}, rows, [f"{options.switches} switches, {options.rest:g} s between them", load])
    complete = all(len(each) == options.switches for each in found.values())
    return int(not complete or any(row.missed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
