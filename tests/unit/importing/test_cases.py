"""Configurations in the style of real users, of each format: each is told by its content, and becomes what hotseat serves."""

from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from hotseat.cli.main import main
from hotseat.importing import FORMATS, Imported, convert
from hotseat.importing.formats import recognise
from hotseat.importing.llamaswap import shell_patterns
from hotseat.importing.ollama import blob_of
from hotseat.manifests import Manifest, ManifestErrors
from hotseat.manifests.files import Text
from hotseat.manifests.loading import load_texts

CASES = Path(__file__).parent / "cases"
FILES = sorted(path for path in CASES.rglob("*") if path.is_file())
ENVIRON = {
    "SECOND_KEY": "sk-second",
    "VLLM_API_KEY": "sk-engine",
    "HF_TOKEN": "hf_token",
    "HOME": "/nowhere",
    "OLLAMA_MODELS": "/nowhere",
}
SECRETS = ("sk-family-1", "sk-second", "sk-engine", "hf_token", "sk-very-secret", "token-abc123")


def imported(case: str) -> Imported:
    return convert((CASES / case).read_text(), case, ENVIRON)


def manifest_of(made: Imported) -> Manifest:
    return load_texts([Text("made.yaml", Path("/x/made.yaml"), Path("/x"), made.text)])


def documents(case: str) -> dict[str, dict[str, Any]]:
    """The specs that are made, by name. The Workspace's is `workspace`."""
    found = [each for each in yaml.safe_load_all(imported(case).text) if each]
    return {"workspace" if each["kind"] == "Workspace" else each["metadata"]["name"]: each["spec"] for each in found}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_case_is_recognised_and_becomes_documents_that_hotseat_takes(path: Path) -> None:
    content = path.read_text()
    assert recognise(content, "f").replace("llmsnap", "llama-swap") == path.parent.name
    made = imported(str(path.relative_to(CASES)))
    manifest = manifest_of(made)
    assert len(manifest.models) == made.models
    assert len(manifest.workspaces) == 1
    text = " ".join(made.text.replace("\n# ", " ").split())
    assert all(" ".join(str(note).split())[:60] in text for _, note in made.notes)
    assert not [secret for secret in SECRETS if secret in made.text]


def test_each_importer_has_three_cases() -> None:
    counts = {path.name: len(list(path.iterdir())) for path in CASES.iterdir()}
    assert counts.keys() | {"llmsnap"} == FORMATS.keys()
    assert min(counts.values()) >= 3


