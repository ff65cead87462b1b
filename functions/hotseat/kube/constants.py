"""Labels, annotations, kinds of objects, and paths and variables of containers."""

from dataclasses import dataclass, field
from typing import Final

from hotseat.api.workspace import PodPlacement

GROUP: Final = "hotseat.dev"
VERSION: Final = "v1alpha1"
MANAGER: Final = "hotseat"  # field manager of server-side apply

AUTOSCALING_CLASS: Final = "gpu.hotseat.dev"
CLASS_ANNOTATION: Final = "autoscaling.knative.dev/class"

# Labels. WORKSPACE makes a Knative Service or a Deployment a model of that Workspace. STATE is for `kubectl get
# ksvc -L hotseat.dev/state -w`.
WORKSPACE: Final = "hotseat.dev/workspace"
MODEL: Final = "hotseat.dev/model"
DEPLOYMENT: Final = "hotseat.dev/deployment"  # on a Model's Deployment and its pods: the name of the Deployment
SCALED_BY: Final = "hotseat.dev/scaled-by"  # on both, if it is not the switcher who scales the Deployment
STATE: Final = "hotseat.dev/state"
# Annotations.
ENDPOINT: Final = "hotseat.dev/endpoint"  # of a Knative Service: where requests go
FINGERPRINT: Final = "hotseat.dev/fingerprint"  # of the documents from which an object was made
SETTLED: Final = "hotseat.dev/settled"  # on a Workspace: uids of pods that are gone, according to a user

# KEDA's. PAUSED_REPLICAS keeps a Deployment at that number of replicas, whatever the scaler says.
KEDA: Final = "KEDA"  # value of SCALED_BY
PAUSED_REPLICAS: Final = "autoscaling.keda.sh/paused-replicas"
PAUSED: Final = "autoscaling.keda.sh/paused"
SCALER_PORT: Final = 8090  # of the switcher, unless HOTSEAT_SCALER_PORT sets another; queue-proxy has 9090
SCALER_ADDRESS: Final = f"hotseat-scaler.{{namespace}}.svc:{SCALER_PORT}"  # KEDA's operator is in another namespace

# Labels of Knative on the pods, Deployments and PodAutoscalers of a Knative Service.
SERVICE: Final = "serving.knative.dev/service"
REVISION: Final = "serving.knative.dev/revision"

ADMIN_PORT: Final = 8081  # of the router, unless HOTSEAT_ADMIN_PORT sets another
NOT_OF_KNATIVE: Final = f"!{REVISION}"  # selector: no Deployment or pod of a Knative Service

QUEUE_PORT: Final = 8012  # of queue-proxy, in each pod


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of objects in the API."""

    api: str  # v1, or group/version
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of the collection, an object, or a subresource. Without a namespace: of all namespaces."""
        root = f"/api/{self.api}" if "/" not in self.api else f"/apis/{self.api}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        tail = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{root}{scope}/{self.plural}{tail}"


MODELS: Final = Resource(f"{GROUP}/{VERSION}", "Model", "models")
WORKSPACES: Final = Resource(f"{GROUP}/{VERSION}", "Workspace", "workspaces")
PODS: Final = Resource("v1", "Pod", "pods")
CLAIMS: Final = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
EVENTS: Final = Resource("v1", "Event", "events")
CONFIG_MAPS: Final = Resource("v1", "ConfigMap", "configmaps")
NODES: Final = Resource("v1", "Node", "nodes", namespaced=False)
JOBS: Final = Resource("batch/v1", "Job", "jobs")
DEPLOYMENTS: Final = Resource("apps/v1", "Deployment", "deployments")
AUTOSCALERS: Final = Resource("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
REPLICA_SETS: Final = Resource("apps/v1", "ReplicaSet", "replicasets")
LEASES: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
CORE_SERVICES: Final = Resource("v1", "Service", "services")  # Kubernetes' own
STORAGE_CLASSES: Final = Resource("storage.k8s.io/v1", "StorageClass", "storageclasses", namespaced=False)
CRDS: Final = Resource(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
SERVICES: Final = Resource("serving.knative.dev/v1", "Service", "services")  # Knative's
POD_AUTOSCALERS: Final = Resource("autoscaling.internal.knative.dev/v1alpha1", "PodAutoscaler", "podautoscalers")
SERVERLESS_SERVICES: Final = Resource(
    "networking.internal.knative.dev/v1alpha1", "ServerlessService", "serverlessservices"
)
SCALED_OBJECTS: Final = Resource("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
BROKERS: Final = Resource("eventing.knative.dev/v1", "Broker", "brokers")


CACHE: Final = "/cache"  # mount path of the cache in each container
PROMPTS: Final = ".hotseat-prompts"  # directory in the cache for saved prompt caches, with one for each Model
WEIGHTS: Final = "/weights"  # mount path of the volume of a pvc:// source
TERMINATION_LOG: Final = "/dev/termination-log"
USER: Final = 65532  # user and group of all our containers, so that the engine owns the files of the fetch Job
PORT: Final = 8080  # of an engine, unless its Model sets another

# Environment of `hotseat.kube.engine_entrypoint`.
MODEL_VARIABLE: Final = "HOTSEAT_MODEL"
CACHE_VARIABLE: Final = "HOTSEAT_CACHE_DIR"
WEIGHTS_VARIABLE: Final = "HOTSEAT_WEIGHTS"  # path of weights outside of the cache
PROMPTS_VARIABLE: Final = "HOTSEAT_PROMPTS"  # how prompt caches are kept in the cache; not set: none are


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Settings of one switcher, or of one Workspace of it (`hotseat.kube.placement.in_workspace`)."""

    image: str  # of hotseat itself
    namespace: str
    gpu_resource: str = "nvidia.com/gpu"  # "": pods request no GPUs, so kube-scheduler does not count them
    pull_secrets: tuple[str, ...] = ()  # for the pods of all Models and of their fetch Jobs
    storage_class: str = ""  # of caches whose Model names none; "": the cluster's default
    cache_size: int = 50 * 1024**3  # bytes of a cache whose Model states no size
    request_timeout: int = 3600  # seconds that a request may take; at most Knative's max-revision-timeout-seconds
    progress_deadline: int = 600  # seconds; longer for a Model whose startTimeout needs it
    fetch_environment: str = ""  # ConfigMap whose values are environment variables of fetch Jobs; need not exist
    placement: PodPlacement = field(default_factory=PodPlacement)
    user: int | None = USER  # user and group of the containers; None: the cluster assigns them, as OpenShift does
    service_accounts: tuple[str, ...] = ()  # that a podTemplate may name, beside default
    scaler_address: str = SCALER_ADDRESS  # at which KEDA calls the switcher
    scaler_tls: bool = False  # whether KEDA calls it by TLS
    keep_prompts: float | None = None  # seconds for which prompt caches are kept without use; None: none are
    scaler_authentication: str = ""  # TriggerAuthentication with the certificates that KEDA uses; "": none
