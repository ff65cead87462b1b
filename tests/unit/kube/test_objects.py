"""What a Model becomes on a cluster. That an API server takes it is for tests/cluster to see."""

import copy
import json

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.engines.base import Container, Placement
from hotseat.engines.mock import Mock
from hotseat.kube.constants import FINGERPRINT, ClusterSettings
from hotseat.kube.containers import CannotMake, bytes_quantity, cores_quantity, needs_fetch
from hotseat.kube.objects import MergeError, claim_of, drifted, is_owned, service_of

SETTINGS = ClusterSettings(image="hotseat:test", namespace="llm")
UID = "1234"


def model(engine: str = "mock", **spec: object) -> Model:
    return Model.model_validate({"metadata": {"name": "qwen"}, "spec": {"engine": engine, **spec}})


def service(
    engine: str = "mock", weights: str | None = None, settings: ClusterSettings = SETTINGS, **spec: object
) -> Json:
    made = service_of(model(engine, **spec), settings, UID, weights)
    assert made is not None
    return made


def container(engine: str = "mock", weights: str | None = None, **spec: object) -> Json:
    found: Json = service(engine, weights, **spec)["spec"]["template"]["spec"]["containers"][0]
    return found


def env(of: Json) -> dict[str, str]:
    return {each["name"]: each["value"] for each in of["env"]}


