"""Documents that change: preloads, new fingerprints, models removed."""

import pytest

from hotseat.core.messages import CacheObserved, CacheState, Fetch, Start, Stop
from hotseat.core.policy.api import Capacity, Claim
from hotseat.core.scheduler.messages import ConfigChanged, SchedulingSpec, Tick, UnloadOrdered
from tests.unit.core.scheduler.story import (
    CACHED,
    LOADING,
    QUIESCING,
    READY,
    RELEASING,
    Story,
    is_released,
    publish,
    started,
    who,
)


def test_a_preload_is_loaded_when_its_weights_are_known_to_be_there_and_never_pushes_anybody_out() -> None:
    story = Story()
    story.load(1.0)
    assert story.change(2.0, p=SchedulingSpec(preload=True)) == [publish(4, who("a", READY, 1.0, 2))]
    assert story.machine.step(CacheObserved(2.0, "p", CACHED)) == []
    story.machine.step(UnloadOrdered(3.0, "a"))
    story.demand(3.0)
    assert story.released(4.0, "a", 2)[:2] == [is_released("a", 2, "unloaded", 1.0), Start("p", "w/p@7", 7)]


def test_a_preload_that_is_still_loading_is_given_up_for_one_that_is_wanted_and_comes_back_later() -> None:
    story = Story(p=SchedulingSpec(preload=True), b=SchedulingSpec())
    assert story.states()["p"] == "loading"
    assert Stop("p", "w/p@2", 2, 10.0) in story.demand(1.0, {"b": 1})
    of = story.released(2.0, "p", 2)[1].epoch
    story.ready(3.0, "b", of)
    story.demand(4.0)
    assert story.states() == {"p": "unloaded", "b": "ready"}  # it pushes nobody out
    story.machine.step(UnloadOrdered(5.0, "b"))
    story.demand(5.0)
    assert story.released(6.0, "b", of)[1].model == "p"


def test_changes_that_need_no_restart_are_taken_over() -> None:
    story = Story(a=SchedulingSpec(drain_timeout=20.0), b=SchedulingSpec())
    story.load(1.0)
    assert story.change(2.0, a=SchedulingSpec(drain_timeout=3.0)) == [publish(4, who("a", READY, 1.0, 2))]
    story.demand(2.0, {"b": 1}, {"w/a@2": 1}, since=-60.0)
    assert story.machine.wake_at == 5.0


def test_what_a_model_occupies_is_what_it_was_started_with() -> None:
    story = Story(Capacity(2), a=SchedulingSpec(Claim(2)), b=SchedulingSpec())
    story.load(1.0)
    story.change(2.0, a=SchedulingSpec(Claim(1)))
    assert story.demand(3.0, {"b": 1}, {"w/a@2": 1}) == []


def test_a_model_that_has_changed_is_drained_and_loaded_again_with_its_new_document() -> None:
    story = Story(a=SchedulingSpec(fingerprint="1"))
    story.load(1.0)
    new = story.change(2.0, a=SchedulingSpec(fingerprint="2", stop_timeout=99.0))
    assert new == [publish(4, who("a", QUIESCING, 2.0, 2, "changed"))]
    story.demand(2.5, {}, {"w/a@2": 1})
    assert story.demand(3.0) == [Stop("a", "w/a@2", 2, 10.0), publish(6, who("a", RELEASING, 3.0, 2, "changed"))]
    assert story.released(3.5, "a", 2) == [
        is_released("a", 2, "changed", 0.5),
        started(2, "a", waiting=0, reason="ordered"),
        Start("a", "w/a@7", 7),
        publish(7, who("a", LOADING, 3.5, 7), bound=30.0),
    ]


@pytest.mark.parametrize("first", ["the document", "the weights"])
def test_a_changed_model_finds_its_weights_whichever_news_comes_first(first: str) -> None:
    """A bug once: news of the weights that came before the document was forgotten with it, and nobody asked again."""
    story = Story(a=SchedulingSpec(fingerprint="1"))
    there = CacheObserved(2.0, "a", CACHED)
    if first == "the weights":
        story.machine.step(there)
    story.change(2.0, a=SchedulingSpec(fingerprint="2", weights="2"))
    if first == "the document":
        story.machine.step(there)
        assert story.demand(3.0, {"a": 1})[1] == Start("a", "w/a@3", 3)
    else:
        assert story.demand(3.0, {"a": 1}) == [Fetch("a")]
        assert story.machine.step(there)[2] == Start("a", "w/a@3", 3)


def _waits_for_weights() -> Story:
    """Give a story in which the document of a ready model names other weights since 2.0."""
    story = Story(a=SchedulingSpec(fingerprint="1", weights="1"))
    story.load(1.0)
    assert Fetch("a") in story.change(2.0, a=SchedulingSpec(fingerprint="2", weights="2"))
    assert story.states()["a"] == "ready"
    return story


