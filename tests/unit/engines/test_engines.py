"""Engines describe how to run a server program; nothing is started here."""

import re
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from hotseat.api.model import Model
from hotseat.engines.base import ENTRY_POINTS, EngineError, Placement, is_remote, load_engine
from hotseat.manifests import load


def model(engine: str, **spec: object) -> Model:
    return Model.model_validate(
        {
            "apiVersion": "hotseat.dev/v1alpha1",
            "kind": "Model",
            "metadata": {"name": "llama"},
            "spec": {"engine": engine, **spec},
        }
    )


def here(weights: Path | str | None = None) -> Placement:
    return Placement("127.0.0.1", 4711, str(weights) if weights else None)


def test_engines_are_found_by_their_entry_points() -> None:
    names = entry_points(group=ENTRY_POINTS).names
    assert {"custom", "external", "llamacpp", "mock", "vllm"} <= names
    for name in names:
        assert load_engine(name).name == name
    with pytest.raises(KeyError):
        load_engine("llamacp")


def test_the_docs_have_a_row_for_each_engine_with_what_it_can_do() -> None:
    lines = (Path(__file__).parents[3] / "docs" / "engines.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    table = {row[0].strip("`"): row for row in rows if len(row) == 8}
    assert table.keys() == entry_points(group=ENTRY_POINTS).names
    for name, (_, _, _, apis, _, parks, _, tested) in table.items():
        engine = load_engine(name)
        assert parks.startswith("yes" if hasattr(engine, "sleep") else ("no", "with `lifecycle.sleep`")), name
        assert {api.value for api in getattr(engine, "apis", ())} <= {*apis.replace(",", "").split()}, name
        assert tested


def test_the_examples_of_the_docs_are_right(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "engines.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 4
    for index, example in enumerate(examples):
        path = tmp_path / f"{index}.yaml"
        path.write_text(example)
        assert load([path]).models


@pytest.mark.parametrize("name", ["custom", "external", "llamacpp", "mock"])
def test_a_model_may_name_another_health_path(name: str) -> None:
    needed: dict[str, object] = {"custom": {"command": ["x"]}, "external": {"url": "http://a"}}.get(name, {})
    engine = load_engine(name)
    assert engine.health_path(model(name, **needed)) == "/health"
    assert engine.health_path(model(name, health={"path": "/v1/ok"}, **needed)) == "/v1/ok"


@pytest.mark.parametrize(
    ("source", "remote"),
    [
        ("hf://a/b", True),
        ("https://a/b.gguf", True),
        ("ollama://a", True),
        ("/x.gguf", False),
        ("file:///x", False),
        ("pvc://c/x", False),
        (None, False),
    ],
)
def test_what_is_fetched_before_a_start(source: str | None, remote: bool) -> None:
    given = {} if source is None else {"source": source}
    assert is_remote(source) == remote
    assert load_engine("llamacpp").fetches(model("llamacpp", **given)) == remote
    assert load_engine("custom").fetches(model("custom", command=["serve", "-m={model}"], **given)) == remote
    assert not load_engine("custom").fetches(
        model("custom", command=["serve", "{source}"], **given)
    )  # it gets them itself
    assert not load_engine("mock").fetches(model("mock", **given))


class TestCustom:
    engine = load_engine("custom")

    def launch(self, *command: str, weights: str | None = None, **spec: object) -> tuple[str, ...]:
        return self.engine.launch(model("custom", command=command, **spec), here(weights)).argv

    def test_fields_are_filled_in(self) -> None:
        argv = self.launch(
            "serve", "--listen={host}:{port}", args=["{name}", "{model}", "{source}"], source="hf://a/b", weights="/w"
        )
        assert argv == ("serve", "--listen=127.0.0.1:4711", "llama", "/w", "hf://a/b")

    def test_model_is_the_source_where_nothing_was_fetched(self) -> None:
        assert self.launch("serve", "{model}", source="/models/a.gguf") == ("serve", "/models/a.gguf")

    def test_the_name_is_the_one_that_the_engine_wants(self) -> None:
        assert self.launch("serve", "{name}", engineModelName="Llama 3") == ("serve", "Llama 3")

    def test_doubled_braces_are_braces(self) -> None:
        assert self.launch("serve", '{{"port": {port}}}') == ("serve", '{"port": 4711}')

    def test_environment_comes_from_the_model_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GPU", "0")
        assert self.launch("serve", "{env:GPU}") == ("serve", "0")
        assert self.launch("serve", "{env:GPU}", env=[{"name": "GPU", "value": "1"}]) == ("serve", "1")
        monkeypatch.delenv("GPU")
        with pytest.raises(EngineError, match="environment variable GPU"):
            self.launch("serve", "{env:GPU}")

    @pytest.mark.parametrize("name", ["HOTSEAT_API_KEY", "HOTSEAT_API_KEY_FILE"])
    def test_no_key_of_hotseat_gets_into_a_command(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(name, "sk-secret")
        with pytest.raises(EngineError, match=f"{name}, which engines must not see") as caught:
            self.launch("serve", f"{{env:{name}}}")
        assert "sk-secret" not in str(caught.value)
        assert self.launch("serve", f"{{env:{name}}}", env=[{"name": name, "value": "1"}]) == ("serve", "1")

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("{prot}", "command[1]: unknown field {prot}, did you mean {port}?"),
            ("{}", "command[1]: unknown field {}"),
            ("{env:1}", "command[1]: unknown field {env:1}"),
            ("{port", "command[1]: a single {"),
            ("}", "command[1]: a single }"),
        ],
    )
    def test_what_cannot_be_filled_in_is_a_problem(self, text: str, problem: str) -> None:
        problems = self.engine.check(model("custom", command=["serve", text], port=80))
        assert len(problems) == 1
        assert problems[0].startswith(problem)

    def test_a_server_must_learn_where_to_listen(self) -> None:
        assert any("{port}" in problem for problem in self.engine.check(model("custom", command=["serve"])))
        assert self.engine.check(model("custom", command=["serve"], port=8080)) == []
        assert self.engine.check(model("custom", command=["serve", "{port}"])) == []

    def test_model_without_a_source_is_a_problem(self) -> None:
        assert self.engine.check(model("custom", command=["serve", "{port}", "{model}"])) == [
            "{model} is used, but source is not set"
        ]


class TestExternal:
    engine = load_engine("external")

    def test_it_is_never_started(self) -> None:
        with pytest.raises(EngineError, match="external"):
            self.engine.launch(model("external", url="http://127.0.0.1:9"), here())
        assert not self.engine.fetches(model("external", url="http://127.0.0.1:9"))

    def test_fields_that_nobody_would_follow_are_problems(self) -> None:
        assert self.engine.check(model("external", url="http://127.0.0.1:9")) == []
        problems = self.engine.check(model("external", url="http://127.0.0.1:9", args=["-x"]))
        assert problems == ["engine external starts nothing, so args has no meaning"]


class TestLlamaCpp:
    engine = load_engine("llamacpp")

    @pytest.fixture(autouse=True)
    def binary(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        binary = tmp_path / "bin" / "llama-server"
        binary.parent.mkdir()
        binary.touch(mode=0o755)
        monkeypatch.setenv("PATH", str(binary.parent))
        return binary

    def test_the_binary_on_the_path_is_preferred(self, binary: Path, tmp_path: Path) -> None:
        weights = tmp_path / "a.gguf"
        weights.touch()
        argv = self.engine.launch(model("llamacpp", source=str(weights), args=["-c", "2048"]), here(weights)).argv
        common = ("--model", str(weights), "--host", "127.0.0.1", "--port", "4711", "--alias", "llama")
        assert argv == (str(binary), *common, "-c", "2048")
        binary.unlink()
        argv = self.engine.launch(model("llamacpp", source=str(weights)), here(weights)).argv
        assert argv == (sys.executable, "-P", "-m", "hotseat.engines.llamacpp_wheel", *common)

    def test_command_replaces_the_program(self, tmp_path: Path) -> None:
        (tmp_path / "a.gguf").touch()
        argv = self.engine.launch(
            model("llamacpp", source="/x", command=["/opt/llama-server"]), here(tmp_path / "a.gguf")
        ).argv
        assert argv[:2] == ("/opt/llama-server", "--model")

    def test_capabilities_become_flags(self, tmp_path: Path) -> None:
        (tmp_path / "a.gguf").touch()
        spec = model("llamacpp", source="/x", capabilities=["embedding", "rerank"], engineModelName="nomic")
        argv = self.engine.launch(spec, here(tmp_path)).argv
        assert {"--embeddings", "--reranking"} <= set(argv)
        assert argv[argv.index("--alias") + 1] == "nomic"

    def test_a_folder_must_leave_no_choice(self, tmp_path: Path) -> None:
        folder = tmp_path / "weights"
        folder.mkdir()
        spec = model("llamacpp", source=str(folder))
        with pytest.raises(EngineError, match=r"holds 0 \.gguf files"):
            self.engine.launch(spec, here(folder))
        (folder / "a-00002-of-00002.gguf").touch()
        (folder / "a-00001-of-00002.gguf").touch()
        assert str(folder / "a-00001-of-00002.gguf") in self.engine.launch(spec, here(folder)).argv
        (folder / "b-00001-of-00001.gguf").touch()
        with pytest.raises(EngineError, match=r"a-00001-of-00002.gguf, .*name one in source"):
            self.engine.launch(spec, here(folder))

    def test_weights_that_are_not_there_are_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="does not exist"):
            self.engine.launch(model("llamacpp", source="/x"), here(tmp_path / "none.gguf"))

    def test_our_own_arguments_are_ours(self) -> None:
        assert self.engine.check(model("llamacpp", source="/x")) == []
        assert any("source" in problem for problem in self.engine.check(model("llamacpp")))
        assert self.engine.check(model("llamacpp", source="/x", args=["--port=1"])) == [
            "args has --port, which hotseat sets itself"
        ]

    def test_a_draft_and_a_projector_are_arguments_but_no_other_model_is(self) -> None:
        assert self.engine.check(model("llamacpp", source="/x", args=["--mmproj", "/p", "-md", "/d", "--jinja"])) == []
        assert self.engine.check(model("llamacpp", source="/x", args=["-hf", "o/r"])) == [
            "args has -hf, which names a model: use source"
        ]
        (router,) = self.engine.check(model("llamacpp", source="/x", args=["--models-dir=/m"]))
        assert "hotseat chooses what is loaded" in router


class TestMock:
    engine = load_engine("mock")

    def test_its_arguments_are_checked_by_its_own_parser(self) -> None:
        assert self.engine.check(model("mock", args=["--load-time", "0.5", "--fault", "exit-loading:3"])) == []
        assert self.engine.check(model("mock", args=["--load-tim", "0.5"])) == [
            "args: unrecognized arguments: --load-tim 0.5"
        ]
        assert "'explode' is none of never-ready" in self.engine.check(model("mock", args=["--fault", "explode"]))[0]

    def test_it_is_told_its_name_and_seats(self) -> None:
        argv = self.engine.launch(model("mock", args=["--tokens", "3"], resources={"gpus": 2}), here()).argv
        assert argv[argv.index("--name") :] == (
            "--name",
            "llama",
            "--host",
            "127.0.0.1",
            "--port",
            "4711",
            "--gpus",
            "2",
            "--tokens",
            "3",
        )
