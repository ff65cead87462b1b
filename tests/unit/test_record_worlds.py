"""The recorder of random worlds tells equal behaviour from another one; record_worlds.py says how it is used."""

from .record_worlds import digest


def test_a_world_is_the_same_again_and_another_one_is_not() -> None:
    first = digest(1, {}, frozenset())
    assert digest(1, {}, frozenset()) == first
    assert first.endswith(" well")
    assert digest(2, {}, frozenset()).split()[2] != first.split()[2]


def test_words_that_have_changed_and_fields_that_are_new_are_left_out_on_request() -> None:
    plain, renamed = digest(3, {}, frozenset()), digest(3, {"Publish": "Told"}, frozenset())
    assert plain != renamed
    assert digest(3, {}, frozenset({"Residency.epoch"})) != plain