class TestService:
    def test_it_takes_turns_by_our_class_and_is_its_models(self) -> None:
        made = service(workspace="lab")
        template = made["spec"]["template"]
        labels = {"hotseat.dev/model": "qwen", "hotseat.dev/workspace": "lab"}
        assert (made["metadata"]["name"], made["metadata"]["namespace"]) == ("qwen", "llm")
        assert made["metadata"]["labels"] == {**labels, "networking.knative.dev/visibility": "cluster-local"}
        assert is_owned(made)
        assert made["metadata"]["ownerReferences"][0]["uid"] == UID
        assert template["metadata"]["labels"] == labels
        assert template["metadata"]["annotations"]["autoscaling.knative.dev/class"] == "gpu.hotseat.dev"
        assert template["metadata"]["annotations"]["autoscaling.knative.dev/initial-scale"] == "0"
        assert template["spec"]["timeoutSeconds"] == template["spec"]["responseStartTimeoutSeconds"] == 3600

    def test_an_engine_gets_its_key_from_where_the_router_does(self) -> None:
        key = {"secret": {"name": "team", "key": "k"}}
        for engine, variable in (("vllm", "VLLM_API_KEY"), ("llamacpp", "LLAMA_API_KEY"), ("custom", "ENGINE_API_KEY")):
            more = {"command": ["x", "{port}"], "image": "i"} if engine == "custom" else {"source": "/m.gguf"}
            asked = {each["name"]: each for each in container(engine, **more, engineKey=key)["env"]}
            assert asked[variable]["valueFrom"] == {"secretKeyRef": {"name": "team", "key": "k"}}
            assert env(container(engine, **more, engineKey={"value": "v"}))[variable] == "v"
            assert variable not in env(container(engine, **more, engineKey={"env": "OF_THE_ROUTER"}))
        assert service_of(model("external", mockResponse="x"), SETTINGS, UID) is None

    def test_a_long_load_is_not_given_up_by_knative(self) -> None:
        key = "serving.knative.dev/progress-deadline"
        assert service()["spec"]["template"]["metadata"]["annotations"][key] == "600s"
        slow = service(lifecycle={"startTimeout": "30m"})
        assert slow["spec"]["template"]["metadata"]["annotations"][key] == "1860s"

    def test_the_container_asks_for_what_the_model_occupies_and_gives_up_the_rest(self) -> None:
        made = container(resources={"gpus": 2, "cpu": 1.5, "memory": "500M"}, credentials="hub")
        assert made["resources"] == {"limits": {"nvidia.com/gpu": "2"}, "requests": {"cpu": "1500m", "memory": "500M"}}
        assert made["envFrom"] == [{"secretRef": {"name": "hub"}}]
        security = made["securityContext"]
        assert security["runAsNonRoot"]
        assert security["readOnlyRootFilesystem"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert made["readinessProbe"]["periodSeconds"] == 1
        assert "limits" not in container(resources={"gpus": 0})["resources"]

    def test_models_may_take_turns_without_a_resource_that_a_scheduler_knows(self) -> None:
        settings = ClusterSettings(image="hotseat:test", namespace="llm", gpu_resource="")
        assert service(settings=settings)["spec"]["template"]["spec"]["containers"][0]["resources"] == {}

    def test_more_at_once_than_knative_allows_is_left_to_the_router(self) -> None:
        assert service(concurrency=4)["spec"]["template"]["spec"]["containerConcurrency"] == 4
        assert service(concurrency=4000)["spec"]["template"]["spec"]["containerConcurrency"] == 0

    def test_a_server_elsewhere_has_no_objects(self) -> None:
        external = model("external", url="http://elsewhere")
        assert service_of(external, SETTINGS, UID) is None
        assert claim_of(external, SETTINGS, UID) is None


class TestPodTemplate:
    def test_it_goes_over_ours(self) -> None:
        over = {
            "metadata": {"annotations": {"a": "b"}},
            "spec": {
                "nodeSelector": {"gpu": "a100"},
                "containers": [{"name": "engine", "securityContext": {"runAsNonRoot": False, "runAsUser": 0}}],
            },
        }
        template = service(podTemplate=over)["spec"]["template"]
        assert template["metadata"]["annotations"]["a"] == "b"
        assert template["spec"]["nodeSelector"] == {"gpu": "a100"}
        assert template["spec"]["containers"][0]["securityContext"]["runAsUser"] == 0
        assert template["spec"]["containers"][0]["image"] == "hotseat:test"

    def test_but_not_over_what_hotseat_lives_by(self) -> None:
        over = {
            "metadata": {
                "labels": {"hotseat.dev/workspace": "other"},
                "annotations": {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"},
            }
        }
        metadata = service(podTemplate=over)["spec"]["template"]["metadata"]
        assert metadata["labels"]["hotseat.dev/workspace"] == "default"
        assert metadata["annotations"]["autoscaling.knative.dev/class"] == "gpu.hotseat.dev"

    def test_what_cannot_be_merged_is_said(self) -> None:
        with pytest.raises(MergeError, match="has no name"):
            service(podTemplate={"spec": {"containers": [{"image": "x"}]}})


class TestEngines:
    def test_ours_are_told_the_model_and_nothing_that_would_make_needless_revisions(self) -> None:
        made = container(
            "llamacpp", source="hf://o/r/a.gguf", names=["gpt"], scheduling={"priority": 3}, args=["-c", "1"]
        )
        assert made["image"] == "hotseat:test"
        assert made["command"] == ["python3", "-P", "-m", "hotseat.kube.engine_entrypoint"]
        told = json.loads(env(made)["HOTSEAT_MODEL"])
        assert told["spec"] == {"engine": "llamacpp", "source": "hf://o/r/a.gguf", "args": ["-c", "1"]}
        assert env(made)["HF_HOME"] == "/cache/hf"

    def test_vllm_finds_weights_caches_and_shared_memory(self) -> None:
        made = service("vllm", "/cache/x/files/abc", source="hf://o/r", vllm={"maxModelLen": 4096})
        pod = made["spec"]["template"]["spec"]
        engine = pod["containers"][0]
        assert engine["image"].startswith("vllm/vllm-openai:")
        assert engine["command"][:3] == ["vllm", "serve", "/cache/x/files/abc"]
        assert engine["command"][-2:] == ["--max-model-len", "4096"]
        assert env(engine)["VLLM_CACHE_ROOT"] == "/cache/vllm"
        assert not engine["securityContext"]["readOnlyRootFilesystem"]
        assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in engine["volumeMounts"]

    def test_an_engine_may_bring_its_weights_itself(self) -> None:
        by_engine = {"cache": {"fetchBy": "Engine"}}
        assert container("vllm", source="hf://o/r@v1", **by_engine)["command"][:5] == [
            "vllm",
            "serve",
            "o/r",
            "--revision",
            "v1",
        ]
        args = container("llamacpp", source="hf://o/r/a.gguf", image="llama:1", **by_engine)["args"]
        assert args[:4] == ["--hf-repo", "o/r", "--hf-file", "a.gguf"]
        with pytest.raises(CannotMake, match=r"use cache\.fetchBy: Job"):
            container("llamacpp", source="ollama://a", image="llama:1", **by_engine)
        assert not needs_fetch(model("vllm", source="hf://o/r", **by_engine))

    def test_llamacpp_in_an_image_keeps_that_images_program(self) -> None:
        made = container(
            "llamacpp", "/cache/a.gguf", source="hf://o/r/a.gguf", image="llama:1", capabilities=["embedding"]
        )
        assert "command" not in made
        assert made["args"][:6] == ["--model", "/cache/a.gguf", "--host", "0.0.0.0", "--port", "8080"]
        assert made["args"][-1] == "--embeddings"

    def test_custom_is_filled_in_but_never_from_the_switchers_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", "secret of the switcher")
        command = ["serve", "-p", "{port}", "-m", "{model}", "-t", "{env:TOKEN}", "{{env:TOKEN}}"]
        made = container("custom", image="any:1", source="pvc://models/a/b", port=11434, command=command)
        assert made["command"] == ["serve", "-p", "11434", "-m", "/weights/a/b", "-t", "$(TOKEN)", "{env:TOKEN}"]
        assert made["ports"] == [{"containerPort": 11434}]
        assert "secret" not in json.dumps(made)

    def test_a_claim_with_weights_is_mounted_read_only_and_nothing_is_fetched(self) -> None:
        made = service("llamacpp", source="pvc://models/a.gguf")["spec"]["template"]["spec"]
        assert {"name": "weights", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in made[
            "volumes"
        ]
        assert {"name": "weights", "mountPath": "/weights", "readOnly": True} in made["containers"][0]["volumeMounts"]
        assert env(made["containers"][0])["HOTSEAT_WEIGHTS"] == "/weights/a.gguf"
        assert not needs_fetch(model("llamacpp", source="pvc://models/a.gguf"))

    @pytest.mark.parametrize(
        ("engine", "spec", "image", "line"),
        [
            (
                "sglang",
                {"resources": {"gpus": 2}},
                "lmsysorg/sglang:",
                "python3 -m sglang.launch_server --model-path /cache/w --host 0.0.0.0 --port 8080 --served-model-name qwen --tp-size 2",
            ),
            (
                "tgi",
                {"args": ["--quantize", "fp8"]},
                "ghcr.io/huggingface/text-generation-inference:",
                "--model-id /cache/w --hostname 0.0.0.0 --port 8080 --shard-uds-path /tmp/hotseat-tgi-8080 --quantize fp8",
            ),
            (
                "tei",
                {"resources": {"gpus": 0}},
                "ghcr.io/huggingface/text-embeddings-inference:cpu-",
                "--model-id /cache/w --hostname 0.0.0.0 --port 8080 --uds-path /tmp/hotseat-tei-8080",
            ),
            (
                "whispercpp",
                {"source": "hf://ggerganov/whisper.cpp/ggml-base.bin", "port": 9000},
                "ghcr.io/ggml-org/whisper.cpp:main-cuda",
                "whisper-server --model /cache/w --host 0.0.0.0 --port 9000 --inference-path /v1/audio/transcriptions --language auto",
            ),
        ],
    )
    def test_an_engine_without_hotseat_in_its_image(self, engine: str, spec: Json, image: str, line: str) -> None:
        """Where the image's own program prepares something, there is no command."""
        made = container(engine, "/cache/w", **{"source": "hf://o/r"} | spec)
        assert made["image"].startswith(image)
        part, other = ("args", "command") if line.startswith("--") else ("command", "args")
        assert made[part] == line.split()
        assert other not in made
        port = spec.get("port", 8080)
        assert made["ports"] == [{"containerPort": port}]
        assert made["readinessProbe"]["httpGet"] == {"path": "/health", "port": port}
        assert not made["securityContext"]["readOnlyRootFilesystem"]
        assert made["securityContext"]["runAsNonRoot"]
        assert container(engine, "/cache/w", image="mine:1", **{"source": "hf://o/r"} | spec)["image"] == "mine:1"

    def test_images_with_a_cache_of_their_own_use_the_claim(self) -> None:
        for engine in ("tgi", "tei"):
            assert env(container(engine, source="hf://o/r"))["HUGGINGFACE_HUB_CACHE"] == "/cache/hf/hub"
        assert "HUGGINGFACE_HUB_CACHE" not in env(container("vllm", source="hf://o/r"))

    def test_ollama_keeps_its_models_on_the_claim_and_is_ready_once_one_is_loaded(self) -> None:
        made = service("ollama", source="ollama://qwen3:8b", concurrency=4)
        engine = made["spec"]["template"]["spec"]["containers"][0]
        assert engine["image"].startswith("ollama/ollama:")
        assert engine["command"][:2] == ["/bin/sh", "-c"]
        assert engine["command"][3:] == ["ollama", "ollama"]
        assert (
            env(engine).items()
            >= {
                "OLLAMA_HOST": "0.0.0.0:8080",
                "OLLAMA_MODELS": "/cache/ollama",
                "OLLAMA_KEEP_ALIVE": "-1",
                "OLLAMA_MAX_LOADED_MODELS": "1",
                "OLLAMA_NUM_PARALLEL": "4",
                "HOTSEAT_OLLAMA_MODEL": "qwen3:8b",
            }.items()
        )
        assert engine["readinessProbe"]["httpGet"] == {"path": "/v1/models/hotseat-ready-qwen", "port": 8080}
        assert not needs_fetch(model("ollama", source="ollama://qwen3:8b"))
        assert claim_of(model("ollama", source="ollama://qwen3:8b"), SETTINGS, UID) is not None

    def test_an_engine_that_fetches_a_repository_itself_says_which(self) -> None:
        by_engine = {"source": "hf://o/r@v1", "cache": {"fetchBy": "Engine"}}
        for engine, flag in {"sglang": "--model-path", "tgi": "--model-id", "tei": "--model-id"}.items():
            made = container(engine, **by_engine)
            line = [*made.get("command", ()), *made.get("args", ())]
            at = line.index(flag)
            assert line[at : at + 4] == [flag, "o/r", "--revision", "v1"]
            assert not needs_fetch(model(engine, **by_engine))
        with pytest.raises(CannotMake, match=r"use cache\.fetchBy: Job"):
            container("whispercpp", source="https://h/ggml.bin", cache={"fetchBy": "Engine"})

    def test_an_engine_of_another_package_runs_in_its_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Mine(Mock):
            name = "mine"

            def check(self, model: Model) -> list[str]:
                return []

            def image(self, model: Model) -> str:
                return "mine:1"

            def container(self, model: Model, placement: Placement) -> Container:
                return Container(
                    ("serve", model.name), ("--port", str(placement.port)), {"MINE_CACHE": f"{placement.cache}/mine"}
                )

        monkeypatch.setattr("hotseat.kube.containers.load_engine", lambda _: Mine())
        made = container("mine")
        assert (made["image"], made["command"], made["args"]) == ("mine:1", ["serve", "qwen"], ["--port", "8080"])
        assert env(made)["MINE_CACHE"] == "/cache/mine"
        assert container("mine", image="mine:2")["image"] == "mine:2"

    @pytest.mark.parametrize(
        ("source", "adapter", "path"),
        [
            ("hf://o/r", "hf://o/sql", "o/sql"),
            ("hf://o/r", "/adapters/sql", "/adapters/sql"),
            ("pvc://models/base", "pvc://models/loras/sql", "/weights/loras/sql"),
        ],
    )
    def test_adapters_are_in_the_pod_or_fetched_by_vllm(self, source: str, adapter: str, path: str) -> None:
        command = container("vllm", "/cache/w", source=source, loras=[{"name": "sql", "source": adapter}])["command"]
        assert command[-3:-1] == ["--enable-lora", "--lora-modules"]
        assert json.loads(command[-1]) == {"name": "sql", "path": path}

    @pytest.mark.parametrize("adapter", ["s3://b/sql", "hf://o/sql@v1", "pvc://others/sql", "sql"])
    def test_adapters_that_cannot_get_into_the_pod_are_said(self, adapter: str) -> None:
        with pytest.raises(CannotMake, match="the source of a LoRA adapter is"):
            container("vllm", "/cache/w", source="hf://o/r", loras=[{"name": "sql", "source": adapter}])

    @pytest.mark.parametrize(
        ("spec", "reason"),
        [
            ({"engine": "nosuch"}, "no engine nosuch"),
            ({"engine": "tgi"}, "engine tgi needs source"),
            ({"engine": "ollama", "source": "hf://o/r"}, "engine ollama needs source: ollama://NAME"),
            ({"engine": "mock", "port": 8012}, "Knative's sidecar"),
            ({"engine": "llamacpp"}, "needs source"),
            ({"engine": "llamacpp", "image": "a", "source": "a.gguf"}, "must begin with /"),
        ],
    )
    def test_what_cannot_be_made_is_said(self, spec: dict[str, str], reason: str) -> None:
        with pytest.raises(CannotMake, match=reason):
            service(**spec)  # type: ignore[arg-type]


class TestClaim:
    def test_remote_weights_have_one_that_outlives_the_model_unless_told_otherwise(self) -> None:
        claim = claim_of(model(source="hf://o/r"), SETTINGS, UID)
        assert claim is not None
        assert claim["metadata"]["name"] == "qwen-cache"
        assert "ownerReferences" not in claim["metadata"]
        assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "50Gi"}}}
        claim = claim_of(model(cache={"size": "1Gi", "storageClass": "fast", "onDelete": "Delete"}), SETTINGS, UID)
        assert claim is not None
        assert is_owned(claim)
        assert claim["spec"]["storageClassName"] == "fast"
        assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"

    def test_an_existing_one_is_used_and_not_touched(self) -> None:
        cache = {"existingClaim": "shared"}
        assert claim_of(model(source="hf://o/r", cache=cache), SETTINGS, UID) is None
        volumes = service(source="hf://o/r", cache=cache)["spec"]["template"]["spec"]["volumes"]
        assert {"name": "cache", "persistentVolumeClaim": {"claimName": "shared"}} in volumes

    def test_nothing_to_keep_needs_none(self) -> None:
        assert claim_of(model(), SETTINGS, UID) is None
        assert {"name": "cache", "emptyDir": {}} in service()["spec"]["template"]["spec"]["volumes"]


