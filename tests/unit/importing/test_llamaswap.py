"""`hotseat import`: what becomes of each setting of llama-swap and llmsnap, and that nothing is dropped in silence."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from hotseat.api.filters import Filters
from hotseat.cli.main import main
from hotseat.engines.base import Placement
from hotseat.engines.custom import Custom
from hotseat.importing import Imported, convert
from hotseat.importing.groups import expand
from hotseat.importing.models import labels
from hotseat.importing.reader import MODEL_KEYS, TOP_KEYS, TOP_LOST
from hotseat.manifests import Manifest, ManifestErrors
from hotseat.manifests.files import Text
from hotseat.manifests.loading import load_texts

SAMPLES = Path(__file__).parents[2] / "llama_swap"
CLASH = "cannot be resident together: the first one stays loaded; llama-swap loads them in turn"
ENVIRON = {"MODELS": "/data", "HF_TOKEN": "hf_secret", "SECOND_KEY": "sk-second"}


def importing(text: str) -> tuple[Manifest, Imported]:
    """What hotseat's own loader reads of what came out."""
    made = convert(text, "config.yaml", ENVIRON)
    return load_texts([Text("made.yaml", Path("/x/made.yaml"), Path("/x"), made.text)]), made


def sample(name: str) -> tuple[Manifest, Imported]:
    return importing((SAMPLES / f"{name}.yaml").read_text())


def one(model: str, name: str = "m", **top: Any) -> tuple[dict[str, Any], list[str]]:
    """Spec of a model that is written as YAML, as plain data, and the notes about it."""
    text = yaml.safe_dump(top) if top else ""
    made = importing(f"{text}\nmodels:\n  {name}:\n" + "".join(f"    {line}\n" for line in model.split("\n")))[1]
    documents = [it for it in yaml.safe_load_all(made.text) if it and it["kind"] == "Model"]
    return documents[0]["spec"], [str(note) for _, note in made.notes]


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sample_becomes_documents_that_hotseat_takes(path: Path, tmp_path: Path, monkeypatch) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["import", str(path), "-o", str(tmp_path / "models.yaml")])
    assert done.exit_code == 0, done.stderr
    checked = CliRunner().invoke(main, ["validate", str(tmp_path / "models.yaml")])
    assert checked.exit_code == 0, checked.stderr
    configured = yaml.safe_load(path.read_text())["models"]
    manifest, _ = sample(path.stem)
    called = {name for model in manifest.models for name in model.names}
    assert set(configured) <= called
    assert {a for m in configured.values() for a in m.get("aliases", ())} <= called


# Commands -------------------------------------------------------------------------------------------------------------


def test_llama_server_with_a_file_of_this_machine_is_engine_llamacpp() -> None:
    manifest, _ = sample("plain")
    spec = manifest.models[0].spec
    assert (spec.engine, spec.source, spec.command) == ("llamacpp", "/srv/models/qwen-7b.gguf", ("llama-server",))
    assert spec.args == ("-ngl", "99", "--chat-template-kwargs", '{"enable_thinking": false}')


@pytest.mark.parametrize(
    "cmd",
    [
        "llama-server --port ${PORT} -m models/relative.gguf",
        "llama-server --port ${PORT} -hf org/repo",
        "llama-server --port ${PORT} -m /a.gguf --host 0.0.0.0",
        "llama-server --port ${PORT} -m /a.gguf --log-file /tmp/${PORT}",
        "llama-server --port ${PORT} -m ${env.MODELS}/a.gguf",
        "env A=b llama-server --port ${PORT} -m /a.gguf",
    ],
)
def test_where_that_would_not_be_the_same_the_command_stays(cmd: str) -> None:
    spec, _ = one(f"cmd: {cmd}")
    assert spec["engine"] == "custom"
    words = cmd.replace("${PORT}", "{port}").replace("${env.MODELS}", "{env:MODELS}").split()
    assert spec["command"] == words


