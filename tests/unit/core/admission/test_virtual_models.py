"""Which member of a virtual model gets a request."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.core.admission.virtual_models import SmoothWeights, first_with_room, warmest
from tests.fuzzing import examples


@pytest.mark.parametrize(
    ("states", "index"),
    [
        (["unloaded", "unloaded"], 0),
        (["unloaded", "ready", "ready"], 1),
        (["loading", "ready"], 1),
        (["unloaded", "parked", "loading"], 2),
        (["unloaded", "fetching"], 1),
        (["unloaded", "parked"], 1),
        (["draining", "waking"], 1),
        (["failed", "unloaded"], 1),
        (["failed", "failed"], 0),
    ],
)
def test_the_warmest_is_ready_else_loading_else_parked_else_the_first(states: list[str], index: int) -> None:
    assert warmest(states) == index


@pytest.mark.parametrize(
    ("requests", "limits", "index"),
    [([0, 0], [1, None], 0), ([1, 0], [1, None], 1), ([9, 9], [1, 1], 1), ([2, 3, 0], [3, 3, 3], 0), ([5], [None], 0)],
)
def test_the_next_member_gets_what_the_one_before_has_no_room_for(
    requests: list[int], limits: list[int | None], index: int
) -> None:
    assert first_with_room(requests, limits) == index


def test_turns_are_spread() -> None:
    weights = SmoothWeights([5, 1, 1])
    assert [weights.choose([0, 1, 2]) for _ in range(14)] == [0, 0, 1, 0, 2, 0, 0] * 2


@examples(50)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_each_member_has_its_share_of_every_round(shares: list[int]) -> None:
    weights, everyone = SmoothWeights(shares), list(range(len(shares)))
    for _ in range(2):
        assert Counter(weights.choose(everyone) for _ in range(sum(shares))) == dict(enumerate(shares))


def test_members_that_cannot_answer_have_no_turn() -> None:
    weights = SmoothWeights([1, 3, 1])
    assert Counter(weights.choose([0, 2]) for _ in range(10)) == {0: 5, 2: 5}
