"""Reading files of documents: what becomes of those that are right, and where they may stand."""

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from hotseat.api.lifecycle import OnIdle
from hotseat.api.model import Capability
from hotseat.manifests import ManifestErrors, Plugins, load, loading, nodes
from hotseat.manifests.checks import ENGINES


class Picky:
    """An engine that wants an image named."""

    def check(self, model):
        return [] if model.spec.image else ["picky needs image"]


def broken():
    raise ImportError("no libpicky.so")


PLUGINS = Plugins(
    {
        "mock": lambda: SimpleNamespace(check=lambda _: [], sleep=lambda _: None),
        "external": lambda: SimpleNamespace(check=lambda _: []),
        "picky": Picky,
        "broken": broken,
    },
    frozenset({"batch"}),
)


def model(name: str, **spec) -> dict:
    return {
        "apiVersion": "hotseat.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": name},
        "spec": {"engine": "mock"} | spec,
    }


def workspace(name: str, **spec) -> dict:
    return {"apiVersion": "hotseat.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def write(tmp_path):
    def write(*documents: dict, name: str = "models.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n---\n".join(json.dumps(it) for it in documents))
        return path

    return write


def problems(*paths) -> list[str]:
    with pytest.raises(ManifestErrors) as caught:
        load(paths, PLUGINS)
    return [str(problem) for problem in caught.value.problems]


def test_every_field_of_a_model_is_read(tmp_path):
    path = tmp_path / "models.yaml"
    path.write_text("""\
# comments, anchors, merges and block texts are YAML's own
apiVersion: hotseat.dev/v1alpha1
kind: Model
metadata: {name: chat, labels: {tier: "1"}}
spec:
  engine: mock
  names: [gpt-4o-mini, "qwen2.5:7b"]
  args: ["--ctx-size", "8192"]
  env: [{name: A, value: b}]
  capabilities: [chat, completion]
  lifecycle: &life
    idleTimeout: 1h30m
    release: Park
  resources: {gpus: 1, acceleratorMemory: 24Gi, cpu: 500m}
  description: |
    two
    lines
  metadata: {<<: *life, when: 2024-01-01, ratio: 0.5}
  cache:
""")
    (chat,) = load([path], PLUGINS).models
    assert chat.names == ("gpt-4o-mini", "qwen2.5:7b", "chat")
    assert chat.spec.args == ("--ctx-size", "8192")
    assert chat.spec.capabilities == (Capability.CHAT, Capability.COMPLETION)
    assert (chat.spec.lifecycle.idle_timeout, chat.spec.lifecycle.release) == (5400, OnIdle.PARK)
    assert chat.spec.resources.accelerator_memory == 24 * 2**30
    assert chat.spec.description == "two\nlines\n"
    assert chat.spec.metadata == {"idleTimeout": "1h30m", "release": "Park", "when": "2024-01-01", "ratio": 0.5}


def test_without_a_workspace_there_is_one_called_default(write):
    manifest = load([write(model("a"))], PLUGINS)
    assert [it.name for it in manifest.workspaces] == ["default"]
    assert manifest.models[0].spec.workspace == "default"


def test_models_belong_to_the_only_workspace_unless_they_say_otherwise(write):
    manifest = load([write(model("a"), workspace("lab"), model("b", workspace="lab"))], PLUGINS)
    assert [it.name for it in manifest.workspaces] == ["lab"]
    assert [it.spec.workspace for it in manifest.models] == ["lab", "lab"]


def test_with_several_workspaces_silence_means_default(write):
    manifest = load([write(workspace("lab"), workspace("default"), model("a"), model("b", workspace="lab"))], PLUGINS)
    assert [it.spec.workspace for it in manifest.models] == ["default", "lab"]


def test_with_several_workspaces_and_no_default_a_model_must_name_one(write):
    (problem,) = problems(write(workspace("lab"), workspace("den"), model("a")))
    assert "Model/a: spec.workspace: is required" in problem
    assert "allowed: den, lab" in problem


def test_a_folder_stands_for_its_files_by_name(write, tmp_path):
    write(model("b"), name="b.yml")
    write(model("a"), name="a.json")
    write(model("c"), name="c.yaml")
    write(model("x"), name=".hidden.yaml")
    (tmp_path / "notes.txt").write_text("not a document")
    (tmp_path / "dir.yaml").mkdir()
    manifest = load([tmp_path], PLUGINS)
    assert [it.name for it in manifest.models] == ["a", "b", "c"]
    assert [text.path.name for text in manifest.texts] == ["a.json", "b.yml", "c.yaml"]


def test_a_file_that_is_named_twice_is_read_once(write, tmp_path):
    path = write(model("a"))
    assert len(load([path, tmp_path, path], PLUGINS).models) == 1


def test_the_standard_input_is_read_relative_to_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = json.dumps(model("a", source="m.gguf"), indent="\t").encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    manifest = load([Path("-")], PLUGINS)
    assert manifest.models[0].spec.source == f"{tmp_path}/m.gguf"


def test_json_may_be_indented_with_tabs_and_hold_escapes(tmp_path):
    path = tmp_path / "models.json"
    path.write_text(json.dumps(model("a", description="😀 \t/é\ud800"), indent="\t").replace("/", "\\/"))
    assert load([path], PLUGINS).models[0].spec.description == "😀 \t/é\ufffd"


def test_a_list_is_taken_apart_as_kubectl_does_and_status_is_ignored(write):
    items = [model("a") | {"status": {"state": "Ready"}}, workspace("lab")]
    manifest = load([write({"apiVersion": "v1", "kind": "List", "items": items})], PLUGINS)
    assert [it.name for it in (*manifest.models, *manifest.workspaces)] == ["a", "lab"]


def test_a_problem_in_a_list_names_the_item_and_its_field(write):
    first, second = problems(write({"apiVersion": "v1", "kind": "List", "items": [model("a", port=0), model("A"), 3]}))[
        :2
    ]
    assert "Model/a: spec.port" in first
    assert "Model/A: metadata.name" in second


@pytest.mark.parametrize(
    ("source", "absolute"),
    [
        ("m.gguf", "{here}/m.gguf"),
        ("../m.gguf", "{above}/m.gguf"),
        ("file://w/m.gguf", "file://{here}/w/m.gguf"),
        ("file:///srv/m.gguf", "file:///srv/m.gguf"),
        ("/srv/m.gguf", "/srv/m.gguf"),
        ("~/m.gguf", "{home}/m.gguf"),
        ("file://~/m.gguf", "file://{home}/m.gguf"),
        ("hf://org/repo", "hf://org/repo"),
        ("pvc://claim/path", "pvc://claim/path"),
    ],
)
def test_paths_are_relative_to_the_folder_of_their_file(write, monkeypatch, tmp_path, source, absolute):
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/me")
    path = write(model("a", source=source), name="sub/models.yaml")
    expected = absolute.format(here=tmp_path / "sub", above=tmp_path, home="/home/me")
    assert load([path], PLUGINS).models[0].spec.source == expected


def test_links_are_kept_in_paths_as_caches_of_weights_link_to_files_without_an_extension(write, tmp_path):
    (tmp_path / "blob").write_bytes(b"GGUF")
    (tmp_path / "m.gguf").symlink_to("blob")
    assert load([write(model("a", source="m.gguf"))], PLUGINS).models[0].spec.source == f"{tmp_path}/m.gguf"


def test_two_models_that_claim_one_name_are_told_with_the_place_of_the_other(write, tmp_path):
    one = write(model("a", names=["a", "x", "y"]), name="one.yaml")
    two = write(model("x"), model("b", names=["b", "y", "a", "y"]), name="two.yaml")
    found = problems(one, two)
    assert len(found) == 4
    assert (
        found[0] == f"{two}:1:{found[0].split(':')[2]}: Model/x: metadata.name: Model/a has the name x already: {one}:1"
    )
    assert "spec.names[1]: Model/a has the name y already" in found[1]
    assert "spec.names[2]: Model/a has the name a already" in found[2]
    assert "Model/b: spec.names[3]: Model/a has the name y already" in found[3]


def test_names_of_filters_are_names_of_their_model(write):
    filters = {"byName": {"a:think": {}, "x": {}, "a": {}}}
    (problem,) = problems(write(model("a", names=["x"], filters=filters), model("b", names=["a:think"])))
    assert "Model/b: spec.names[0]: Model/a has the name a:think already" in problem
    manifest = load(
        [write(model("a", names=["x"], filters=filters), model("b", fallback={"model": "a:think"}))], PLUGINS
    )
    assert manifest.models[0].names == ("x", "a", "a:think")


def test_a_model_that_claims_a_name_twice_is_told(write):
    (problem,) = problems(write(model("a", names=["x y", "a", "x y"])))
    assert 'spec.names[2]: this Model states "x y" twice' in problem
    assert load([write(model("a", names=["x", "a"]))], PLUGINS).models[0].names == ("x", "a")


def test_names_are_whatever_json_can_say(write):
    names = ["Qwen 3 30B A3B", "claude-opus-4-8[1m]", "模型-7b", "..", " ", "a\nb", "on", "x" * 1024]
    (found,) = load([write(model("a", names=names))], PLUGINS).models
    assert (found.shown_name, found.names, found.name) == (names[0], (*names, "a"), "a")


def test_a_name_that_two_models_share_is_shown_so_that_it_can_be_seen(write):
    (problem,) = problems(write(model("a", names=["two words"]), model("b", names=["b", "two words"])))
    assert 'Model/b: spec.names[1]: Model/a has the name "two words" already' in problem


def test_two_workspaces_of_one_name_are_told(write):
    path = write(workspace("lab"), workspace("lab"))
    (problem,) = problems(path)
    assert f"another Workspace has the name lab: {path}:1" in problem


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        (
            [model("a", workspace="lap"), workspace("lab")],
            ["Model/a: spec.workspace: no such Workspace", "did you mean lab?"],
        ),
        ([model("a", workspace="lab")], ["spec.workspace: no such Workspace", "allowed: default"]),
        (
            [model("chat"), workspace("w", defaultModel="chad")],
            ["spec.defaultModel: no Model has this name", "did you mean chat?"],
        ),
        (
            [model("a", workspace="x"), workspace("x"), workspace("default", defaultModel="a")],
            ["Workspace/default: spec.defaultModel: a belongs to the Workspace x"],
        ),
        (
            [model("chat"), workspace("w", activeModel="chad")],
            [
                "Workspace/w: spec.activeModel: no Model has this name",
                'found:   "chad"',
                "allowed: chat",
                "did you mean chat?",
            ],
        ),
        (
            [model("a", workspace="x"), workspace("x"), workspace("default", activeModel="a")],
            ["Workspace/default: spec.activeModel: a belongs to the Workspace x"],
        ),
        (
            [
                model("a"),
                model("b", names=["bee"], engine="external", url="http://127.0.0.1:1"),
                workspace("w", activeModel="bee"),
            ],
            [
                "Workspace/w: spec.activeModel: cannot be loaded by hotseat: its engine is external",
                'found:   "bee"',
                "allowed: a",
            ],
        ),
        (
            [model("a", resources={"gpus": 2})],
            ["spec.resources.gpus: can never fit: the Workspace default has 1", "found:   2"],
        ),
        (
            [
                model("a", resources={"acceleratorMemory": "48Gi"}),
                workspace("w", capacity={"acceleratorMemory": "24Gi"}),
            ],
            ["spec.resources.acceleratorMemory: can never fit: the Workspace w has 24Gi", "found:   48Gi"],
        ),
        (
            [
                model("a", resources={"acceleratorMemory": "30Gi"}),
                workspace("w", capacity={"gpus": 2, "acceleratorMemory": "48Gi"}),
            ],
            ["can never fit on 1: the Workspace w has 24Gi on each of its 2 GPUs", "found:   30Gi"],
        ),
        (
            [
                workspace("default", capacity={"devices": ["1"]}),
                workspace("w", capacity={"gpus": 2, "devices": ["0", "1"]}),
            ],
            ["Workspace/w: spec.capacity.devices[1]: the GPU 1 belongs to the Workspace default already"],
        ),
        (
            [model("a", engine="mok")],
            [
                "spec.engine: no such engine is installed",
                "allowed: broken, external, mock, picky",
                "did you mean mock?",
            ],
        ),
        ([model("a", engine="picky")], ["Model/a: spec: picky needs image"]),
        (
            [model("a", engine="broken")],
            ["spec.engine: the engine broken cannot be loaded: ImportError('no libpicky.so')"],
        ),
        (
            [model("a", lifecycle={"schedule": [{"start": "0 8 30 2 *", "duration": "1h"}]})],
            ["spec.lifecycle.schedule[0].start: is not a valid cron time: Bad day-of-month", 'found:   "0 8 30 2 *"'],
        ),
        (
            [
                model(
                    "a", lifecycle={"schedule": [{"start": "0 8 * * *", "duration": "1h", "timeZone": "Mars/Olympus"}]}
                )
            ],
            ["spec.lifecycle.schedule[0].timeZone: is not a known time zone", 'found:   "Mars/Olympus"'],
        ),
        (
            [model("a") | {"metadata": {"name": "a", "annotations": {"hotseat.dev/pinned": "yes"}}}],
            [
                'metadata.annotations["hotseat.dev/pinned"]: is not allowed',
                'found:   "yes"',
                'allowed: "true" or "false"',
            ],
        ),
        (
            [workspace("w", policy={"name": "bach"})],
            ["spec.policy.name: no such policy is installed", "did you mean batch?"],
        ),
        (
            [model("chat"), model("big", fallback={"model": "chad"})],
            ["Model/big: spec.fallback.model: no Model has this name", "allowed: big, chat", "did you mean chat?"],
        ),
        (
            [model("a", names=["a", "x"], fallback={"model": "x"})],
            ["Model/a: spec.fallback.model: a Model cannot be its own fallback", 'found:   "x"'],
        ),
        (
            [
                model("start", fallback={"model": "a"}),
                model("a", names=["a", "x"], fallback={"model": "b"}),
                model("b", fallback={"model": "c"}),
                model("c", fallback={"model": "x"}),
            ],
            ["Model/a: spec.fallback.model: the fallbacks form a cycle: a -> b -> c -> a"],
        ),
    ],
)
def test_what_does_not_fit_together_is_told(write, documents, words):
    (problem,) = problems(write(*documents))
    for word in words:
        assert word in problem


