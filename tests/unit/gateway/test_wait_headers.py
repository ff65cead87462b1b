"""Headers that say how a request may wait: who it is for, how important, how long."""

import json
from math import inf
from typing import Any

import pytest

from hotseat.api.workspace import Tenants
from hotseat.core.errors import BadRequest
from hotseat.gateway.wait_headers import NO_LIMITS, WaitOptions, wait_options, with_keep_alive

BY_KEY, NAMED = Tenants(), Tenants(header="X-Team")


def ask(tenants: Tenants = BY_KEY, key: str = "key-3", **headers: str) -> WaitOptions:
    return wait_options({name.replace("_", "-"): value for name, value in headers.items()}, tenants, key)


def test_a_request_that_says_nothing_belongs_to_its_key_and_waits_as_long_as_it_takes() -> None:
    assert ask() == WaitOptions("key-3", 0, None, None)
    assert ask(key="").tenant == ""


@pytest.mark.parametrize(
    ("tenants", "given", "tenant"),
    [
        (NAMED, "blue", "blue"),
        (NAMED, " blue team ", "blue team"),
        (NAMED, "münchen".encode().decode("latin-1"), "münchen"),
        (NAMED, "", "key-3"),
        (NAMED, "  ", "key-3"),
        (BY_KEY, "blue", "key-3"),  # nobody has said that this header is to be believed
    ],
)
def test_a_tenant_is_what_the_header_says_that_the_workspace_names(tenants: Tenants, given: str, tenant: str) -> None:
    assert ask(tenants, x_team=given).tenant == tenant


@pytest.mark.parametrize("given", ["x" * 101, "a\tb", "\xff\xfe"])
def test_what_is_no_name_of_a_tenant_is_400(given: str) -> None:
    with pytest.raises(BadRequest, match="The header X-Team is not a tenant name"):
        ask(NAMED, x_team=given)


@pytest.mark.parametrize(
    ("text", "priority"),
    [
        ("0", 0),
        ("7", 7),
        ("+7", 7),
        ("-7", -7),
        ("1000", 1000),
        ("1001", 1000),
        ("-99999999999", -1000),
        ("9" * 40, 1000),
        ("-" + "9" * 9000, -1000),
        ("0" * 9000 + "7", 7),
        ("00", 0),
        ("-0999", -999),
    ],
)
def test_a_priority_is_kept_within_those_of_documents(text: str, priority: int) -> None:
    assert ask(x_priority=text).priority == priority


@pytest.mark.parametrize("text", ["", "high", "1.5", "1e3", "1_0", "--1", "+", "\u0661"])
def test_what_is_no_priority_is_400(text: str) -> None:
    with pytest.raises(BadRequest, match="The header X-Priority is"):
        ask(x_priority=text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("20", 20.0), ("0.5", 0.5), ("1m30s", 90.0), ("250ms", 0.25), ("0", 0.0)]
)
def test_times_are_seconds_or_durations_and_the_shorter_one_ends_the_wait(text: str, seconds: float) -> None:
    assert ask(x_request_timeout=text).timeout == ask(x_hotseat_max_wait=text).max_wait == seconds
    assert ask(x_request_timeout=text, x_hotseat_max_wait="10s").limit == min(seconds, 10.0)
    assert ask().limit is None


@pytest.mark.parametrize("text", ["", "soon", "-1", "1e3", "inf", "nan", "5 s"])
@pytest.mark.parametrize("header", ["X-Request-Timeout", "X-Hotseat-Max-Wait"])
def test_what_is_no_time_is_400(header: str, text: str) -> None:
    with pytest.raises(BadRequest, match=f"{header} is"):
        ask(**{header.lower().replace("-", "_"): text})


def test_long_headers_are_cut_in_messages() -> None:
    for name in ("x_priority", "x_request_timeout", "x_hotseat_max_wait"):
        with pytest.raises(BadRequest) as caught:
            ask(**{name: "x" * 60000})
        assert len(caught.value.message) < 400


KEEP_ALIVES = [
    ("10m", 600.0), ("1h30m", 5400.0), ("500ms", 0.5), ("300", 300.0), ("0", 0.0), ("0s", 0.0), ("-1", inf), ("-1m", inf),
    ("1.5", 1.5), ("1" * 12, inf),
]  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), KEEP_ALIVES)
def test_how_long_the_engine_stays_is_in_a_header_or_in_the_body_as_with_ollama(text: str, seconds: float) -> None:
    assert ask(x_hotseat_keep_alive=text).keep_alive == seconds
    body = json.dumps({"model": "a", "keep_alive": text}).encode()
    assert with_keep_alive(NO_LIMITS, body).keep_alive == seconds


@pytest.mark.parametrize(
    ("given", "seconds"), [(300, 300.0), (0, 0.0), (-1, inf), (2.5, 2.5), (10**400, inf), (-0.0, 0.0)]
)
def test_the_body_may_have_a_number_of_seconds(given: float, seconds: float) -> None:
    assert with_keep_alive(NO_LIMITS, json.dumps({"keep_alive": given}).encode()).keep_alive == seconds


def test_a_request_that_does_not_say_leaves_it_to_the_document() -> None:
    assert ask().keep_alive is None
    for body in (b"{}", b'{"keep_alive": null}', b'{"prompt": "keep_alive"}', b'{"keep_alive"', b"\xffkeep_alive"):
        assert with_keep_alive(NO_LIMITS, body) is NO_LIMITS


@pytest.mark.parametrize("given", ["", "soon", "s", "1e3", "inf", "nan", "--1", "1 m", "5d", True, False, [], {}])
def test_what_is_no_time_to_stay_is_400(given: Any) -> None:
    with pytest.raises(BadRequest, match=r"`keep_alive` is .*allowed: a duration such as 10m"):
        with_keep_alive(NO_LIMITS, json.dumps({"keep_alive": given}).encode())
    if isinstance(given, str):
        with pytest.raises(BadRequest, match="The header X-Hotseat-Keep-Alive is"):
            ask(x_hotseat_keep_alive=given)
