"""A switcher over an API server in memory, with as much of Knative behind it as makes Revisions of Services."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from hotseat.api.types import Json
from hotseat.cluster.demand_keys import DemandKeys
from hotseat.cluster.functions import FunctionSettings
from hotseat.cluster.switcher import app as switcher
from hotseat.cluster.switcher import applied_objects, runtimes
from hotseat.cluster.switcher.app import SwitcherApp
from hotseat.control.codec import residency_from_status
from hotseat.core.errors import Unavailable
from hotseat.core.messages import Demand, QueuedDemand
from hotseat.kube.client import Kube
from hotseat.kube.constants import (
    DEPLOYMENTS,
    FINGERPRINT,
    JOBS,
    MODELS,
    REVISION,
    SERVICES,
    WORKSPACES,
    ClusterSettings,
)
from hotseat.runtimes.deployment.runtime import DeploymentRuntime
from hotseat.runtimes.keda.runtime import KedaRuntime
from hotseat.runtimes.knative.runtime import KnativeRuntime
from tests.fake_kube import NS, FakeCluster, _in, merged

SETTINGS = FunctionSettings(
    namespace=NS, broker="", switcher="", key=DemandKeys(b"k" * 16), objects=ClusterSettings("hotseat:1", ""),
    port=0, admin_port=None, pod="switcher-0", log_level="info", max_requests=1,
)  # fmt: skip


class Api(FakeCluster):
    """Makes a Revision of each new template of a ksvc. Its pods have the annotations of the template."""

    def __init__(self) -> None:
        super().__init__()
        self.lively = True
        self._revisions: dict[str, list[Json]] = {}

    def control(self, at: str) -> None:
        super().control(at)
        template = self.objects[at].get("spec", {}).get("template") if _in(at, SERVICES.path(NS)) else None
        if template is None:
            return
        name = self.objects[at]["metadata"]["name"]
        known = self._revisions.setdefault(name, [])
        if not known or known[-1] != template:
            known.append(template)
            self.add_service(name, revision=f"{len(known):05}", labelled=False)
        status = {"observedGeneration": self.objects[at]["metadata"]["generation"]}
        self.put(at, merged(self.objects[at], {"status": status}))

    def arguments(self, pod: Json) -> str:
        """Give the command line of a pod's engine."""
        model, _, number = pod["metadata"]["labels"][REVISION].rpartition("-")
        engine = self._revisions[model][int(number) - 1]["spec"]["containers"][0]
        return " ".join([*engine.get("command", ()), *engine.get("args", ())])

    def annotate_pods(self, model: str) -> None:
        """Give the pods the fingerprint of the newest template, as controllers do."""
        deployment = self.objects.get(DEPLOYMENTS.path(NS, model))
        template = deployment["spec"]["template"] if deployment else self._revisions[model][-1]
        fingerprint = template["metadata"]["annotations"][FINGERPRINT]
        for pod in self.pods(model):
            self._change(pod, {"metadata": {"annotations": {FINGERPRINT: fingerprint}}})


