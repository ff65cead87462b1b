"""Models and Workspaces as a cluster holds them, read into what the core understands."""

from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.api.workspace import ClusterRuntime, Workspace
from hotseat.cluster.switcher import status_objects as statuses
from hotseat.cluster.switcher.model_objects import ModelObjects, read
from hotseat.core.messages import CacheObserved, CacheState, InstanceState, Residency, Resident
from hotseat.core.policy.api import Capacity
from hotseat.core.scheduler.messages import ModelStatus
from hotseat.kube.constants import ClusterSettings
from hotseat.kube.containers import cpu_image

SETTINGS = ClusterSettings("hotseat:1", "ns")


def workspace(name: str = "default") -> Json:
    return {"metadata": {"name": name, "uid": f"w-{name}", "generation": 1}, "spec": {"capacity": {"gpus": 1}}}


def model(name: str, **spec: Any) -> Json:
    return {"metadata": {"name": name, "uid": f"m-{name}", "generation": 2}, "spec": {"engine": "mock", **spec}}


def adopted(name: str) -> Json:
    template = {
        "metadata": {"annotations": {"autoscaling.knative.dev/class": "gpu.hotseat.dev"}},
        "spec": {"containers": [{"image": "x", "resources": {"limits": {"nvidia.com/gpu": 1}}}]},
    }
    labels = {"hotseat.dev/workspace": "default"}
    return {"metadata": {"name": name, "uid": "k", "generation": 3, "labels": labels}, "spec": {"template": template}}


def test_a_model_becomes_a_ksvc_and_belongs_to_the_only_workspace_there_is() -> None:
    found = read([workspace("gpu")], [model("a")], [], SETTINGS, {}).models["a"]
    assert found.model.spec.workspace == "gpu"
    assert [item["kind"] for item in found.objects] == ["Service"]
    assert found.objects[0]["metadata"]["ownerReferences"][0]["uid"] == "m-a"
    assert (found.uid, found.generation, found.problem) == ("m-a", 2, "")


def test_a_model_becomes_what_the_runtime_of_its_workspace_makes() -> None:
    def choose(_workspace: object, status: Json) -> tuple[ClusterRuntime, str]:
        assert status == {"runtime": "Deployment"}
        return ClusterRuntime.DEPLOYMENT, ""

    home = workspace() | {"status": {"runtime": "Deployment"}}
    remembered = model("a", cache={"size": "1Gi"})
    found = read([home], [remembered], [adopted("k")], SETTINGS, {}, choose=choose).models
    assert [(each["apiVersion"], each["kind"]) for each in found["a"].objects] == [
        ("v1", "PersistentVolumeClaim"), ("apps/v1", "Deployment"), ("v1", "Service"),
    ]  # fmt: skip
    assert found["a"].runtime is ClusterRuntime.DEPLOYMENT
    assert found["k"].runtime is ClusterRuntime.KNATIVE, "it is a ksvc, whatever its Workspace has chosen"
    knative = read([home], [remembered], [], SETTINGS, {}).models["a"]
    assert knative.fingerprint != found["a"].fingerprint, "a move restarts it"
    assert knative.objects[0] == found["a"].objects[0], "and keeps its claim"


def test_a_runtime_that_cannot_be_used_makes_no_objects() -> None:
    unusable = (ClusterRuntime.KNATIVE, "runtime Knative: it is not there")
    found = read([workspace()], [model("a")], [], SETTINGS, {}, choose=lambda *_: unusable).models["a"]
    assert (found.problem, found.unusable, found.objects) == ("", unusable[1], ())


def test_after_a_restart_an_invalid_model_stays_with_the_runtime_that_has_its_objects() -> None:
    rows = [{"name": "a", "state": "ready", "generation": 1, "spec": {"engine": "mock", "names": ["gpt"]}}]
    home = workspace() | {"status": {"models": rows}}
    owner = {"apiVersion": "hotseat.dev/v1alpha1", "kind": "Model", "name": "a", "uid": "m-a"}
    meta = {"name": "a", "annotations": {"hotseat.dev/fingerprint": "1"}, "ownerReferences": [owner]}
    invalid = model("a", gpuCount=2)
    found = read([home], [invalid], [], SETTINGS, {}, deployments=[{"metadata": meta}]).models["a"]
    assert (found.runtime, found.fingerprint, found.objects) == (ClusterRuntime.DEPLOYMENT, "1", ())
    assert (found.in_force, found.model.names) == (1, ("gpt", "a"))
    assert "a" in read([home], [invalid], [], SETTINGS, {}).invalid, "nothing serves it"


