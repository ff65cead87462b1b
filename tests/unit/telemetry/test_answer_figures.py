"""Tokens and speeds in the answers of engines, as these engines write them."""

import json

import pytest

from hotseat.telemetry.answer_figures import NO_FIGURES, AnswerFigures, AnswerSample, read_figures

TIMINGS = {
    "cache_n": 236, "prompt_n": 1, "prompt_ms": 30.958, "prompt_per_token_ms": 30.958, "prompt_per_second": 32.301,
    "predicted_n": 35, "predicted_ms": 661.064, "predicted_per_token_ms": 18.887, "predicted_per_second": 52.945,
}  # fmt: skip
OPENAI = {
    "id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "hi"}}],
    "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29, "prompt_tokens_details": {"cached_tokens": 16}},
}  # fmt: skip
RESPONSES = {
    "object": "response",
    "usage": {
        "input_tokens": 36,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 87,
        "total_tokens": 123,
    },
}
ANTHROPIC = {
    "type": "message",
    "usage": {
        "input_tokens": 5, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 100, "output_tokens": 503,
    },
}  # fmt: skip
EMBEDDINGS = {"model": "m", "object": "list", "usage": {"prompt_tokens": 8, "total_tokens": 8}, "data": [0.5] * 4000}
LLAMACPP = {"content": "hi", "generation_settings": {"n_predict": 4}, "tokens_cached": 40, "timings": TIMINGS}


def events(*data: dict, named: bool = False) -> bytes:
    lines = [f"event: {each.get('type')}\n" * named + f"data: {json.dumps(each)}\n\n" for each in data]
    return "".join(lines).encode()


@pytest.mark.parametrize(
    ("answer", "figures"),
    [
        (OPENAI, AnswerFigures(19, 16, 10)),
        (RESPONSES, AnswerFigures(36, 4, 87)),
        (ANTHROPIC, AnswerFigures(112, 100, 503)),
        (EMBEDDINGS, AnswerFigures(8, None, None)),
        (LLAMACPP, AnswerFigures(237, 236, 35, 52.945)),
        ({**OPENAI, "timings": TIMINGS}, AnswerFigures(19, 16, 10, 52.945)),
        ({"usage": None}, NO_FIGURES),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": "9", "prompt_tokens_details": []}}, NO_FIGURES),
        ({"usage": [], "timings": {"predicted_per_second": 1e9}}, NO_FIGURES),
        ({"choices": [{"text": 'they send {"usage": {"prompt_tokens": 1}}'}]}, NO_FIGURES),
    ],
)
def test_figures_of_one_body(answer: dict, figures: AnswerFigures) -> None:
    for raw in (json.dumps(answer).encode(), json.dumps(answer, indent=2).encode()):
        sample = AnswerSample(raw, stream=False)
        assert sample.figures == figures


def test_figures_of_a_stream_that_comes_in_pieces() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "x" * 100}}], "usage": None}
    sample = AnswerSample(events(chunk), stream=True)
    for piece in (*[events(chunk)] * 500, events({"choices": [], "usage": OPENAI["usage"]}), b"data: [DONE]\n\n"):
        sample.add(piece)
    assert sample.figures == AnswerFigures(19, 16, 10)
    assert len(sample.end) < 10_000, "a sample is small, whatever the answer is"


def test_a_stream_of_llamacpp_tells_its_timings_without_being_asked_for_usage() -> None:
    last = {"choices": [{"finish_reason": "stop", "index": 0, "delta": {}}], "timings": TIMINGS}
    assert read_figures(b"", events(last) + b"data: [DONE]\n\n") == AnswerFigures(237, 236, 35, 52.945)


def test_a_stream_of_anthropic_tells_one_part_first_and_one_last() -> None:
    start = {"type": "message_start", "message": {"usage": {**ANTHROPIC["usage"], "output_tokens": 1}}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}}
    sample = AnswerSample(events(start, named=True), stream=True)
    for _ in range(10):
        sample.add(events({"type": "content_block_delta", "delta": {"text": "a"}}, named=True))
    sample.add(events(end, {"type": "message_stop"}, named=True))
    assert sample.figures == AnswerFigures(112, 100, 15)


@pytest.mark.parametrize(
    "raw", [b'"usage": {"prompt_tokens"', b'"usage"', b'"usage": ' + b'{"a": ' * 300, b'"timings": {\xff']
)
def test_what_is_cut_has_no_figures(raw: bytes) -> None:
    assert AnswerSample(raw, stream=True).figures == NO_FIGURES
