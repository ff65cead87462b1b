"""Runtime of one namespace: instances are pods of Knative Services, which are scaled up and deleted by uid."""

from hotseat.runtimes.knative.adapter import KnativeAdapter
from hotseat.runtimes.kubernetes.runtime import PodRuntime


class KnativeRuntime(PodRuntime):
    """PodRuntime for Knative Services."""

    adapter_type = KnativeAdapter