def test_what_routing_alone_needs_makes_no_new_revision() -> None:
    def mark(**spec: Any) -> str:
        return read([workspace()], [model("a", **spec)], [], SETTINGS, {}).models["a"].fingerprint

    assert mark() == mark(names=["gpt-4o"], scheduling={"priority": 5}, description="x")
    assert mark() != mark(env=[{"name": "X", "value": "1"}])


def test_a_model_inherits_from_its_workspace() -> None:
    home = workspace() | {
        "spec": {
            "modelDefaults": {"lifecycle": {"idleTimeout": "9m"}, "args": ["--tokens", "${count}"]},
            "macros": {"box": "gpu-box", "count": "3"},
        }
    }
    stored = {"idleTimeout": "0s", "stopTimeout": "10s"}  # filled in by the API server
    variables = [{"name": "A", "value": "${box}:${port} ${env:HOME}"}]
    found = read(
        [home], [model("a", lifecycle=stored, env=variables), model("b", args=["${nobody}"])], [], SETTINGS, {}
    )
    a = found.models["a"]
    assert (a.model.spec.lifecycle.idle_timeout, a.model.spec.args) == (540, ("--tokens", "3"))
    (container,) = a.objects[-1]["spec"]["template"]["spec"]["containers"]
    assert {"name": "A", "value": "gpu-box:8080 $(HOME)"} in container["env"]
    assert "args.0: ${nobody} is neither a placeholder nor a macro" in found.invalid["b"][1]
    plain = read([workspace()], [model("a")], [], SETTINGS, {}).models["a"]
    assert plain.fingerprint != a.fingerprint


def test_a_labelled_ksvc_is_a_model_without_any_model_object() -> None:
    found = read([workspace()], [], [adopted("k")], SETTINGS, {}).models["k"]
    assert (found.uid, found.model.spec.resources.gpus, found.objects) == (None, 1, ())


def test_a_model_goes_before_a_ksvc_of_its_name_and_a_deleted_one_is_none() -> None:
    both = read([workspace()], [model("k")], [adopted("k")], SETTINGS, {})
    assert both.models["k"].uid == "m-k"
    going = model("a")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert read([workspace()], [going], [], SETTINGS, {}) == ModelObjects(both.workspaces, {})


def test_a_model_that_cannot_be_made_says_why() -> None:
    found = read([workspace()], [model("a", engine="nobody-has-this")], [], SETTINGS, {})
    assert found.models == {}
    assert "nobody-has-this" in found.invalid["a"][1]


def status(
    state: str,
    *,
    cached: CacheState = CacheState.CACHED,
    problem: str = "",
    message: str = "",
    said: tuple[str, str] = ("", "FetchFailed"),
    pods: int = 1,
    capacity: Capacity = statuses.NOT_COUNTED,
    **spec: Any,
) -> Json:
    made = statuses.model_status(
        ModelStatus("a", state, message=message),
        model=Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock", **spec}}),
        generation=2,
        resident=Resident("a", "default/a@1", InstanceState.READY, 1, 0.0, "http://p") if state == "ready" else None,
        cache=CacheObserved(0.0, "a", cached, said[0], None, None, said[1]),
        switches=(),
        problem=statuses.ModelProblem("InvalidSpec", problem) if problem else None,
        pods=pods,
        capacity=capacity,
    )
    return made | {c["type"]: c["status"] for c in made["conditions"]}


def test_conditions_say_whether_it_could_serve_serves_and_is_cached() -> None:
    unloaded = status("unloaded")
    assert (unloaded["phase"], unloaded["Ready"], unloaded["Cached"], unloaded["Resident"]) == (
        "Unloaded",
        "True",
        "True",
        "False",
    )
    ready = status("ready")
    assert (ready["phase"], ready["Resident"], ready["address"], ready["replicas"]) == ("Ready", "True", "http://p", 1)
    absent = status("unloaded", cached=CacheState.FETCHING)
    assert (absent["Ready"], absent["Cached"]) == ("False", "False")
    failed = status("failed")
    assert (failed["phase"], failed["Ready"], failed["Degraded"]) == ("Failed", "False", "True")
    assert status("unloaded", problem="no engine")["phase"] == "Failed"


