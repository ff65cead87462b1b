"""The file with API keys: its two forms, what is wrong with one, and what a change does."""

import contextlib
import json
from pathlib import Path

import pytest

from hotseat.gateway.auth import Operation
from hotseat.gateway.key_file import KeyFileError, KeySource, hash_of, parse

SECRET = "hs-very-secret-value"
LIST = f"""
# people
- name: alice
  hash: {hash_of(SECRET)}
- name: ci
  key: plain-secret
  models: ["qwen*", gemma]
  operations: [infer]
  requestsPerMinute: 60
  concurrency: 4
  weight: 2
"""


def test_a_list_says_what_each_key_may_do() -> None:
    (alice, ci), unhashed = parse(LIST)
    assert (alice.name, alice.models, alice.operations) == ("alice", ("*",), frozenset(Operation))
    assert (ci.models, ci.operations) == (("qwen*", "gemma"), frozenset({Operation.INFER}))
    assert (ci.requests_per_minute, ci.concurrency, ci.weight) == (60, 4, 2)
    assert unhashed == ["ci"]
    as_json = json.dumps([{"name": "alice", "hash": hash_of(SECRET)}])
    assert parse(as_json)[0] == [alice]


def test_one_key_a_line_may_do_everything() -> None:
    keys, _ = parse("# mine\n\n one \ntwo\n", first=2)
    assert [(each.name, each.operations) for each in keys] == [
        ("key-2", frozenset(Operation)),
        ("key-3", frozenset(Operation)),
    ]


@pytest.mark.parametrize("before", ["--- # keys\n", "%YAML 1.2\n---\n", "keys:\n", "&all\n", "--- \n", "# one\n"])
def test_a_list_is_never_read_as_keys_that_may_do_everything(before: str) -> None:
    text = f"{before}- name: ci\n  hash: {hash_of(SECRET)}\n  operations: [infer]\n"
    with contextlib.suppress(KeyFileError):
        keys, _ = parse(text)
        assert [each.operations for each in keys] == [frozenset({Operation.INFER})]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"- name: a\n  key: {SECRET}\n  models: qwen\n", "[0].models"),
        (f"- name: a\n  key: {SECRET}\n  operation: [infer]\n", "[0].operation"),
        (f"- name: a\n  key: {SECRET}\n  operations: [{SECRET}]\n", "[0].operations.0"),
        (f"- name: a\n  key: {SECRET}\n  hash: {hash_of(SECRET)}\n", "[0]: exactly one of hash and key"),
        ("- name: a\n", "[0]: exactly one of hash and key"),
        (f"- name: a\n  hash: {SECRET}\n", "[0].hash"),
        (f"- name: {SECRET}/x\n  key: a\n", "[0].name"),
        (f"- name: a\n  key: {SECRET}\n  weight: 0\n", "[0].weight"),
        (f"- name: a\n  key: {SECRET}\n- name: a\n  key: b\n", "the name a twice"),
        (f"- name: a\n  key: {SECRET}\n- name: b\n  key: {SECRET}\n", "one key twice"),
        (f"- name: a\n  key: *{SECRET}\n", "not valid YAML in line 2"),
        (f"- name: a\n  key: '{SECRET}\n", "not valid YAML in line"),
        (f"- {SECRET}\n", "[0]"),
        (f"{{name: a, key: {SECRET}}}", "neither a list"),
        ("[]", "contains no key"),
    ],
)
def test_a_broken_list_says_where_and_nothing_of_a_key(text: str, problem: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        parse(text)
    assert problem in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_broken_file_keeps_the_old_keys(tmp_path: Path) -> None:
    path, told, changes = tmp_path / "keys", list[str](), list[int]()
    path.write_text(LIST)
    source = KeySource(["given"], path)
    source.report = told.append
    source.read()
    source.watch(lambda: changes.append(len(source.keys.table.entries)), poll=False)
    for text in (f"- name: a\n  key: {SECRET}\n  weight: x\n", "# none\n"):
        path.write_text(text)
        source.reload()
    path.unlink()
    source.reload()
    assert [each.name for each in source.keys.table.entries] == ["key-1", "alice", "ci"]
    assert len(told) == 3
    assert all(str(path) in each and "the previous keys stay valid" in each for each in told)
    path.write_text("only\n")
    source.reload()
    source.reload()
    assert [each.name for each in source.keys.table.entries] == ["key-1", "key-2"]
    assert told[3:] == ["API keys reloaded: 2 keys, 3 before"]
    assert changes == [3, 2]
    assert SECRET not in str(told)


def test_at_the_start_a_missing_file_is_an_error_unless_it_may_come_later(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(KeyFileError):
        KeySource([], path).read()
    source = KeySource([], path, optional=True)
    source.read()
    assert not source.keys
    path.write_text("")
    source.read()
    path.write_text("k\n")
    source.reload()
    assert source.keys
    path.unlink()
    source.reload()
    assert source.keys, "a deleted Secret does not open the door"


def test_a_key_that_is_given_elsewhere_too_does_not_gain_rights(tmp_path: Path) -> None:
    """HOTSEAT_API_KEY is also what commands send: a shell may have it set to the key of a person."""
    path = tmp_path / "keys"
    path.write_text(LIST)
    with pytest.raises(KeyFileError, match="allows everything") as caught:
        KeySource(["plain-secret"], path).read()
    assert "plain-secret" not in str(caught.value)
    path.write_text("plain-secret\n")
    source = KeySource(["plain-secret"], path)
    source.read()
    assert len(source.keys.table.entries) == 2
