"""The CRDs are what the documents' classes say, and the table of bad documents holds for the classes too."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hotseat.api.model import DOCUMENTS, Model, ModelSpec
from hotseat.api.types import Document
from hotseat.cluster.switcher.status_objects import (
    PHASES,
    model_rows,
    model_status,
    queue_rows,
    resident_names,
    switch_rows,
)
from hotseat.control.codec import residency_to_status, stats_to_json, switch_to_json
from hotseat.core.messages import CacheObserved, CacheState, InstanceState, Refusal, Residency, Resident
from hotseat.core.scheduler.history import STEPS, Estimate, Eviction, Switch
from hotseat.core.scheduler.messages import ModelStatus as Known
from hotseat.core.scheduler.stats import ModelStats
from hotseat.manifests import ManifestErrors, load
from hotseat.manifests.crd import QUANTITY, RULES, definition
from hotseat.manifests.schema import walk
from hotseat.manifests.statuses import Learned, ModelStatusSchema, Phase, Switched, WorkspaceStatus
from tests.bad_documents import BAD, GOOD, model, workspace

ROOT = Path(__file__).parents[3]


def root(kind: str) -> dict:
    (version,) = definition(kind)["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


@pytest.fixture
def read(tmp_path):
    def read(document: dict) -> None:
        path = tmp_path / "it.json"
        path.write_text(json.dumps(document))
        roomy = tmp_path / "workspace.json"
        roomy.write_text(
            json.dumps({"kind": "List", "items": [workspace(capacity={"gpus": 1024}), model(name="other")]})
        )
        other = tmp_path / "other.json"
        other.write_text(json.dumps(model(name="other")))
        named = "virtualModels" in (document.get("spec") or {})
        load([path, roomy] if document["kind"] == "Model" else [path, other] if named else [path])

    return read


@pytest.mark.parametrize(("document", "field", "_words"), BAD.values(), ids=BAD)
def test_a_bad_document_is_refused_for_that_field_alone(read, document, field, _words):
    with pytest.raises(ManifestErrors) as caught:
        read(document)
    assert {problem.field for problem in caught.value.problems} == {field}


@pytest.mark.parametrize("document", GOOD.values(), ids=GOOD)
def test_a_good_document_is_taken(read, document):
    read(document)


def test_the_crds_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "gen-crds", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_rule_has_a_bad_document_and_a_place():
    """That the API server's refusal has these words is seen in tests/cluster."""
    words = [words for _, _, words in BAD.values()]
    for rules in (*RULES.values(), (QUANTITY,)):
        for _, message in rules:
            assert any(it in message for it in words), message
    written = json.dumps([definition(kind) for kind in DOCUMENTS])
    for rules in RULES.values():
        for rule, _ in rules:
            assert json.dumps(rule) in written


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_every_field_is_explained(kind):
    def look(schema: dict, path: str) -> None:
        for name, field in schema.get("properties", {}).items():
            if path or name != "metadata":
                inner = field.get("items", field)
                assert field.get("description") or path == ".metadata", f"{path}.{name}"
                look(inner, f"{path}.{name}")

    look(root(kind), "")


def test_every_field_of_the_documents_is_there():
    spec = root("Model")["properties"]["spec"]
    for field in walk(ModelSpec):
        where = spec
        for step in field.path.replace("[]", "").split("."):
            where = where.get("items", where)
            where = (
                where["additionalProperties"] if step == "*" else where["properties"][step]
            )  # KeyError: it is missing


def test_defaults_are_written_as_documents_have_them():
    spec = root("Model")["properties"]["spec"]["properties"]
    assert spec["lifecycle"]["default"] == {}
    assert spec["lifecycle"]["properties"]["startTimeout"]["default"] == "5m"
    assert spec["cache"]["properties"]["fetchBy"]["default"] == "Job"
    # A Model that names no Workspace belongs to the only one there is; one without settings has none.
    assert "default" not in spec["workspace"]
    assert "default" not in spec["vllm"]
    assert root("Workspace")["properties"]["spec"]["default"] == {}


def test_the_schema_knows_every_field_of_the_statuses_that_are_written():
    """An API server drops what it does not know without a word."""
    document = Model.model_validate(model())
    resident = Resident("a", "w/a@3", InstanceState.READY, 3, 5.0, "http://10.0.0.1:8012", "idle", ("0",), 7)
    known = Known("a", "failed", 5.0, "why", done=1, total=2, retry_at=9.0)
    switch = Switch("s", "w", "a", "demand", 1.0, 2.0, 1, started=3.0, ended=4.0, outcome="completed")
    WorkspaceStatus.model_validate(
        {
            **residency_to_status(
                Residency(3, (resident,), {"b": Refusal(3, "failed", "why", 9.0)}, 45.0, {"b": 3.5}, 7.0)
            ),
            **resident_names(Residency(3, (resident, replace(resident, state=InstanceState.PARKED)))),
            "models": model_rows([document], [known]),
            "switches": switch_rows([], [switch]),
            "queue": queue_rows({"a": (1, 5.0, 2)}),
        }
    )
    cache = CacheObserved(0.0, "a", CacheState.FETCHING, "half", 1, 2)
    ModelStatusSchema.model_validate(
        model_status(known, model=document, generation=1, resident=resident, cache=cache, switches=[switch], problem="")
    )


def test_nothing_that_is_written_of_a_switch_or_a_model_is_pruned() -> None:
    """The API server drops fields that the schema does not have, without an error."""
    switch = Switch("w/1", "w", "b", "demand", 0.0, 0.0, 1, {"a": Eviction("a", saved=1)}, ended=1.0, restored=1)
    times = {step: Estimate(1.0, 0.1) for step in STEPS}
    [learned] = stats_to_json({"a": ModelStats("m", times, 1, 1)})

    def fields(document: type[Document]) -> set[str]:
        return {field.alias or name for name, field in document.model_fields.items()}

    assert switch_to_json(switch).keys() - fields(Switched) == set()
    assert learned.keys() - fields(Learned) == set()


def test_the_crd_has_each_phase_that_is_written() -> None:
    """Another value makes the API server refuse the whole status."""
    assert set(PHASES.values()) <= set(Phase)
    assert {state.value for state in InstanceState} <= PHASES.keys()