def test_a_command_is_what_a_shell_would_make_of_it() -> None:
    """Quotes, lines that end in a backslash, comments, macros of several words, and braces that are meant."""
    manifest, _ = sample("house")
    chat = next(m for m in manifest.models if m.name == "chat")
    launch = Custom().launch(chat, Placement("127.0.0.1", 4321))
    assert launch.argv == (
        "docker", "run", "--rm", "--name", "Chat", "-p", "4321:8080", "-e", 'GREETING=a "b" {c}', "image", "--model", "/m.gguf"
    )  # fmt: skip
    assert chat.spec.stop_command == ("docker", "stop", "Chat")
    phi = sample("plain")[0].models[1].spec
    assert phi.command == ("llama-server", "--port", "{port}", "-m", "models/phi.gguf", "--ctx-size", "4096")


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("cmd: llama-server --port ${PORT} -m /m.gguf --api-key sk-1", {"value": "sk-1"}),
        ("cmd: llama-server --port ${PORT} -hf a/b --api-key=sk-1,sk-2", {"value": "sk-1"}),
        ("cmd: vllm serve a/b --port ${PORT} --api-key ${env.SECOND_KEY}", {"env": "SECOND_KEY"}),
        ("cmd: llama-server --port ${PORT} -hf a/b --api-key-file /keys", {"file": "/keys"}),
        ("cmd: vllm serve a/b --port ${PORT}\nenv: [VLLM_API_KEY=sk-1]", {"value": "sk-1"}),
        (
            "cmd: llama-server --port ${PORT} -hf a/b\nenv: ['LLAMA_API_KEY=${env.LLAMA_API_KEY}']",
            {"env": "LLAMA_API_KEY"},
        ),
        ("cmd: llama-server --port ${PORT} -hf a/b", None),
    ],
)
def test_an_engine_that_is_started_with_a_key_is_sent_it(model: str, key: dict[str, str] | None) -> None:
    spec, notes = one(model)
    assert spec.get("engineKey") == key
    assert any("in plain text" in note for note in notes) == (key is not None and "value" in key)
    assert not any("sk-1" in note for note in notes)


def test_macros_are_filled_from_the_last_to_the_first_and_a_models_own_win(monkeypatch) -> None:
    monkeypatch.setenv("MODELS", "/late")
    manifest, _ = sample("house")
    spec = next(m for m in manifest.models if "author/chat:7b" in m.names).spec
    assert spec.command == (
        "/opt/engines/llama-server", "--port", "{port}", "--ctx-size", "16384", "-m", "{env:MODELS}/gguf/chat.gguf",
        "--temp", "0.7", "--alias", "author/chat:7b",
    )  # fmt: skip
    assert spec.description == "The usual one, 16384 tokens"
    assert spec.metadata == {
        "name": "Chat 7B", "ctx": 16384, "warm": True, "about": ["author/chat:7b at 0.7"]
    }  # fmt: skip


def test_what_only_the_environment_knows_is_asked_at_the_start_and_never_written_down() -> None:
    manifest, made = sample("house")
    models = {m.name: m.spec for m in manifest.models}
    assert [(v.name, v.value) for v in models["author-chat-7b"].env] == [("CUDA_VISIBLE_DEVICES", "0,1")]
    assert models["rerank"].command == ("env", "RERANK_CACHE={env:MODELS}/cache", "reranker", "--port", "{port}")
    for secret in ("hf_secret", "sk-first", "sk-second", "sk-of-the-cloud", "pa55word"):
        assert secret not in made.text
    assert "2 keys: put them into a file, one per line, for hotseat up --api-key-file FILE" in " ".join(
        line.removeprefix("# ").strip() for line in made.text.splitlines()
    )


