"""When another model answers, and that the document says so in one way only."""

import pytest

from hotseat.api.fallback import Fallback, Reason
from hotseat.core.admission.fallback import does, due, look_again, refused
from hotseat.core.errors import HotseatError, QueueFull, Unavailable, Unreachable, UpstreamFailed

ALL = Fallback.model_validate({"model": "small"})


def when(*reasons: str, after: str = "2s") -> Fallback:
    return Fallback.model_validate({"model": "small", "when": list(reasons), "after": after})


@pytest.mark.parametrize(
    ("state", "waited", "expected", "reason"),
    [
        ("loading", 0.0, None, None),  # nothing is known: it may be quick
        ("loading", 0.0, 2.5, Reason.LOADING),
        ("loading", 1.9, 0.05, None),
        ("loading", 1.9, 0.2, Reason.LOADING),
        ("fetching", 2.0, None, Reason.LOADING),
        ("loading", 2.0, 0.0, Reason.LOADING),
        ("unloaded", 0.0, 60.0, Reason.WAITING),
        ("ready", 2.0, None, Reason.WAITING),  # all its places are taken
        ("quiescing", 1.0, None, None),
    ],
)
def test_a_request_waits_no_longer_than_its_bound_and_not_at_all_where_that_is_known(
    state: str, waited: float, expected: float | None, reason: Reason | None
) -> None:
    assert due(ALL, state, waited, expected) == reason


def test_only_the_stated_reasons_count() -> None:
    assert due(when("Waiting"), "loading", 9.0, 9.0) is None
    assert due(when("Waiting"), "draining", 9.0, None) is Reason.WAITING
    assert due(when("Loading"), "ready", 9.0, None) is None
    assert due(when(), "loading", 9.0, None) is None
    assert due(when("Waiting"), "unloaded", 0.0, 60.0) is None, "whether it loads is seen in a moment"
    assert due(when("Waiting"), "unloaded", 0.1, 60.0) is Reason.WAITING
    assert due(when("Waiting"), "parked", 0.0, None) is None
    assert due(when("Waiting"), "parked", 9.0, None) is Reason.WAITING
    assert due(when("Loading"), "waking", 9.0, None) is Reason.LOADING


def test_a_client_that_waits_less_long_moves_the_bound() -> None:
    assert due(ALL, "loading", 0.5, None, limit=0.5) is Reason.LOADING
    assert due(ALL, "loading", 0.5, None, limit=30.0) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unavailable("", code="model_failed"), Reason.FAILED),
        (Unavailable("", code="too_large"), Reason.FAILED),
        (Unavailable("", code="pinned"), Reason.WAITING),
        (Unavailable("", code="release_unproven"), Reason.FAILED),
        (Unreachable(""), Reason.FAILED),
        (Unavailable("", code="weights_not_cached"), Reason.LOADING),
        (QueueFull(""), Reason.WAITING),
        (Unavailable("", code="unloaded"), None),  # an operator wants it so
        (Unavailable("", code="shutting_down"), None),
        (UpstreamFailed(""), None),  # the engine may have done what was asked
    ],
)
def test_what_a_refusal_means(error: HotseatError, reason: Reason | None) -> None:
    assert refused(ALL, error) == reason
    assert refused(None, error) is None
    assert refused(when(*(set(Reason) - {reason})), error) is None


def test_it_looks_again_when_the_bound_is_reached_and_ever_less_often() -> None:
    assert look_again(ALL, 0.0) == pytest.approx(0.05)
    assert look_again(ALL, 0.06) == pytest.approx(0.1)
    assert look_again(ALL, 1.0) == pytest.approx(0.5)
    assert look_again(ALL, 1.9) == pytest.approx(0.1)
    assert look_again(ALL, 1.0, limit=1.2) == pytest.approx(0.2)
    assert look_again(ALL, 2.0) == look_again(ALL, 90.0) == 1.0


def test_a_fallback_that_states_nothing_chats_and_completes() -> None:
    assert [does((), kind) for kind in ("chat", "completion", "embedding", "rerank")] == [True, True, False, False]
    assert [does(("embedding",), kind) for kind in ("chat", "embedding")] == [False, True]
