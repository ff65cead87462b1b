"""Changes of parameters: in their order, nested or not, and nothing else changes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.gateway import body as bodies
from hotseat.gateway.body import Body, parse_body, rename_model
from hotseat.gateway.parameters import Changes, change_body, change_text
from tests.fuzzing import examples

BODY = {
    "model": "a",
    "temperature": 0.5,
    "top_k": 1,
    "kwargs": {"think": True, "deep": {"x": 1}},
    "messages": [{"a": 1}],
}


def changes(strip: list[str] | None = None, default: dict[str, Any] | None = None, **more: dict[str, Any]) -> Changes:
    return Changes(strip or [], default or {}, more.get("put") or {})


TABLE: dict[str, tuple[list[Changes], dict[str, Any], list[str]]] = {
    "stripped": ([changes(["top_k", "unknown"])], {}, ["top_k"]),
    "nested stripped": (
        [changes(["kwargs.deep.x", "kwargs.no.x", "temperature.x"])],
        {"kwargs": {"think": True, "deep": {}}},
        [],
    ),
    "default of one that is there": ([changes(default={"temperature": 1})], {}, []),
    "default of one that is not": ([changes(default={"min_p": None})], {"min_p": None}, []),
    "default of one that was stripped": ([changes(["top_k"], {"top_k": 9})], {"top_k": 9}, []),
    "nested default": (
        [changes(default={"kwargs.think": False, "kwargs.y": 2, "new.z": 3, "temperature.x": 4})],
        {"kwargs": {"think": True, "deep": {"x": 1}, "y": 2}, "new": {"z": 3}},
        [],
    ),
    "set": ([changes(put={"temperature": [1, {"a": "é"}]})], {"temperature": [1, {"a": "é"}]}, []),
    "an object replaces an object": ([changes(put={"kwargs": {"a": 1}})], {"kwargs": {"a": 1}}, []),
    "nested set": (
        [changes(put={"kwargs.think": False, "new.y.z": 1, "temperature.x": 1})],
        {"kwargs": {"think": False, "deep": {"x": 1}}, "new": {"y": {"z": 1}}, "temperature": {"x": 1}},
        [],
    ),
    "one after another": ([changes(put={"a": 1}), changes(["a"], {"b": 1}, put={"c": 1})], {"b": 1, "c": 1}, []),
    "the later one is last": ([changes(put={"a": {"b": 1}}), changes(put={"a.c": 2})], {"a": {"b": 1, "c": 2}}, []),
}


@pytest.mark.parametrize(("given", "more", "less"), TABLE.values(), ids=TABLE)
def test_parameters_are_changed_in_their_order(given: list[Changes], more: dict[str, Any], less: list[str]) -> None:
    before = json.dumps([tuple(each) for each in given])
    wanted = {key: value for key, value in {**BODY, **more, "model": "b"}.items() if key not in less}
    raw = json.dumps(BODY)
    assert json.loads(change_body(raw.encode(), "b", given)) == wanted
    assert json.loads(change_text(raw, "b", given)) == wanted
    assert json.dumps([tuple(each) for each in given]) == before, "the document stays as it is"


def test_values_that_stay_keep_their_bytes() -> None:
    raw = b'{ "model" : "a", "n": 1.50, "big": 12345678901234567890123, "text": "\\u00e9\\ud83d\\ude00" , "drop": 1}'
    changed = change_body(raw, "b", [changes(["drop"])])
    assert changed == b'{"model":"b","n":1.50,"big":12345678901234567890123,"text":"\\u00e9\\ud83d\\ude00"}'


names = st.sampled_from(["a", "b", "a.b", "a.c.d", "messages", "temperature"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(names, inner),
    max_leaves=4,
)
some = st.builds(
    Changes,
    st.lists(names, max_size=3),
    st.dictionaries(names, values, max_size=3),
    st.dictionaries(names, values, max_size=3),
)


@examples(100)
@given(st.dictionaries(names, values, max_size=4), st.lists(some, min_size=1, max_size=3))
def test_both_parsers_make_the_same(document: dict[str, Any], given: list[Changes]) -> None:
    text = json.dumps(document)
    assert json.loads(change_body(text.encode(), "m", given)) == json.loads(change_text(text, "m", given))


@pytest.mark.parametrize(
    "raw", [b'{"model": "a", "x": NaN}', b'{"model": "a", "x": "\\ud800"}', b'\xef\xbb\xbf{"model": "a", "x": 1}']
)
@pytest.mark.parametrize("size", [0, bodies.SLOW, bodies.LARGE])
def test_what_only_python_reads_and_large_bodies_are_changed_too(raw: bytes, size: int) -> None:
    raw = raw[:-1] + b', "pad": "%b"}' % (b"x" * size)
    changed = json.loads(rename_model(parse_body(raw), "b", [changes(put={"y": "'\"\n"})]))
    assert (changed["model"], changed["y"], len(changed["pad"])) == ("b", "'\"\n", size)
    assert "x" in changed


def test_a_body_without_a_model_gets_one() -> None:
    assert json.loads(rename_model(Body(b"{}", None, stream=False), "b", [changes(put={"a": 1})])) == {
        "a": 1,
        "model": "b",
    }
