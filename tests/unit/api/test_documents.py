"""The two documents: what they refuse, how they are written, and that schema and reference say what they are."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from hotseat.api.model import DOCUMENTS, Model, ModelSpec
from hotseat.api.types import PATTERN_WORDS, Metadata
from hotseat.api.units import AUTO_DURATION_PATTERN, BYTES_PATTERN, DURATION_PATTERN, QUANTITY_PATTERN
from hotseat.api.workspace import Workspace
from hotseat.manifests import Plugins, load
from hotseat.manifests.schema import schema, walk

ROOT = Path(__file__).parents[3]


def refused(spec: dict) -> list[tuple[str, str]]:
    """Errors of a Model with this spec: dotted field and message."""
    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock"} | spec})
    return [(".".join(map(str, error["loc"])), error["msg"]) for error in caught.value.errors()]


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"engine": "external"}, "spec.url", "engine external needs url"),
        ({"url": "http://host"}, "spec.url", "url is for engine external only"),
        ({"engine": "custom"}, "spec.command", "engine custom needs command"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, "spec.env", "env sets A twice"),
        ({"source": "htps://x/y"}, "spec.source", "source begins with htps://; allowed: hf://, ollama://"),
        ({"source": "HF://x/y"}, "spec.source", "source begins with HF://"),
        ({"source": "hf:org/repo"}, "spec.source", "source begins with hf:; allowed"),
        ({"source": "hf://"}, "spec.source", "source hf:// has no name after its scheme"),
        ({"source": " "}, "spec.source", "source is empty"),
        (
            {"cache": {"existingClaim": "a", "size": "1Gi"}},
            "spec.cache.existingClaim",
            "excludes size and storageClass",
        ),
    ],
)
def test_rules_between_fields_point_at_the_field_that_breaks_them(spec, field, words):
    ((found, message),) = refused(spec)
    assert found == field
    assert words in message


def test_rules_between_fields_are_told_beside_other_errors():
    found = refused(
        {"engine": "external", "source": "x:", "env": [{"name": "A"}, {"name": "A"}], "port": 0, "args": [1]}
    )
    assert sorted(field for field, _ in found) == ["spec.args.0", "spec.env", "spec.port", "spec.url"]


@pytest.mark.parametrize(
    "source", ["model.gguf", "./a b/m.gguf", "~/m", "/m", "qwen2.5:7b", "hf://o/r", "pvc://c/p", "file://m"]
)
def test_sources_that_name_something_are_taken(source):
    assert ModelSpec(engine="mock", source=source).source == source


def test_what_a_cluster_adds_to_the_metadata_is_ignored_but_a_misspelt_field_is_not():
    assert Metadata.model_validate({"name": "a", "uid": "1", "managedFields": []}) == Metadata(name="a")
    with pytest.raises(ValidationError, match="lables"):
        Metadata.model_validate({"name": "a", "lables": {}})


def test_a_document_is_written_as_it_was_read():
    text = {
        "apiVersion": "hotseat.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": "a"},
        "spec": {
            "engine": "mock",
            "resources": {"acceleratorMemory": "24Gi", "cpu": "500m"},
            "lifecycle": {"startTimeout": "1h30m"},
        },
    }
    model = Model.model_validate(text)
    assert model.spec.resources.accelerator_memory == 24 * 2**30
    assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) == text


def test_every_pattern_has_words_for_people():
    patterns = set()
    json.loads(json.dumps(schema()), object_hook=lambda it: patterns.add(it.get("pattern")))
    assert patterns - {None, DURATION_PATTERN, AUTO_DURATION_PATTERN, BYTES_PATTERN, QUANTITY_PATTERN} == set(
        PATTERN_WORDS
    )


def test_the_schema_writes_defaults_as_documents_do_and_has_no_noise():
    definitions = schema()["$defs"]
    lifecycle = definitions["Lifecycle"]["properties"]
    assert lifecycle["startTimeout"]["default"] == "5m"
    assert definitions["PolicySpec"]["properties"]["maxWait"]["default"] == "Auto"
    assert definitions["Resources"]["properties"]["gpus"]["default"] == 1
    text = str(definitions)
    assert "'title'" not in text
    assert "'null'" not in text


def test_the_schema_is_of_either_kind_told_apart_by_kind():
    either = schema()
    assert either["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert either["oneOf"] == [{"$ref": "#/$defs/Model"}, {"$ref": "#/$defs/Workspace"}]
    for kind in DOCUMENTS:
        definition = either["$defs"][kind]
        assert definition["properties"]["kind"]["const"] == kind
        assert definition["required"][:3] == ["apiVersion", "kind", "metadata"]
        assert definition["additionalProperties"] is False
    assert schema("Workspace")["$ref"] == "#/$defs/Workspace"
    assert "Model" not in schema("Workspace")["$defs"]


@pytest.mark.parametrize("kind", [Model, Workspace])
def test_every_field_has_a_description(kind):
    definitions = schema(kind.__name__)["$defs"]
    for field in walk(kind):
        property_ = definitions[field.owner.__name__]["properties"][field.name]
        described = property_.get("description") or (field.part is not None and field.part.__doc__)
        assert described, field.path


def test_the_reference_is_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "gen-docs", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_examples_of_the_reference_are_right(tmp_path):
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "documents.md").read_text(), re.DOTALL)
    assert len(examples) >= 3
    plugins = Plugins(dict.fromkeys(("llamacpp", "custom", "external"), Silent), frozenset({"batch"}))
    for index, example in enumerate(examples):
        path = tmp_path / f"{index}.yaml"
        path.write_text(example if "kind: Model" in example else example + MODELS)
        assert load([path], plugins).models


# Those that examples of Workspaces name.
MODELS = "".join(
    f"---\n{{apiVersion: hotseat.dev/v1alpha1, kind: Model, metadata: {{name: {name}}}, spec: {{engine: llamacpp, source: /x.gguf, names: {names}}}}}\n"
    for name, names in (
        ("qwen", '["qwen:think"]'),
        ("gemma", "[]"),
        ("bge", "[]"),
        ("bge-elsewhere", "[]"),
        ("qwen-coder", "[]"),
    )
)


class Silent:
    """An engine that finds nothing wrong."""

    def check(self, model):
        return []