def test_a_model_whose_pod_is_pending_says_why() -> None:
    pending = status("loading", message="Unschedulable: 0/3 nodes are available")
    assert (pending["phase"], pending["Ready"]) == ("Loading", "True")
    (resident,) = [c for c in pending["conditions"] if c["type"] == "Resident"]
    assert (resident["status"], resident["reason"]) == ("False", "Loading")
    assert resident["message"] == "Unschedulable: 0/3 nodes are available"


def test_a_fetch_that_cannot_run_says_why() -> None:
    said = ("0/3 nodes are available: 3 Insufficient cpu.", "Unschedulable")
    shown = status("fetching", cached=CacheState.FETCHING, said=said)
    [cached] = [each for each in shown["conditions"] if each["type"] == "Cached"]
    assert (cached["status"], cached["reason"], cached["message"]) == ("False", "Unschedulable", said[0])


def test_a_workspace_places_its_models() -> None:
    placed = workspace() | {"spec": {"placement": {"nodeSelector": {"pool": "gpu"}, "resourceName": "amd.com/gpu"}}}
    found = read(
        [placed, workspace("other")], [model("a"), model("b", workspace="other")], [adopted("k")], SETTINGS, {}
    )
    pods = {name: found.models[name].objects[0]["spec"]["template"]["spec"] for name in "ab"}
    assert pods["a"]["nodeSelector"] == {"pool": "gpu"}
    assert pods["a"]["containers"][0]["resources"]["limits"] == {"amd.com/gpu": "1"}
    assert "nodeSelector" not in pods["b"]
    assert found.models["k"].model.spec.resources.gpus == 0, "it requests nothing of this Workspace's GPUs"


class TestImagesWithoutGPU:
    """hotseat's own image computes on the CPU."""

    @staticmethod
    def said(image: str = "hotseat:1", resource: str = "nvidia.com/gpu", engine: str = "llamacpp", **spec: Any) -> str:
        spec = {"engine": engine, "source": "/a.gguf", **spec}
        return cpu_image(
            Model.model_validate({"metadata": {"name": "a"}, "spec": spec}),
            ClusterSettings(image, "ns", resource),
        )

    def test_a_model_with_gpus_is_told(self) -> None:
        assert "engine llamacpp has no image of its own, so it runs in hotseat:1" in self.said()
        assert self.said(engine="custom", command=["serve", "{port}"])

    def test_others_are_not(self) -> None:
        assert not self.said(image="registry:5000/hotseat:1.0-cuda")
        assert not self.said(resource="")
        assert not self.said(resources={"gpus": 0})
        container = {"name": "engine", "image": "llama:server-cuda"}
        for own in ({"engine": "mock"}, {"engine": "vllm"}, {"podTemplate": {"spec": {"containers": [container]}}}):
            assert not self.said(**own)  # type: ignore[arg-type]

    def test_it_is_a_condition(self) -> None:
        made = statuses.model_status(
            ModelStatus("a", "ready"),
            model=Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock"}}),
            generation=1,
            resident=None,
            cache=None,
            switches=(),
            problem="",
            cpu_image="it computes on the CPU",
        )
        [said] = [each for each in made["conditions"] if each["type"] == "UsesGPU"]
        assert (said["status"], said["reason"], said["message"]) == (
            "False",
            "ImageWithoutGPU",
            "it computes on the CPU",
        )


def test_a_model_that_shall_park_says_why_it_is_stopped_instead() -> None:
    def conditions(release: str) -> dict[str, Json]:
        spec = {"engine": "mock", "lifecycle": {"release": release}}
        model = Model.model_validate({"metadata": {"name": "a"}, "spec": spec})
        made = statuses.model_status(
            ModelStatus("a", "ready"), model=model, generation=1, resident=None, cache=None, switches=(), problem=None
        )
        return {each["type"]: each for each in made["conditions"]}

    parkable = conditions("Park")["Parkable"]
    assert (parkable["status"], parkable["reason"]) == ("False", "ParkingNeedsSharedGPUs")
    assert "Parkable" not in conditions("Stop")