FACTS: list[tuple[str, str, Any]] = [
    ("llama-swap/windows.yaml", "qwen3-30b-a3b-thinking.command.4", None),
    ("llama-swap/windows.yaml", "gemma3.command.0", r"D:\llm\llama.cpp\llama-server.exe"),
    ("llama-swap/windows.yaml", "gemma3.command.8", r"D:\llm\gguf\mmproj.gguf"),
    ("llama-swap/windows.yaml", "qwen3-30b-a3b-thinking.names", ["Qwen3-30B-A3B (thinking)", "qwen3", "gpt-4o"]),
    ("llama-swap/sleepers.yaml", "coder.lifecycle.release", "Park"),
    ("llama-swap/sleepers.yaml", "coder.lifecycle.preload", True),
    ("llama-swap/sleepers.yaml", "coder.stopCommand", ["podman", "stop", "coder"]),
    ("llama-swap/sleepers.yaml", "writer.lifecycle.release", "Stop"),
    ("llama-swap/sleepers.yaml", "workspace.loading", "Reasoning"),
    ("llama-swap/two-boxes.yaml", "nas-embed.engine", "external"),
    ("llama-swap/two-boxes.yaml", "nas-embed.url", "http://nas.lan:8081"),
    ("llama-swap/two-boxes.yaml", "workspace.sets", [["qwen3-8b", "nas-embed"], ["vision", "nas-embed"]]),
    ("llama-swap/two-boxes.yaml", "mistral-large.url", "http://office:8080"),
    ("llama-swap/two-boxes.yaml", "mistral-large.engineModelName", "mistral/large"),
    ("llama-swap/two-boxes.yaml", "mistral-large.names", ["mistral/large", "office/mistral/large"]),
    ("llama-swap/two-boxes.yaml", "vision-2.names", ["office/vision"]),
    ("llama-swap/two-boxes.yaml", "vision-2.filters", {"strip": ["seed"]}),
    ("llama-swap/two-boxes.yaml", "qwen3-8b.filters.strip", ["temperature", "top_p"]),
    ("llama-swap/two-boxes.yaml", "qwen3-8b.filters.set", {"cache_prompt": True}),
    ("llama-swap/two-boxes.yaml", "qwen3-8b.filters.default", {"max_tokens": 4096}),
    (
        "llama-swap/two-boxes.yaml",
        "workspace.virtualModels.1.members",
        [{"model": "qwen3:8b", "maxRequests": 4}, {"model": "office/llama-70b"}],
    ),
    ("llama-swap/two-boxes.yaml", "workspace.virtualModels.0.strategy", "Warm"),
    ("llama-swap/two-boxes.yaml", "workspace.profiles", {"travel": {"llama-70b": "qwen3:8b", "nas-embed": ""}}),
    ("llama-swap/two-boxes.yaml", "workspace.activeProfile", "travel"),
    ("snipsnap/two.yaml", "workspace.activeModel", "llama3"),
    ("snipsnap/two.yaml", "llama3.source", "ollama://llama3.1:8b"),
    ("snipsnap/two.yaml", "llama3.engine", "llamacpp"),
    ("snipsnap/two.yaml", "llama3.resources", {"gpus": 1, "cpu": "2", "memory": "12Gi"}),
    ("snipsnap/two.yaml", "llama3.cache", {"size": "50Gi"}),
    ("snipsnap/two.yaml", "qwen.engine", "vllm"),
    ("snipsnap/two.yaml", "qwen.credentials", "hf"),
    ("snipsnap/two.yaml", "qwen.cache", {"size": "80Gi", "storageClass": "fast"}),
    ("snipsnap/list.yaml", "mistral-7b-q4.cache", {"existingClaim": "weights"}),
    ("snipsnap/list.yaml", "mistral-7b-q4.names", ["mistral-7b.q4"]),
    ("snipsnap/cpu-and-typo.yaml", "embed.resources", {"gpus": 0, "cpu": "500m", "memory": "1Gi"}),
    ("snipsnap/cpu-and-typo.yaml", "embed.source", "ollama://nomic-embed-text"),
    ("vllm-chill/one.yaml", "qwen3-coder-30b-fp8.vllm.tensorParallelSize", 2),
    ("vllm-chill/one.yaml", "qwen3-coder-30b-fp8.vllm.toolCallParser", "qwen3_coder"),
    ("vllm-chill/one.yaml", "qwen3-coder-30b-fp8.names", ["qwen3-coder"]),
    ("vllm-chill/one.yaml", "workspace.capacity.gpus", 2),
    ("vllm-chill/short-and-new.yaml", "r1.vllm.maxModelLen", 32768),
    ("vllm-chill/short-and-new.yaml", "r1.vllm.enableAutoToolChoice", None),
    ("vllm-chill/short-and-new.yaml", "glm.vllm.toolCallParser", "glm45"),
    ("vllm-chill/short-and-new.yaml", "glm.source", "/models/GLM-4.5-Air-FP8"),
    ("vllm-chill/whole.yaml", "qwen3-30b.lifecycle.idleTimeout", "20m"),
    ("vllm-chill/whole.yaml", "qwen3-30b.resources.gpus", 2),
    ("vllm-chill/whole.yaml", "workspace.defaultModel", "qwen3-30b"),
    ("kaos/hosted.yaml", "my-ollama.source", "ollama://smollm2:135m"),
    ("kaos/hosted.yaml", "my-ollama.podTemplate.spec.nodeSelector", {"gpu": "yes"}),
    ("kaos/hosted.yaml", "my-ollama.env", [{"name": "GGML_X", "value": "1"}]),
    ("kaos/hosted.yaml", "my-ollama.lifecycle.responseStartTimeout", "10m"),
    ("kaos/proxies.yaml", "ollama-devstral.url", "http://10.0.0.9:11434"),
    ("kaos/proxies.yaml", "ollama-devstral.engineModelName", "devstral"),
    ("kaos/proxies.yaml", "hosted-vllm-qwen.url", "http://box:8000"),
    ("kaos/routes.yaml", "gpt-oss.lifecycle", {"responseStartTimeout": "60s"}),
    ("kaos/routes.yaml", "gpt-oss.fallback", {"model": "gpt-oss-2", "when": ["Failed"]}),
    ("kaos/routes.yaml", "local-any.names", ["local/*"]),
    ("kaos/routes.yaml", "local-any.engineModelName", "*"),
    ("litellm/balanced.yaml", "llama-2.fallback.model", "llama-3"),
    ("litellm/gateway.yaml", "embeddings.engineModelName", "nomic-embed-text"),
    ("litellm/all.yaml", "any.names", ["*"]),
    ("ollama/list.txt", "nomic-embed-text.names", ["nomic-embed-text", "nomic-embed-text:latest"]),
    ("ollama/list.txt", "nomic-embed-text.capabilities", ["embedding"]),
    ("ollama/list.txt", "hf-co-unsloth-qwen3-8b-gguf-q4-k-m.source", "hf://unsloth/Qwen3-8B-GGUF/*Q4_K_M*.gguf"),
    ("ollama/tags.json", "bge-m3.capabilities", ["embedding"]),
    ("ollama/tags.json", "qwen3-14b.description", "14.8B Q4_K_M"),
    ("ollama/tags.json", "me-tuned.source", "ollama://me/tuned:latest"),
    ("compose/one-vllm.yaml", "qwen3-14b.source", "hf://Qwen/Qwen3-14B-AWQ"),
    ("compose/one-vllm.yaml", "qwen3-14b.args.1", "16384"),
    ("compose/one-vllm.yaml", "qwen3-14b.image", "vllm/vllm-openai:v0.11.0"),
    ("compose/one-vllm.yaml", "workspace.capacity", {"gpus": 1, "devices": ["0"]}),
    ("compose/rag.yaml", "qwen2-5-32b-instruct-q4-k-m.source", "/srv/gguf/Qwen2.5-32B-Instruct-Q4_K_M.gguf"),
    ("compose/rag.yaml", "qwen2-5-32b-instruct-q4-k-m.args.7", "/srv/gguf/mmproj.gguf"),
    ("compose/rag.yaml", "coder.source", "hf://unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF/*Q4_K_M*.gguf"),
    ("compose/rag.yaml", "baai-bge-m3.capabilities", ["embedding", "rerank"]),
    ("compose/rag.yaml", "baai-bge-m3.stopCommand", ["docker", "stop", "hotseat-embed"]),
    ("compose/ollama-and-voice.yml", "llama3-1-8b.source", "ollama://llama3.1:8b"),
    ("compose/ollama-and-voice.yml", "whisper.capabilities", ["transcription"]),
    ("compose/ollama-and-voice.yml", "whisper.command.9", "device=1"),
]