def test_a_fixed_port_stays_and_a_free_one_is_chosen_where_a_macro_asks_for_it() -> None:
    models = {m.name: m.spec for m in sample("house")[0].models}
    assert (models["embed"].port, models["embed"].health.path) == (7997, "/ready")
    assert models["chat"].port is None
    spec, notes = one("cmd: serve --port ${PORT}\nproxy: http://127.0.0.1:81")
    assert (spec["port"], notes) == (81, ["changed: proxy: its port is 81, so ${PORT} in cmd is 81 too"])
    spec, _ = one("cmd: serve\nproxy: http://10.0.0.1:80/v1")
    assert (spec["engine"], spec["url"]) == ("external", "http://10.0.0.1:80/v1")
    _, notes = one("cmd: serve\nproxy: http://me@10.0.0.1:80/v1")
    assert any(note.startswith("no equivalent: proxy: http://10.0.0.1:80/v1") for note in notes)


def test_requests_to_sleep_and_to_wake_become_parking() -> None:
    both = """sleepEndpoints: [{endpoint: "/sleep?level=1", body: '{"a": "${MODEL_ID}"}'}]
wakeEndpoints: [{endpoint: /wake_up, method: put, timeout: 30}, {endpoint: /reset}]"""
    spec, notes = one(f"cmd: x ${{PORT}}\nsleepMode: enable\n{both}")
    lifecycle = spec["lifecycle"]
    assert (lifecycle["release"], lifecycle["sleep"]) == ("Park", [{"path": "/sleep?level=1", "body": '{"a": "m"}'}])
    assert lifecycle["wake"] == [{"path": "/wake_up", "method": "PUT", "timeout": "30s"}, {"path": "/reset"}]
    assert notes == ["changed: sleepMode: enable: it becomes lifecycle.release: Park"]
    assert one(f"cmd: x ${{PORT}}\nsleepMode: disable\n{both}")[0]["lifecycle"]["release"] == "Stop"
    assert one(f"cmd: x ${{PORT}}\n{both}", sleepMode="disable")[0]["lifecycle"]["release"] == "Stop"
    former = "sleepEndpoint: /sleep\nwakeEndpoint: /wake\nwakeTimeout: 5"
    lifecycle = one(f"cmd: x ${{PORT}}\n{former}")[0]["lifecycle"]
    assert (lifecycle["sleep"], lifecycle["wake"]) == ([{"path": "/sleep"}], [{"path": "/wake", "timeout": "5s"}])


# Names ----------------------------------------------------------------------------------------------------------------


def test_names_that_are_no_labels_get_one_and_stay_names() -> None:
    names = ["Qwen3-8B.Q4", "author/model:tag", "7b", "qwen", "Qwen", "-", "x" * 70]
    found = labels(names, taken=["author-model-tag"])
    assert list(found.values()) == ["qwen3-8b-q4", "author-model-tag-2", "m-7b", "qwen", "qwen-2", "m", "x" * 63]
    manifest, made = sample("plain")
    assert manifest.models[1].names == ("Phi-4-mini.Q8", "gpt-4o-mini", "microsoft/phi-4:mini", "phi-4-mini-q8")
    assert manifest.models[1].spec.engine_model_name == "Phi-4-mini.Q8"  # what the engine heard before
    assert "Phi-4-mini.Q8 is no RFC 1035 label" in made.text


def test_what_clients_could_send_they_still_can() -> None:
    manifest, _ = sample("house")
    chat = next(m for m in manifest.models if "author/chat:7b" in m.names)
    assert chat.spec.names == ("author/chat:7b", "coding:author/chat:7b")
    assert {"tiny", "embed/large"} <= {name for m in manifest.models for name in m.names}
    assert next(m for m in manifest.models if m.name == "big-model").shown_name == "Big Model"
    assert "author/chat:7b:high" in chat.names
    assert chat.spec.filters == Filters.model_validate(
        {
            "strip": ["temperature", "top_p"],
            "set": {"top_k": 20},
            "byName": {"author/chat:7b:high": {"set": {"reasoning_effort": "high"}}},
        }
    )


