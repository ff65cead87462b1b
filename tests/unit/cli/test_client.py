"""The HTTP client: how streams are read, and what is said when there is no good answer."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotseat.cli.client import ApiError, Client, ClientError, ServerSentEvent, base_url, read_events
from tests.unit.cli.fake_hotseat import BROKEN, FakeHotseat, error, model, sse


@pytest.fixture
def fake():
    return FakeHotseat()


@pytest.fixture
def client(fake):
    with fake.serving() as url:
        yield Client(url)


def test_an_event_has_type_id_and_data_and_the_id_stays():
    stream = b"id: 7\nevent: switch\ndata: one\n\ndata: two\n\n"
    assert list(read_events([stream])) == [
        ServerSentEvent("one", "switch", "7"),
        ServerSentEvent("two", "message", "7"),
    ]


def test_data_over_several_lines_is_one_text_with_its_line_ends():
    assert list(read_events([b"data: one\ndata:\ndata:  two\n\n"])) == [ServerSentEvent("one\n\n two")]


def test_comments_are_told_where_they_stand():
    events = list(read_events([b": keep-alive\n\ndata: a\n: in between\n\n:bare\n"]))
    assert [event.comment for event in events] == ["keep-alive", "in between", None, "bare"]
    assert events[2].data == "a"


def test_a_byte_order_mark_unknown_fields_and_events_without_data_are_nothing():
    assert list(read_events([b"\xef\xbb\xbfdata: a\nretry: 5\nmood: good\n\nevent: empty\n\n\n"])) == [
        ServerSentEvent("a")
    ]


def test_an_unfinished_event_is_dropped():
    assert list(read_events([b"data: whole\n\ndata: half\n"])) == [ServerSentEvent("whole")]


LINES = "id: 1\nevent: e\ndata: ein Löwe 🦁\ndata: b\n\n: note\ndata: c\n\n"


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, len(LINES.encode())), max_size=12), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_stream_reads_the_same_wherever_it_is_cut(cuts, end):
    raw = LINES.replace("\n", end).encode()
    edges = sorted({0, len(raw), *(min(cut, len(raw)) for cut in cuts)})
    chunks = [raw[a:b] for a, b in pairwise(edges)]
    # The last line end may wait for its second half, so the stream goes on.
    assert list(read_events([*chunks, b":\n"]))[:3] == [
        ServerSentEvent("ein Löwe 🦁\nb", "e", "1"),
        ServerSentEvent(comment="note"),
        ServerSentEvent("c", "message", "1"),
    ]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("https://gpu.example/hotseat/v1/", "https://gpu.example/hotseat"),
    ],
)
def test_an_address_may_be_written_as_people_write_it(given, used):
    assert base_url(given) == used


@pytest.mark.parametrize("wrong", ["ftp://there", "http://", "there:port"])
def test_what_is_no_address_is_refused(wrong):
    with pytest.raises(ValueError):
        base_url(wrong)


def test_nobody_there(unused_url):
    with pytest.raises(ClientError) as caught:
        Client(unused_url).get("/running", "running")
    assert caught.value.format_message() == (
        f"no hotseat answers at {unused_url}; start one with `hotseat up -f models.yaml`, or use --url or HOTSEAT_URL"
    )


@pytest.fixture
def unused_url():
    with FakeHotseat().serving() as url:
        pass
    return url


def test_the_key_goes_as_a_bearer_token(fake):
    fake.answers["GET /running"] = {"running": []}
    with fake.serving() as url:
        Client(url, "secret").get("/running", "running")
    assert fake.last.headers["Authorization"] == "Bearer secret"


def test_a_missing_key_is_told_with_the_way_to_give_one(fake, client):
    fake.answers["GET /running"] = error(401, "No valid API key.", "invalid_api_key")
    with pytest.raises(ApiError) as caught:
        client.get("/running", "running")
    assert caught.value.format_message() == "No valid API key; give the key with --api-key or HOTSEAT_API_KEY"


def test_an_error_worth_another_try_says_when(fake, client):
    fake.answers["POST /api/models/gemma/load"] = error(503, "gemma failed to load", "load_failed", Retry_After="5")
    with pytest.raises(ApiError) as caught:
        client.load("gemma")
    assert caught.value.format_message() == "gemma failed to load; try again in 5 s"
    assert (caught.value.status, caught.value.code) == (503, "load_failed")


def test_advice_does_not_run_into_an_engines_last_words(fake, client):
    message = "gemma failed. Its last output:\nout of memory"
    fake.answers["POST /api/models/gemma/load"] = error(503, message, "load_failed", Retry_After="5")
    with pytest.raises(ApiError) as caught:
        client.load("gemma")
    assert caught.value.format_message() == f"{message}\ntry again in 5 s"


def test_a_misspelt_model_is_answered_with_the_near_one(fake, client):
    fake.answers["POST /api/models/gema/load"] = error(404, "There is no model gema.", "model_not_found")
    fake.answers["GET /v1/models"] = {"data": [model("qwen"), model("gemma", names=["gemma", "gpt-4o"])]}
    with pytest.raises(ApiError) as caught:
        client.load("gema")
    assert caught.value.format_message() == "There is no model gema; did you mean gemma?"


def test_a_model_like_no_other_is_answered_with_all_there_are(fake, client):
    fake.answers["GET /api/models/zzz/logs"] = error(404, "There is no model zzz.", "model_not_found")
    fake.answers["GET /v1/models"] = {"data": [model("qwen"), model("gemma", names=["gemma", "gpt-4o"])]}
    with pytest.raises(ApiError) as caught:
        list(client.log_lines("zzz", 5, follow=False))
    assert caught.value.format_message() == "There is no model zzz; available: qwen, gemma, gpt-4o"


def test_a_hint_that_cannot_be_had_does_not_hide_the_error(fake, client):
    fake.answers["POST /api/models/gema/unload"] = error(404, "There is no model gema.", "model_not_found")
    with pytest.raises(ApiError) as caught:
        client.unload("gema")
    assert caught.value.format_message() == "There is no model gema."


def test_another_servers_page_is_quoted(fake, client):
    fake.answers["GET /running"] = (502, "<html>\n  <h1>Bad Gateway</h1>" + "x" * 500, {})
    with pytest.raises(ApiError) as caught:
        client.get("/running", "running")
    assert "returned 502 Bad Gateway: <html> <h1>Bad Gateway</h1>xx" in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("body", ["hello", {"hello": 1}, "[]"])
def test_a_server_that_is_no_hotseat(fake, client, body):
    fake.answers["GET /running"] = body
    with pytest.raises(ClientError, match="hotseat"):
        client.get("/running", "running")


def test_a_stream_that_breaks_is_an_error_after_what_came(fake, client):
    fake.answers["GET /api/events"] = [*sse({"id": "1"}), BROKEN]
    events = client.events()
    assert next(events) == {"id": "1"}
    with pytest.raises(ClientError, match="broke"):
        next(events)


def test_events_of_the_past_only(fake, client):
    fake.answers["GET /api/events"] = sse({"id": "1"}, "keep-alive", {"id": "2"})
    assert [event["id"] for event in client.events(history=5, follow=False)] == ["1", "2"]
    assert fake.last.query == {"history": "5", "follow": "false"}


def test_a_log_is_lines_whether_it_goes_on_or_not(fake, client):
    fake.answers["GET /api/models/gemma/logs"] = lambda request: (
        [b"data: one\n\n", b"data:  two\n\n"] if "follow" in request.query else "one\n two\n"
    )
    assert list(client.log_lines("gemma", 7, follow=False)) == ["one", " two"]
    assert fake.last.query == {"lines": "7"}
    assert list(client.log_lines("gemma", 7, follow=True)) == ["one", " two"]
    assert fake.last.query == {"lines": "7", "follow": "true"}


def test_an_empty_log_has_no_line(fake, client):
    fake.answers["GET /api/models/gemma/logs"] = ""
    assert list(client.log_lines("gemma", 7, follow=False)) == []