@pytest.mark.parametrize(
    ("storage", "unkept", "said"),
    [
        (None, {"a": ""}, None),
        ("Off", {"a": ""}, None),
        ("Memory", {"a": ""}, ("False", "MemoryOfPods", "set it to Disk, for Models with a claim")),
        ("Disk", {}, ("Unknown", "NoModel", "no Model has an engine that saves prompt caches")),
        ("Disk", {"a": "", "b": ""}, ("True", "OnClaims", "")),
        ("Disk", {"a": "", "b": "it has no claim"}, ("False", "NotOfAllModels", "b: it has no claim")),
    ],
)
def test_a_workspace_that_shall_keep_prompts_says_whether_it_does(
    storage: str | None, unkept: dict[str, str], said: tuple[str, str, str] | None
) -> None:
    spec = {"promptCache": {"storage": storage}} if storage else {}
    workspace = Workspace.model_validate({"metadata": {"name": "w"}, "spec": spec})
    found = statuses.prompt_cache_condition(workspace, unkept, 1)
    assert [(each["type"], each["status"], each["reason"]) for each in found] == (
        [("PromptCacheKept", *said[:2])] if said else []
    )
    assert not said or said[2] in found[0]["message"]


def test_parked_models_are_named_apart() -> None:
    states = {"a": InstanceState.READY, "b": InstanceState.PARKED, "c": InstanceState.PARKED}
    residents = tuple(Resident(name, f"w/{name}@1", state, 1, 0.0) for name, state in states.items())
    assert statuses.resident_names(Residency(1, residents)) == {"resident": "a", "parked": "b, c"}
    assert statuses.resident_names(Residency()) == {"resident": None, "parked": None}


def test_a_condition_keeps_the_time_since_which_it_is_what_it_is() -> None:
    old = [{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]
    same, other = (statuses.condition("Ready", value, "Because", "", 1) for value in (True, False))
    assert statuses.keep_transition_times([same], old)[0]["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    assert statuses.keep_transition_times([other], old)[0]["lastTransitionTime"] != "2020-01-01T00:00:00Z"


def test_a_seat_that_is_not_proven_free_makes_the_workspace_not_ready() -> None:
    stuck = Residency(3, (Resident("a", "default/a@1", InstanceState.UNPROVEN, 1, 0.0),))
    ready, events = statuses.workspace_conditions(1, stuck, broker_ok=False)
    assert (ready["status"], ready["reason"]) == ("False", "ReleaseUnproven")
    assert "default/a@1" in ready["message"]
    assert (events["status"], events["reason"]) == ("False", "DemandCameDirectly")


def test_a_ksvc_that_is_no_model_costs_only_itself() -> None:
    elsewhere, greedy = adopted("elsewhere"), adopted("greedy")
    elsewhere["metadata"]["labels"]["hotseat.dev/workspace"] = "My_WS"
    greedy["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = 65
    assert list(read([workspace()], [], [elsewhere, greedy, adopted("k")], SETTINGS, {}).models) == ["k"]


def replicated(**fields: Any) -> tuple[str, str] | None:
    """Give reason and message of that condition of a Model with three replicas."""
    found = status("ready", scheduling={"replicas": 3}, concurrency=1, **fields)["conditions"]
    return next(((c["reason"], c["message"]) for c in found if c["type"] == "Replicated"), None)


def test_a_model_with_replicas_is_told_where_it_has_one_pod_and_if_it_is_too_large() -> None:
    one = replicated()
    assert one is not None
    assert one[0] == "OnePodOnly"
    assert one[1].startswith("scheduling.replicas is 3, but each Model has one pod, unless the runtime")
    large = replicated(pods=3, capacity=Capacity(2))
    assert large is not None
    assert large[0] == "ExceedsCapacity"
    assert "so the Model needs 3 GPUs, but the Workspace has 2 (spec.capacity.gpus)" in large[1]
    assert replicated(pods=3, capacity=Capacity(3)) is None
    assert replicated(pods=3) is None, "its Workspace does not count"
    assert replicated(pods=3, capacity=Capacity(1), resources={"gpus": 0}) is None
    assert "Replicated" not in status("ready")
