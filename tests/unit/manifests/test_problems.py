"""What is said about files that are not right: each bad document here, and the place, field and words that it must get."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hotseat.api.model import DOCUMENTS
from hotseat.manifests import Manifest, ManifestErrors, Plugins, load
from hotseat.manifests.files import MAX_BYTES
from hotseat.manifests.nodes import MAX_DEPTH
from hotseat.manifests.schema import walk

PLUGINS = Plugins(
    dict.fromkeys(("mock", "llamacpp"), lambda: SimpleNamespace(check=lambda _: [])), frozenset({"batch"})
)

MODEL = """\
apiVersion: hotseat.dev/v1alpha1
kind: Model
metadata:
  name: a
spec:
  engine: mock
"""
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)


def problems(*paths: Path) -> tuple:
    with pytest.raises(ManifestErrors) as caught:
        load(paths, PLUGINS)
    return caught.value.problems


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The problems of one file with this text, called models.yaml."""
    monkeypatch.chdir(tmp_path)

    def told(text: str | bytes) -> tuple:
        path = Path("models.yaml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return problems(path)

    return told


# Lines after those of MODEL; then the place (line:column), the field, and words that its block must hold.
BAD_SPECS = {
    "misspelt field": ("  nammes: [b]", "7:3", "spec.nammes", ["is not a known field", "allowed: engine, source,", "did you mean names?"]),
    "snake case": ("  engine_model_name: b", "7:3", "spec.engine_model_name", ["did you mean engineModelName?"]),
    "former field": ("  aliases: [b]", "7:3", "spec.aliases", ["is not a field any longer", "it is spec.names now"]),
    "former name": ("  servedName: b", "7:3", "spec.servedName", ["is not a field any longer", "it is spec.engineModelName now"]),
    "field of another part": ("  idleTimeout: 5m", "7:3", "spec.idleTimeout", ["did you mean spec.lifecycle.idleTimeout?"]),
    "misspelt and elsewhere": ("  maxWaits: 5m", "7:3", "spec.maxWaits", ["did you mean spec.scheduling.maxWait?"]),
    "far from anything": ("  xyzzy: 1", "7:3", "spec.xyzzy", ["is not a known field"]),
    "field with a strange name": ('  "a b": 1', "7:3", 'spec["a b"]', ["is not a known field"]),
    "deep field": ("  env: [{name: A}, {name: B}, {nam: C, name: C}]", "7:32", "spec.env[2].nam", ["did you mean name?"]),
    "number for a duration": ("  lifecycle:\n    idleTimeout: 300", "8:18", "spec.lifecycle.idleTimeout", ["found:   300", "a duration such as 90s", "did you mean 300s?"]),
    "words for a duration": ("  lifecycle: {startTimeout: 5 minutes}", "7:29", "spec.lifecycle.startTimeout", ['found:   "5 minutes"', "a duration such as 90s"]),
    "clock for a duration": ("  lifecycle: {startTimeout: 1:30}", "7:29", "spec.lifecycle.startTimeout", ["1:30, which YAML reads as 90", "a duration such as 90s"]),
    "misspelt value": ("  lifecycle: {release: parc}", "7:24", "spec.lifecycle.release", ['found:   "parc"', "allowed: Stop or Park", "did you mean Park?"]),
    "misspelt value in a list": ("  capabilities:\n  - chat\n  - embeddings", "9:5", "spec.capabilities[1]", ["allowed: chat, completion, embedding,", "did you mean embedding?"]),
    "on for text": ("  names: [on]", "7:11", "spec.names[0]", ["found:   on, which YAML reads as true", "allowed: text", 'put it in quotes: "on"']),
    "no for text": ("  env: [{name: A, value: no}]", "7:26", "spec.env[0].value", ["found:   no, which YAML reads as false", 'put it in quotes: "no"']),
    "number for text": ("  args: [--ctx-size, 8192]", "7:22", "spec.args[1]", ["found:   8192", 'put it in quotes: "8192"']),
    "octal for text": ("  args: [0755]", "7:10", "spec.args[0]", ["found:   0755, which YAML reads as 493", 'put it in quotes: "0755"']),
    "command line for a list": ('  command: "serve -p {port}"', "7:12", "spec.command", ["allowed: a list", 'as a list: ["serve", "-p", "{port}"]']),
    "unclosed quote for a list": ("  command: it's", "7:12", "spec.command", ['as a list: ["it\'s"]']),
    "mapping for a list": ("  env:\n    A: b", "7:3", "spec.env", ["found:   a mapping", "begin each entry of a list with a dash"]),
    "list for a mapping": ("  resources: [1]", "7:3", "spec.resources", ["found:   a list", "allowed: a mapping"]),
    "text for a mapping": ("  resources: big", "7:14", "spec.resources", ['found:   "big"', "allowed: a mapping"]),
    "null in a list": ("  args:\n  -", "8:4", "spec.args[0]", ["found:   null", "allowed: text"]),
    "quoted number": ('  port: "80"', "7:9", "spec.port", ['found:   "80"', "allowed: an integer", "without quotes: 80"]),
    "quoted boolean": ("  unlisted: 'true'", "7:13", "spec.unlisted", ["allowed: true or false", "without quotes: true"]),
    "fraction": ("  port: 80.5", "7:9", "spec.port", ["found:   80.5", "allowed: an integer"]),
    "too great": ("  port: 70000", "7:9", "spec.port", ["found:   70000", "less than or equal to 65535"]),
    "too small": ("  resources: {gpus: -1}", "7:21", "spec.resources.gpus", ["greater than or equal to 0"]),
    "endless number": ("  resources: {cpu: .inf}", "7:20", "spec.resources.cpu", ['found:   ".inf"', "a quantity such as"]),
    "GB": ("  resources: {memory: 24GB}", "7:23", "spec.resources.memory", ["an amount of memory such as 24Gi", "did you mean 24G?"]),
    "gib": ("  resources: {memory: 24 gib}", "7:23", "spec.resources.memory", ["did you mean 24Gi?"]),
    "thousandths of a byte": ("  resources: {memory: 512m}", "7:23", "spec.resources.memory", ["an amount of memory", "did you mean 512M?"]),
    "empty name": ("  names: ['']", "7:11", "spec.names[0]", ["at least 1 character"]),
    "long name": (f"  names: [{'x' * 1025}]", "7:11", "spec.names[0]", ["x…", "at most 1024 characters"]),
    "bad path": ("  health: {path: health}", "7:18", "spec.health.path", ["a path that begins with /"]),
    "bad scheme": ("  source: hg://org/repo", "7:11", "spec.source", ["source begins with hg://", "allowed: hf://"]),
    "rule between fields": ("  url: http://h", "7:8", "spec.url", ["url is for engine external only"]),
    "duplicate": ("  port: 1\n  port: 2", "8:3", "spec.port", ["stands twice; first on line 7"]),
    "template": ("  image: {{ image }}", "7:11", "spec.image", ["a field's name must be text", "in quotes"]),
    "unknown tag": ("  image: !Ref x", "7:10", "spec.image", ["the tag !Ref is not known"]),
    "python tag": ("  image: !!python/name:os.system x", "7:10", "spec.image", ["the tag !!python/name:os.system is not known"]),
    "tag on a mapping": ("  metadata: !!omap {a: b}", "7:13", "spec.metadata", ["the tag !!omap is not known"]),
    "NUL": ('  args: ["\\0"]', "7:10", "spec.args[0]", ["NUL"]),
    "merge of a text": ("  metadata: {<<: x}", "7:18", "spec.metadata", ["<< merges mappings only"]),
    "colon in text": ("  description: a: b", "7:17", "", ["not YAML: mapping values are not allowed here", "in quotes"]),
    "tab": ("\tport: 1", "7:1", "", ["not YAML: found character '\\t'", "indent with spaces"]),
    "unclosed": ("  args: [a", "8:1", "", ["not YAML"]),
    "unknown alias": ("  args: *args", "7:9", "", ["not YAML: found undefined alias 'args'"]),
    "control character": ("  image: \x07", "7:10", "", ["the character 7 is not allowed"]),
    "impossible escape": ('  image: "\\U00110000"', "7:13", "", ["not YAML: chr() arg not in range"]),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "place", "field", "words"), BAD_SPECS.values(), ids=BAD_SPECS)