@pytest.mark.parametrize(("case", "path", "value"), FACTS, ids=lambda it: it if isinstance(it, str) else "")
def test_what_becomes_of_it(case: str, path: str, value: Any) -> None:
    def step(found: Any, key: str) -> Any:
        if isinstance(found, list):
            return found[int(key)] if int(key) < len(found) else None
        return None if found is None else found.get(key)

    if path.endswith("command.4") and value is None:  # as Windows reads it
        assert documents(case)["qwen3-30b-a3b-thinking"]["command"][-1] == '{{"enable_thinking": true}}'
        return
    assert reduce(step, path.split("."), documents(case)) == value


@pytest.mark.parametrize(
    ("regex", "patterns"),
    [
        (r".*\.(js|json|css)$", ["*.js", "*.json", "*.css"]),
        (r"^/metrics$", ["/metrics"]),
        (r"/assets/", ["*/assets/*"]),
        (r"^/api/v1.*$", ["/api/v1*"]),
        (r"\.(png)$", ["*.png"]),
        (r"[a-z]+", []),
        (r".*", []),
    ],
)
def test_paths_that_load_nothing_become_shell_patterns(regex: str, patterns: list[str]) -> None:
    assert shell_patterns(regex) == patterns


def test_what_remains_of_a_configuration_of_llama_swap() -> None:
    config = r"""
upstream: {ignorePaths: ['.*\.(js|css)$', '[a-z]+'], ignorePath: x}
models:
  m:
    cmd: serve ${PORT}
    timeouts: {responseHeader: 60, connect: 5}
    capabilities: {in: [text], reranker: true, context: 4096}
"""
    made = convert(config, "f", {})
    space, model = [each["spec"] for each in yaml.safe_load_all(made.text) if each]
    assert space["upstream"] == {"noLoadPaths": ["*.js", "*.css"]}
    assert model["lifecycle"]["responseStartTimeout"] == "60s"
    assert model["capabilities"] == ["rerank"]
    assert model["metadata"] == {"capabilities": {"in": ["text"], "reranker": True, "context": 4096}}
    told = {note.field for _, note in made.notes if note.kind == "no equivalent"}
    assert told == {"upstream.ignorePaths", "upstream.ignorePath", "timeouts"}


