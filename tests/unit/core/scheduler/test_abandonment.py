"""Loads whose clients have given up."""

from tests.unit.core.scheduler.story import Story, learned


def test_a_load_that_is_half_done_is_finished_though_its_client_left() -> None:
    story = Story()
    learned(story, 10.0)
    story.demand(1.0, {"a": 1})
    story.demand(6.5, {})
    story.demand(20.0, {"b": 1})  # late: it takes longer than it did, and its client did not come back
    assert story.states()["a"] == "loading"
    assert story.machine.wake_at == 21.0
    story.tick(21.0)  # twice as long as usual
    assert story.states()["a"] == "releasing"


def test_the_load_after_one_that_was_given_up_has_twice_as_long() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.demand(2.0, {})
    story.demand(5.0, {"b": 1})
    assert story.states()["a"] == "releasing"
    story.released(5.0, "a", 2)
    story.ready(6.0, "b", 4)
    story.demand(6.1, {"a": 1}, served={"w/b@4": 1})
    story.demand(6.2, {"a": 1})
    story.released(6.2, "b", 4)
    assert story.states()["a"] == "loading"
    story.demand(6.3, {"b": 1})
    assert story.states()["a"] == "loading"
    assert story.machine.wake_at == 14.2
    story.tick(14.2)
    assert story.states()["a"] == "releasing"


def test_the_tries_of_a_client_count_as_one_wait() -> None:
    story = Story()
    of = story.load(1.0)
    busy = {f"w/a@{of}": 1}
    for now in (10.0, 13.0, 16.0):
        story.demand(now, {"b": 1}, busy)
        story.demand(now + 2.5, {}, busy)
    story.demand(40.0, {"b": 1}, busy, since=39.0)
    assert story.states()["a"] == "quiescing", "its bound of 30 s has passed since 10.0"


def test_clients_that_stayed_away_are_not_expected_again() -> None:
    story = Story()
    story.demand(1.0, {"a": 1})
    story.demand(2.0, {})
    story.demand(100.0, {"a": 1})
    story.demand(101.0, {"b": 1})
    assert story.states()["a"] == "releasing"
