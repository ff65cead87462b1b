"""Which server a request for an external Model is sent to, when again, and when not at all. By explicit times."""

from email.utils import formatdate
from time import time
from typing import TYPE_CHECKING, Any

import pytest

from hotseat.api.model import Model
from hotseat.control.upstream_servers import UpstreamServers, needs_servers
from hotseat.core.errors import Unavailable, Unreachable, UpstreamFailed, UpstreamRejected, UpstreamTimeout
from hotseat.gateway.relay.heads import ResponseHead
from hotseat.gateway.upstream_attempts import UpstreamAttempts

if TYPE_CHECKING:
    from hotseat.core.events import Emit

A, B, C = "http://a:1", "http://b:1", "http://c:1"
INF = float("inf")
RESET = UpstreamFailed("The engine closed the connection without a response.")
GONE = Unreachable("The engine does not accept connections: refused.")
LATE = UpstreamTimeout("The engine did not start its response within 1 s.")


def external(**spec: Any) -> Model:
    return Model.model_validate({"metadata": {"name": "m"}, "spec": {"engine": "external", "url": A, **spec}})


class World:
    """The servers of one Model, with a clock, what was emitted, and the reasons of retries."""

    def __init__(self, **spec: Any) -> None:
        self.now = 100.0
        self.emitted: list[Emit] = []
        self.retries: list[str] = []
        self.servers = UpstreamServers(external(**spec), self.emitted.append, self.retries.append, lambda: self.now)

    def attempts(self, random: float = 0.0) -> UpstreamAttempts:
        return UpstreamAttempts(self.servers, lambda: random)

    def send(self, attempts: UpstreamAttempts) -> str:
        """The URL that the next attempt is sent to; empty: none."""
        return attempts.server.url if attempts.choose(self.now) else ""

    def fail(self, attempts: UpstreamAttempts, error: Exception = RESET, rest: float = INF) -> float | None:
        return attempts.failed(error, self.now, rest, repeatable=True)  # type: ignore[arg-type]

    def answer(self, attempts: UpstreamAttempts, code: int, rest: float = INF, *fields: str) -> Any:
        """None: the answer is for the client. Otherwise the error."""
        error = attempts.answered(head(code, *fields), self.now, rest, repeatable=True)
        return error if error is not None and error.pause is not None else None

    def events(self) -> list[str]:
        return [each.type.removeprefix("model.upstream_") for each in self.emitted]


def head(code: int, *fields: str) -> ResponseHead:
    encoded = "".join(f"{each}\r\n" for each in fields).encode()
    return ResponseHead(code, f"{code} X", encoded, b"0", False, True, False, "", "application/json")


@pytest.mark.parametrize(
    ("spec", "needed"),
    [
        ({}, False),
        ({"failoverUrls": [B]}, True),
        ({"retries": {}}, True),
        ({"circuitBreaker": {}}, True),
        ({"health": {"path": "/h"}}, True),
        ({"health": {"path": "/h", "period": "0s"}}, False),
        ({"health": {"failureThreshold": 2}}, False),
    ],
)
def test_a_model_without_such_fields_has_none_of_this(spec: dict[str, Any], needed: bool) -> None:
    assert needs_servers(external(**spec).spec) is needed


def test_servers_are_tried_in_order_of_preference_at_once() -> None:
    world = World(failoverUrls=[B, C])
    attempts = world.attempts()
    assert (world.send(attempts), world.fail(attempts)) == (A, 0.0)
    assert (world.send(attempts), world.fail(attempts)) == (B, 0.0)
    assert (world.send(attempts), world.fail(attempts)) == (C, None)
    assert (attempts.retries, world.retries) == (2, ["disconnected", "disconnected"])


def test_the_next_request_begins_with_the_most_preferred_again() -> None:
    world = World(failoverUrls=[B])
    first = world.attempts()
    world.send(first)
    world.fail(first)
    assert world.send(world.attempts()) == A


def test_a_server_that_accepts_no_connection_costs_no_attempt() -> None:
    """It has received nothing of the request."""
    world = World(failoverUrls=[B], retries={"attempts": 1})
    attempts = world.attempts()
    assert (world.send(attempts), world.fail(attempts, GONE)) == (A, 0.0)
    assert (world.send(attempts), world.fail(attempts, RESET)) == (B, 0.25)
    assert (world.send(attempts), world.fail(attempts, RESET)) == (A, None)
    assert world.retries == ["unreachable", "disconnected"]


def test_one_server_is_tried_again_with_back_off() -> None:
    world = World(retries={"attempts": 3, "backoff": "1s", "maxBackoff": "2s"})
    attempts = world.attempts(random=0.5)
    found = []
    for _ in range(4):
        assert world.send(attempts) == A
        found.append(world.fail(attempts, GONE))
    assert found == [0.75, 1.5, 1.5, None]
    assert attempts.retries == 3


