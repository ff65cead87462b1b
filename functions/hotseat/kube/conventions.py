"""What a cluster's administrator decides for all Models of a namespace, and what the containers of hotseat agree on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CACHE: Final = "/cache"  # where each container finds the cache
WEIGHTS: Final = "/weights"  # where it finds the claim of a pvc:// source
TERMINATION_LOG: Final = "/dev/termination-log"
USER: Final = 65532  # user and group of all our containers: files that the fetch Job wrote are the engine's own
PORT: Final = 8080  # that an engine listens on, unless its Model names another

# Environment by which `hotseat.kube.run` learns what to run.
MODEL_VARIABLE: Final = "HOTSEAT_MODEL"
CACHE_VARIABLE: Final = "HOTSEAT_CACHE_DIR"
WEIGHTS_VARIABLE: Final = "HOTSEAT_WEIGHTS"  # a path that needs no cache


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Settings of one switcher."""

    image: str  # hotseat's own
    namespace: str
    gpu_resource: str = "nvidia.com/gpu"  # "": Models take turns without a limit that a scheduler would see
    claim_size: int = 50 * 1024**3  # bytes, where a Model states none
    storage_class: str | None = None  # None: the cluster's default
    timeout: int = 3600  # seconds a request may take; at most Knative's max-revision-timeout-seconds
    progress_deadline: int = 600  # seconds; longer for a Model whose startTimeout needs it
    pull_secrets: tuple[str, ...] = ()  # for hotseat's own image
    environment: Mapping[str, str] | None = None  # of every engine and fetch: proxies, HF_ENDPOINT
