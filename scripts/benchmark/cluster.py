"""`scripts/bench --cluster`: the phases of switches between two mock engines on a cluster with Knative.

It sees what the API server shows: watches of pods, Deployments and the Workspace, stamped with this machine's clock, for pods' own
times are whole seconds. The engine's first line of output is stamped by its node, so that the clocks of both should agree.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmark.report import Row, median, percentile, table, write_json
from hotseat.api.types import Json
from hotseat.kube import pods
from hotseat.kube.client import Change, Kube, KubeError, Watcher
from hotseat.kube.constants import DEPLOYMENTS, MODEL, MODELS, PODS, REVISION, SERVICE, SERVICES, WORKSPACES, Resource
from hotseat.kube.containers import CONTAINER

ROOT = Path(__file__).parents[2]
LOAD = 1.0  # seconds that the engine pretends to load
NAMES = ("bench-a", "bench-b")
WORKSPACE = "bench"
PATIENCE = 120.0  # seconds for anything
NAMESPACES = Resource("v1", "Namespace", "namespaces", namespaced=False)
SECRETS = Resource("v1", "Secret", "secrets")


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
    stop: float  # of release: the pod deleted → its status terminal, both as watched
    scale: float  # of schedule: the proof → the Deployment's scale is 1
    address: float  # of start: the new pod bound → its address is known
    own: float  # total less stop, scale → first line, and load


@dataclass(slots=True)
class Sightings:
    """When something was first seen, by what it was."""

    at: dict[tuple[str, ...], float] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)  # the newest of each Model that nobody deleted
    rows: list[Json] = field(default_factory=list)  # the Workspace's switches
    news: threading.Condition = field(default_factory=threading.Condition)

    def see(self, resource: Resource, change: Change, item: Json) -> None:
        """Take word from a watch."""
        now = time.time()
        with self.news:
            if resource is WORKSPACES:
                self._workspace(item, now)
            elif resource is PODS:
                self._pod(change, item, now)
            elif item["spec"].get("replicas") == 1:
                self._note(
                    now, "scale", item["metadata"]["labels"].get(SERVICE, ""), str(item["metadata"]["generation"])
                )
            self.news.notify_all()

    def _note(self, now: float, *what: str) -> None:
        self.at.setdefault(what, now)

    def _pod(self, change: Change, pod: Json, now: float) -> None:
        uid, model = pods.uid(pod), pod["metadata"]["labels"].get(SERVICE, "")
        if change is Change.PUT and not pods.is_terminating(pod) and pods.node(pod):
            self.pods[model] = pod
        for what, true in (
            ("bound", pods.node(pod)), ("address", pods.ip(pod)), ("deleted", pods.is_terminating(pod)), ("terminal", pods.terminal(pod)),
        ):  # fmt: skip
            if true:
                self._note(now, what, uid)

    def _workspace(self, item: Json, now: float) -> None:
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

    def __init__(self, kube: Kube, namespace: str, router: str) -> None:
        self._kube, self._namespace, self._router = kube, namespace, router
        self._seen = Sightings()
        self._watchers = [self._follow(PODS, MODEL), self._follow(DEPLOYMENTS, REVISION), self._follow(WORKSPACES)]
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
        scaled = max(when for what, when in seen.items() if what[:2] == ("scale", new))
        first = self._first_line(pod)
        published = max(when for what, when in seen.items() if what[0] == "published" and f"/{new}@" in what[1])
        stop = seen["terminal", leaving] - seen["deleted", leaving]
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
            scale=scaled - proof,
            address=seen["address", uid] - bound,
            own=answered - sent - stop - (first - scaled) - LOAD,
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


@contextlib.contextmanager
def installed(kube: Kube, given: str | None) -> Iterator[str]:
    """Give a namespace with hotseat in it: one that is there, or a new one that goes at the end."""
    if given is not None:
        yield given
        return
    name = f"hotseat-bench-{secrets.token_hex(3)}"
    kube.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        key = {"metadata": {"name": "hotseat-demand"}, "stringData": {"key": secrets.token_hex(32)}}
        kube.create(SECRETS.path(name), {"apiVersion": "v1", "kind": "Secret", **key})
        for command in (
            ["apply", "-k", str(ROOT / "knative")],
            ["wait", "ksvc", "--all", "--for=condition=Ready", "--timeout=120s"],
        ):
            subprocess.run(["kubectl", "-n", name, *command], check=True, stdout=subprocess.DEVNULL)
        yield name
    finally:
        kube.delete(NAMESPACES.path(name=name), background=True)


@contextlib.contextmanager
def documents(kube: Kube, namespace: str, *, device: bool) -> Iterator[None]:
    """Two mock engines that take turns on one GPU, for as long as this lasts; without `device` only hotseat counts it."""
    spec: Json = {"engine": "mock", "workspace": WORKSPACE, "args": ["--load-time", str(LOAD)]}
    if not device:
        nothing = {"name": CONTAINER, "resources": {"limits": {pods.GPU_RESOURCE: "0"}}}
        spec["podTemplate"] = {"spec": {"containers": [nothing]}}
    made = [(WORKSPACES, WORKSPACE, {"capacity": {"gpus": 1}}), *((MODELS, name, spec) for name in NAMES)]
    try:
        for resource, name, content in made:
            head = {"apiVersion": resource.api, "kind": resource.kind, "metadata": {"name": name}}
            kube.apply(resource.path(namespace, name), {**head, "spec": content})
        yield
    finally:
        for resource, name, _ in reversed(made):
            with contextlib.suppress(KubeError):
                kube.delete(resource.path(namespace, name))


def measure(kube: Kube, namespace: str, switches: int, rest: float, *, device: bool) -> Iterator[Phases]:
    """Switch to and fro; the resident is idle for `rest` seconds before each."""
    service = kube.get(SERVICES.path(namespace, "hotseat-router"))
    with (
        documents(kube, namespace, device=device),
        contextlib.closing(Bench(kube, namespace, service["status"]["url"])) as bench,
    ):
        for name in NAMES:
            _warm_up(bench, name)
        for old, new in itertools.islice(itertools.cycle((NAMES[::-1], NAMES)), switches):
            time.sleep(rest)
            yield bench.switch(old, new)


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
    "release": "release: → its pod proven gone", "stop": "of it, pod deleted → status terminal",
    "schedule": "schedule: → new pod bound", "scale": "of it, proof → scale seen",
    "start": "start: → engine's first line", "address": "of it, bound → address known",
    "load": "load: → engine serves", "ready": "ready: → switcher knows", "publish": "publish: → in the status",
    "forward": "forward: → answer", "total": f"total, engine loads in {LOAD:g} s",
    "own": "own: total less pod stop, pod start, load",
}  # fmt: skip
TARGETS = {("total", "p50"): 5.0, ("own", "p50"): 0.1, ("own", "p95"): 0.3}  # seconds


def rows_of(found: list[Phases]) -> list[Row]:
    """Median and p95 of each phase."""
    assert set(WHAT) == {each.name for each in fields(Phases)}
    rows = []
    for part, figure in (("p50", median), ("p95", lambda values: percentile(values, 0.95))):
        for name, what in WHAT.items():
            value = figure([getattr(each, name) for each in found])
            rows.append(Row(part, what, round(value, 3), "s", at_most=TARGETS.get((name, part))))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench --cluster", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--namespace", metavar="NAME", help="with hotseat in it; default: a new one, deleted afterwards"
    )
    parser.add_argument("--switches", type=int, default=20, metavar="N")
    parser.add_argument("--rest", type=float, default=7.0, metavar="S",
                        help="before each: the kubelet takes 1 to 2 s longer to stop a pod younger than about 6 s")  # fmt: skip
    parser.add_argument(
        "--no-device", action="store_true", help="pods ask for no GPU: where others use those that there are"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--each", action="store_true", help="show each switch as well")
    options = parser.parse_args()
    found: list[Phases] = []
    try:
        kube = Kube.connect()
        with installed(kube, options.namespace) as namespace:
            for each in measure(kube, namespace, options.switches, options.rest, device=not options.no_device):
                found.append(each)
                print(".", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    except (Unexpected, KubeError, OSError, subprocess.CalledProcessError) as problem:
        print(f"could not be measured to the end: {problem}", file=sys.stderr)
        if not found:
            return 2
    if options.each:
        names = [each.name for each in fields(Phases)]
        print(" ".join(f"{name:>8}" for name in names))
        for each in found:
            print(" ".join(f"{getattr(each, name):8.3f}" for name in names))
    rows = rows_of(found)
    print(table(rows))
    if options.json:
        write_json(options.json, {}, rows, [f"{len(found)} switches, {options.rest:g} s between them"])
    return int(len(found) < options.switches or any(row.missed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
