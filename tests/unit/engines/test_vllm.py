"""Engine vllm: a Model's source and typed settings become a command line."""

import json
from pathlib import Path

import pytest

from hotseat.api.model import Model
from hotseat.api.wildcards import name_for_engine
from hotseat.engines.base import EngineError, Placement, load_engine, sleep_of
from hotseat.engines.vllm import command_line

ENGINE = load_engine("vllm")


def model(**spec: object) -> Model:
    spec = {"engine": "vllm", "source": "hf://org/repo"} | spec
    return Model.model_validate({"metadata": {"name": "chat"}, "spec": spec})


def arguments(weights: str | None = None, **spec: object) -> list[str]:
    """What follows the part that all have."""
    line = command_line(model(**spec), Placement("0.0.0.0", 8080, weights))
    common = ["--host", "0.0.0.0", "--port", "8080", "--served-model-name"]
    at = line.index("--host")
    assert list(line[:2]) == ["vllm", "serve"]
    assert list(line[at : at + 5]) == common
    return [*line[2:at], *line[at + 5 :]]


def test_weights_are_a_path_once_fetched_and_a_repository_before() -> None:
    assert arguments("/cache/x") == ["/cache/x", "chat"]
    assert arguments() == ["org/repo", "chat"]
    assert arguments(source="hf://org/repo/@v1", engineModelName="gpt") == ["org/repo", "--revision", "v1", "gpt"]
    with pytest.raises(EngineError, match="needs weights"):
        arguments(source=None)


@pytest.mark.parametrize(
    ("field", "value", "flags"),
    [
        ("toolCallParser", "llama3_json", ["--tool-call-parser", "llama3_json"]),
        ("toolCallParser", "", []),
        ("toolCallParser", "granite-20b-fc", ["--tool-call-parser", "granite-20b-fc"]),
        ("toolCallParser", "internlm2", ["--tool-call-parser", "internlm"]),
        ("reasoningParser", "qwen3", ["--reasoning-parser", "qwen3"]),
        ("reasoningParser", "deepseek_r1", ["--reasoning-parser", "deepseek_r1"]),
        ("tensorParallelSize", 2, ["--tensor-parallel-size", "2"]),
        ("maxModelLen", 8192, ["--max-model-len", "8192"]),
        ("gpuMemoryUtilization", 0.85, ["--gpu-memory-utilization", "0.85"]),
        ("enableChunkedPrefill", True, ["--enable-chunked-prefill"]),
        ("enableChunkedPrefill", False, ["--no-enable-chunked-prefill"]),
        ("maxNumBatchedTokens", 4096, ["--max-num-batched-tokens", "4096"]),
        ("maxNumSeqs", 16, ["--max-num-seqs", "16"]),
        ("dtype", "bfloat16", ["--dtype", "bfloat16"]),
        ("disableCustomAllReduce", True, ["--disable-custom-all-reduce"]),
        ("disableCustomAllReduce", False, []),
        ("enablePrefixCaching", True, ["--enable-prefix-caching"]),
        ("enablePrefixCaching", False, ["--no-enable-prefix-caching"]),
        ("cpuOffloadGB", 4, ["--cpu-offload-gb", "4.0"]),
        ("enableAutoToolChoice", False, []),
    ],
)
def test_a_setting_is_a_flag(field: str, value: object, flags: list[str]) -> None:
    assert arguments(vllm={field: value}) == ["org/repo", "chat", *flags]


def test_a_connector_is_a_transfer_config_of_one_instance() -> None:
    """As vLLM's KVTransferConfig has it (0.11): a role is required, and unknown keys are refused."""
    *_, flag, text = arguments(
        vllm={"kvConnector": {"name": "OffloadingConnector", "extraConfig": {"num_cpu_blocks": 8192}}}
    )
    assert flag == "--kv-transfer-config"
    assert json.loads(text) == {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"num_cpu_blocks": 8192},
    }
    assert json.loads(arguments(vllm={"kvConnector": {"name": "LMCacheConnectorV1"}})[-1]) == {
        "kv_connector": "LMCacheConnectorV1",
        "kv_role": "kv_both",
    }


def test_tool_choice_comes_with_its_parser() -> None:
    flags = ["--tool-call-parser", "hermes", "--enable-auto-tool-choice"]
    assert arguments(vllm={"enableAutoToolChoice": True, "toolCallParser": "hermes"})[2:] == flags


def test_adapters_are_loaded_beside_the_base_and_known_by_their_names() -> None:
    """As vLLM's docs/features/lora.md has it; JSON, because NAME=PATH is split at each equals sign and refused with a comma."""
    loras = [{"name": "sql=v1, new", "source": "hf://o/sql"}, {"name": "qa", "source": "/loras/qa"}]
    served = model(loras=loras)
    flags = command_line(served, Placement("h", 1, "/w", adapters=("/cache/sql", "/loras/qa")))[-4:]
    assert flags[:2] == ("--enable-lora", "--lora-modules")
    assert [json.loads(each) for each in flags[2:]] == [
        {"name": "sql=v1, new", "path": "/cache/sql"},
        {"name": "qa", "path": "/loras/qa"},
    ]
    assert served.names == ("chat", "sql=v1, new", "qa")
    assert served.shown_name == "chat"
    for asked, known in {"qa": "qa", "sql=v1, new": "sql=v1, new", "chat": "gpt", "other": "gpt", None: "gpt"}.items():
        its = model(loras=loras, names=["other"], engineModelName="gpt")
        assert name_for_engine(its, asked) == known


