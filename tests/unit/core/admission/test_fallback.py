"""When another model answers, and that the document says so in one way only."""

import pytest

from hotseat.api.model import Fallback, Reason
from hotseat.core.admission.fallback import fallback_reason, next_check, reason_after_refusal, supports
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
    assert fallback_reason(ALL, state, waited, expected) == reason


def test_only_the_stated_reasons_count() -> None:
    assert fallback_reason(when("Waiting"), "loading", 9.0, 9.0) is None
    assert fallback_reason(when("Waiting"), "draining", 9.0, None) is Reason.WAITING
    assert fallback_reason(when("Loading"), "ready", 9.0, None) is None
    assert fallback_reason(when(), "loading", 9.0, None) is None
    assert fallback_reason(when("Waiting"), "unloaded", 0.0, 60.0) is None, "whether it loads is seen in a moment"
    assert fallback_reason(when("Waiting"), "unloaded", 0.1, 60.0) is Reason.WAITING
    assert fallback_reason(when("Waiting"), "parked", 0.0, None) is None
    assert fallback_reason(when("Waiting"), "parked", 9.0, None) is Reason.WAITING
    assert fallback_reason(when("Loading"), "waking", 9.0, None) is Reason.LOADING


def test_a_client_that_waits_less_long_moves_the_bound() -> None:
    assert fallback_reason(ALL, "loading", 0.5, None, limit=0.5) is Reason.LOADING
    assert fallback_reason(ALL, "loading", 0.5, None, limit=30.0) is None


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
    assert reason_after_refusal(ALL, error) == reason
    assert reason_after_refusal(None, error) is None
    assert reason_after_refusal(when(*(set(Reason) - {reason})), error) is None


def test_it_looks_again_when_the_bound_is_reached_and_ever_less_often() -> None:
    assert next_check(ALL, 0.0) == pytest.approx(0.05)
    assert next_check(ALL, 0.06) == pytest.approx(0.1)
    assert next_check(ALL, 1.0) == pytest.approx(0.5)
    assert next_check(ALL, 1.9) == pytest.approx(0.1)
    assert next_check(ALL, 1.0, limit=1.2) == pytest.approx(0.2)
    assert next_check(ALL, 2.0) == next_check(ALL, 90.0) == 1.0


def test_a_fallback_that_states_nothing_chats_and_completes() -> None:
    assert [supports((), kind) for kind in ("chat", "completion", "embedding", "rerank")] == [True, True, False, False]
    assert [supports(("embedding",), kind) for kind in ("chat", "embedding")] == [False, True]
