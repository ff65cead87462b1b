"""Find a cluster and its router, with nothing but a kubeconfig.

`kubectl port-forward` forwards a port to the admin port of one of the router's pods. If admin routes have no port of their
own, the router's own address is used if it answers.
"""

import re
import shutil
import subprocess
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import click
import urllib3

from hotseat.api.types import Json
from hotseat.cli.client import ClientError
from hotseat.kube.client import Kube, KubeError
from hotseat.kube.components import ROUTER, Component, find_component
from hotseat.kube.constants import PODS
from hotseat.kube.pods import condition

HEALTH_TIMEOUT: Final = 1.0  # seconds for a health check of the router
FORWARD_TIMEOUT: Final = 10.0  # seconds until kubectl must report its port
_LISTENING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Options that select a cluster. None uses the kubeconfig."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None

    def connect(self) -> Kube:
        """Return a client for the API server, without a request.

        Raise KubeError with status 0 without a kubeconfig.
        """
        return Kube.connect(self.kubeconfig, self.context)


def router_url(ctx: click.Context, cluster: Cluster) -> str:
    """Find an address of the router of a namespace. It is valid until the command ends."""
    try:
        kube = cluster.connect()
        namespace = cluster.namespace or kube.namespace
        router = find_component(kube, namespace, ROUTER)
        if router is None:
            hint = "use another --namespace, or run `kubectl hotseat doctor`"
            raise ClientError(f"namespace {namespace} has no router; {hint}")
        if router.admin_port is None and router.url and _answers(router.url):
            return router.url
        pods = kube.get(PODS.path(namespace), labelSelector=router.selector)["items"]
    except KubeError as error:
        raise ClientError(f"the router cannot be found: {error}") from error
    return _forward(ctx, cluster, namespace, router, _serving_pod(router, pods))


def _answers(url: str) -> bool:
    """Return whether a hotseat answers there within a second."""
    try:
        with urllib3.PoolManager(retries=False) as pool:
            response = pool.request("GET", f"{url}/health", timeout=HEALTH_TIMEOUT)
            return response.status == 200 and response.json().get("status") == "ok"  # noqa: PLR2004
    except (urllib3.exceptions.HTTPError, ValueError, AttributeError):
        return False


def _serving_pod(router: Component, pods: list[Json]) -> str:
    """Return the youngest ready pod, which belongs to the newest Revision."""
    ready = [
        pod["metadata"]
        for pod in pods
        if condition(pod, "Ready").get("status") == "True" and "deletionTimestamp" not in pod["metadata"]
    ]
    if not ready:
        raise ClientError(f"no pod of {router.name} is ready; run `kubectl hotseat doctor`")
    return str(max(ready, key=lambda meta: meta["creationTimestamp"])["name"])


def _forward(ctx: click.Context, cluster: Cluster, namespace: str, router: Component, pod: str) -> str:
    """Forward a free local port to a pod by kubectl, until the command ends."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise ClientError(
            "the router is reached by kubectl port-forward, and kubectl is not installed; install it, or use --url"
        )
    command = [kubectl, f"--namespace={namespace}"]
    command += [f"--kubeconfig={cluster.kubeconfig}"] if cluster.kubeconfig else []
    command += [f"--context={cluster.context}"] if cluster.context else []
    command += ["port-forward", "--address=127.0.0.1", f"pod/{pod}", f":{router.admin_port or router.port}"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C in `chat` must not end the port-forward
    )
    ctx.find_root().call_on_close(lambda: _end(process))
    return f"http://127.0.0.1:{_port(process)}"


def _port(process: subprocess.Popen[str]) -> str:
    """Read the port from the output of kubectl, and keep reading so that kubectl never blocks."""
    output = process.stdout
    assert output is not None  # noqa: S101 - it is a pipe
    late = threading.Timer(FORWARD_TIMEOUT, process.kill)
    late.start()
    lines: list[str] = []
    try:
        for line in output:
            if match := _LISTENING.match(line):
                threading.Thread(target=_drain, args=(output,), name="kubectl", daemon=True).start()
                return match[1]
            lines.append(line.strip())
    finally:
        late.cancel()
    output.close()
    raise ClientError(f"kubectl port-forward failed: {' '.join(lines) or f'no output in {FORWARD_TIMEOUT:.0f} s'}")


def _drain(output: IO[str]) -> None:
    with output:
        deque(output, maxlen=0)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2.0)
        return
    process.kill()
    process.wait()
