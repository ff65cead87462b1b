"""The launcher for the wheel xllamacpp reads llama-server's flags."""

import argparse
from typing import Any

import pytest

from hotseat.engines.llamacpp_wheel import CHOICES, SWITCHES, VALUES, WheelProblem, parameters, parse

wheel = pytest.importorskip("xllamacpp", reason="the wheel xllamacpp is not installed")


def read(*argv: str) -> Any:
    return parameters(parse(["--model", "/a.gguf", *argv]), wheel)


def test_every_flag_has_a_field_in_the_wheel() -> None:
    params = wheel.CommonParams()
    for field, *_ in (*VALUES.values(), *SWITCHES.values(), *CHOICES.values()):
        target = params
        for part in field.split("."):
            assert hasattr(target, part), field
            target = getattr(target, part)


def test_flags_arrive() -> None:
    params = read(
        "--port",
        "81",
        "-c",
        "512",
        "-ngl",
        "7",
        "--temp",
        "0.5",
        "-fa",
        "off",
        "-ctk",
        "q8_0",
        "--alias",
        "a,b",
        "--no-warmup",
        "--mlock",
    )
    assert (params.model.path, params.port, params.n_ctx, params.n_gpu_layers) == ("/a.gguf", 81, 512, 7)
    assert params.sampling.temp == 0.5
    assert params.flash_attn_type == wheel.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    assert params.cache_type_k == wheel.ggml_type.GGML_TYPE_Q8_0
    assert params.model_alias == {"a", "b"}
    assert params.load_mode == wheel.llama_load_mode.LLAMA_LOAD_MODE_MMAP_MLOCK
    assert not params.warmup
    assert params.hostnames == ["127.0.0.1"]


def test_a_draft_model_drafts() -> None:
    assert read().speculative.types == [wheel.common_speculative_type.COMMON_SPECULATIVE_TYPE_NONE]
    drafting = read("-md", "/draft.gguf", "--draft-max", "6", "-ngld", "3").speculative
    assert drafting.types == [wheel.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    draft = drafting.draft
    assert (draft.mparams.path, draft.n_max, draft.n_gpu_layers) == ("/draft.gguf", 6, 3)


def test_slots_are_as_many_as_with_llama_server() -> None:
    assert (read().n_parallel, read().kv_unified) == (4, True)
    assert (read("-np", "2").n_parallel, read("-np", "2").kv_unified) == (2, False)


def test_reranking_is_an_embedding_with_its_own_pooling() -> None:
    params = read("--reranking")
    assert params.embedding
    assert params.pooling_type == wheel.llama_pooling_type.LLAMA_POOLING_TYPE_RANK


def test_a_wrong_name_says_what_is_allowed() -> None:
    with pytest.raises(WheelProblem, match=r"'men' is none of .*mean, cls"):
        read("--pooling", "men")


def test_an_unknown_flag_says_what_may_be_meant(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--model", "/a", "--ctx-siz", "1"])
    assert "unknown argument --ctx-siz; did you mean --ctx-size?" in capsys.readouterr().err
    assert isinstance(parse(["--model", "/a"]), argparse.Namespace)


def test_slots_are_saved_by_flags_and_the_variables_of_llama_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (read().slot_save_path, read().cache_idle_slots, read().endpoint_metrics) == ("", True, False)
    assert read("--slot-save-path", "/a").slot_save_path == "/a/"
    assert read("--slot-save-path", "/a/").slot_save_path == "/a/"
    monkeypatch.setenv("LLAMA_ARG_CACHE_IDLE_SLOTS", "0")
    monkeypatch.setenv("LLAMA_ARG_ENDPOINT_METRICS", "1")
    assert (read().cache_idle_slots, read().endpoint_metrics) == (False, True)
    assert read("--cache-idle-slots").cache_idle_slots is True
