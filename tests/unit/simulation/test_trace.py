"""Request logs as loads: what becomes of each line, and what is said about one that cannot be read."""

import json
from collections.abc import Iterable

import pytest

from hotseat.simulation.workload import BadTrace, SimRequest, Trace, read
from hotseat.telemetry.logs import RequestRecord


def line(at: float, model: str = "a", waited: float | None = 0.0, seconds: float = 2.0, **more) -> str:
    told = {
        "time": f"2026-03-01T12:00:{at:06.3f}Z",
        "model": model,
        "waited": waited,
        "seconds": seconds,
        "status": 200,
    }
    return json.dumps(told | more) + "\n"


def trace(rows: Iterable[str], file: str = "requests.jsonl") -> Trace:
    return read(rows, file, otherwise=7.0)


def test_requests_come_again_as_they_came_in_the_order_of_their_arrival() -> None:
    found = trace([line(3.5, "b", waited=1.0, seconds=5.0, priority=2), "\n", line(1.0, seconds=0.5)])
    assert found.requests == (SimRequest(0.0, "a", 0.5), SimRequest(2.5, "b", 4.0, 2))
    assert found.models == ("a", "b")
    assert (found.assumed, found.left_out) == (0, 0)


@pytest.mark.parametrize("status", [429, 499, 503])
def test_what_no_engine_got_is_taken_to_need_what_is_usual_for_its_model(status: int) -> None:
    rows = [line(n, seconds=took) for n, took in enumerate((1.0, 3.0, 50.0))]
    found = trace([*rows, line(5.0, waited=None, status=status), line(6.0, "b", waited=None, status=status)])
    assert found.requests[3:] == (SimRequest(5.0, "a", 3.0), SimRequest(6.0, "b", 7.0))
    assert (found.assumed, found.left_out) == (2, 0)


def test_what_was_wrong_by_itself_is_left_out_and_what_broke_took_as_long_as_it_did() -> None:
    found = trace([line(0.0, waited=None, status=400), line(1.0, status=502, seconds=0.3), line(2.0, status=400)])
    assert found.requests == (SimRequest(0.0, "a", 0.3), SimRequest(1.0, "a", 2.0))
    assert (found.assumed, found.left_out) == (0, 1)


def test_the_lines_that_hotseat_writes_are_read() -> None:
    written = [
        RequestRecord(1000.0, "a", "chat", 0.25, 1.5, 200, 3).line(),
        RequestRecord(1001.25, "b", "chat", None, 4.0, 503, 0, "somebody").line(),
    ]
    assert trace(written).requests == (SimRequest(0.0, "a", 1.25, 3), SimRequest(1.25, "b", 7.0))


def test_csv_has_the_same_columns() -> None:
    rows = [
        "time,model,waited,seconds,status,note\n",
        "2026-03-01T12:00:00+01:00,a,0.5,2.5,200,x\n",
        "2026-03-01T11:00:01Z,b,,3,429,\n",
    ]
    assert trace(rows, "log.csv").requests == (SimRequest(0.0, "a", 2.0), SimRequest(1.0, "b", 7.0))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{torn\n", "requests.jsonl:2: is not JSON"),
        ("[1]\n", "requests.jsonl:2: is [1]; allowed: one JSON object per line"),
        (line(1.0, time="noon"), 'requests.jsonl:2: `time` is "noon"; allowed: a time such as'),
        (line(1.0, time="2026-03-01T12:00:00"), "`time` is"),  # of which zone?
        (line(1.0, model=""), 'requests.jsonl:2: `model` is ""; allowed: the name of a model'),
        (line(1.0, seconds="2s"), '`seconds` is "2s"; allowed: a number of seconds'),
        (line(1.0, seconds=-1), "`seconds` is -1"),
        (line(1.0, waited=3.0), "`waited` is 3.0; allowed: a number of seconds up to `seconds`, or null"),
        (line(1.0, waited=True), "`waited` is true"),
        (line(1.0, status="ok"), '`status` is "ok"; allowed: an HTTP status'),
        (line(1.0, priority=1.5), "`priority` is 1.5; allowed: an integer"),
        (
            '{"time": "2026-03-01T12:00:00Z", "model": "a", "waited": 0}\n',
            "requests.jsonl:2: has no `seconds`; allowed:",
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_said_with_its_number_and_what_is_allowed(row: str, said: str) -> None:
    with pytest.raises(BadTrace) as error:
        trace([line(0.0), row])
    assert said in str(error.value)


def test_an_empty_log_and_a_csv_without_a_column_are_said() -> None:
    with pytest.raises(BadTrace, match=r"requests\.jsonl: has no requests"):
        trace(["\n"])
    with pytest.raises(BadTrace, match=r"log\.csv:1: has no column waited"):
        trace(["time,model,seconds\n"], "log.csv")
    with pytest.raises(BadTrace, match=r"log\.csv:3: `seconds` is \"x\""):
        trace(
            ["time,model,waited,seconds\n", "2026-03-01T12:00:00Z,a,0,1\n", "2026-03-01T12:00:00Z,a,0,x\n"], "log.csv"
        )
