"""docs/moving.md: each row of its tables has a test that exists, and each field that an importer reads has a row."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotseat.importing import FORMATS, kaos, snipsnap, vllm_chill
from hotseat.importing.reader import GROUP_KEYS, MODEL_KEYS, PEER_KEYS, TOP_KEYS, TOP_LOST

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/moving.md"


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """The rows of the tables whose last column is called Test."""
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[-1] == "Test":
            inside = True
        elif inside and set("".join(cells)) - set("-: "):
            yield tuple((*cells, "", "", "")[:3])  # type: ignore[misc]


def problem(row: tuple[str, str, str]) -> str:
    """What is wrong with a row. Empty: nothing."""
    theirs, here, cell = row
    if not theirs or not here:
        return "a cell is empty"
    match = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", cell)
    if match is None:
        return "has no test (`path::name`)"
    path = ROOT / match[1]
    if not path.is_file():
        return f"{match[1]} does not exist"
    found = re.search(rf"^ *def {match[2]}\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    return "" if found else f"{match[1]} has no {match[2]}"


def test_each_row_has_a_test_that_exists() -> None:
    found = list(rows(PAGE.read_text(encoding="utf-8")))
    assert len(found) > 150
    assert not {row[0]: problem(row) for row in found if problem(row)}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("| `a` | b | |", "has no test"),
        ("| `a` | b | soon |", "has no test"),
        ("| `a` | | `tests/unit/test_moving.py::test_each_row_has_a_test_that_exists` |", "a cell is empty"),
        ("| `a` | b | `tests/unit/test_absent.py::test_a` |", "does not exist"),
        ("| `a` | b | `tests/unit/test_moving.py::test_absent` |", "has no test_absent"),
        ("| `a` | b |", "has no test"),
    ],
)
def test_a_row_without_one_is_found(row: str, words: str) -> None:
    (found,) = rows(f"| Theirs | In hotseat | Test |\n|---|---|---|\n{row}\n")
    assert words in problem(found)


def test_each_field_that_an_importer_reads_has_a_row() -> None:
    named = " ".join(f"{theirs} {here}" for theirs, here, _ in rows(PAGE.read_text(encoding="utf-8")))
    words = set(re.findall(r"[A-Za-z_]+", named))
    fields = {*MODEL_KEYS, *TOP_KEYS, *GROUP_KEYS, *PEER_KEYS, *TOP_LOST}
    fields |= {*snipsnap.KNOWN, *vllm_chill.KNOWN, *kaos.SPEC, *kaos.PROXY, *kaos.HOSTED}
    former = {
        "sleepMethod",
        "sleepBody",
        "sleepTimeout",
        "wakeMethod",
        "wakeBody",
        "wakeTimeout",
    }  # parts of sleepEndpoint
    assert sorted(fields - words - former) == []


def test_each_format_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8").lower()
    assert not [name for name in FORMATS if name not in text and name != "compose"]