def test_an_engine_that_fails_to_check_is_a_problem_of_the_model(write):
    def check(_):
        raise TypeError("oops")

    plugins = Plugins({"mock": lambda: SimpleNamespace(check=check)}, frozenset())
    with pytest.raises(
        ManifestErrors, match=r"Model/a: spec: the engine mock failed to check this: TypeError\('oops'\)"
    ):
        load([write(model("a"))], plugins)


def test_a_default_model_may_be_given_by_any_name_and_an_external_model_fits_anywhere(write):
    external = model("b", engine="external", url="http://127.0.0.1:1")
    documents = [
        model("a", names=["a", "x"], resources={"gpus": 0}),
        external,
        workspace("w", defaultModel="x", activeModel="x", capacity={"gpus": 0}),
    ]
    assert len(load([write(*documents)], PLUGINS).models) == 2


def test_references_to_documents_that_are_wrong_themselves_are_not_told_as_well(write):
    documents = [model("a", workspace="w", port=0), workspace("w", defaultModel="a", queue={"maxWaiting": -1})]
    assert [problem.split(": ")[2] for problem in problems(write(*documents))] == ["spec.port", "spec.queue.maxWaiting"]


def test_references_are_not_judged_when_a_part_could_not_be_read(write, tmp_path):
    (problem,) = problems(write(model("a", workspace="w")), tmp_path / "missing.yaml")
    assert "missing.yaml: cannot be read: No such file or directory" in problem


