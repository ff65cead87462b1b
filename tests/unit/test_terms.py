"""What a resident model has to be loaded anew for."""

import pytest

from hotseat.control.terms import fingerprint, terms_of
from hotseat.core.documents import Model, Workspace

SPEC = {"engine": "mock", "source": "https://example.com/a.gguf"}
WORKSPACE = Workspace.model_validate({"metadata": {"name": "default"}, "spec": {}})


def model(**changes: object) -> Model:
    return Model.model_validate({"metadata": {"name": "a"}, "spec": {**SPEC, **changes}})


@pytest.mark.parametrize(
    "changes",
    [
        {"cache": {"onDelete": "Delete"}},
        {"lifecycle": {"idleTimeout": "5m", "preload": True}},
        {"aliases": ["gpt-4o"], "concurrency": 3},
        {"fallback": {"model": "b"}},
    ],
)
def test_what_an_engine_never_sees_changes_while_it_stays(changes: dict) -> None:
    assert terms_of(model(**changes), WORKSPACE).fingerprint == terms_of(model(), WORKSPACE).fingerprint


@pytest.mark.parametrize(
    "changes",
    [{"cache": {"fetchBy": "Engine"}}, {"cache": {"existingClaim": "c"}}, {"args": ["-v"]}, {"source": "/b.gguf"}],
)
def test_what_it_was_started_with_is_changed_by_a_reload(changes: dict) -> None:
    assert fingerprint(model(**changes)) != fingerprint(model())
