"""Who leads, while the API server is slow or away, or others want the Lease as well."""

import pytest

from hotseat.api.types import Json
from hotseat.kube.client import CONFLICT, KubeError
from hotseat.kube.leader import DEADLINE, DURATION, RENEW, RETRY, Leader


class Api:
    """One Lease and a clock. A call takes `slow` seconds, but no longer than the caller waits."""

    def __init__(self) -> None:
        self.now, self.slow, self.away = 100.0, 0.0, False
        self.lease: Json | None = None
        self.limit = float("inf")
        self.lose_answer = False  # of the next write

    def within(self, seconds: float) -> "Api":
        self.limit = seconds
        return self

    def _call(self) -> None:
        self.now += min(self.slow, self.limit)
        if self.away or self.slow > self.limit:
            raise KubeError(0, "the API server does not answer")

    def find(self, _path: str) -> Json | None:
        self._call()
        return None if self.lease is None else {**self.lease, "metadata": dict(self.lease["metadata"])}

    def create(self, _path: str, body: Json) -> Json:
        self._call()
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}
        return self.lease

    def merge(self, _path: str, change: Json) -> Json:
        self._call()
        assert self.lease is not None
        if change["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise KubeError(CONFLICT, "it has changed")
        version = str(int(self.lease["metadata"]["resourceVersion"]) + 1)
        self.lease = {"metadata": {"resourceVersion": version}, "spec": {**self.lease["spec"], **change["spec"]}}
        if self.lose_answer:
            self.lose_answer = False
            raise KubeError(0, "the answer is lost")
        return self.lease

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""


class Switcher:
    """A switcher and what it was told."""

    def __init__(self, api: Api, name: str) -> None:
        self.told: list[str] = []
        self.leader = Leader(
            api,  # type: ignore[arg-type]
            "ns",
            "lease",
            name,
            leads=lambda: self.told.append("leads"),
            lost=lambda: self.told.append("lost"),
            clock=lambda: api.now,
        )

    def step(self) -> float | None:
        return self.leader.step()


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def first(api: Api) -> Switcher:
    switcher = Switcher(api, "first")
    assert switcher.step() == RENEW
    assert switcher.told == ["leads"]
    return switcher


def pass_time(api: Api, switcher: Switcher, seconds: float) -> float:
    """Let it take its steps for so long, or until it has lost. Return for how long it believed to lead."""
    began = api.now
    while api.now < began + seconds and (pause := switcher.step()) is not None:
        api.now += pause
    return api.now - began


def test_a_leader_renews_and_another_one_waits(api: Api, first: Switcher) -> None:
    second = Switcher(api, "second")
    for _ in range(10):
        assert first.step() == RENEW
        assert second.step() == RETRY
        api.now += RENEW
    assert (api.holder, first.told, second.told) == ("first", ["leads"], [])


@pytest.mark.parametrize("slow", [0.0, 2.0, 60.0])
def test_a_leader_that_cannot_renew_stops_before_another_one_may_begin(api: Api, first: Switcher, slow: float) -> None:
    """Also if each call hangs: it takes no longer than what is left."""
    renewed = api.now
    api.now += RENEW
    api.away, api.slow = True, slow
    pass_time(api, first, 300)
    assert first.told == ["leads", "lost"]
    assert api.now - renewed < DURATION - 2 * RETRY


def test_a_short_outage_changes_nothing(api: Api, first: Switcher) -> None:
    api.away = True
    assert pass_time(api, first, 6) >= 6
    api.away = False
    assert first.step() == RENEW
    assert first.told == ["leads"]


def test_the_next_one_begins_after_the_duration_by_its_own_clock(api: Api, first: Switcher) -> None:
    second = Switcher(api, "second")
    began = api.now
    while not second.told:
        second.step()
        api.now += RETRY
    assert DURATION < api.now - began <= DURATION + 2 * RETRY
    assert api.holder == "second"
    first.step()
    assert first.told == ["leads", "lost"], "it was suspended meanwhile"


def test_a_write_by_somebody_else_costs_no_leadership(api: Api, first: Switcher) -> None:
    merge = api.merge

    def meanwhile(path: str, change: Json) -> Json:
        assert api.lease is not None
        api.lease["metadata"]["resourceVersion"] = "77"  # kubectl annotate, between the look and the write
        api.merge = merge  # type: ignore[method-assign]
        return merge(path, change)

    api.merge = meanwhile  # type: ignore[method-assign]
    assert first.step() == RETRY
    assert first.step() == RENEW
    assert first.told == ["leads"]


def test_an_answer_that_is_lost_is_no_loss(api: Api, first: Switcher) -> None:
    api.lose_answer = True
    assert first.step() == RETRY
    assert first.step() == RENEW
    assert first.told == ["leads"]


def test_two_that_take_a_free_lease_at_once(api: Api, first: Switcher) -> None:
    first.leader.close()
    assert api.holder == ""
    second, third = Switcher(api, "second"), Switcher(api, "third")
    find = api.find

    def third_is_between(path: str) -> Json | None:
        found = find(path)
        api.find = find  # type: ignore[method-assign]
        third.step()
        return found

    api.find = third_is_between  # type: ignore[method-assign]
    assert second.step() == RETRY
    assert (second.told, third.told, api.holder) == ([], ["leads"], "third")


def test_who_leaves_late_does_not_end_the_next_ones_term(api: Api, first: Switcher) -> None:
    second = Switcher(api, "second")
    while not second.told:
        second.step()
        api.now += RETRY
    first.leader.close()
    assert api.holder == "second"


def test_one_that_is_closed_takes_nothing(api: Api) -> None:
    switcher = Switcher(api, "first")
    switcher.leader.close()
    assert switcher.step() is None
    assert (api.lease, switcher.told) == (None, [])


def test_a_leader_stops_in_time(api: Api, first: Switcher) -> None:
    assert DEADLINE + RETRY < DURATION, "and both clocks may be a little wrong"
    api.now += DEADLINE
    first.step()
    assert first.told == ["leads", "lost"], "it was not there for so long, and does not even ask"
