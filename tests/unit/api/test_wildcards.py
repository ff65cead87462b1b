"""Names with a `*`: which one counts, and the name that an upstream gets."""

import pytest

from hotseat.api.model import Model
from hotseat.api.wildcards import Wildcards, name_for_engine


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("openai/gpt-4o", "openai/gpt-*"),
        ("openai/o3", "openai/*"),
        ("openai/", "*"),
        ("x:latest", "*:latest"),
        ("other", "*"),
        ("a*b*c", "*"),
    ],
)
def test_the_longest_wildcard_counts(name, found):
    assert Wildcards(["plain", "*", "openai/*", "openai/gpt-*", "*:latest", "a*b*c"]).find(name) == found


def test_without_wildcards_nothing_is_found():
    assert Wildcards(["a", "b*c*d"]).find("a") is None


def external(names, engine_model_name=None, engine="external"):
    spec = {"engine": engine, "names": names, "engineModelName": engine_model_name}
    spec |= {"url": "http://h"} if engine == "external" else {}
    return Model.model_validate(
        {"metadata": {"name": "cloud"}, "spec": {k: v for k, v in spec.items() if v is not None}}
    )


@pytest.mark.parametrize(
    ("stated", "asked", "sent"),
    [
        (None, "openai/gpt-4o", "openai/gpt-4o"),
        ("*", "openai/gpt-4o", "gpt-4o"),
        ("azure/*-eu", "openai/gpt-4o", "azure/gpt-4o-eu"),
        ("fixed", "openai/gpt-4o", "fixed"),
        ("*", "exact", "exact"),
        ("*", "cloud", "cloud"),
        ("*", None, "*"),
    ],
)
def test_the_name_that_an_upstream_gets(stated, asked, sent):
    assert name_for_engine(external(["openai/*", "exact"], stated), asked) == sent


def test_an_engine_of_hotseat_has_one_name():
    assert name_for_engine(external(["a*"], engine="mock"), "abc") == "cloud"


def test_the_shown_name_has_no_star():
    assert external(["openai/*", "OpenAI"]).shown_name == "OpenAI"
    assert external(["openai/*"]).shown_name == "cloud"


def test_a_name_with_filters_that_a_wildcard_has_too_is_sent_as_the_wildcard_says():
    spec = {"engine": "external", "url": "http://h", "names": ["openai/*"], "engineModelName": "*"}
    spec["filters"] = {"byName": {"openai/o3": {"set": {"a": 1}}, "own": {"set": {"a": 2}}}}
    model = Model.model_validate({"metadata": {"name": "cloud"}, "spec": spec})
    assert [name_for_engine(model, asked) for asked in ("openai/o3", "openai/o4", "own")] == ["o3", "o4", "cloud"]