def test_a_request_is_not_sent_again_after_the_time_that_its_client_waits() -> None:
    world = World(retries={"attempts": 3, "backoff": "1s"})
    attempts = world.attempts()
    world.send(attempts)
    assert world.fail(attempts, rest=0.9) is None
    attempts = world.attempts()
    world.send(attempts)
    assert world.fail(attempts, rest=1.1) == 1.0


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_answers_with_these_statuses_are_not_for_the_client_while_there_is_another_attempt(code: int) -> None:
    world = World(failoverUrls=[B])
    attempts = world.attempts()
    world.send(attempts)
    error = world.answer(attempts, code)
    assert isinstance(error, UpstreamRejected)
    assert world.fail(attempts, error) == 0.0
    assert world.send(attempts) == B
    assert world.answer(attempts, code) is None, "the last answer is passed on"
    assert world.retries == [f"status_{code}"]


@pytest.mark.parametrize("code", [200, 400, 401, 404, 422, 500, 501])
def test_any_other_answer_is_for_the_client(code: int) -> None:
    world = World(failoverUrls=[B])
    attempts = world.attempts()
    world.send(attempts)
    assert world.answer(attempts, code) is None


def test_the_document_names_the_statuses() -> None:
    world = World(retries={"attempts": 1, "statuses": [500]})
    attempts = world.attempts()
    world.send(attempts)
    assert world.answer(attempts, 503) is None
    world.send(attempts)
    assert world.answer(attempts, 500).pause == 0.25


@pytest.mark.parametrize(
    ("field", "pause"),
    [
        ("Retry-After: 3", 3.0),
        ("retry-after:3 ", 3.0),
        ("Retry-After: 0", 0.25),
        ("Retry-After: soon", 0.25),
        ("Retry-After: 6", None),  # longer than maxBackoff
        ("X-Retry-After: 6", 0.25),
    ],
)
def test_the_server_says_when_to_come_again(field: str, pause: float | None) -> None:
    world = World(retries={"attempts": 1})
    attempts = world.attempts()
    world.send(attempts)
    error = world.answer(attempts, 429, INF, "Content-Type: a/b", field)
    assert (None if error is None else error.pause) == pause


def test_it_may_say_so_by_a_date() -> None:
    world = World(retries={"attempts": 1})
    attempts = world.attempts()
    world.send(attempts)
    error = world.answer(attempts, 503, INF, f"Retry-After: {formatdate(time() + 4, usegmt=True)}")
    assert 2 < error.pause <= 4


def test_another_server_does_not_wait_for_the_one_that_said_when() -> None:
    world = World(failoverUrls=[B])
    attempts = world.attempts()
    world.send(attempts)
    assert world.answer(attempts, 429, INF, "Retry-After: 60").pause == 0.0


def test_a_late_answer_is_another_attempt_only_if_504_is() -> None:
    for statuses, pause in (([504], 0.0), ([503], None)):
        world = World(failoverUrls=[B], retries={"statuses": statuses})
        attempts = world.attempts()
        world.send(attempts)
        assert world.fail(attempts, LATE) == pause


def test_what_may_do_anything_is_sent_again_only_if_no_server_has_received_it() -> None:
    world = World(failoverUrls=[B])
    for error, pause in ((GONE, 0.0), (RESET, None), (LATE, None)):
        attempts = world.attempts()
        world.send(attempts)
        assert attempts.failed(error, world.now, INF, repeatable=False) == pause


def test_answers_to_what_may_do_anything_are_all_for_the_client_and_count() -> None:
    world = World(failoverUrls=[B], circuitBreaker={"failureThreshold": 2})
    for code, failures in ((503, 1), (200, 0), (503, 1)):
        attempts = world.attempts()
        world.send(attempts)
        assert attempts.answered(head(code), world.now, INF, repeatable=False) is None
        assert world.servers.servers[0].breaker.failures == failures


def test_errors_that_are_not_of_a_server_are_not_held_against_it() -> None:
    world = World(failoverUrls=[B], circuitBreaker={"failureThreshold": 1})
    attempts = world.attempts()
    world.send(attempts)
    assert world.fail(attempts, Unavailable("no descriptors")) is None
    assert world.fail(attempts, Unreachable("no key", code="upstream_key_missing")) is None
    assert world.events() == []


# The circuit breaker ------------------------------------------------------------------------------------------------------


def test_a_server_that_fails_is_skipped_and_tried_again_later() -> None:
    world = World(failoverUrls=[B], circuitBreaker={"failureThreshold": 2, "openDuration": "30s"})
    for _ in range(2):
        attempts = world.attempts()
        assert (world.send(attempts), world.fail(attempts)) == (A, 0.0)
        assert world.send(attempts) == B
        assert world.answer(attempts, 200) is None
    assert world.events() == ["failed"]
    assert world.emitted[0].data == {"url": A, "message": RESET.message, "retry_after": 30.0}
    assert world.send(world.attempts()) == B
    world.now += 30
    trial, other = world.attempts(), world.attempts()
    assert (world.send(trial), world.send(other)) == (A, B)
    assert world.answer(trial, 200) is None
    assert world.events() == ["failed", "recovered"]
    assert world.send(world.attempts()) == A


