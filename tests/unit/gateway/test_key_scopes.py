"""Whom a key lets through where names stand for other Models."""

from types import SimpleNamespace

import pytest

from hotseat.api.model import Model
from hotseat.api.workspace import Workspace
from hotseat.control.registry import ModelRegistry
from hotseat.core.errors import Forbidden
from hotseat.gateway.accepted_head import check_named_model
from hotseat.gateway.auth import ApiKey


def model(name: str, *names: str, **spec: object) -> Model:
    spec = {"engine": "external", "url": "http://h:1", "names": list(names), **spec}
    return Model.model_validate({"metadata": {"name": name}, "spec": spec})


@pytest.fixture
def registry() -> ModelRegistry:
    registry = ModelRegistry()
    profiles = {"day": {"chat": "qwen-big"}}
    spec = {
        "profiles": profiles,
        "activeProfile": "day",
        "virtualModels": [{"name": "any", "members": [{"model": "qwen-big"}]}],
    }
    workspace = Workspace.model_validate({"metadata": {"name": "default"}, "spec": spec})
    models = [model("qwen-small", "chat"), model("qwen-big"), model("openai", "gpt/*")]
    handle = SimpleNamespace(name="default", workspace=workspace, retired=False)
    registry._route([(each, handle) for each in models], [workspace])
    return registry


def test_a_name_that_a_profile_switches_is_not_opened_by_the_model_that_it_hides(registry: ModelRegistry) -> None:
    key = ApiKey("ada", models=("qwen-small",))
    assert registry.names is not None
    assert registry.names.resolve("chat", None) == "qwen-big"
    with pytest.raises(Forbidden):
        check_named_model(key, "chat", registry, switched=True)
    check_named_model(key, "chat", registry)  # a command for the Model of that name
    check_named_model(ApiKey("ben", models=("chat",)), "chat", registry, switched=True)


def test_a_name_that_only_a_wildcard_has_is_opened_by_the_models_own(registry: ModelRegistry) -> None:
    check_named_model(ApiKey("ada", models=("openai",)), "gpt/4", registry, switched=True)
    with pytest.raises(Forbidden):
        check_named_model(ApiKey("ada", models=("qwen*",)), "gpt/4", registry, switched=True)


def test_a_virtual_model_is_opened_by_its_own_name_alone(registry: ModelRegistry) -> None:
    check_named_model(ApiKey("ada", models=("any",)), "any", registry, switched=True)
    with pytest.raises(Forbidden):
        check_named_model(ApiKey("ada", models=("qwen-big",)), "any", registry, switched=True)
