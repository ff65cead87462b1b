"""An API server in memory, with as much of Kubernetes and Knative behind it as a pod's life needs.

Objects lie by path. Controllers act at once, inside the write that gives them something to do; what a scheduler and a kubelet
do is done by a test (`bind`, `run`, `serve`, `end` …), or, with `lively`, as soon as there is something to do.
"""

import builtins
import copy
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit

from hotseat.api.types import Json
from hotseat.kube.client import CONFLICT, NOT_FOUND, KubeError
from hotseat.kube.constants import (
    AUTOSCALING_CLASS,
    CLAIMS,
    CLASS_ANNOTATION,
    DEPLOYMENT,
    DEPLOYMENTS,
    EVENTS,
    FINGERPRINT,
    JOBS,
    MODEL,
    MODELS,
    NODES,
    POD_AUTOSCALERS,
    PODS,
    REPLICA_SETS,
    REVISION,
    SERVICE,
    SERVICES,
    STATE,
    WORKSPACE,
    WORKSPACES,
)

NS = "test"
_COLLECTIONS = (PODS, DEPLOYMENTS, SERVICES, POD_AUTOSCALERS, REPLICA_SETS, MODELS, WORKSPACES, CLAIMS, JOBS, EVENTS)


def merged(old: Json, change: Json) -> Json:
    """Merge as RFC 7386 says."""
    new = dict(old)
    for key, value in change.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = merged(new.get(key) or {}, value) if isinstance(value, dict) else value
    return new