def test_the_models_name_is_protected_as_it_was_and_macros_are_filled() -> None:
    manifest, made = importing(
        "macros: {heat: 0.7}\nmodels: {m: {cmd: 'x ${PORT}', filters: {strip_params: 'model, top_k,', setParams: {model: b, t: '${heat}'}, "
        "setParamsByID: {'${MODEL_ID}': {a: {b: 1}}, '${MODEL_ID}:x': {model: c}}, later: 1}}}\n"
    )
    (model,) = manifest.models
    assert model.spec.filters == Filters.model_validate(
        {"strip": ["top_k"], "set": {"t": 0.7}, "byName": {"m": {"set": {"a": {"b": 1}}}, "m:x": {}}}
    )
    assert [note.field for _, note in made.notes if note.kind == "no equivalent"] == ["filters.later"]


# Times, groups, sets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top", "own", "workspace", "model"),
    [
        (True, None, "Reasoning", None),
        (True, False, "Reasoning", "Hold"),
        (False, True, "Hold", "Reasoning"),
        (None, True, "Hold", "Reasoning"),
        (None, False, "Hold", None),
    ],
)
def test_news_of_loading_are_told_in_the_same_field(
    top: bool | None, own: bool | None, workspace: str, model: str | None
) -> None:
    def line(value: bool | None, indent: str = "") -> str:
        return "" if value is None else f"{indent}sendLoadingState: {str(value).lower()}\n"

    manifest, made = importing(f"{line(top)}models:\n  m:\n    cmd: serve --port ${{PORT}}\n{line(own, '    ')}")
    assert (manifest.workspaces[0].spec.loading, manifest.models[0].spec.loading) == (workspace, model)
    assert "sendLoadingState" not in str(made.notes)


def test_times_limits_and_preload() -> None:
    models = {m.name: m.spec for m in sample("house")[0].models}
    lifecycle = models["chat"].lifecycle
    assert (lifecycle.idle_timeout, lifecycle.start_timeout, lifecycle.stop_timeout) == (600.0, 15.0, 20.0)
    assert models["embed"].lifecycle.idle_timeout == 0.0
    assert models["author-chat-7b"].concurrency == 4
    assert {name for name, spec in models.items() if spec.lifecycle.preload} == {"embed", "big-model"}
    assert models["embed"].unlisted
    assert models["chat"].engine_model_name == "served/chat"
    assert one("cmd: x ${PORT}")[0]["lifecycle"] == {"startTimeout": "120s"}


def test_groups_are_carried_over_with_the_one_that_holds_the_rest() -> None:
    (space,) = sample("house")[0].workspaces
    assert not space.spec.capacity.counted
    groups = {g.name: (g.members, g.swap, g.exclusive, g.persistent) for g in space.spec.groups}
    assert groups == {
        "chat-models": (("author-chat-7b", "chat"), True, True, False),
        "helpers": (("embed", "rerank"), False, False, True),
        "default": (("big-model",), True, True, False),
    }


def test_without_groups_one_seat_says_the_same() -> None:
    (space,) = sample("plain")[0].workspaces
    assert (space.spec.capacity.gpus, space.spec.capacity.counted, space.spec.groups) == (1, True, ())


def test_a_matrix_becomes_sets() -> None:
    manifest, made = sample("matrix")
    (space,) = manifest.workspaces
    assert space.spec.sets == (("gemma", "voice"), ("qwen", "voice"), ("seventy",), ("lonely",))
    assert {m.name: m.spec.scheduling.priority for m in manifest.models if m.spec.scheduling.priority} == {
        "voice": 5, "qwen": -1000
    }  # fmt: skip
    assert "no equivalent: matrix.evict_costs" in made.text
    assert "-2000 is out of range, and becomes -1000" in made.text