def test_a_bad_field_is_told_with_its_place_what_was_found_and_what_is_allowed(told, lines, place, field, words):
    blocks = [str(it) for it in told(MODEL + lines + "\n") if it.field == field]
    block = next(it for it in blocks if it.startswith(f"models.yaml:{place}: "))
    for word in words:
        assert word in block


# Whole files; the first line of the block, and further words.
BAD_FILES = {
    "empty": ("", "models.yaml: has no documents", ["Model or Workspace"]),
    "comments only": ("# nothing\n---\n", "models.yaml: has no documents", []),
    "text": ("hello", "models.yaml:1:1: document 1: is not a document", ['found:   "hello"']),
    "list": ("- a", "models.yaml:1:1: document 1: is not a document", ["put a line --- between documents"]),
    "no kind at all": ("a: b", "models.yaml:1:1: document 1: kind: is not a hotseat document: it has no apiVersion and no kind", []),
    "of another kind": ("apiVersion: v1\nkind: ConfigMap\n", "models.yaml:2:7: document 1: kind: is of another kind", ["found:   ConfigMap of v1", "allowed: Model or Workspace of hotseat.dev/v1alpha1"]),
    "kind in another group": ("apiVersion: other.dev/v1\nkind: Model\n", "models.yaml:1:13: document 1: apiVersion: is of another kind", ["found:   Model of other.dev/v1"]),
    "a service": ("apiVersion: serving.knative.dev/v1\nkind: Service\n", "models.yaml:2:7: document 1: kind: is of another kind", ["found:   Service of serving.knative.dev/v1"]),
    "misspelt kind": (MODEL.replace("Model", "modle"), "models.yaml:2:7: Model/a: kind: is not known", ["did you mean Model?"]),
    "misspelt version": (MODEL.replace("v1alpha1", "v1"), "models.yaml:1:13: Model/a: apiVersion: is not known", ["did you mean hotseat.dev/v1alpha1?"]),
    "no version": (MODEL.split("\n", 1)[1], "models.yaml:1:1: Model/a: apiVersion: is missing", []),
    "kind of a strange type": (MODEL.replace("kind: Model", "kind: [Model]"), "models.yaml:2:1: document 1: kind: is of another kind", []),
    "no metadata": (MODEL.replace("metadata:\n  name: a\n", ""), "models.yaml:1:1: document 1: metadata: is missing", []),
    "no name": (MODEL.replace("name: a", "labels: {}"), "models.yaml:3:1: document 1: metadata.name: is missing", []),
    "empty engine": (MODEL.replace("mock", ""), "models.yaml:6:10: Model/a: spec.engine: is missing", []),
    "misspelt label": (MODEL.replace("name: a", "name: a\n  lables: {}"), "models.yaml:5:3: Model/a: metadata.lables: is not a known field", ["did you mean labels?"]),
    "bad name": (MODEL.replace("name: a", "name: Qwen_2.5"), "models.yaml:4:9: Model/Qwen_2.5: metadata.name: is not allowed", ["did you mean qwen-2-5?", "spec.names"]),
    "misspelt engine": (MODEL.replace("mock", "lamacpp"), "models.yaml:6:11: Model/a: spec.engine: no such engine is installed", ["did you mean llamacpp?"]),
    "second document": (MODEL + "---\n" + MODEL.replace("name: a", "name: 1"), "models.yaml:11:9: document 2: metadata.name: is not allowed", ['put it in quotes: "1"']),
    "not UTF-8": (b"a: b\nc: \xff\n", "models.yaml:2: is not UTF-8 text", ["byte 0xff"]),
    "UTF-16": ("a: b".encode("utf-16"), "models.yaml:1: is not UTF-8 text", []),
    "weights": (b"GGUF\x00\x01", "models.yaml:1:5: the character 0 is not allowed in YAML", []),
    "too long": (b"#" * (MAX_BYTES + 1), "models.yaml: is longer than 1024 KiB: not a file of documents", []),
    "bomb": (BOMB, "models.yaml:1: more than 100000 values, with all aliases expanded", []),
    "endless alias": ("a: &a [*a]", f"models.yaml:1: nested more than {MAX_DEPTH} deep", []),
    "endless merge": ("a: &a {<<: *a}", f"models.yaml:1: nested more than {MAX_DEPTH} deep", []),
    "very deep": ("[" * 5000, "models.yaml:1: nested too deeply", []),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_told(told, text, line, words):
    block = str(told(text)[0])
    assert block.split("\n", maxsplit=1)[0] == line
    for word in words:
        assert word in block


def test_all_problems_of_a_file_are_told_at_once_in_the_order_of_its_lines(told):
    text = MODEL.replace("mock", "mok") + "  port: 0\n  preload: true\n---\n" + MODEL + "  args: x\n---\nkind: Pod\n"
    found = told(text)
    assert [(it.line, it.document, it.field) for it in found] == [
        (6, "Model/a", "spec.engine"),
        (7, "Model/a", "spec.port"),
        (8, "Model/a", "spec.preload"),
        (13, "Model/a", "metadata.name"),
        (16, "Model/a", "spec.args"),
        (18, "document 3", "kind"),
    ]


def test_all_problems_of_all_files_are_told_at_once(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    for name in ("b", "a"):
        (tmp_path / f"{name}.yaml").write_text(MODEL.replace("name: a", f"name: {name}") + "  port: 0\n  x: 1\n")
    found = problems(tmp_path / "b.yaml", folder, tmp_path / "a.yaml", tmp_path / "gone")
    assert [(Path(it.file).name, it.line) for it in found if it.line] == [
        ("b.yaml", 7),
        ("b.yaml", 8),
        ("a.yaml", 7),
        ("a.yaml", 8),
    ]
    assert {(Path(it.file).name, it.message) for it in found if not it.line} == {
        ("empty", "no documents here"),
        ("gone", "cannot be read: No such file or directory"),
    }


def test_the_text_of_the_errors_has_a_block_for_each_and_their_number(told, tmp_path):
    text = str(ManifestErrors(told(MODEL + "  port: 0\n  idleTimeout: 5\n")))
    assert text.startswith("models.yaml:7:9: Model/a: spec.port: is not allowed\n    found:   0\n    allowed: ")
    assert text.endswith("    hint:    did you mean spec.lifecycle.idleTimeout?\n2 problems")


def test_what_stands_in_a_file_does_not_command_the_terminal(told):
    text = str(ManifestErrors(told(MODEL.replace("name: a", r'name: "\e[31m\u202e"') + '  "\\e[2J": 1\n')))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "Model/\\x1b[31m" in text


# What a person's file is made of, so that the fuzz gets past the first checks.
WORDS = [field.name for kind in DOCUMENTS.values() for field in walk(kind)] + ["kind", "items", "<<", "xyz", "status"]
LEAVES = [
    "Model",
    "Workspace",
    "List",
    "v1",
    "hotseat.dev/v1alpha1",
    "mock",
    "external",
    "default",
    "a",
    "b",
    "5m",
    "24Gi",
    "hf://o/r",
]
scalars = st.sampled_from(LEAVES) | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda it: st.lists(it, max_size=3) | st.dictionaries(st.sampled_from(WORDS), it, max_size=6),
    max_leaves=20,
)


@st.composite
def documents(draw):
    head = {"apiVersion": "hotseat.dev/v1alpha1", "kind": draw(st.sampled_from(list(DOCUMENTS)))}
    spec = draw(st.dictionaries(st.sampled_from(WORDS), values, max_size=6))
    return (
        head
        | {"metadata": {"name": draw(scalars)}, "spec": {"engine": "mock"} | spec}
        | draw(st.just({}) | values.filter(lambda it: isinstance(it, dict)))
    )


def outcome(folder: Path, text: bytes) -> Manifest | str:
    path = folder / "models.yaml"
    path.write_bytes(text)
    try:
        result = load([path], PLUGINS)
    except ManifestErrors as errors:
        result = errors
    if isinstance(result, Manifest):
        return result
    assert result.problems
    assert all(it.file and it.message for it in result.problems)
    return str(result)


fuzz = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@fuzz
@given(st.binary(max_size=60) | st.text("\n\t -:[]{}&*!|>'\"#%@`<=?,a1.~\\\0\ufeffé", max_size=60).map(str.encode))
@example(b"!!bool x: !!int ''")
@example(b"a: !!float ''\nb: !!timestamp x\nc: !!binary x\nd: !!set {a}\n=: =")
@example(b"%YAML 1.1\n---\n%YAML " + b"9" * 5000 + b".1\n---\na")
@example(b"a: 0x" + b"f" * 5000 + b"\nb: " + b"9" * 5000 + b"\nc: 1:" + b"9" * 3000)
@example(b"{? {a: b} : c, ? [a] : b, : d}")
@example(b"apiVersion: hotseat.dev/v1alpha1\nkind: List\nitems: {a: b}")
@example(b"apiVersion: v1\nkind: List\nitems:")
def test_garbage_is_never_anything_but_a_manifest_or_its_errors(tmp_path, text):
    outcome(tmp_path, text)


@fuzz
@given(st.lists(documents() | values, min_size=1, max_size=4))
def test_wild_documents_are_never_anything_but_a_manifest_or_its_errors(tmp_path, found):
    outcome(tmp_path, "\n---\n".join(json.dumps(it) for it in found).encode())


@pytest.mark.skipif(sys.platform != "linux", reason="devices of Linux")
def test_a_file_without_end_is_told():
    assert "is longer than" in problems(Path("/dev/zero"))[0].message
