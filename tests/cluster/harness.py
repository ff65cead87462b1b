"""A hotseat of a test's own: a namespace with knative/ in it, and ways to ask and to watch it from outside the cluster.

The seat that is fought for is a lock on a file of one claim that all mock models mount: two that overlap end with code 86,
which no time stamp could show, since pods' times are whole seconds.
"""

import functools
import http.client
import http.server
import json
import os
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

from hotseat.api.types import Json
from hotseat.core.messages import Demand, QueuedDemand
from hotseat.engines.mock_server import SEAT_TAKEN
from hotseat.kube.client import Kube
from hotseat.kube.constants import (
    ADMIN_PORT,
    BROKERS,
    CLAIMS,
    DEPLOYMENTS,
    JOBS,
    MODELS,
    NODES,
    PODS,
    PORT,
    SERVICES,
    WORKSPACES,
    Resource,
)

T = TypeVar("T")

KINDS = {
    "broker": BROKERS,
    "deploy": DEPLOYMENTS,
    "jobs": JOBS,
    "ksvc": SERVICES,
    "model": MODELS,
    "nodes": NODES,
    "pod": PODS,
    "pods": PODS,
    "pvc": CLAIMS,
    "scaledobject": Resource("keda.sh/v1alpha1", "ScaledObject", "scaledobjects"),
    "trigger": Resource("eventing.knative.dev/v1", "Trigger", "triggers"),
    "workspace": WORKSPACES,
}
NAMESPACES = Resource("v1", "Namespace", "namespaces", namespaced=False)
SECRETS = Resource("v1", "Secret", "secrets")
ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("HOTSEAT_TEST_IMAGE", "dev.local/hotseat:dev")
GATEWAY = os.environ.get("HOTSEAT_TEST_GATEWAY")  # HOST:PORT of the Knative Services; without it, that of Kourier's pod
# Empty: models take turns without a limit that the scheduler would see, where others use the cluster's GPUs meanwhile.
GPU_RESOURCE = os.environ.get("HOTSEAT_TEST_GPU_RESOURCE", "nvidia.com/gpu")
SEAT = "/cache/seat"
STEP = 0.1  # seconds between two looks

CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: seat}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
"""


@dataclass(frozen=True)
class Answer:
    """What the router said."""

    status: int
    body: Json
    headers: http.client.HTTPMessage  # in any case
    seconds: float

    @property
    def error(self) -> str:
        return json.dumps(self.body.get("error", {}))


def wait_until(look: Callable[[], T], seconds: float = 30.0, what: str = "") -> T:
    """Return what `look` finds as soon as it finds something."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what or look}"
        time.sleep(STEP)
    return found


def model(name: str, *args: str, workspace: str = "default", env: Mapping[str, str] | None = None, **spec: Any) -> Json:
    """Make the document of a mock model that fights for its Workspace's seat."""
    variables = {"HOTSEAT_MOCK_SEAT": f"{SEAT}-{workspace}", **(env or {})}
    base = {"engine": "mock", "workspace": workspace, "args": list(args), "cache": {"existingClaim": "seat"}}
    base["env"] = [{"name": key, "value": value} for key, value in variables.items()]
    return {
        "apiVersion": "hotseat.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": name},
        "spec": {"lifecycle": {"drainTimeout": "20s", "stopTimeout": "2s"}, **base, **spec},
    }


def workspace(name: str = "default") -> Json:
    """Make the document of a Workspace with one GPU."""
    policy = {"maxWait": "10s", "minResidency": "0s"}
    spec = {"capacity": {"gpus": 1}, "policy": policy}
    return {"apiVersion": "hotseat.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": name}, "spec": spec}