def test_a_service_without_a_model_is_told() -> None:
    texts = " ".join(str(note) for _, note in imported("compose/ollama-and-voice.yml").notes)
    assert "left out, as they serve no models: db" in texts
    assert "hotseat import ollama http://HOST:11434" in texts
    assert "hotseat cannot tell which model it serves" in texts
    unknown = [note.text for _, note in imported("compose/rag.yaml").notes if note.field == "mem_limt"]
    assert unknown[0].startswith("line 33: not known to this importer")


def test_mocks_and_what_is_not_reached() -> None:
    made = documents("kaos/proxies.yaml")
    assert {"gpt-4o", "gpt-4o-mini"} <= made.keys()
    notes = " ".join(str(note) for _, note in imported("kaos/routes.yaml").notes)
    assert "kubectl get secret litellm-config" in notes
    assert "did you mean apiBase?" in notes


def test_a_folder_has_the_parts_of_one_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("macros: {fa: on}\nmodels: {a: {cmd: 'serve ${PORT} ${fa}', tll: 1}}\n")
    (tmp_path / "b.yaml").write_text(
        "models: {b: {cmd: 'D:\\x.exe ${PORT}'}}\nselectors: {any: {strategy: warm, targets: [a, b]}}\n"
    )
    done = CliRunner().invoke(main, ["import", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    space, a, b = [each["spec"] for each in yaml.safe_load_all(done.stdout) if each]
    assert space["virtualModels"][0]["members"] == [{"model": "a"}, {"model": "b"}]
    assert (a["command"], b["command"]) == (["serve", "{port}", "on"], ["D:\\x.exe", "{port}"])
    assert f"tll: {tmp_path}/a.yaml, line 2: not known to this importer" in done.stderr


def test_the_format_can_be_told() -> None:
    text = "services: {}\nmodel_list: []\n"
    assert recognise(text, "f") == "litellm"
    assert convert(text, "f", {}, source="compose").models == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "apiVersion: hotseat.dev/v1alpha1\nkind: Model\nmetadata: {name: a}\nspec: {engine: mock}\n",
            "documents of hotseat already",
        ),
        ("just: this\n", "cannot be imported"),
        ("a: [\n", "not YAML"),
        ("kind: VLLMModel\nmetadata: {name: a}\nspec: {servedModelName: x}\n", "is missing"),
        (
            "kind: Model\napiVersion: s/v1\nmetadata: {name: a}\nspec: {url: 'hf://a/b', engine: TGI}\n",
            "is not an engine of snipsnap",
        ),
        ('services: {a: {image: vllm/vllm-openai, command: "--model \'x"}}\n', "is not a valid command line"),
        ("model_list: [{model_name: x}]\n", "has no model_name, or no litellm_params.model"),
    ],
)
def test_what_cannot_be_imported_is_an_error(content: str, words: str) -> None:
    with pytest.raises(ManifestErrors, match=words):
        convert(content, "f", {})


# Ollama ---------------------------------------------------------------------------------------------------------------


def test_weights_that_ollama_has_here_are_not_fetched_again(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests/registry.ollama.ai/library/llama3.1"
    manifests.mkdir(parents=True)
    layers = '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:ab"}]}'
    (manifests / "8b").write_text(layers)
    assert blob_of("llama3.1:8b", {"OLLAMA_MODELS": str(tmp_path)}) is None
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/sha256-ab").write_bytes(b"GGUF")
    environ = {"OLLAMA_MODELS": str(tmp_path)}
    assert blob_of("llama3.1:8b", environ) == tmp_path / "blobs/sha256-ab"
    assert blob_of("../../llama3.1:8b", environ) is None
    made = convert((CASES / "ollama/list.txt").read_text(), "list", environ)
    assert f"source: {tmp_path}/blobs/sha256-ab" in made.text


def test_the_list_of_a_running_ollama(ollama_server: str) -> None:
    done = CliRunner().invoke(main, ["import", "ollama", ollama_server])
    assert done.exit_code == 0, done.stderr
    assert "source: ollama://qwen3:14b" in done.stdout
    assert done.stderr.endswith(f"ollama: 3 models, {len(done.stderr.splitlines()) - 1} notes\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ollama", "http://127.0.0.1:1"], 2, "cannot be read"),
        (["config.yaml", "http://127.0.0.1:1"], 2, "one argument too many"),
        (["config.yaml", "--from", "unknown"], 2, "llama-swap"),
    ],
)
def test_an_ollama_that_is_not_there(arguments: list[str], code: int, words: str) -> None:
    done = CliRunner().invoke(main, ["import", *arguments])
    assert done.exit_code == code
    assert words in done.stderr
