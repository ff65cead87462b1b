"""`hotseat key`: the key is printed once, its hash is kept, and the rest of the file stays."""

import json
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hotseat.cli.keys import key
from hotseat.gateway.auth import Operation
from hotseat.gateway.key_file import KeySource, hash_of


def run(*arguments: str) -> Result:
    return CliRunner().invoke(key, arguments)


def test_a_new_key_is_printed_and_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    made = run("new", "alice", "--file", str(path)).stdout.strip()
    assert re.fullmatch(r"hs-[\w-]{43}", made), "256 random bits"
    assert made not in path.read_text()
    assert hash_of(made) in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    limits = ("--requests-per-minute", "60", "--concurrency", "2", "--weight", "3")
    other = run(
        "new", "ci", "--models", "qwen*", "--models", "b", "--operations", "infer, read", *limits, "--file", str(path)
    )
    assert other.stdout.strip() != made
    source = KeySource([], path)
    source.read()
    alice, ci = source.keys.table.entries
    assert source.keys.check({"x-api-key": made}).key is alice
    assert (ci.models, ci.operations) == (("qwen*", "b"), frozenset({Operation.INFER, Operation.READ}))
    assert (ci.requests_per_minute, ci.concurrency, ci.weight) == (60, 2, 3)


def test_keys_are_listed_without_hashes(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    run("new", "alice", "--operations", "read", "--file", str(path))
    listed = run("ls", "--file", str(path)).stdout
    assert listed.splitlines()[1].split() == ["alice", "*", "read", "-", "-", "1"]
    assert run("ls", "-o", "name", "--file", str(path)).stdout == "alice\n"
    (row,) = json.loads(run("ls", "-o", "json", "--file", str(path)).stdout)["keys"]
    assert (row["name"], row["operations"], "hash" in row) == ("alice", ["read"], False)


def test_a_removed_key_takes_nothing_else_with_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    rows = [f"- name: {name}\n  hash: {hash_of(name)}\n" for name in "abc"]
    path.write_text("# all\n" + rows[0] + "# of b\n\n# and b\n" + rows[1] + "# of c\n" + rows[2])
    assert run("rm", "b", "--file", str(path)).exit_code == 0
    assert path.read_text() == "# all\n" + rows[0] + "# of b\n\n# and b\n# of c\n" + rows[2]
    run("rm", "c", "--file", str(path))
    assert path.read_text() == "# all\n" + rows[0] + "# of b\n\n# and b\n# of c\n"
    run("new", "d", "--file", str(path))
    assert run("ls", "-o", "name", "--file", str(path)).stdout == "a\nd\n"


def test_json_stays_json(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps([{"name": "a", "hash": hash_of("a")}]))
    run("new", "b", "--file", str(path))
    assert [each["name"] for each in json.loads(path.read_text())] == ["a", "b"]
    run("rm", "a", "--file", str(path))
    assert [each["name"] for each in json.loads(path.read_text())] == ["b"]


@pytest.mark.parametrize(
    ("text", "command", "problem"),
    [
        (None, ("rm", "a"), "does not exist"),
        (None, ("ls",), "cannot be read"),
        ("plain-secret\n", ("new", "a"), "one key a line"),
        ("- name: a\n  key: plain-secret\n", ("new", "a"), "has a key of the name a"),
        ("- name: a\n  key: plain-secret\n", ("rm", "b"), "it has: a"),
        ("- name: a\n  key: plain-secret\n", ("rm", "a"), "last key"),
        ("- name: a\n  key: plain-secret\n  x: 1\n", ("new", "b"), "[0].x"),
        (None, ("new", "a b"), "name: "),
        (None, ("new", "a", "--operations", "write"), "operations: "),
    ],
)
def test_what_cannot_be_done_is_said_without_the_key(
    tmp_path: Path, text: str | None, command: tuple[str, ...], problem: str
) -> None:
    path = tmp_path / "keys.yaml"
    if text is not None:
        path.write_text(text)
    told = run(*command, "--file", str(path))
    assert told.exit_code
    assert problem in told.output
    assert "plain-secret" not in told.output
    assert (path.read_text() if path.exists() else None) == text, "nothing has changed"