class Hotseat:
    """One namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.key = secrets.token_hex(32)
        self.kube = Kube.connect(Path(os.environ["HOTSEAT_TEST_KUBECONFIG"]))
        self.gateway = GATEWAY or self._gateway()

    def _gateway(self) -> str:
        """Find Kourier's pod. Not the machine's port 80, which may be somebody else's."""
        pods = self.kube.get(PODS.path("kourier-system"), labelSelector="app=3scale-kourier-gateway")["items"]
        (address,) = [each["status"]["podIP"] for each in pods if each["status"].get("phase") == "Running"]
        return f"{address}:8080"

    # Objects ----------------------------------------------------------------------------------------------------------

    def kubectl(self, *args: str, given: str | None = None, check: bool = True, timeout: float = 90) -> str:
        """Run kubectl in the namespace; give what it printed. A webhook that does not answer is waited for."""
        command = [os.environ.get("KUBECTL", "kubectl"), "--kubeconfig", os.environ["HOTSEAT_TEST_KUBECONFIG"]]
        until = time.monotonic() + 120
        while True:
            done = subprocess.run(
                [*command, "-n", self.namespace, *args],
                input=given,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            if "failed calling webhook" not in done.stderr or time.monotonic() > until:
                break
            time.sleep(2)
        assert not check or done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
        return done.stdout

    def apply(self, *documents: Json | str) -> None:
        """Apply documents, given as JSON or as YAML text."""
        parts = [each if isinstance(each, str) else json.dumps(each) for each in documents]
        self.kubectl("apply", "-f", "-", given="\n---\n".join(["# as YAML", *parts]))

    def delete(self, kind: str, name: str, *options: str) -> None:
        self.kubectl("delete", kind, name, "--ignore-not-found", *options)

    def get(self, kind: str, name: str = "", selector: str = "") -> Json:
        """Read an object or, without a name, a list; empty where there is none. Not by kubectl: that costs more than all else."""
        path = KINDS[kind].path(self.namespace, name)
        return (self.kube.find(path) or {}) if name else self.kube.get(path, labelSelector=selector)

    def node_address(self) -> str:
        """Return the address of a node. One without a kubelet has none."""
        found = [at for node in self.get("nodes")["items"] for at in node["status"].get("addresses", ())]
        return next(str(each["address"]) for each in found if each["type"] == "InternalIP")

    def status(self, kind: str, name: str) -> Json:
        return self.get(kind, name).get("status", {})

    def condition(self, kind: str, name: str, type_: str) -> Json:
        conditions = self.status(kind, name).get("conditions", [])
        return next((each for each in conditions if each["type"] == type_), {})

    def is_ready(self, service: str) -> bool:
        return self.condition("ksvc", service, "Ready").get("status") == "True"

    def residents(self, workspace: str = "default") -> dict[str, str]:
        """Give the state of each model that holds something of a Workspace."""
        return {r["model"]: r["state"] for r in self.status("workspace", workspace).get("residents", [])}

    def pods(self, label: str) -> list[Json]:
        return list(self.get("pods", selector=label)["items"])

    def pods_of(self, model: str) -> list[Json]:
        return self.pods(f"serving.knative.dev/service={model}")

    def release_held(self, pods: Iterable[Json]) -> None:
        """Let mock engines answer the requests that were to be held (`mock: {hold: true}`)."""
        for pod in pods:
            connection = http.client.HTTPConnection(pod["status"]["podIP"], PORT, timeout=10)
            try:
                connection.request("POST", "/release")
                assert connection.getresponse().status == 200
            finally:
                connection.close()

    def pod_of(self, model: str) -> Json:
        """Return the one pod of a model. Another whose containers have ended may be listed a moment longer."""
        return wait_until(lambda: len(found := self.pods_of(model)) == 1 and found, 20, f"one pod of {model}")[0]

    def state_label(self, model: str) -> str:
        """Give what `kubectl get ksvc -L hotseat.dev/state` shows of a model."""
        line = self.kubectl("get", "ksvc", model, "-L", "hotseat.dev/state", "--no-headers").split()
        return line[-1] if line else ""

    def component(self, name: str) -> Json:
        """Give the pod of `router` or `switcher` that is not going."""
        label = f"app.kubernetes.io/component={name},app.kubernetes.io/part-of=hotseat"

        def look() -> Json | None:
            there = [each for each in self.pods(label) if "deletionTimestamp" not in each["metadata"]]
            return next((each for each in there if each["status"].get("phase") == "Running"), None)

        found = wait_until(look, 60, f"a pod of the {name}")
        assert found
        return found

    def kill(self, component: str) -> Json:
        """Delete the pod of a component, and return it. Without grace, for queue-proxy would keep it for half a minute."""
        pod = self.component(component)
        self.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=1", "--wait=false")
        return pod

    def await_another(self, component: str, former: Json, seconds: float = 60) -> None:
        """Wait until a component has another pod."""
        uid = former["metadata"]["uid"]
        wait_until(lambda: self.component(component)["metadata"]["uid"] != uid, seconds, f"another {component}")

    # Requests ---------------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: Json | None = None, timeout: float = 90) -> Answer:
        """Ask the router through the cluster's gateway; what is for administrators, at its pod."""
        began = time.monotonic()
        public = path.startswith("/v1/") or path in ("/health", "/ready")
        where = self.gateway if public else f"{self.component('router')['status']['podIP']}:{ADMIN_PORT}"
        connection = http.client.HTTPConnection(where, timeout=timeout)
        headers = {"Host": f"hotseat-router.{self.namespace}.localhost", "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        try:
            said = json.loads(content)
        except ValueError:
            said = {"text": content.decode(errors="replace")}
        return Answer(response.status, said, response.headers, time.monotonic() - began)

    def chat(self, model: str, timeout: float = 90, **body: Any) -> Answer:
        messages = [{"role": "user", "content": "hello"}]
        return self.request("POST", "/v1/chat/completions", {"model": model, "messages": messages, **body}, timeout)

    def await_model(self, model: str) -> None:
        """Wait until a model that was just applied has its Service, and the router knows of it."""
        wait_until(lambda: self.get("ksvc", model), 30, f"the Service of {model}")
        wait_until(lambda: self.request("GET", f"/v1/models/{model}").status == 200, 30, f"the router knows {model}")

    def served(self, model: str, seconds: float = 60) -> Answer:
        """Ask until it is served; give that answer."""
        until = time.monotonic() + seconds
        while (answer := self.chat(model, max_tokens=1)).status != 200:
            assert time.monotonic() < until, f"{model}: not served within {seconds:.0f} s; the last answer: {answer}"
            time.sleep(STEP)
        return answer

    def chat_aside(self, model: str, timeout: float = 90, **body: Any) -> "Aside":
        return Aside(lambda: self.chat(model, timeout, **body))

    def post_to_switcher(self, data: Any, signature: str | None, path: str = "/", **attributes: str) -> int:
        """Post a CloudEvent straight at the switcher's pod; give the status."""
        headers = {"Content-Type": "application/json", "ce-specversion": "1.0", "ce-id": secrets.token_hex(4)}
        headers |= {"ce-source": "/test", "ce-type": "dev.hotseat.demand.reported.v1"}
        headers |= {f"ce-{key}": value for key, value in attributes.items()}
        if signature is not None:
            headers["ce-signature"] = signature
        connection = http.client.HTTPConnection(self.component("switcher")["status"]["podIP"], 8080, timeout=10)
        try:
            connection.request("POST", path, json.dumps(data), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    # Proof ------------------------------------------------------------------------------------------------------------

    def overlaps(self) -> list[str]:
        """Name pods whose engine found its seat taken, as far as they are still there to be seen."""
        found = []
        for pod in self.get("pods")["items"]:
            for each in pod["status"].get("containerStatuses", []):
                states = (each.get("state", {}), each.get("lastState", {}))
                if any(state.get("terminated", {}).get("exitCode") == SEAT_TAKEN for state in states):
                    found.append(pod["metadata"]["name"])
        return found


class Aside:
    """A request that a thread makes."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self._answer: Answer | None = None
        self.problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(ask,), daemon=True)
        self._thread.start()

    def _run(self, ask: Callable[[], Answer]) -> None:
        try:
            self._answer = ask()
        except (OSError, http.client.HTTPException) as error:
            self.problem = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self, seconds: float = 90) -> Answer:
        self._thread.join(seconds)
        assert self.done, f"no answer within {seconds} s"
        assert self._answer is not None, f"the connection broke: {self.problem!r}"
        return self._answer


class Guard:
    """Sees every pod of a namespace's life, and knows afterwards whether two engines met on a seat."""

    def __init__(self, hotseat: Hotseat) -> None:
        self._hotseat, self._found, self._end = hotseat, set[str](), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._end.wait(0.5):
            self._found.update(self._hotseat.overlaps())

    @property
    def found(self) -> list[str]:
        return sorted(self._found | set(self._hotseat.overlaps()))


def demand(router: str, seq: int, waiting: Mapping[str, int], seen_epoch: int = 0) -> Demand:
    """Make a snapshot as a router would send it."""
    now = time.monotonic()
    queue = {name: QueuedDemand(count, now, 0) for name, count in waiting.items()}
    return Demand(router, seq, seen_epoch, queue, {}, {}, {}, tuple(waiting))


@functools.cache
def apply_crds() -> None:
    """Apply our CRDs, once in this process."""
    Hotseat("default").kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))


def deploy(namespace: str) -> Hotseat:
    """Put hotseat into a new namespace, without a Workspace, and wait until both of its functions are ready."""
    home = Hotseat(namespace)
    apply_crds()
    # Whatever hotseat makes must pass what Kubernetes calls "restricted".
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    home.kube.create(NAMESPACES.path(), {"metadata": {"name": namespace, "labels": labels}})
    home.kube.create(SECRETS.path(namespace), {"metadata": {"name": "hotseat-demand"}, "stringData": {"key": home.key}})
    manifests = home.kubectl("kustomize", str(ROOT / "knative"))
    manifests = manifests.replace("value: nvidia.com/gpu", f'value: "{GPU_RESOURCE}"')
    home.apply(manifests.replace("dev.local/hotseat:dev", IMAGE), CLAIM)
    wait_until(lambda: home.is_ready("hotseat-router") and home.is_ready("hotseat-switcher"), 120, "both functions")
    return home


def open_workspace(home: Hotseat) -> None:
    """Create the Workspace `default`, and wait until it is ready."""
    home.apply(workspace())
    wait_until(lambda: home.condition("workspace", "default", "Ready").get("status") == "True", 60, "the Workspace")


def deploy_without_knative(home: Hotseat, **settings: str) -> None:
    """Put deployment/ and a Workspace into the namespace, which exists. `settings`: variables of router and switcher."""
    home.kubectl("create", "secret", "generic", "hotseat-demand", f"--from-literal=key={home.key}")
    manifests = home.kubectl("kustomize", str(ROOT / "deployment"))
    manifests = manifests.replace("value: nvidia.com/gpu", f'value: "{GPU_RESOURCE}"')
    parts = [yaml.safe_load(part) for part in manifests.replace("dev.local/hotseat:dev", IMAGE).split("\n---\n")]
    for part in parts:
        if part["kind"] == "ConfigMap":
            part["data"] |= settings
    document = workspace()
    document["spec"]["runtime"] = "Deployment"
    home.apply(*parts, CLAIM, document)
    for name in ("hotseat-router", "hotseat-switcher"):
        home.kubectl("wait", f"deploy/{name}", "--for=condition=Available", "--timeout=80s")


def listed(home: Hotseat) -> set[str]:
    """Return the Models that the router knows, asked at the address of its pod."""
    url = f"http://{home.component('router')['status']['podIP']}:8080/v1/models"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return {each["id"] for each in json.load(answer)["data"]}


class PodServer:
    """A server on this machine that pods reach. Each POST is given to `take`, with its headers and its body."""

    def __init__(self, home: Hotseat) -> None:
        take = self.take

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                take(self.headers, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.url = f"http://{home.node_address()}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, headers: Message, body: bytes) -> None:
        """Keep what is worth it."""
        raise NotImplementedError

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Sink(PodServer):
    """Keeps type and source of the CloudEvents that it gets."""

    def __init__(self, home: Hotseat) -> None:
        self.events: list[tuple[str, str]] = []
        super().__init__(home)

    def take(self, headers: Message, body: bytes) -> None:
        self.events.append((headers["ce-type"], headers["ce-source"]))


def destroy(home: Hotseat, *, failed: bool) -> None:
    """Delete the namespace; say what the switcher wrote first where something went wrong."""
    if failed:
        for component in ("switcher", "router"):
            label = f"app.kubernetes.io/component={component}"
            log = home.kubectl("logs", "-l", label, "-c", component, "--tail=60", check=False)
            sys.stdout.write(f"--- {component}\n{log}\n")
    home.kubectl("delete", "namespace", home.namespace, "--wait=false")


def lines_of(text: str) -> Iterator[list[str]]:
    """Split a table of kubectl."""
    for line in text.splitlines():
        yield line.split()
