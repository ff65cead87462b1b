"""A ksvc or a Deployment that carries our label is a Model without any Model object."""

from typing import Any

import pytest

from hotseat.api.model import Capability
from hotseat.kube.adoption import adopt, adopt_deployment, is_adopted

GPU = "nvidia.com/gpu"
CLASS = {"autoscaling.knative.dev/class": "gpu.hotseat.dev"}


def service(
    annotations: dict[str, str] | None = None, *, template: dict[str, str] | None = None, **pod: Any
) -> dict[str, Any]:
    """What `kn service apply` makes."""
    pod = {"containers": [{"name": "user-container", "resources": {"limits": {GPU: "2"}}}], **pod}
    return {
        "metadata": {
            "name": "whisper",
            "namespace": "llm",
            "labels": {"hotseat.dev/workspace": "lab"},
            "annotations": annotations or {},
        },
        "spec": {"template": {"metadata": {"annotations": {**CLASS, **(template or {})}}, "spec": pod}},
    }


def test_the_label_makes_it_one_unless_a_model_made_it() -> None:
    assert is_adopted(service())
    owned = service()
    owned["metadata"]["ownerReferences"] = [{"apiVersion": "hotseat.dev/v1alpha1", "kind": "Model", "name": "whisper"}]
    assert not is_adopted(owned)
    foreign = service()
    foreign["metadata"]["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}]
    assert is_adopted(foreign)
    unlabelled = service()
    unlabelled["metadata"]["labels"] = {}
    assert not is_adopted(unlabelled)


def test_name_workspace_gpus_and_limit_are_its_own() -> None:
    adopted = adopt(service(containerConcurrency=8), GPU)
    assert adopted.problems == ()
    assert (adopted.model.name, adopted.model.metadata.namespace) == ("whisper", "llm")
    assert adopted.model.spec.engine == "container"
    assert adopted.model.spec.workspace == "lab"
    assert adopted.model.spec.resources.gpus == 2
    assert adopted.model.spec.concurrency == 8
    assert adopt(service(containers=[{"name": "x"}]), GPU).model.spec.resources.gpus == 0


def test_annotations_say_the_rest() -> None:
    said = {
        "names": "whisper-1, org/Whisper large",
        "priority": "-5",
        "max-wait": "2m",
        "min-residency": "30s",
        "concurrency": "3",
        "engine-model-name": "w",
        "capabilities": "transcription",
        "description": "hears",
        "preload": "true",
        "start-timeout": "10m",
        "gpus": "1",
    }
    adopted = adopt(service({f"hotseat.dev/{name}": text for name, text in said.items()}), GPU)
    spec = adopted.model.spec
    assert adopted.problems == ()
    assert spec.names == ("whisper-1", "org/Whisper large")
    assert (spec.scheduling.priority, spec.scheduling.max_wait, spec.scheduling.min_residency) == (-5, 120.0, 30.0)
    assert (spec.concurrency, spec.engine_model_name, spec.description) == (3, "w", "hears")
    assert spec.capabilities == (Capability.TRANSCRIPTION,)
    assert (spec.lifecycle.preload, spec.lifecycle.start_timeout) == (True, 600.0)
    assert spec.resources.gpus == 1


def test_those_of_the_service_win_over_those_of_its_template() -> None:
    both = service(
        {"hotseat.dev/priority": "2"}, template={"hotseat.dev/priority": "1", "hotseat.dev/description": "t"}
    )
    spec = adopt(both, GPU).model.spec
    assert (spec.scheduling.priority, spec.description) == (2, "t")


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("priority", "high", "a valid integer"),
        ("priority", "5000", "less than or equal to 1000"),
        ("max-wait", "30", "a duration such as 90s"),
        ("names", '["fine", 1]', "a valid string"),
        ("capabilities", "dance", "'chat'"),
        ("gpus", "-1", "greater than or equal to 0"),
        ("preload", "maybe", "a valid boolean"),
    ],
)
def test_a_wrong_one_is_told_and_the_others_count(name: str, text: str, allowed: str) -> None:
    key = f"hotseat.dev/{name}"
    adopted = adopt(service({"hotseat.dev/engine-model-name": "w", key: text}), GPU)
    assert len(adopted.problems) == 1
    assert f"annotation {key} is {text!r}; allowed: " in adopted.problems[0]
    assert allowed in adopted.problems[0]
    assert adopted.model.spec.engine_model_name == "w"
    assert adopted.model.spec.scheduling.priority == 0
    assert adopted.model.spec.names == ()


def test_names_with_commas_are_written_as_a_json_list() -> None:
    assert adopt(service({"hotseat.dev/names": '["a, b", "c"]'}), GPU).model.names == ("a, b", "c", "whisper")


@pytest.mark.parametrize(("old", "new"), [("aliases", "names"), ("served-name", "engine-model-name")])
def test_annotations_of_before_say_what_they_are_called_now(old: str, new: str) -> None:
    (problem,) = adopt(service({f"hotseat.dev/{old}": "x"}), GPU).problems
    assert problem == f"annotation hotseat.dev/{old} has no meaning any longer; it is hotseat.dev/{new} now"


def test_without_our_class_it_says_who_scales_it() -> None:
    forgotten = service()
    del forgotten["spec"]["template"]["metadata"]
    (problem,) = adopt(forgotten, GPU).problems
    assert "autoscaling.knative.dev/class: gpu.hotseat.dev" in problem


# Deployments ----------------------------------------------------------------------------------------------------------


def deployment(annotations: dict[str, str] | None = None, *, replicas: int = 0, **container: Any) -> dict[str, Any]:
    """Return what a person has written, without any problem."""
    engine = {
        "name": "main",
        "ports": [{"containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}},
        "resources": {"limits": {GPU: "2"}},
        **container,
    }
    labels = {"hotseat.dev/workspace": "lab"}
    return {
        "metadata": {"name": "whisper", "namespace": "llm", "labels": labels, "annotations": annotations or {}},
        "spec": {
            "replicas": replicas,
            "strategy": {"type": "Recreate"},
            "template": {"metadata": {"annotations": {"hotseat.dev/priority": "1"}}, "spec": {"containers": [engine]}},
        },
    }


def test_a_labelled_deployment_is_read_like_a_ksvc() -> None:
    assert is_adopted(deployment())
    adopted = adopt_deployment(deployment({"hotseat.dev/names": "w", "hotseat.dev/priority": "2"}), GPU)
    spec = adopted.model.spec
    assert adopted.problems == ()
    assert (adopted.model.name, spec.workspace, spec.engine, spec.names) == ("whisper", "lab", "container", ("w",))
    assert (spec.resources.gpus, spec.concurrency, spec.scheduling.priority) == (2, 0, 2)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ports": []}, "its container names no port, so requests go to port 8080"),
        ({"readinessProbe": None}, "its container has no readinessProbe"),
        ({"replicas": 3}, "spec.replicas is 3, but a model has one pod"),
        (
            {"annotations": {"hotseat.dev/max-wait": "30"}},
            "annotation hotseat.dev/max-wait is '30'; allowed: a duration",
        ),
    ],
)
def test_a_deployment_says_what_is_wrong_with_it(change: dict[str, Any], problem: str) -> None:
    (said,) = adopt_deployment(deployment(**change), GPU).problems
    assert said.startswith(problem)


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}, True),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0}}, False),
        ({"type": "Recreate"}, False),
    ],
)
def test_a_strategy_that_starts_a_second_pod_is_told(strategy: dict[str, Any], told: bool) -> None:
    item = deployment()
    item["spec"]["strategy"] = strategy
    assert bool(adopt_deployment(item, GPU).problems) is told
