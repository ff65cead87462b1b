"""Runtime of one namespace: instances are pods of the Deployments that the switcher makes of Models."""

from hotseat.runtimes.deployment.adapter import DeploymentAdapter
from hotseat.runtimes.kubernetes.runtime import PodRuntime


class DeploymentRuntime(PodRuntime):
    """PodRuntime for Deployments."""

    adapter_type = DeploymentAdapter