class FakeKube:
    """Has the methods of hotseat.kube.client.Kube. `calls` lists the writes as (verb, path)."""

    namespace = NS

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.calls: list[tuple[str, str]] = []
        self.away = False  # every call fails
        self.lose_next_answer = False  # the next write is done, but its answer never comes
        self.refused: dict[str, KubeError] = {}  # by kind: what an apply gets
        self.collections = {each.plural for each in _COLLECTIONS} | {"serverlessservices"}
        self._applied: dict[str, Json] = {}  # labels of the last apply, by path
        self.texts: dict[str, str] = {}
        self._events: list[tuple[int, str, Json, Json]] = []  # number, path, event, and the object before it
        self._version = itertools.count(100)
        self._last = 99
        self._closed = False
        self.changed = threading.Condition(threading.RLock())

    # As Kube ----------------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: str) -> Json:
        with self.changed:
            self._reach()
            if path in self.objects:
                return copy.deepcopy(self.objects[path])
            there = {each.rpartition("/")[0].rpartition("/")[2] for each in self.objects}
            if path.rpartition("/")[2] not in there | self.collections:
                raise KubeError(NOT_FOUND, f"{path} not found")
            items = [
                each
                for at, each in self.objects.items()
                if _in(at, path) and _fits(each, query.get("labelSelector", ""))
            ]
            return {"items": copy.deepcopy(items), "metadata": {"resourceVersion": str(self._last)}}

    def list(self, path: str, **query: str) -> tuple[builtins.list[Json], str]:
        found = self.get(path, **query)
        return found["items"], found["metadata"]["resourceVersion"]

    def within(self, _seconds: float) -> Self:
        return self

    def find(self, path: str) -> Json | None:
        with self.changed:
            self._reach()
            return copy.deepcopy(self.objects.get(path))

    def text(self, path: str, **query: str) -> str:
        self._reach()
        return self.texts.get(path, "")

    def watch(self, path: str, version: str, *, selector: str = "", seconds: int = 300) -> Iterator[Json]:
        last = int(version)
        while not self._closed:
            with self.changed:
                self._reach()
                news = [each for each in self._events if each[0] > last]
                if not news:
                    self.changed.wait(0.2)
            for number, at, event, old in news:
                last = number
                if _in(at, path) and _fits(event["object"], selector):
                    yield copy.deepcopy(event)
                elif _in(at, path) and _fits(old, selector):
                    yield copy.deepcopy({**event, "type": "DELETED"})

    def create(self, path: str, body: Json) -> Json:
        with self.changed:
            self._reach()
            meta = body["metadata"]
            at = f"{path}/{meta.get('name') or meta['generateName'] + str(next(self._version))}"
            if at in self.objects:
                raise KubeError(CONFLICT, f"{at} exists")
            self.calls.append(("create", at))
            return self.put(at, body)

    def merge(self, path: str, body: Json) -> Json:
        with self.changed:
            self._reach()
            at, _, part = path.rpartition("/")
            at = at if part in ("status", "scale") else path
            if at not in self.objects:
                raise KubeError(NOT_FOUND, f"{at} not found")
            version = body.get("metadata", {}).get("resourceVersion")
            if version not in (None, self.objects[at]["metadata"]["resourceVersion"]):
                raise KubeError(CONFLICT, f"{at} has changed")
            self.calls.append(("merge", path))
            result = self.put(at, merged(self.objects[at], body))
            self.control(at)
            if self.lose_next_answer:
                self.lose_next_answer = False
                raise KubeError(0, "connection reset")
            return result

    def apply(self, path: str, body: Json, *, force: bool = True) -> Json:
        with self.changed:
            self._reach()
            if error := self.refused.get(body["kind"]):
                raise error
            labels = body["metadata"].get("labels") or {}
            if path in self.objects:
                gone = {"labels": dict.fromkeys(self._applied.get(path, {}).keys() - labels.keys())}
                result = self.merge(path, merged({"metadata": gone}, body) if gone["labels"] else body)
            elif "resourceVersion" in body["metadata"]:
                raise KubeError(CONFLICT, f"{path} does not exist")
            else:
                self.calls.append(("apply", path))
                result = self.put(path, body)
                self.control(path)
            self._applied[path] = labels  # only now: one that was refused has applied nothing
            return result

    def delete(
        self, path: str, *, uid: str = "", version: str = "", grace: int | None = None, background: bool = False
    ) -> None:
        with self.changed:
            self._reach()
            if path not in self.objects:
                raise KubeError(NOT_FOUND, f"{path} not found")
            if uid and self.objects[path]["metadata"]["uid"] != uid:
                raise KubeError(CONFLICT, "another uid")
            if version and self.objects[path]["metadata"]["resourceVersion"] != version:
                raise KubeError(CONFLICT, "it has changed")
            self.calls.append(("delete", path))
            self.end_of(path, grace)

    # What lies behind it ----------------------------------------------------------------------------------------------

    def put(self, at: str, item: Json) -> Json:
        """Write an object, and tell the watches."""
        with self.changed:
            old = self.objects.get(at)
            item = copy.deepcopy(item)
            meta = item.setdefault("metadata", {})
            meta.setdefault("uid", f"uid-{next(self._version)}")
            meta.setdefault("generation", 1)
            if old is not None and old.get("spec") != item.get("spec"):
                meta["generation"] = old["metadata"]["generation"] + 1
            self._tell(at, item, "MODIFIED" if old else "ADDED")
            self.objects[at] = item
            return copy.deepcopy(item)

    def remove(self, at: str) -> None:
        """Delete an object from the store, whatever it still does."""
        with self.changed:
            self._tell(at, self.objects.pop(at), "DELETED")

    def control(self, at: str) -> None:
        """Do what controllers do after a write."""

    def end_of(self, at: str, grace: int | None) -> None:
        """Do what a DELETE does."""
        self.remove(at)

    def close(self) -> None:
        """End all watches."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def _tell(self, at: str, item: Json, kind: str) -> None:
        self._last = next(self._version)
        item["metadata"]["resourceVersion"] = str(self._last)
        old = self.objects.get(at, item)
        self._events.append((self._last, at, {"type": kind, "object": copy.deepcopy(item)}, old))
        self.changed.notify_all()

    def _reach(self) -> None:
        if self.away:
            raise KubeError(0, "the API server is away")


class FakeCluster(FakeKube):
    """With Deployments, ReplicaSets and pods of one namespace, of Knative Services or by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.serving: set[str] = set()  # IPs whose queue-proxy says yes
        self.lively = False
        self.behaviour: dict[str, str] = {}  # by model, where lively: slow, broken
        self._ips = itertools.count(10)
        self._names = itertools.count(1)
        self.put(NODES.path(name="node"), {"metadata": {"name": "node"}, "spec": {}, "status": {}})

    def ask(self, target: str) -> bool:
        """Be the probe of queue-proxy, or of an engine's URL."""
        return (urlsplit(target).hostname or target) in self.serving

    def add_deployment(
        self, name: str, *, replicas: int = 0, fingerprint: str = "1", more: dict[str, str] | None = None
    ) -> None:
        """Make what the switcher makes of a Model without Knative. MORE are labels."""
        labels = {DEPLOYMENT: name, MODEL: name, WORKSPACE: "default", **(more or {})}
        meta = {"name": name, "namespace": NS, "labels": labels, "annotations": {FINGERPRINT: fingerprint}}
        at = DEPLOYMENTS.path(NS, name)
        self.put(at, {"metadata": meta, "spec": {"replicas": replicas, "template": {}}})
        self.control(at)

    def add_handmade(self, name: str, *, replicas: int = 0, workspace: str = "default", **spec: Json) -> str:
        """Make a Deployment as a person does, with our label if WORKSPACE is not empty. Return its path."""
        labels = {"app": name, **({WORKSPACE: workspace} if workspace else {})}
        engine = {
            "name": "main",
            "ports": [{"name": "http", "containerPort": 9000}],
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
            "readinessProbe": {"httpGet": {"path": "/health", "port": "http", "scheme": "HTTP"}},
        }
        content = {
            "replicas": replicas,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [engine]}},
            **spec,
        }
        at = DEPLOYMENTS.path(NS, name)
        self.put(at, {"metadata": {"name": name, "namespace": NS, "labels": labels}, "spec": content})
        self.control(at)
        return at

    def add_service(self, name: str, *, replicas: int = 0, revision: str = "00001", labelled: bool = True) -> None:
        """Make a ksvc of our class, with all that Knative makes of it."""
        revision = f"{name}-{revision}"
        labels = {REVISION: revision, SERVICE: name, **({WORKSPACE: "default"} if labelled else {})}
        meta = {"namespace": NS, "labels": labels}
        status = {"latestCreatedRevisionName": revision, "observedGeneration": 1}
        service = {
            "metadata": {"name": name, "namespace": NS, "labels": {WORKSPACE: "default"}},
            "spec": {},
            "status": status,
        }
        if self.find(SERVICES.path(NS, name)):
            self.merge(SERVICES.path(NS, name, "status"), {"status": status})
        else:
            self.put(SERVICES.path(NS, name), service)
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{revision}-deployment"}
        autoscaler = {
            "metadata": {**meta, "name": revision, "annotations": {CLASS_ANNOTATION: AUTOSCALING_CLASS}},
            "spec": {"scaleTargetRef": target, "protocolType": "http1"},
        }
        self.put(POD_AUTOSCALERS.path(NS, revision), autoscaler)
        at = DEPLOYMENTS.path(NS, target["name"])
        self.put(at, {"metadata": {**meta, "name": target["name"]}, "spec": {"replicas": replicas}})
        self.control(at)

    def delete_service(self, name: str) -> None:
        """Delete a ksvc by hand; the garbage collector takes all below it."""
        with self.changed:
            for at, each in list(self.objects.items()):
                of = each["metadata"].get("labels", {}).get(SERVICE)
                if of == name and not _in(at, PODS.path(NS)):
                    self.remove(at)
            self.remove(SERVICES.path(NS, name))
            for pod in self.pods(name):
                self.end_of(_at(pod), 300)

    def pods(self, model: str = "") -> list[Json]:
        """Give the pods (of a model), oldest first."""
        with self.changed:
            found = [each for at, each in self.objects.items() if _in(at, PODS.path(NS))]
            return copy.deepcopy([each for each in found if model in ("", _model(each))])

    # Scheduler and kubelet --------------------------------------------------------------------------------------------

    def bind(self, pod: Json) -> Json:
        """Schedule it."""
        return self._change(pod, {"spec": {"nodeName": "node"}})

    def run(self, pod: Json) -> Json:
        """Bind it, if it is not, and start its containers."""
        self.bind(pod)
        running = [_container(name, {"running": {}}) for name in _containers(pod)]
        ip = f"10.0.0.{next(self._ips)}"
        return self._change(pod, {"status": {"phase": "Running", "podIP": ip, "containerStatuses": running}})

    def serve(self, pod: Json) -> Json:
        """Run it until it is ready."""
        pod = self.run(pod)
        self.serving.add(pod["status"]["podIP"])
        return self._change(pod, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})

    def say(self, pod: Json, **status: object) -> Json:
        """Give it a status."""
        return self._change(pod, {"status": status})

    def crash(self, pod: Json, code: int = 1, reason: str = "Error", restarts: int = 0, message: str = "") -> Json:
        """End its engine."""
        ended = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
        state = {"waiting": {"reason": "CrashLoopBackOff"}} if restarts else ended
        engine, *others = _containers(pod)
        first = {
            **_container(engine, state),
            "restartCount": restarts,
            "lastState": ended if restarts else {},
        }
        return self.say(pod, containerStatuses=[first, *(_container(other, {"running": {}}) for other in others)])

    def end(self, pod: Json, *, keep: bool = False) -> None:
        """End all its containers, and say so; then its object goes."""
        ended = [_container(name, {"terminated": {"exitCode": 137}}) for name in _containers(pod)]
        self.say(pod, phase="Failed", containerStatuses=ended)
        if not keep:
            self.remove(_at(pod))
            self._replicate_all()

    def force(self, pod: Json) -> None:
        """Take its object away while it runs."""
        self.remove(_at(pod))
        self._replicate_all()

    # Controllers ------------------------------------------------------------------------------------------------------

    def control(self, at: str) -> None:
        if _in(at, DEPLOYMENTS.path(NS)):
            item = self.objects[at]
            observed = {"observedGeneration": item["metadata"]["generation"]}
            self.put(at, merged(item, {"status": observed}))
            self._replicate(at)
        elif _in(at, PODS.path(NS)):
            self._live(at)
        elif _in(at, REPLICA_SETS.path(NS)):
            meta = self.objects[at]["metadata"]
            if "deletionTimestamp" in meta and not meta.get("finalizers"):
                self.remove(at)
            self._replicate_all()

    def end_of(self, at: str, grace: int | None) -> None:
        item = self.objects[at]
        if not _in(at, PODS.path(NS)) and item["metadata"].get("finalizers"):
            going = {"deletionTimestamp": "2026-01-01T00:00:00Z", "generation": item["metadata"]["generation"] + 1}
            self.put(at, merged(item, {"metadata": going}))
        elif not _in(at, PODS.path(NS)) or not item["spec"].get("nodeName") or grace == 0:
            self.remove(at)
        elif "deletionTimestamp" not in item["metadata"]:
            self.put(at, merged(item, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))
            if self.lively:
                threading.Timer(0.02, self._try_to_end, [copy.deepcopy(item)]).start()
        self._replicate_all()

    def _try_to_end(self, pod: Json) -> None:
        with self.changed:
            if _at(pod) in self.objects:
                self.end(pod)

    def _replicate_all(self) -> None:
        for at in [each for each in self.objects if _in(each, DEPLOYMENTS.path(NS))]:
            self._replicate(at)

    def _replicate(self, at: str) -> None:
        deployment = self.objects[at]
        labels = {key: value for key, value in deployment["metadata"]["labels"].items() if key != STATE}
        wanted = deployment["spec"]["replicas"]
        workload = labels.get(REVISION) or labels.get(DEPLOYMENT)
        by_hand = workload is None
        if workload is None:
            if not deployment["spec"].get("selector"):
                return
            workload = deployment["metadata"]["name"]
            labels = {**deployment["spec"]["template"]["metadata"]["labels"], "pod-template-hash": "rs"}
        set_at = REPLICA_SETS.path(NS, f"{workload}-rs")
        mine = [pod for pod in self.pods() if pod["metadata"]["labels"] == labels]
        active = [pod for pod in mine if "deletionTimestamp" not in pod["metadata"] and not _over(pod)]
        owner = {"kind": "Deployment", "name": deployment["metadata"]["name"], "controller": True}
        meta = {"name": f"{workload}-rs", "namespace": NS, "labels": labels, "ownerReferences": [owner]}
        written = self._update(set_at, {"metadata": meta}, {"spec": {"replicas": wanted}})
        status = {"replicas": wanted, "observedGeneration": written["metadata"]["generation"]}
        written = self._update(set_at, written, {"status": status})
        if "deletionTimestamp" in written["metadata"]:
            return
        for pod in active[wanted:]:
            if _at(pod) in self.objects:  # the end of one lets this look again
                self.end_of(_at(pod), 300)
        for _ in range(wanted - len(active)):
            name = f"{deployment['metadata']['name']}-{next(self._names)}"
            limits = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
            spec = {"containers": [{"name": "user-container", **limits}, {"name": "queue-proxy"}]}
            if DEPLOYMENT in labels:
                probe = {"readinessProbe": {"httpGet": {"path": "/health", "port": 9000, "scheme": "HTTP"}}}
                engine = {"name": "engine", "ports": [{"containerPort": 9000}], **limits, **probe}
                spec = {"containers": [engine], "terminationGracePeriodSeconds": 7}
            if by_hand:
                spec = copy.deepcopy(deployment["spec"]["template"]["spec"])
            owner = {"kind": "ReplicaSet", "name": f"{workload}-rs", "controller": True}
            self.put(
                PODS.path(NS, name),
                {
                    "metadata": {"name": name, "namespace": NS, "labels": labels, "ownerReferences": [owner]},
                    "spec": spec,
                    "status": {"phase": "Pending"},
                },
            )
            self._live(PODS.path(NS, name))

    def _update(self, at: str, new: Json, change: Json) -> Json:
        """Write a change of an object, or the `new` object with it. Like a controller, write nothing where nothing changes."""
        old = self.objects.get(at)
        wanted = merged(old or new, change)
        return copy.deepcopy(old) if old == wanted else self.put(at, wanted)

    def _live(self, at: str) -> None:
        pod = self.objects.get(at)
        if not self.lively or pod is None or pod["spec"].get("nodeName"):
            return
        how = self.behaviour.get(_model(pod), "")
        if how == "broken":
            self.crash(self.run(pod), 3)
        elif how == "slow":
            self.run(pod)
        else:
            self.serve(pod)

    def _change(self, pod: Json, change: Json) -> Json:
        with self.changed:
            return self.put(_at(pod), merged(self.objects[_at(pod)], change))


class Clock:
    """Time that a test moves on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def _model(pod: Json) -> str:
    labels = pod["metadata"]["labels"]
    return str(labels.get(SERVICE) or labels.get(MODEL) or labels.get("app"))


def _containers(pod: Json) -> list[str]:
    return [each["name"] for each in pod["spec"]["containers"]]


def _container(name: str, state: Json) -> Json:
    return {"name": name, "state": state, "restartCount": 0}


def _over(pod: Json) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def _at(pod: Json) -> str:
    return PODS.path(NS, pod["metadata"]["name"])


def _in(at: str, collection: str) -> bool:
    return at.rpartition("/")[0] == collection


def _fits(item: Json, selector: str) -> bool:
    labels = item["metadata"].get("labels") or {}
    for part in filter(None, selector.split(",")):
        key, _, value = part.removeprefix("!").partition("=")
        if (key in labels and value in ("", labels[key])) == part.startswith("!"):
            return False
    return True
