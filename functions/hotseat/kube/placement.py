"""Settings of a Workspace for the pods of its Models: where they may run, engines and fetch Jobs alike. No I/O."""

from dataclasses import replace

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import PromptStorage, Workspace
from hotseat.kube.constants import ClusterSettings


def in_workspace(settings: ClusterSettings, workspace: Workspace | None) -> ClusterSettings:
    """Return the settings for the Models of a Workspace; None: it does not exist."""
    if workspace is None:
        return settings
    placement, prompts = workspace.spec.placement, workspace.spec.prompt_cache
    return replace(
        settings,
        placement=placement,
        gpu_resource=placement.resource_name or settings.gpu_resource,
        keep_prompts=prompts.keep if prompts.storage is PromptStorage.DISK else None,
    )


def placement_fields(settings: ClusterSettings) -> Json:
    """Return the fields of a pod's spec that the placement sets. A podTemplate is merged over them."""
    fields = {"node_selector", "tolerations", "affinity", "runtime_class_name"}
    return settings.placement.model_dump(mode="json", by_alias=True, include=fields, exclude_defaults=True)


def tolerate_gpu_taint(pod: Json, model: Model, settings: ClusterSettings) -> None:
    """Add the toleration of nodes with GPUs, which are often tainted with the name of the resource.

    The admission plugin ExtendedResourceToleration would add it to pods that request GPUs, but few
    clusters enable it, and the pod of a fetch requests none.
    """
    if model.spec.resources.gpus and settings.gpu_resource:
        tolerated = {"key": settings.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}
        others = pod.get("tolerations") or []
        pod["tolerations"] = [*others, tolerated] if tolerated not in others else others
