"""What Models inherit from their Workspace, and macros and placeholders in their texts."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hotseat.api.model import Model
from hotseat.engines.base import EngineError, Placement
from hotseat.engines.custom import Custom
from hotseat.engines.placeholders import filled
from hotseat.manifests import ManifestErrors, load
from hotseat.manifests.inheritance import as_written, inherit, merged
from hotseat.manifests.problems import Problem

HEAD = "apiVersion: hotseat.dev/v1alpha1\nkind: "


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(**files: str) -> Any:
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return load([tmp_path])

    return read


def workspace(spec: str, name: str = "default") -> str:
    return f"{HEAD}Workspace\nmetadata: {{name: {name}}}\nspec:\n{spec}"


def model(name: str, spec: str) -> str:
    return f"---\n{HEAD}Model\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def spec_of(read: Any, spec: str, space: str) -> Any:
    (found,) = read(all=workspace(space) + model("a", spec)).models
    return found.spec


def problem(read: Any, spec: str, space: str = "  macros: {}\n") -> Problem:
    with pytest.raises(ManifestErrors) as caught:
        read(all=workspace(space) + model("a", spec))
    (found,) = caught.value.problems
    return found


# Defaults -------------------------------------------------------------------------------------------------------------


def test_mappings_are_merged_and_lists_are_replaced() -> None:
    own = {"a": {"x": 1, "deep": {"y": 2}}, "list": [1], "text": "own"}
    defaults = {"a": {"x": 9, "z": 3, "deep": {"w": 4}}, "list": [7, 8], "text": "theirs", "more": {"m": 1}}
    assert merged(own, defaults) == {
        "a": {"x": 1, "z": 3, "deep": {"y": 2, "w": 4}},
        "list": [1],
        "text": "own",
        "more": {"m": 1},
    }


DEFAULTS = """\
  modelDefaults:
    engine: llamacpp
    args: [--n-gpu-layers, "99"]
    lifecycle: {idleTimeout: 10m, startTimeout: 20m}
    vllm: {maxModelLen: 512}
"""


def test_models_have_what_they_do_not_state_from_their_workspace(read: Any) -> None:
    spec = spec_of(read, "{source: /x.gguf, lifecycle: {idleTimeout: 5m}}", DEFAULTS)
    assert (spec.engine, spec.args) == ("llamacpp", ("--n-gpu-layers", "99"))
    assert (spec.lifecycle.idle_timeout, spec.lifecycle.start_timeout) == (300, 1200)


def test_what_an_engine_has_no_use_for_is_not_inherited(read: Any) -> None:
    spec = spec_of(read, "{engine: external, url: 'http://h:1'}", DEFAULTS)
    assert (spec.args, spec.vllm, spec.lifecycle.start_timeout) == ((), None, 1200)
    assert spec_of(read, "{engine: vllm, source: 'hf://o/r'}", DEFAULTS).vllm.max_model_len == 512


def test_defaults_of_one_kind_of_engine_leave_the_others_alone(read: Any) -> None:
    defaults = "  modelDefaults: {retries: {attempts: 2}, circuitBreaker: {}, allowMockResponse: true, lifecycle: {release: Park}, "
    defaults += "health: {path: /alive}, engineKey: {value: local}}\n"
    local = spec_of(read, "{engine: mock}", defaults)
    assert (local.retries, local.lifecycle.release, local.health.path, local.engine_key.value) == (
        None,
        "Park",
        "/alive",
        "local",
    )
    cloud = spec_of(read, "{engine: external, url: 'http://h:1'}", defaults)
    assert (cloud.retries.attempts, cloud.lifecycle.release, cloud.health.path, cloud.engine_key) == (
        2,
        "Stop",
        None,
        None,
    )


def test_a_model_may_have_its_key_from_elsewhere_than_the_default(read: Any) -> None:
    defaults = "  modelDefaults: {engineKey: {env: A, header: X-Key}}\n"
    key = spec_of(read, "{engine: mock, engineKey: {value: own}}", defaults).engine_key
    assert (key.value, key.env, key.header) == ("own", None, "X-Key")


def test_they_come_from_the_workspace_of_the_model_whatever_file_it_is_in(read: Any) -> None:
    idle = {name: f"  modelDefaults: {{lifecycle: {{idleTimeout: {name}m}}}}\n" for name in ("1", "2")}
    found = read(
        a=model("a", "{engine: mock, workspace: w1}") + model("b", "{engine: mock, workspace: w2}"),
        w=workspace(idle["1"], "w1") + "---\n" + workspace(idle["2"], "w2"),
    )
    assert {each.name: each.spec.lifecycle.idle_timeout for each in found.models} == {"a": 60, "b": 120}


def test_a_problem_of_the_defaults_is_told_once_at_their_place(read: Any) -> None:
    with pytest.raises(ManifestErrors) as caught:
        read(
            w=workspace("  modelDefaults: {lifecycle: {idleTimeout: 5 m}}\n"),
            m=model("a", "{engine: mock}") + model("b", "{engine: mock}"),
        )
    (found,) = caught.value.problems
    assert (Path(found.file).name, found.line, found.document) == ("w.yaml", 5, "Workspace/default")
    assert found.field == "spec.modelDefaults.lifecycle.idleTimeout"


def test_a_problem_of_the_model_is_told_at_its_place(read: Any) -> None:
    found = problem(
        read, "{lifecycle: {idleTimeout: 5 m}}", "  modelDefaults: {engine: mock, lifecycle: {stopTimeout: 1s}}\n"
    )
    assert (found.document, found.field) == ("Model/a", "spec.lifecycle.idleTimeout")
    assert problem(read, "{}", "  modelDefaults: {args: []}\n").field == "spec.engine"


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("  modelDefaults: {names: [a]}\n", "modelDefaults has names"),
        ("  macros: {1st: x}\n", "macros has '1st'"),
        ("  macros: {port: x}\n", "macros has port, which is a placeholder"),
    ],
)
def test_what_cannot_be_shared_is_refused(read: Any, space: str, words: str) -> None:
    with pytest.raises(ManifestErrors, match=words):
        read(all=workspace(space))


def test_defaults_that_an_api_server_has_filled_in_count_as_not_stated() -> None:
    stored = {
        "engine": "mock",
        "lifecycle": {"idleTimeout": "0s", "startTimeout": "20m", "release": "Stop"},
        "resources": {"gpus": 1},
        "concurrency": 0,
        "metadata": {"title": "x"},
        "args": ["--x"],
    }
    assert as_written(stored) == {
        "engine": "mock",
        "lifecycle": {"startTimeout": "20m"},
        "metadata": {"title": "x"},
        "args": ["--x"],
    }


# Macros ---------------------------------------------------------------------------------------------------------------

MACROS = """\
  macros:
    models: /data/models
    file: ${models}/a b.gguf
    server: serve --port {port} --file '${file}'
    host: gpu-box
