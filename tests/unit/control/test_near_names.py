"""Which names are near enough to be suggested."""

import pytest

from hotseat.control.near_names import NearNames, _distance

KNOWN = ["Qwen 3 30B A3B", "Qwen/Qwen3-8B", "llama3.1:8b", "modèle", "模型-7b", "gpt", "..", "x" * 300]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("qwen-3-30b_a3b", ["Qwen 3 30B A3B"]),
        ("QWEN/QWEN3:8b", ["Qwen/Qwen3-8B"]),
        ("llama3.1:7b", ["llama3.1:8b"]),
        ("lalma-31-8b", ["llama3.1:8b"]),  # two characters are swapped
        ("llama31-8b-it", ["llama3.1:8b"]),
        ("mode\u0300le", ["modèle"]),  # the accent is a character of its own
        ("模型7B", ["模型-7b"]),
        ("gtp", ["gpt"]),
        ("gp", []),
        ("mistral", []),
        ("", []),
        ("x" * 300, []),
        ("llama3.1:8b-instruct", []),
    ],
)
def test_case_and_separators_do_not_count_and_few_characters_may_differ(name: str, near: list[str]) -> None:
    assert NearNames(KNOWN).find(name) == near


def test_names_that_differ_in_case_only_come_alone_and_in_their_order() -> None:
    assert NearNames(["llama-8c", "LLAMA-8B", "llama8b"]).find("llama_8b") == ["LLAMA-8B", "llama8b"]
    assert NearNames(["llama-9cc", "llama-9c"]).find("llama-9b") == ["llama-9c", "llama-9cc"]


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ("", "", 0),
        ("ab", "ba", 1),
        ("abc", "ac", 1),
        ("abcd", "xbcy", 2),
        ("ca", "abc", 3),
        ("abcdef", "bcdefg", 2),
        ("a" * 9, "b" * 9, 3),
    ],
)
def test_the_distance_is_exact_up_to_two(one: str, other: str, distance: int) -> None:
    assert _distance(one, other, 2) == distance
    assert _distance(other, one, 2) == distance