class TestDrift:
    def test_the_fingerprint_follows_what_makes_a_revision(self) -> None:
        def mark(**spec: object) -> str:
            return str(service(**spec)["metadata"]["annotations"][FINGERPRINT])

        assert mark() == mark(names=["gpt-4o"], scheduling={"priority": 5}, description="x")
        assert mark() == mark(cache={"onDelete": "Delete"})
        assert mark(cache={"fetchBy": "Engine"}) == mark(cache={"fetchBy": "Engine", "onDelete": "Delete"}) != mark()
        assert mark() != mark(args=["--load-time", "2"])
        assert mark() != mark(resources={"gpus": 2})

    def test_what_others_add_is_none_and_what_they_change_is(self) -> None:
        wanted = service(resources={"cpu": 1})
        found = copy.deepcopy(wanted)
        found["status"] = {"url": "http://x"}
        found["metadata"]["uid"] = "77"
        pod = found["spec"]["template"]["spec"]
        pod["enableServiceLinks"] = False
        pod["containers"][0]["ports"][0] |= {"name": "user-port", "protocol": "TCP"}
        pod["containers"][0]["resources"]["requests"]["cpu"] = "1000m"
        assert not drifted(wanted, found)
        pod["containers"][0]["image"] = "other"
        assert drifted(wanted, found)

    def test_an_element_more_or_less_is_drift(self) -> None:
        wanted = service()
        for change in (lambda env: env.pop(), lambda env: env.append({"name": "MORE"})):
            found = copy.deepcopy(wanted)
            change(found["spec"]["template"]["spec"]["containers"][0]["env"])
            assert drifted(wanted, found)

    def test_empty_values_may_be_left_out(self) -> None:
        assert not drifted({"a": 0, "b": False, "c": "", "d": [], "e": {}}, {})
        assert not drifted({"a": {"b": ""}}, {"a": {}})
        assert drifted({"a": 1}, {})


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (50 * 2**30, "50Gi"),
        (1536 * 2**20, "1536Mi"),
        (500_000_000, "500M"),
        (1000 * 1024, "1000Ki"),
        (7, "7"),
        (0, "0"),
    ],
)
def test_bytes_are_written_as_the_api_server_writes_them(count: int, text: str) -> None:
    assert bytes_quantity(count) == text


def test_cores_are_written_as_the_api_server_writes_them() -> None:
    assert [cores_quantity(cores) for cores in (2.0, 0.5, 1.25)] == ["2", "500m", "1250m"]