def test_what_is_installed_is_found_by_the_entry_points_of_the_package():
    from hotseat.engines import base

    installed = Plugins.installed()
    assert base.ENTRY_POINTS == ENGINES
    assert {"mock", "llamacpp", "custom", "external"} <= set(installed.engines)
    assert "batch" in installed.policies


def test_a_file_name_that_is_no_text_is_told_printably(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.yaml")
    (problem,) = problems(path)
    problem.encode()
    assert "\ufffd.yaml: cannot be read" in problem


def test_what_is_known_already_is_not_parsed_again(write, monkeypatch):
    path = write(model("a"))
    parsed, parse = [], loading.parse
    monkeypatch.setattr(loading, "parse", lambda text, file: parsed.append(file) or parse(text, file))
    first = load([path], PLUGINS)
    assert load([path], PLUGINS, first) is first
    path.write_text(path.read_text() + "\n# a comment\n")
    second = load([path], PLUGINS, first)
    assert (second.models, second is first) == (first.models, False)
    assert len(parsed) == 2


@pytest.mark.parametrize(
    "text", ["a: 1\nb: {c: [d, null, 2.5], '': }\n---\n- x\n---\n", "a: &x {b: on}\nc: *x\n<<: *x\n"]
)
def test_libyaml_and_pyyaml_read_the_same(text, monkeypatch):
    quickly = list(nodes.parse(text, "f"))
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    assert [(tree.data, tree.problems) for tree in quickly] == [
        (tree.data, tree.problems) for tree in nodes.parse(text, "f")
    ]


@pytest.mark.parametrize("text", ["x: 1" + ":1" * 200_000, "x: 1" + ":1" * 200_000 + ".5", "x: -1" + ":59" * 100])
def test_a_number_in_base_60_of_any_length_is_read_at_once(text, monkeypatch):
    """PyYAML would take twenty seconds for some of these."""

    def refuse(*_):
        raise AssertionError("the constructor is called")

    with monkeypatch.context() as patch:
        for kind in ("int", "float"):
            patch.setattr(nodes.yaml.constructor.SafeConstructor, f"construct_yaml_{kind}", refuse)
        (tree,) = nodes.parse(text, "f")
    assert tree.data == {"x": text.removeprefix("x: ")}
    (tree,) = nodes.parse("x: 1:30", "f")
    assert tree.data == {"x": 90}


def test_a_fallback_may_have_a_name_that_only_a_wildcard_has(write):
    cloud = model("cloud", engine="external", names=["openai/*"], url="http://127.0.0.1:1")
    assert load([write(cloud, model("a", fallback={"model": "openai/gpt-4o"}))], PLUGINS)
    (problem,) = problems(write(cloud, model("a", fallback={"model": "open/gpt-4o"})))
    assert "no Model has this name" in problem


def test_files_with_secrets_and_authorities_are_relative_to_the_folder_of_the_document(write, tmp_path):
    cloud = model(
        "cloud",
        engine="external",
        url="https://h",
        engineKey={"file": "keys/openai"},
        headers=[{"name": "A", "value": "b"}, {"name": "B", "file": "/etc/b"}, {"name": "C", "file": "c"}],
        tls={"caFile": "ca.pem"},
    )
    path = write(cloud)
    (read,) = load([path], PLUGINS).models
    spec = read.spec
    assert (spec.engine_key.file, spec.tls.ca_file) == (str(path.parent / "keys/openai"), str(path.parent / "ca.pem"))
    assert [header.file for header in spec.headers] == [None, "/etc/b", str(path.parent / "c")]


@pytest.mark.parametrize(
    "key", [{"value": 8123456}, {"value": ["hunter2"]}, {"value": "hunter2" * 2000}, {"value": "hunter2", "env": "A"}]
)
def test_a_secret_value_is_in_no_message_about_it(write, key):
    (problem,) = problems(write(model("a", engineKey=key)))
    assert "spec.engineKey" in problem
    assert "hunter2" not in problem
    assert "8123456" not in problem