""".replace("    host: gpu-box\n", "    box: gpu-box\n")


def test_macros_stand_in_texts_and_in_other_macros(read: Any) -> None:
    spec = spec_of(
        read,
        "{engine: mock, source: '${models}/x.gguf', env: [{name: A, value: '${file}!'}], health: {path: '/${box}'}, "
        "stopCommand: [stop, '${box}'], image: 'r/${box}'}",
        MACROS,
    )
    assert (spec.source, spec.env[0].value) == ("/data/models/x.gguf", "/data/models/a b.gguf!")
    assert (spec.health.path, spec.stop_command, spec.image) == ("/gpu-box", ("stop", "gpu-box"), "r/gpu-box")
    assert spec_of(read, "{engine: external, url: 'http://${box}:80'}", MACROS).url == "http://gpu-box:80"


def test_macros_stand_in_all_paths_and_addresses(read: Any) -> None:
    far = spec_of(
        read,
        "{engine: external, url: 'https://${box}', failoverUrls: ['https://a', 'https://${box}:2'], "
        "engineKey: {file: '${models}/key'}, headers: [{name: A, value: '${box}'}, {name: B, file: '${models}/b'}], "
        "tls: {caFile: '${models}/ca.pem'}}",
        MACROS,
    )
    assert (far.failover_urls, far.tls.ca_file) == (("https://a", "https://gpu-box:2"), "/data/models/ca.pem")
    assert far.engine_key.file == "/data/models/key"
    assert [each.value or each.file for each in far.headers] == ["${box}", "/data/models/b"], "a secret is as it is"
    near = spec_of(read, "{engine: vllm, source: /m, loras: [{name: x, source: '${models}/x'}]}", MACROS)
    assert near.loras[0].source == "/data/models/x"
    found = problem(read, "{engine: vllm, source: /m, loras: [{name: x, source: '${modles}/x'}]}", MACROS)
    assert found.field == "spec.loras[0].source"
    assert "did you mean ${models}?" in str(found)


def test_the_words_of_a_macro_are_items_of_their_own(read: Any) -> None:
    spec = spec_of(read, "{engine: custom, command: ['${words:server}', --more]}", MACROS)
    assert spec.command == ("serve", "--port", "{port}", "--file", "/data/models/a b.gguf", "--more")


def test_placeholders_have_one_spelling_in_all_engines(read: Any) -> None:
    spec = spec_of(
        read, "{engine: custom, command: [x, '${port}', '{port}', '$${HOME}', '${{HOME}}', '${env:HOME}']}", MACROS
    )
    launched = Custom().launch(
        Model.model_validate({"metadata": {"name": "a"}, "spec": spec.model_dump()}), Placement("h", 7)
    )
    assert launched.argv == ("x", "7", "7", "${HOME}", "${HOME}", os.environ["HOME"])


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ("{engine: mock, env: [{name: A, value: '${hosts}'}]}", "spec.env[0].value", "did you mean ${host}?"),
        ("{engine: llamacpp, source: /x, args: ['${PORT}']}", "spec.args[0]", "did you mean ${port}?"),
        ("{engine: llamacpp, source: /x, args: ['${zzz}']}", "spec.args[0]", "write $${zzz} for the text itself"),
        ("{engine: llamacpp, source: /x, args: ['a${words:m}']}", "spec.args[0]", "must be an item of its own"),
        (
            "{engine: llamacpp, source: /x, args: ['${words:q}']}",
            "spec.args[0]",
            "cannot be split into words: No closing quotation",
        ),
        (
            "{engine: mock, stopCommand: [stop, '{prot}']}",
            "spec.stopCommand[1]",
            "unknown field {prot}, did you mean {port}?",
        ),
        ("{engine: mock, source: '${port}'}", "spec.source", "is known when the engine starts, and source before"),
        ("{engine: mock, health: {path: '/${m}${x}'}}", "spec.health.path", "the macro x uses itself: x -> y -> x"),
        (
            "{engine: llamacpp, source: /x, args: ['${b9}']}",
            "spec.args[0]",
            "is longer than 65536 characters with its macros",
        ),
    ],
)
def test_a_placeholder_that_cannot_be_filled_in_is_told(read: Any, spec: str, field: str, words: str) -> None:
    bomb = {f"b{n}": f"${{b{n - 1}}}" * 10 for n in range(1, 10)} | {"b0": "0123456789"}
    macros = {"m": "1", "q": "'", "x": "${y}", "y": "${x}", **bomb}
    found = problem(read, spec, f"  macros: {json.dumps(macros)}\n")
    assert found.field == field
    assert words in str(found)


def test_an_unknown_one_names_all_that_there_are(read: Any) -> None:
    found = problem(read, "{engine: llamacpp, source: /x, args: ['${zzz}']}", MACROS)
    names = ("port", "host", "model", "name", "source", "env:NAME", "models", "file", "server", "box")
    assert found.allowed == ", ".join(f"${{{name}}}" for name in names)


def test_texts_without_placeholders_stay_as_they_are() -> None:
    spec = {
        "engine": "llamacpp",
        "args": ['{"a": {"b": 1}}', "$HOME", "$$", "{port}", 7, None],
        "env": ["x", {"value": 1}],
    }
    assert inherit(spec, {}) == (spec, [])
    assert inherit(spec, {"macros": ["x"], "modelDefaults": "x"}) == (spec, [])


def test_args_of_models_that_were_found_follow_the_default_ones() -> None:
    defaults = {"modelDefaults": {"args": ["--a"]}}
    assert inherit({"engine": "llamacpp", "args": ["--b"]}, defaults, appended=True)[0]["args"] == ["--a", "--b"]
    assert inherit({"engine": "llamacpp"}, defaults, appended=True)[0]["args"] == ["--a"]


# At the start of an engine --------------------------------------------------------------------------------------------


def made(**spec: Any) -> Model:
    return Model.model_validate(
        {"metadata": {"name": "a"}, "spec": {"engine": "llamacpp", "source": "hf://o/r", **spec}}
    )


def test_they_are_filled_in_when_the_engine_starts() -> None:
    text = "${port} ${host} ${model} ${name} ${source} $${x}"
    variables = [{"name": "A", "value": "mine"}, {"name": "B", "value": text}]
    ready = filled(made(args=[text], env=variables), Placement("127.0.0.1", 8, "/w.gguf"))
    assert ready.spec.args == ("8 127.0.0.1 /w.gguf a hf://o/r ${x}",)
    assert ready.spec.env[1].value == ready.spec.args[0]
    plain = made(args=["{port}"])
    assert filled(plain, Placement("h", 1)) is plain


def test_a_variable_can_be_made_of_the_one_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "old")
    ready = filled(made(args=["${env:A}"], env=[{"name": "A", "value": "new:${env:A}"}]), Placement("h", 1))
    assert (ready.spec.env[0].value, ready.spec.args) == ("new:old", ("new:old",))


def test_a_variable_that_is_missing_or_secret_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTSEAT_API_KEY", "k")
    for name, words in (("HOTSEAT_API_KEY", "engines must not see"), ("NOT_SET_1", "but not set")):
        with pytest.raises(EngineError, match=words):
            filled(made(args=[f"${{env:{name}}}"]), Placement("h", 1))