def test_a_trial_that_fails_opens_it_again_without_another_event() -> None:
    world = World(failoverUrls=[B], circuitBreaker={"failureThreshold": 1, "openDuration": "30s"})
    for _ in range(3):
        attempts = world.attempts()
        assert world.send(attempts) == A
        world.fail(attempts)
        assert world.send(world.attempts()) == B
        world.now += 30
    assert world.events() == ["failed"]


def test_a_client_that_leaves_ends_the_trial_without_an_outcome() -> None:
    world = World(failoverUrls=[B], circuitBreaker={"failureThreshold": 1})
    attempts = world.attempts()
    world.send(attempts)
    world.fail(attempts)
    world.now += 30
    trial = world.attempts()
    assert (world.send(trial), world.send(world.attempts())) == (A, B)
    trial.end()
    assert world.send(world.attempts()) == A


def test_while_no_server_can_be_sent_a_request_the_client_hears_when() -> None:
    world = World(circuitBreaker={"failureThreshold": 1, "openDuration": "30s"})
    attempts = world.attempts()
    world.send(attempts)
    assert world.fail(attempts, GONE) is None
    world.now += 10
    attempts = world.attempts()
    assert not attempts.choose(world.now)
    error = attempts.none_left(world.now)
    assert (error.code, error.retry_after) == ("upstream_unavailable", 20.0)
    assert A not in error.message
    assert "refused" in error.message


def test_there_is_no_pause_for_a_server_whose_circuit_stays_open_longer() -> None:
    world = World(retries={"attempts": 5}, circuitBreaker={"failureThreshold": 1, "openDuration": "30s"})
    attempts = world.attempts()
    world.send(attempts)
    assert world.fail(attempts) is None


@pytest.mark.parametrize(("code", "opens"), [(503, True), (429, False), (400, False), (500, False)])
def test_which_statuses_open_it(code: int, opens: bool) -> None:
    world = World(circuitBreaker={"failureThreshold": 1})
    attempts = world.attempts()
    world.send(attempts)
    world.answer(attempts, code)
    assert world.events() == (["failed"] if opens else [])


def test_retries_alone_open_nothing() -> None:
    world = World(retries={"attempts": 0})
    for _ in range(50):
        attempts = world.attempts()
        assert world.send(attempts) == A
        assert world.fail(attempts) is None


def test_a_server_that_is_about_to_start_is_not_held_to_fail() -> None:
    world = World(circuitBreaker={"failureThreshold": 1}, lifecycle={"connectTimeout": "1m"})
    attempts = world.attempts()
    world.send(attempts)
    assert world.fail(attempts, GONE) is None
    assert world.events() == []


# Health checks ------------------------------------------------------------------------------------------------------------


def test_a_server_whose_checks_fail_is_skipped_until_one_succeeds() -> None:
    world = World(failoverUrls=[B], health={"path": "/health", "failureThreshold": 2})
    a = world.servers.servers[0]
    world.servers.checked(a, "status 500")
    assert world.send(world.attempts()) == A
    world.servers.checked(a, "status 500")
    assert (world.send(world.attempts()), world.events()) == (B, ["failed"])
    assert world.emitted[0].data == {"url": A, "message": "status 500", "retry_after": None}
    world.now += 1000
    assert world.send(world.attempts()) == B
    world.servers.checked(a, "")
    assert (world.send(world.attempts()), world.events()) == (A, ["failed", "recovered"])


def test_a_check_that_succeeds_does_not_close_a_circuit_that_requests_have_opened() -> None:
    world = World(failoverUrls=[B], health={"path": "/health"}, circuitBreaker={"failureThreshold": 1})
    attempts = world.attempts()
    world.send(attempts)
    world.fail(attempts)
    world.servers.checked(world.servers.servers[0], "")
    assert (world.send(world.attempts()), world.events()) == (B, ["failed"])


def test_rows_say_what_is_known() -> None:
    world = World(failoverUrls=[B], health={"path": "/h"}, circuitBreaker={"failureThreshold": 1})
    attempts = world.attempts()
    world.send(attempts)
    world.fail(attempts)
    world.servers.checked(world.servers.servers[1], "")
    world.now += 10
    first = {"url": A, "circuit": "open", "failures": 1, "healthy": None, "available": False, "retry_in": 20.0}
    second = {"url": B, "circuit": "closed", "failures": 0, "healthy": True, "available": True, "retry_in": None}
    assert world.servers.rows() == [first | {"problem": RESET.message}, second | {"problem": ""}]
