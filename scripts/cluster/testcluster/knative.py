"""Installing CoreDNS, Knative and KEDA from the manifests of their pinned modules."""

import json
import pathlib
import re
import subprocess
from typing import Any

import yaml

from testcluster.building import image_of, module_dir
from testcluster.settings import BIN, DNS_IP, HERE, KEDA, KUBECONFIG, MODULES
from testcluster.shell import kubectl, output

Json = dict[str, Any]
SETTINGS = HERE / "knative-settings.yaml"
NOT_NEEDED = ("HorizontalPodAutoscaler", "PodDisruptionBudget")
COREFILE = """.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa { pods insecure
      ttl 5
    }
    cache 5
}
"""


def manifests(*paths: pathlib.Path) -> list[Json]:
    """Read these files and folders, and make what they hold fit for a small machine without an image registry."""
    settings = {each["metadata"]["name"]: each["data"] for each in yaml.safe_load_all(SETTINGS.read_text())}
    documents = []
    for path in paths:
        for file in sorted(path.rglob("*.yaml")) if path.is_dir() else [path]:
            text = re.sub(r"ko://([\w./-]+)", lambda found: image_of(found[1]), file.read_text())
            text = text.replace("docker.io/envoyproxy/envoy:v1.36-latest", "dev.local/envoy:test")
            documents += [fit(document, settings) for document in yaml.safe_load_all(text) if document]
    return [document for document in documents if document["kind"] not in NOT_NEEDED]


def fit(document: Json, settings: dict[str, Json]) -> Json:
    """Drop the resource requests that two cores have no room for, probe often, and lay our settings over the release's."""
    if document["kind"] == "ConfigMap" and document["metadata"]["name"] in settings:
        document["data"] = {**document.get("data", {}), **settings[document["metadata"]["name"]]}
    if document["kind"] in ("Deployment", "StatefulSet"):
        for container in document["spec"]["template"]["spec"]["containers"]:
            container.pop("resources", None)
            for variable in container.get("env", []):
                if variable.get("valueFrom", {}).get("configMapKeyRef"):  # images of parts that are not built here
                    del variable["valueFrom"]
                    variable["value"] = "not-built"
            for probe in ("readinessProbe", "livenessProbe"):
                container.get(probe, {}).pop("initialDelaySeconds", None)
            if "readinessProbe" in container:
                container["readinessProbe"]["periodSeconds"] = 1
    return document


def apply(documents: list[Json]) -> None:
    command = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    kubectl(*command, input=yaml.safe_dump_all(documents), stdout=subprocess.DEVNULL)


def apply_release(documents: list[Json]) -> None:
    """Apply definitions first, the rest once they hold."""
    definitions = [document for document in documents if document["kind"] in ("CustomResourceDefinition", "Namespace")]
    apply(definitions)
    established = ("--for=condition=Established", "crd", "--all", "--timeout=60s")
    kubectl("wait", *established, stdout=subprocess.DEVNULL)
    apply([document for document in documents if document not in definitions])


def wait_deployments(namespace: str, seconds: int = 240) -> None:
    """Wait for every deployment that wants pods."""
    command = ("--kubeconfig", KUBECONFIG, "get", "deployments", "-n", namespace, "-o", "json")
    found = json.loads(output(BIN / "kubectl", *command))["items"]
    names = [f"deployment/{item['metadata']['name']}" for item in found if item["spec"]["replicas"]]
    options = ("--for=condition=Available", *names, "-n", namespace, f"--timeout={seconds}s")
    kubectl("wait", *options, stdout=subprocess.DEVNULL)


def install_dns() -> None:
    meta = {"name": "coredns", "namespace": "kube-system"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"}
    rbac = "rbac.authorization.k8s.io/v1"
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    subjects = [{"kind": "ServiceAccount", **meta}]
    provisioner = "kubernetes.io/host-path"
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "coredns"}, "rules": rules},
        {"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "coredns"}, "roleRef": role, "subjects": subjects},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"Corefile": COREFILE}},
        *dns_server(meta),
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": provisioner,
         "metadata": {"name": "hostpath", "annotations": default}},
    ])  # fmt: skip


def dns_server(meta: Json) -> list[Json]:
    labels = {"k8s-app": "kube-dns"}
    container = {
        "name": "coredns",
        "image": "dev.local/coredns:test",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
        "securityContext": {"runAsUser": 0},
    }
    volumes = [{"name": "config", "configMap": {"name": "coredns"}}]
    pod = {"serviceAccountName": "coredns", "dnsPolicy": "Default", "containers": [container], "volumes": volumes}
    template = {"metadata": {"labels": labels}, "spec": pod}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
         "spec": {"selector": {"matchLabels": labels}, "template": template}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {**meta, "name": "kube-dns"},
         "spec": {"selector": labels, "clusterIP": DNS_IP, "ports": ports}},
    ]  # fmt: skip


def install_serving() -> None:
    core, networking = (
        module_dir("knative.dev/serving") / "config/core",
        module_dir("knative.dev/networking") / "config",
    )
    apply_release(manifests(core, networking, module_dir("knative.dev/caching") / "config"))
    apply(manifests(module_dir("knative.dev/net-kourier") / "config"))
    patch = [
        {"op": "add", "path": "/spec/template/spec/containers/0/ports/0/hostPort", "value": 80},
        {"op": "replace", "path": "/spec/strategy", "value": {"type": "Recreate"}},
    ]
    options = ("-n", "kourier-system", "--type=json", "-p", json.dumps(patch))
    kubectl("patch", "deployment", "3scale-kourier-gateway", *options, stdout=subprocess.DEVNULL)
    wait_deployments("knative-serving")
    wait_deployments("kourier-system")


def install_eventing() -> None:
    config = module_dir("knative.dev/eventing") / "config"
    documents = manifests(config / "core", config / "channels/in-memory-channel", config / "brokers/mt-channel-broker")
    apply_release([each for each in documents if "image: dev.local/not-built" not in yaml.safe_dump(each)])
    wait_deployments("knative-eventing")


def install_keda() -> None:
    config = module_dir(KEDA, MODULES["keda"][0]) / "config/minimal"
    text = output(BIN / "kubectl", "kustomize", config)
    documents = [fit(document, {}) for document in yaml.safe_load_all(text) if document]
    names = {"keda-operator": "keda-operator", "keda-metrics-apiserver": "keda-adapter"}
    for document in documents:
        if document["kind"] == "Deployment":
            name = names[document["metadata"]["name"]]
            container = document["spec"]["template"]["spec"]["containers"][0]
            container.update(image=f"dev.local/{name}:test", imagePullPolicy="IfNotPresent", command=[f"/{name}"])
    apply_release(documents)
    wait_deployments("keda")