def test_an_adapter_has_a_name_of_its_own() -> None:
    assert ENGINE.check(model(loras=[{"name": "chat", "source": "/a"}])) == [
        "loras[0].name is chat, which is the name of the base model: use another"
    ]
    assert ENGINE.check(model(loras=[{"name": "a", "source": "/a"}], args=["--lora-modules", "b=/b"])) == [
        "args has --lora-modules, which hotseat sets itself"
    ]
    assert ENGINE.check(model(args=["--lora-modules", "b=/b"])) == []


def test_all_gpus_are_used_unless_somebody_says_how() -> None:
    four = {"gpus": 4}
    assert arguments(resources=four)[2:] == ["--tensor-parallel-size", "4"]
    assert arguments(resources=four, vllm={"tensorParallelSize": 2})[2:] == ["--tensor-parallel-size", "2"]
    for args in (["--pipeline-parallel-size=4"], ["-dp", "4"], ["--tensor_parallel_size", "2"]):
        assert arguments(resources=four, args=args)[2:] == args


def test_args_come_last_and_so_win_and_command_replaces_the_program() -> None:
    assert arguments(vllm={"dtype": "half"}, args=["--dtype", "float"])[2:] == ["--dtype", "half", "--dtype", "float"]
    line = command_line(model(command=["/opt/vllm", "serve", "-v"]), Placement("h", 1))
    assert line[:4] == ("/opt/vllm", "serve", "-v", "org/repo")


def test_a_machine_without_vllm_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="pip install vllm"):
        ENGINE.launch(model(), Placement("127.0.0.1", 1))
    assert ENGINE.launch(model(command=["x"]), Placement("127.0.0.1", 1)).argv[:2] == ("x", "org/repo")
    (tmp_path / "vllm").touch(mode=0o755)
    assert ENGINE.launch(model(), Placement("127.0.0.1", 1)).argv[:3] == ("vllm", "serve", "org/repo")


def test_weights_are_fetched_before_a_gpu_is_taken_unless_the_model_says_otherwise() -> None:
    assert ENGINE.fetches(model())
    assert not ENGINE.fetches(model(cache={"fetchBy": "Engine"}))
    assert not ENGINE.fetches(model(source="/models/x"))
    assert ENGINE.health_path(model()) == "/health"


def test_problems_name_the_field_and_the_way_out() -> None:
    assert ENGINE.check(model()) == []
    assert ENGINE.check(model(source=None)) == [
        "engine vllm needs source: hf://org/repo, or a folder with such a model"
    ]
    assert ENGINE.check(model(vllm={"tensorParallelSize": 2})) == [
        "vllm.tensorParallelSize is 2, but resources.gpus is 1"
    ]
    assert ENGINE.check(model(args=["--served_model_name=x", "--dtype", "half"])) == [
        "args has --served-model-name, which hotseat sets itself"
    ]


def test_one_that_parks_is_started_so_that_it_can_sleep() -> None:
    placement = Placement("127.0.0.1", 8080, "/cache/x")
    sleeper = {"command": ["vllm", "serve"], "lifecycle": {"release": "Park"}}
    launch = ENGINE.launch(model(**sleeper), placement)
    assert launch.argv[-1] == "--enable-sleep-mode"
    assert launch.env == {"VLLM_SERVER_DEV_MODE": "1"}
    twice = ENGINE.launch(model(**sleeper, args=["--enable-sleep-mode"]), placement)
    assert twice.argv.count("--enable-sleep-mode") == 1
    other = ENGINE.launch(model(command=["vllm", "serve"]), placement)
    assert "--enable-sleep-mode" not in other.argv
    assert other.env == {}


def test_level_1_keeps_its_weights_in_host_memory_and_level_2_reads_them_again() -> None:
    one, two = (sleep_of(ENGINE, model(vllm={"sleepLevel": level})) for level in (1, 2))
    assert one is not None
    assert two is not None
    assert sleep_of(ENGINE, model()) == one
    assert one.state_path == two.state_path == "/is_sleeping"
    assert [call.path for call in (*one.sleep, *one.wake)] == ["/sleep?level=1", "/wake_up"]
    assert [call.path for call in two.sleep] == ["/sleep?level=2"]
    assert [call.path for call in two.wake] == [
        "/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache", "/reset_prefix_cache",
    ]  # fmt: skip
    assert two.wake[1].body == '{"method": "reload_weights"}'
    assert arguments(vllm={"sleepLevel": 2}) == ["org/repo", "chat"]  # it is no flag


def test_what_the_model_states_goes_before_what_the_engine_knows() -> None:
    calls = {"sleep": [{"path": "/s"}], "wake": [{"path": "/w", "method": "PUT"}]}
    stated = sleep_of(ENGINE, model(lifecycle=calls))
    assert stated is not None
    assert ([c.path for c in stated.sleep], [c.method for c in stated.wake], stated.state_path) == (
        ["/s"],
        ["PUT"],
        None,
    )


@pytest.mark.parametrize("name", ["llamacpp", "custom", "external"])
def test_some_engines_cannot_sleep_by_themselves(name: str) -> None:
    assert sleep_of(load_engine(name), model()) is None
