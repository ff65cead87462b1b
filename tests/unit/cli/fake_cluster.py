"""An API server that says what a test tells it to, with a cluster in it where everything is as hotseat needs it."""

import json

import yaml

from hotseat.manifests.crd import definition

NAMESPACE = "models"
SERVING = "/api/v1/namespaces/knative-serving/configmaps"
KSVC = f"/apis/serving.knative.dev/v1/namespaces/{NAMESPACE}/services"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/demand"
KEYS = f"/api/v1/namespaces/{NAMESPACE}/secrets/clients"
EVENTING = f"/apis/eventing.knative.dev/v1/namespaces/{NAMESPACE}"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

FEATURES = (
    "persistent-volume-claim", "persistent-volume-write", "nodeselector", "tolerations", "runtimeclassname",
    "init-containers", "securitycontext", "affinity",
)  # fmt: skip


def condition(kind, status="True", **more):
    return {"status": {"conditions": [{"type": kind, "status": status, **more}]}}


def deployment(name, namespace, version):
    labels = {"app.kubernetes.io/version": version}
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}, **condition("Available")}


def ksvc(name, url="http://127.0.0.1:9", image="registry.example.com/hotseat@sha256:00", **env):
    env = {"HOTSEAT_BROKER_URL": "http://broker-ingress/{namespace}/default"} | env
    pod = {
        "serviceAccountName": name,
        "containers": [
            {
                "image": image,
                "env": [{"name": key, "value": value} for key, value in env.items()],
                "volumeMounts": [
                    {"name": "key", "mountPath": "/etc/hotseat/demand"},
                    {"name": "keys", "mountPath": "/etc/hotseat/keys", "readOnly": True},
                ],
            }
        ],
        "volumes": [
            {"name": "key", "secret": {"secretName": "demand"}},
            {"name": "keys", "secret": {"secretName": "clients", "optional": True}},
        ],
    }
    body = {"metadata": {"name": name}, "spec": {"template": {"spec": pod}}, **condition("Ready")}
    body["status"]["url"] = url
    return body


def config(name, **data):
    return {"metadata": {"name": name}, "data": data}


def node(name="node-1", gpus=2, resource="nvidia.com/gpu", **spec):
    body = {"metadata": {"name": name}, "spec": spec, **condition("Ready")}
    body["status"]["allocatable"] = {resource: str(gpus)}
    return body


def workspace(gpus=1):
    return {"metadata": {"name": "default"}, "spec": {"capacity": {"gpus": gpus}}}


def model(**spec):
    return {"metadata": {"name": "gemma"}, "spec": {"engine": "mock", **spec}}


def items(*found):
    return {"items": list(found)}


def trigger():
    spec = {"broker": "default", "filter": {"attributes": {"type": "dev.hotseat.demand.reported.v1"}}}
    return {"metadata": {"name": "hotseat-demand"}, "spec": spec, **condition("Ready")}


def crd(kind):
    return {**definition(kind), **condition("Established")}


def good_cluster():
    """Answers of an API server where nothing is wrong."""
    features = {f"kubernetes.podspec-{name}": "enabled" for name in FEATURES}
    known = {
        "/version": {"gitVersion": "v1.35.4"},
        "/apis/apps/v1/namespaces/knative-serving/deployments/controller": deployment(
            "controller", "knative-serving", "1.23.0"
        ),
        "/apis/apps/v1/namespaces/knative-eventing/deployments/eventing-controller": deployment(
            "eventing-controller", "knative-eventing", "1.22.1"
        ),
        f"{SERVING}/config-features": config("config-features", **features),
        f"{SERVING}/config-autoscaler": config("config-autoscaler", **{"allow-zero-initial-scale": "true"}),
        f"{SERVING}/config-defaults": config("config-defaults", **{"max-revision-timeout-seconds": "7200"}),
        f"{SERVING}/config-deployment": config("config-deployment", **{"pod-is-always-schedulable": "true"}),
        f"{SERVING}/config-kourier": {"metadata": {"name": "config-kourier"}},
        "/apis/storage.k8s.io/v1/storageclasses": items(
            {"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}
        ),
        "/api/v1/nodes": items(node()),
        "/apis/hotseat.dev/v1alpha1/workspaces": items(workspace()),
        "/apis/hotseat.dev/v1alpha1/models": items(model()),
        f"{EVENTING}/brokers": items({"metadata": {"name": "default"}, **condition("Ready")}),
        f"{EVENTING}/triggers": items(trigger()),
        f"{KSVC}/hotseat-router": ksvc("hotseat-router", HOTSEAT_API_KEY_FILE="/etc/hotseat/keys/keys"),
        f"{DEPLOYMENT}/hotseat-switcher": switcher(),
        SECRET: {"metadata": {"name": "demand"}, "data": {"key": "c2VjcmV0LXNlY3JldC1zZWNyZXQ="}},
        KEYS: {"metadata": {"name": "clients"}, "data": {"keys": "c2VjcmV0LWNsaWVudA=="}},
        f"{CRD}/models.hotseat.dev": crd("Model"),
        f"{CRD}/workspaces.hotseat.dev": crd("Workspace"),
    }
    for name in (
        "services.serving.knative.dev",
        "revisions.serving.knative.dev",
        "podautoscalers.autoscaling.internal.knative.dev",
        "serverlessservices.networking.internal.knative.dev",
        "brokers.eventing.knative.dev",
        "triggers.eventing.knative.dev",
    ):
        known[f"{CRD}/{name}"] = {"metadata": {"name": name}}
    answers = {f"GET {path}": body for path, body in known.items()}
    return answers | {f"POST {REVIEWS}": {"status": {"allowed": True}}}


def switcher(**env):
    """The switcher as a Deployment."""
    body = ksvc("hotseat-switcher", **env)
    body["spec"]["selector"] = {"matchLabels": {"app": "switcher"}}
    return {**body, **condition("Available")}


def refusal(status, reason, message):
    """An error in the API server's shape."""
    return status, {"kind": "Status", "code": status, "reason": reason, "message": message}, {}


FORBIDDEN = refusal(403, "Forbidden", 'User "ada" may not do that')


def kubeconfig(path, server, namespace=NAMESPACE):
    """Write a kubeconfig with one context, `test`."""
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": {"server": server}}],
                "users": [{"name": "ada", "user": {"token": "of-ada"}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "ada", "namespace": namespace}}],
                "current-context": "test",
            }
        )
    )
    return path


def copied(body):
    return json.loads(json.dumps(body))