def test_a_model_with_other_weights_serves_with_the_old_ones_until_the_new_ones_are_cached() -> None:
    """A bug once: it was drained first and its weights were downloaded after."""
    story = _waits_for_weights()
    story.machine.step(CacheObserved(3.0, "a", CacheState.FETCHING))
    story.demand(4.0, {}, {"w/a@2": 1})
    assert story.states()["a"] == "ready"
    (row,) = [each for each in story.machine.status() if each.name == "a"]
    assert "earlier version of its document" in row.message
    story.machine.step(CacheObserved(5.0, "a", CACHED))
    assert story.states()["a"] == "quiescing"
    story.demand(6.0)
    assert Start("a", "w/a@7", 7) in story.released(6.5, "a", 2)


def test_weights_that_cannot_be_fetched_leave_the_old_ones_served_and_are_tried_again() -> None:
    story = _waits_for_weights()
    assert story.machine.step(CacheObserved(3.0, "a", CacheState.FAILED, "no such repository")) == []
    assert (story.states()["a"], story.machine.residency.refusals) == ("ready", {})
    assert story.machine.wake_at == 63.0
    assert story.machine.step(Tick(62.0)) == []
    assert story.machine.step(Tick(63.0)) == [Fetch("a")]
    story.machine.step(CacheObserved(64.0, "a", CacheState.FAILED, "no such repository"))
    assert Fetch("a") in story.machine.step(ConfigChanged(65.0, story.terms, story.capacity, afresh=True))


def test_a_document_that_is_taken_back_before_its_weights_are_there_disturbs_nobody() -> None:
    story = _waits_for_weights()
    story.change(3.0, a=SchedulingSpec(fingerprint="1", weights="1"))
    story.machine.step(CacheObserved(5.0, "a", CACHED))
    assert story.states()["a"] == "ready"


def test_what_cannot_be_loaded_evicts_nothing_and_its_clients_are_told_why() -> None:
    story = Story(a=SchedulingSpec(fingerprint="1"))
    story.load(1.0)
    refused = SchedulingSpec(fingerprint="2", problem="a webhook denied it")
    story.change(2.0, a=refused)
    assert story.states()["a"] == "ready", "its successor could not be loaded"
    story.change(3.0, b=refused)
    story.demand(4.0, {"b": 1})
    assert story.states() == {"a": "ready", "b": "unloaded"}
    refusal = story.machine.residency.refusals["b"]
    assert (refusal.code, refusal.message) == ("not_loadable", "a webhook denied it")
    story.change(5.0, a=SchedulingSpec(fingerprint="1"), b=SchedulingSpec(fingerprint="2"))
    assert story.machine.residency.refusals == {}


def test_a_document_that_claims_more_than_there_is_does_not_stop_the_running_model() -> None:
    story = Story(a=SchedulingSpec(fingerprint="1"))
    story.load(1.0)
    story.change(2.0, a=SchedulingSpec(Claim(9), fingerprint="2"))
    assert story.states()["a"] == "ready"


def test_documents_that_a_person_applies_allow_a_failed_load_at_once() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.failed(2.0, "a", 2)
    story.released(2.0, "a", 2)
    assert story.machine.residency.refusals["a"].retry_at == 3.0
    story.change(2.1)
    assert "a" in story.machine.residency.refusals, "they have not changed"
    story.machine.step(ConfigChanged(2.2, story.terms, story.capacity, afresh=True))
    assert story.machine.residency.refusals == {}
    assert story.states()["a"] == "loading"


def test_a_document_that_has_changed_may_have_mended_a_failure() -> None:
    story = Story(a=SchedulingSpec(fingerprint="1"))
    story.demand(1.0, {"a": 1})
    story.failed(2.0, "a", 2)
    story.released(2.0, "a", 2)
    story.change(2.1, a=SchedulingSpec(fingerprint="2"))
    assert story.states()["a"] == "loading"  # somebody waits, as far as it knows
    assert story.machine.residency.refusals == {}


def test_a_removed_model_is_drained_and_forgotten_and_may_come_back_in_time() -> None:
    story = Story()
    story.load(1.0)
    a = story.terms["a"]
    assert story.change(2.0, a=None) == [publish(4, who("a", QUIESCING, 2.0, 2, "removed"))]
    assert story.change(2.5, a=a) == [publish(5, who("a", READY, 2.5, 2))]
    story.change(3.0, a=None)
    assert story.demand(3.0, {"b": 1}) == [
        Stop("a", "w/a@2", 2, 10.0),
        started(2, "b", "a"),
        publish(7, who("a", RELEASING, 3.0, 2, "removed"), bound=30.0),
    ]
    assert story.released(4.0, "a", 2)[1] == Start("b", "w/b@8", 8)