@pytest.mark.parametrize(
    ("expression", "sets"),
    [
        ("L", ["L"]),
        ("a & b", ["ab"]),
        ("a | b & c", ["a", "bc"]),
        ("(a | b) & (c | d)", ["ac", "ad", "bc", "bd"]),
        ("+x & b", ["ab", "b"]),
        ("((a))&a", ["a"]),
    ],
)
def test_the_matrix_language(expression: str, sets: list[str]) -> None:
    found, wrong = expand({"it": expression, "x": "a | b"})
    assert (found["it"], wrong) == ([frozenset(each) for each in sets], {})


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("a &", "a name is missing before the end"),
        ("", "a name is missing before the end"),
        ("(a | b", "a parenthesis is not closed"),
        ("a b", "unexpected b"),
        ("a ! b", "'!' is not allowed"),
        ("+nowhere", "+nowhere is not a set"),
        ("+it", "+it refers to itself"),
        (" & ".join(["(a | b | c)"] * 7), "more than 1000 sets"),
    ],
)
def test_mistakes_in_the_matrix_language(expression: str, words: str) -> None:
    assert words in expand({"it": expression})[1]["it"]


# What is lost, and what is wrong --------------------------------------------------------------------------------------


def test_whatever_has_no_equal_is_told() -> None:
    """Every setting of the sample that is not in a document stands in a note."""
    _, made = sample("house")
    told = {note.field for _, note in made.notes if note.kind == "no equivalent"}
    assert told == {
        "logLevel", "startPort", "logColours", "profiles.coding", "peers.cloud",
        "timeouts", "checkEndpoint", "cmdStop",
        "sleepMode", "sleepEndpoints", "notYetKnown",
    }  # fmt: skip
    assert all(str(note)[:40] in " ".join(made.text.replace("\n# ", " ").split()) for _, note in made.notes)


def test_nothing_in_a_value_can_leave_its_comment() -> None:
    manifest, made = importing(
        'models:\n  m:\n    cmd: x ${PORT}\n    later: "a\\nkind: Model"\n    filters: {x: "b\\n---\\nx: y"}\n'
    )
    assert len(manifest.models) == 1
    assert "\nkind: Model\nmetadata" in made.text


def test_preloads_that_cannot_be_together_are_told() -> None:
    _, made = importing(
        "models: {a: {cmd: 'x ${PORT}'}, b: {cmd: 'x ${PORT}'}}\nhooks: {on_startup: {preload: [a, b, c]}}\n"
    )
    assert [str(note) for name, note in made.notes if name == "default"] == [
        "no equivalent: hooks.on_startup.preload: c is not a model",
        f"changed: hooks.on_startup.preload: a and b {CLASH}",
    ]


@pytest.mark.parametrize(
    ("text", "field", "line", "words"),
    [
        ("a: 1", "", None, "cannot be imported"),
        ("models: [x]", "", None, "cannot be imported"),
        ("models:\n  m: {}", "models.m.cmd", 2, "is missing: the command that serves the model"),
        ("models:\n  m:\n    cmd: serve", "models.m.cmd", 3, "cmd has no ${PORT}, and proxy is not set: the port is unknown"),
        ("models:\n  m:\n    cmd: serve\n    proxy: http://h:${PORT}", "models.m.proxy", 4, "proxy uses ${PORT}, but cmd"),
        ("models:\n  m:\n    cmd: x ${PORT} ${nope}", "models.m.cmd", 3, "the macro ${nope} is not defined"),
        ("models:\n  m:\n    cmd: x ${PORT} 'a", "models.m.cmd", 3, "is not a valid command line: No closing quotation"),
        ("models:\n  m:\n    cmd: x ${PORT}\n    ttl: soon", "models.m.ttl", 4, "is of another type"),
        (
            "models:\n  m:\n    cmd: x ${PORT}\n    sleepEndpoints: [{endpoint: /s, method: FLY}]",
            "models.m.sleepEndpoints[0].method", 4, "is not a method",
        ),
        ("models:\n  m:\n    cmd: x ${PORT}\n    env: [A]", "models.m.env[0]", 4, "is not NAME=value"),
        ("models:\n  m:\n    cmd: x ${PORT}\n    name: ${env.NO}", "models.m.name", 4, "variable NO is not set"),
        (
            "models:\n  m:\n    cmd: x ${PORT}\ngroups:\n  g: {members: [m, n]}",
            "groups.g.members[1]", 5, "no such model",
        ),
        (
            "models:\n  m:\n    cmd: x ${PORT}\ngroups:\n  g: {members: [m]}\n  h: {members: [m]}",
            "groups.h.members[0]", 6, "m is in g already",
        ),
        (
            "models:\n  m:\n    cmd: x ${PORT}\nmatrix:\n  sets:\n    s: m & n",
            "matrix.sets.s", 6, "n is neither of vars nor a model",
        ),
        ("models:\n  m:\n    cmd: x ${PORT}\nmatrix:\n  sets:\n    s: m &", "matrix.sets.s", 6, "a name is missing"),
        (
            "models:\n  m:\n    cmd: x ${PORT}\nmatrix: {sets: {s: m}}\ngroups: {g: {members: [m]}}",
            "matrix", 4, "groups or a matrix, not both",
        ),
    ],
)  # fmt: skip
def test_what_llama_swap_would_not_take_is_an_error_by_its_line(text: str, field: str, line: int, words: str) -> None:
    with pytest.raises(ManifestErrors) as caught:
        convert(text, "config.yaml", {})
    (problem,) = caught.value.problems
    assert (problem.file, problem.field, problem.line) == ("config.yaml", field, line)
    assert words in problem.message