class Home:
    """A namespace with one Workspace, whose switcher can be restarted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kube = Api()
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(Kube, "connect", lambda: self.kube)
        monkeypatch.setattr(runtimes, "KnativeRuntime", partial(KnativeRuntime, probe=self.kube.ask))
        monkeypatch.setattr(runtimes, "DeploymentRuntime", partial(DeploymentRuntime, probe=self.kube.ask))
        monkeypatch.setattr(runtimes, "KedaRuntime", partial(KedaRuntime, probe=self.kube.ask))
        for module in (switcher, applied_objects):
            monkeypatch.setattr(module, "RETRY", 0.05)
        self.seq = 0
        self.write_workspace({"capacity": {"gpus": 1}})

    def start(self) -> None:
        self.app = SwitcherApp(SETTINGS)
        self.app._lead()

    def stop(self) -> None:
        self.app.close()
        for each in self.app._watchers:
            each.stop()

    def close(self) -> None:
        self.stop()
        self.kube.close()

    # Documents --------------------------------------------------------------------------------------------------------

    def write_workspace(self, spec: Json) -> None:
        at = WORKSPACES.path(NS, "default")
        old = self.kube.objects.get(at, {})
        self.kube.put(at, {**old, "metadata": {**old.get("metadata", {}), "name": "default"}, "spec": spec})

    def write(self, name: str, *, created: str = "", **spec: Any) -> None:
        at = MODELS.path(NS, name)
        old = self.kube.objects.get(at, {})
        meta = {**old.get("metadata", {}), "name": name, **({"creationTimestamp": created} if created else {})}
        self.kube.put(at, {**old, "metadata": meta, "spec": {"engine": "mock", **spec}})

    # Reading ----------------------------------------------------------------------------------------------------------

    def until(self, found: Callable[[], Any]) -> Any:
        """Return what is found as soon as it is: after each change, and every second, as a router repeats its report."""
        end = time.monotonic() + 30
        with self.kube.changed:
            while not (answer := found()):
                assert time.monotonic() < end
                self.kube.changed.wait(1.0)
            return answer

    def conditions(self, name: str, resource: Any = MODELS) -> dict[str, Json]:
        status = self.kube.objects[resource.path(NS, name)].get("status") or {}
        return {each["type"]: each for each in status.get("conditions") or ()}

    def condition(self, name: str, reason: str, kind: str = "Ready", resource: Any = MODELS) -> Json:
        """Wait for a condition with this reason."""
        found = self.until(
            lambda: (c := self.conditions(name, resource).get(kind)) is not None and c["reason"] == reason and c
        )
        return dict(found)

    def jobs(self) -> list[Json]:
        """Give the fetch Jobs that have not ended."""
        jobs = [each for at, each in self.kube.objects.items() if _in(at, JOBS.path(NS))]
        return [each for each in jobs if not (each.get("status") or {}).get("conditions")]

    def finish_jobs(self, path: str) -> None:
        """Let all fetch Jobs end. They report this path of the weights."""
        done = {"conditions": [{"type": "Complete", "status": "True"}]}
        for job in self.jobs():
            at = JOBS.path(NS, job["metadata"]["name"])
            self.kube.merge(at, {"metadata": {"annotations": {"hotseat.dev/path": path}}, "status": done})

    def status(self) -> Json:
        return self.kube.objects[WORKSPACES.path(NS, "default")].get("status") or {}

    def residents(self) -> list[tuple[str, str]]:
        return [(each["model"], each["state"]) for each in self.status().get("residents") or ()]

    # Clients ----------------------------------------------------------------------------------------------------------

    def ask(self, *models: str) -> None:
        """Report one queued request for each of these models, as a router does."""
        self.seq += 1
        epoch = residency_from_status(self.status()).epoch if self.status() else 0
        waiting = {model: QueuedDemand(1, 0.0, 0) for model in models}
        self.send(Demand("router-1", self.seq, epoch, waiting))

    def send(self, demand: Demand) -> None:
        """Report demand, once the switcher leads."""
        while True:
            try:
                self.app._report_demand("default", demand, "", False)
                return
            except Unavailable:
                with self.kube.changed:
                    self.kube.changed.wait(0.05)

    def load(self, model: str) -> None:
        """Load a model, and wait until it is ready."""
        self.until(lambda: any(row["name"] == model for row in self.status().get("models") or ()))
        self.app._controllers["default"].load(model, 0)
        self.until(lambda: (self.seq and self.ask()) or (model, "ready") in self.residents())
        self.kube.annotate_pods(model)

    def refusal(self, model: str) -> Json:
        """Wait for the refusal of a model's requests, as routers are told."""
        return dict(
            self.until(lambda: next((r for r in self.status().get("refusals") or () if r["model"] == model), None))
        )
