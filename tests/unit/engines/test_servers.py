"""Engines that are one program with a few flags: what is run for a Model. The flags are those of each project's documentation."""

from pathlib import Path

import pytest

from hotseat.api.model import Api, Capability, Model
from hotseat.api.wildcards import name_for_engine
from hotseat.engines.base import EngineError, Launch, Placement, RunsInImage, has_api, load_engine, sleep_of

PROGRAMS = {
    "sglang": "python3",
    "tgi": "text-generation-launcher",
    "tei": "text-embeddings-router",
    "ollama": "ollama",
    "whispercpp": "whisper-server",
}
REPOSITORIES = ("sglang", "tgi", "tei")
SOURCES = {"ollama": "ollama://qwen3:8b", "whispercpp": "hf://ggerganov/whisper.cpp/ggml-base.bin"}


def model(engine: str, **spec: object) -> Model:
    spec = {"engine": engine, "source": SOURCES.get(engine, "hf://o/r")} | spec
    return Model.model_validate({"metadata": {"name": "chat"}, "spec": spec})


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have all programs on the PATH, and a file of weights."""
    for program in PROGRAMS.values():
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    weights = tmp_path / "weights"
    weights.touch()
    return weights


def launch(engine: str, weights: Path | None, **spec: object) -> Launch:
    return load_engine(engine).launch(
        model(engine, **spec), Placement("127.0.0.1", 4711, str(weights) if weights else None)
    )


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        (
            "sglang",
            "python3 -m sglang.launch_server --model-path {} --host 127.0.0.1 --port 4711 --served-model-name chat",
        ),
        (
            "tgi",
            "text-generation-launcher --model-id {} --hostname 127.0.0.1 --port 4711 --shard-uds-path /tmp/hotseat-tgi-4711",
        ),
        (
            "tei",
            "text-embeddings-router --model-id {} --hostname 127.0.0.1 --port 4711 --uds-path /tmp/hotseat-tei-4711",
        ),
        (
            "whispercpp",
            "whisper-server --model {} --host 127.0.0.1 --port 4711 --inference-path /v1/audio/transcriptions --language auto",
        ),
    ],
)
def test_the_command_line(engine: str, line: str, programs: Path) -> None:
    common = tuple(line.format(programs).split())
    assert launch(engine, programs).argv == common
    assert launch(engine, programs, args=["--more", "1"]).argv == (*common, "--more", "1")
    own = launch(engine, programs, command=["/bin/sh", "x"]).argv
    assert own[:2] == ("/bin/sh", "x")
    assert own[2:] == common[common.index(str(programs)) - 1 :]


@pytest.mark.parametrize("engine", PROGRAMS)
def test_a_missing_program_is_said(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=f"engine {engine} needs {PROGRAMS[engine]} on the PATH"):
        launch(engine, tmp_path / "weights")


@pytest.mark.parametrize("engine", REPOSITORIES)
def test_engines_of_repositories(engine: str, programs: Path) -> None:
    found = load_engine(engine)
    by_engine = {"source": "hf://o/r/@v1", "cache": {"fetchBy": "Engine"}}
    assert found.fetches(model(engine))
    assert not found.fetches(model(engine, **by_engine))
    assert " o/r --revision v1 " in " ".join(launch(engine, None, **by_engine).argv)
    assert " /models/x " in " ".join(launch(engine, None, source="file:///models/x").argv)
    assert found.check(model(engine)) == []
    assert found.check(model(engine, source=None)) == [
        f"engine {engine} needs source: hf://org/repo, or a folder with such a model"
    ]
    assert found.check(model(engine, source="ollama://a")) == [
        f"source is ollama://…, which engine {engine} cannot read; use hf://org/repo"
    ]
    (problem,) = found.check(model(engine, source="https://h/a.tar", cache={"fetchBy": "Engine"}))
    assert "whole repositories only" in problem


@pytest.mark.parametrize("engine", [name for name in PROGRAMS if name != "ollama"])
def test_what_hotseat_sets_is_not_set_twice(engine: str) -> None:
    assert load_engine(engine).check(model(engine, args=["--port=1", "--threads", "2"])) == [
        "args has --port, which hotseat sets itself"
    ]


def test_all_gpus_are_used_unless_somebody_says_how(programs: Path) -> None:
    two = {"resources": {"gpus": 2}}
    assert launch("sglang", programs, **two).argv[-2:] == ("--tp-size", "2")
    assert launch("tgi", programs, **two).argv[-2:] == ("--num-shard", "2")
    assert "--tp-size" not in launch("sglang", programs, **two, args=["--dp", "2"]).argv
    assert "--num-shard" not in launch("tgi", programs, **two, args=["--sharded", "false"]).argv


def test_sglang_parks_with_its_weights_in_host_memory(programs: Path) -> None:
    park = {"lifecycle": {"release": "Park"}}
    assert launch("sglang", programs, **park).argv[-2:] == ("--enable-memory-saver", "--enable-weights-cpu-backup")
    sleep = sleep_of(load_engine("sglang"), model("sglang", **park))
    assert sleep is not None
    assert [(call.path, call.body) for call in (*sleep.sleep, *sleep.wake)] == [
        ("/release_memory_occupation", "{}"),
        ("/resume_memory_occupation", "{}"),
    ]
    assert sleep.keeps_prompts is False


@pytest.mark.parametrize("engine", ["tgi", "tei", "ollama", "whispercpp"])
def test_the_others_say_why_they_cannot_park(engine: str) -> None:
    assert sleep_of(load_engine(engine), model(engine)) is None
    assert getattr(load_engine(engine), "cannot_sleep", "")


def test_engines_of_one_kind_of_request_serve_no_other() -> None:
    assert model("whispercpp").spec.capabilities == (Capability.TRANSCRIPTION,)
    assert model("tei").spec.capabilities == (Capability.EMBEDDING, Capability.RERANK)
    assert model("tei", capabilities=["embedding"]).spec.capabilities == (Capability.EMBEDDING,)
    assert model("sglang").spec.capabilities == ()


def test_whisper_loads_a_file(programs: Path) -> None:
    with pytest.raises(EngineError, match="name the ggml file in source"):
        launch("whispercpp", programs.parent)


@pytest.mark.parametrize("engine", PROGRAMS)
def test_each_has_an_image_of_its_project(engine: str) -> None:
    found = load_engine(engine)
    assert isinstance(found, RunsInImage)
    image = found.image(model(engine))
    assert image is not None
    assert ":" in image


class TestOllama:
    engine = load_engine("ollama")

    def test_hotseat_decides_what_is_loaded_and_for_how_long(self, programs: Path) -> None:
        made = launch("ollama", None, concurrency=3)
        assert made.argv[:2] == ("/bin/sh", "-c")
        assert made.argv[-1] == "ollama"
        assert made.env == {
            "OLLAMA_HOST": "127.0.0.1:4711",
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_NUM_PARALLEL": "3",
            "HOTSEAT_OLLAMA_MODEL": "qwen3:8b",
            "HOTSEAT_OLLAMA_READY": "hotseat-ready-chat",
            "HOTSEAT_OLLAMA_FIRST": "",
        }
        assert "OLLAMA_NUM_PARALLEL" not in launch("ollama", None).env, "Ollama's own default"
        assert launch("ollama", None, capabilities=["embedding"]).env["HOTSEAT_OLLAMA_FIRST"] == "x"

    def test_it_knows_the_model_by_its_own_name_and_has_both_apis(self) -> None:
        served = model("ollama", source="ollama://hf.co/o/r:Q4_K_M", names=["gpt"])
        assert name_for_engine(served, "gpt") == "hf.co/o/r:Q4_K_M"
        assert self.engine.health_path(served) == "/v1/models/hotseat-ready-chat"
        assert not self.engine.fetches(served)
        assert [has_api(served, api) for api in (Api.OPENAI, Api.OLLAMA, Api.ANTHROPIC)] == [True, True, False]

    @pytest.mark.parametrize(
        ("spec", "problem"),
        [
            ({"source": None}, "engine ollama needs source: ollama://NAME"),
            ({"source": "hf://o/r/a.gguf"}, "for a .gguf file use engine llamacpp"),
            ({"args": ["--verbose"]}, "args has no meaning"),
            ({"engineModelName": "x"}, "engineModelName has no meaning"),
            ({"scheduling": {"replicas": 2}, "concurrency": 1}, "scheduling.replicas is more than 1"),
        ],
    )
    def test_what_has_no_meaning_is_said(self, spec: dict[str, object], problem: str) -> None:
        (said,) = self.engine.check(model("ollama", **spec))
        assert problem in said