def test_the_page_about_it_names_every_setting_and_its_example_is_taken() -> None:
    page = (SAMPLES.parents[1] / "docs/from-llama-swap.md").read_text(encoding="utf-8")
    parts = {
        "sleepEndpoint",
        "sleepMethod",
        "sleepBody",
        "sleepTimeout",
        "wakeEndpoint",
        "wakeMethod",
        "wakeBody",
        "wakeTimeout",
    }
    settings = MODEL_KEYS | TOP_KEYS | TOP_LOST.keys()
    assert not [key for key in settings - parts - {"models", "routing", "hooks"} if f"`{key}`" not in page]
    example = "kind: Workspace\n" + page.partition("```yaml\nkind: Workspace\n")[2].partition("```")[0]
    models = "".join(
        f"---\n{{apiVersion: hotseat.dev/v1alpha1, kind: Model, metadata: {{name: {name}}}, spec: {{engine: mock}}}}\n"
        for name in ("qwen", "gemma", "embed", "rerank")
    )
    manifest = load_texts([Text("page", Path("/x/page.yaml"), Path("/x"), example + models)])
    assert [group.persistent for group in manifest.workspaces[0].spec.groups] == [False, True]


# The command ----------------------------------------------------------------------------------------------------------


def test_it_writes_over_nothing_unless_told_to(tmp_path: Path) -> None:
    target = tmp_path / "models.yaml"
    target.write_text("mine")
    arguments = ["import", str(SAMPLES / "plain.yaml"), "-o", str(target)]
    refused = CliRunner().invoke(main, arguments)
    assert (refused.exit_code, target.read_text()) == (2, "mine")
    assert "--force" in refused.stderr
    assert CliRunner().invoke(main, [*arguments, "--force"]).exit_code == 0
    assert "kind: Workspace" in target.read_text()


def test_documents_go_to_standard_output_and_notes_to_standard_error() -> None:
    done = CliRunner().invoke(main, ["import", "-"], input=(SAMPLES / "plain.yaml").read_text())
    assert [it["kind"] for it in yaml.safe_load_all(done.stdout) if it] == ["Workspace", "Model", "Model"]
    assert done.stderr.endswith("<stdin>: 2 models, 2 notes\n")
    assert "phi-4-mini-q8: changed: name of the model" in done.stderr


def test_a_file_that_cannot_be_imported_is_told_like_any_other(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.yaml"):
        done = CliRunner().invoke(main, ["import", str(path)])
        assert done.exit_code == 2
        assert str(path) in done.stderr
