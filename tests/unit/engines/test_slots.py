"""Which engines can save prompt caches, what they are asked, and what their answers mean."""

import json
import os
from pathlib import Path

import pytest

from hotseat.api.model import Model
from hotseat.engines.base import Placement, SavesPrompts, Slot, keeps_prompts_asleep, load_engine, prompt_saver
from hotseat.engines.llamacpp import LlamaCpp
from hotseat.engines.mock import Mock
from hotseat.engines.mock_slots import MockSlots, SlotProblem

from .test_engines import model


@pytest.fixture
def weights(tmp_path: Path) -> str:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"weights")
    return str(path)


def llama(*args: str, **spec: object) -> Model:
    return model("llamacpp", source="hf://a/b.gguf", args=list(args), **spec)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (llama("--parallel", "4"), ""),
        (llama("--no-slots"), "args has --no-slots: its slots are not reported"),
        (llama("--mmproj=/x"), "args has --mmproj: most versions of llama-server do not save slots if there is one"),
        (llama("-mmu", "/x"), "args has -mmu: most versions of llama-server do not save slots if there is one"),
        (llama("--lora", "/x"), "args has --lora: a request can change its scale, which a saved slot does not have"),
        (llama("--slot-save-path", "/x"), "args has --slot-save-path: its slots are saved by someone else"),
        (llama(capabilities=["embedding"]), "it serves embeddings or reranking, which have no conversations"),
        (llama(command=["docker", "run"]), "command is set, and its program may not have the directory for saved prompts"),
    ],
)  # fmt: skip
def test_llamacpp_says_why_it_cannot(document: Model, why: str) -> None:
    engine = LlamaCpp()
    assert engine.cannot_save_prompts(document) == why
    assert prompt_saver(engine, document) is (None if why else engine)


def test_other_engines_cannot() -> None:
    assert not isinstance(load_engine("custom"), SavesPrompts)
    assert prompt_saver(load_engine("custom"), model("custom", command=["x"])) is None
    assert Mock().cannot_save_prompts(model("mock")) == "args has no --slots"
    assert prompt_saver(Mock(), model("mock", args=["--slots=2"])) is not None


def test_llamacpp_is_told_where_only_if_there_is_a_place(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/llama-server")
    without = LlamaCpp().launch(llama("--x"), Placement("h", 1, weights))
    assert "--slot-save-path" not in without.argv
    assert not without.env
    launch = LlamaCpp().launch(llama("--x"), Placement("h", 1, weights, "/dev/shm/a"))
    assert launch.argv[-3:] == ("--slot-save-path", "/dev/shm/a", "--x")
    assert launch.env == {"LLAMA_ARG_CACHE_IDLE_SLOTS": "0", "LLAMA_ARG_ENDPOINT_METRICS": "1"}


def test_a_cache_is_of_one_program_one_file_and_one_set_of_args(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "llama-server"
    program.write_text("1")
    monkeypatch.setattr("shutil.which", lambda _: str(program))
    engine = LlamaCpp()
    first = engine.prompt_identity(llama("-c", "1"), weights)
    assert engine.prompt_identity(llama("-c", "1"), weights) == first
    others = [engine.prompt_identity(llama("-c", "2"), weights)]
    others.append(
        engine.prompt_identity(llama("-c", "1", env=[{"name": "LLAMA_ARG_CACHE_TYPE_K", "value": "q8_0"}]), weights)
    )
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "4096")
    others.append(engine.prompt_identity(llama("-c", "1"), weights))
    monkeypatch.delenv("LLAMA_ARG_CTX_SIZE")
    program.write_text("22")
    others.append(engine.prompt_identity(llama("-c", "1"), weights))
    program.write_text("1")
    os.utime(weights, ns=(1, 1))
    others.append(engine.prompt_identity(llama("-c", "1"), weights))
    assert len({first, *others}) == 6
    program.unlink()
    with pytest.raises(OSError, match="No such file"):
        engine.prompt_identity(llama(), weights)


def test_a_cache_is_of_all_files_that_an_engine_computes_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, vector = tmp_path / "llama-server", tmp_path / "vector.gguf"
    first, second = (tmp_path / f"a[1]-0000{number}-of-00002.gguf" for number in (1, 2))
    for file in (program, vector, first, second):
        file.write_text("1")
    monkeypatch.setattr("shutil.which", lambda _: str(program))
    own = {"env": [{"name": "LLAMA_ARG_CONTROL_VECTOR", "value": str(vector)}]}
    seen = set()
    args = (
        ["--control-vector", str(vector)],
        [f"--control-vector={vector}"],
        ["--control-vector-scaled", f"x:1,{vector}:0.5"],
    )
    for document in (*(llama("--json-schema", "{" * 5000, *each) for each in args), llama(**own)):
        for file in (program, second, vector):
            before = LlamaCpp().prompt_identity(document, str(first))
            assert LlamaCpp().prompt_identity(document, str(first)) == before
            at = file.stat()
            file.write_text("2")
            os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))  # as cp --preserve leaves it
            assert LlamaCpp().prompt_identity(document, str(first)) != before
            seen.add(before)
    assert len(seen) == 12


def test_requests_and_answers() -> None:
    engine = LlamaCpp()
    assert (engine.save(3, "a").path, engine.save(3, "a").body) == ("/slots/3?action=save", '{"filename": "a"}')
    assert engine.restore(0, "b").path == "/slots/0?action=restore"
    assert engine.read_transfer(b'{"n_saved": 5, "n_written": 70}') == (5, 70)
    assert engine.read_transfer(b'{"n_restored": 5, "n_read": 70}') == (5, 70)
    rows = [{"id": 0}, {"id": 1, "id_task": 7, "n_prompt_tokens": 40}]
    assert engine.read_slots(json.dumps(rows).encode()) == [Slot(0, False), Slot(1, True, 40)]
    assert engine.read_slots(b'[{"id": 0, "id_task": -1, "prompt": "a"}]') == [Slot(0, True)]  # of an earlier version
    assert engine.read_slots(b'[{"id": 0, "id_task": -1, "n_prompt_tokens": 0}]') == [Slot(0, False, 0)]
    assert (
        engine.read_prompt_rate(b"# HELP\nllamacpp:prompt_tokens_total 300\nllamacpp:prompt_seconds_total 1.5\n") == 200
    )
    assert engine.read_prompt_rate(b"llamacpp:prompt_tokens_total 0\nllamacpp:prompt_seconds_total 0\n") is None
    assert engine.read_prompt_rate(b"not found") is None


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"x", b"7", b"[7]", b"[{}]", b'{"error": 1}'),
        b'[{"id": 0, "n_prompt_tokens": "many"}]',
        b'{"n_saved": Infinity, "n_written": 1}',
    ],
)
def test_answers_that_cannot_be_read(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        LlamaCpp().read_slots(body)
    with pytest.raises(ValueError, match=r".+"):
        LlamaCpp().read_transfer(body)


def test_the_mock_keeps_what_its_slots_hold(tmp_path: Path) -> None:
    slots = MockSlots(2, str(tmp_path), 10, "mine")
    first, second = ({"messages": [{"content": f"{name} two three"}]} for name in ("one", "other"))
    assert slots.take(first, 10) == (0, 0.3)
    assert slots.take(second, 10) == (0, 0.3)
    assert slots.take(first, 10) == (3, 0.0)  # each found its own
    done = slots.save(0, "a")
    assert (done["n_saved"], done["n_written"]) == (3, (tmp_path / "a").stat().st_size)
    again = MockSlots(2, str(tmp_path), 10, "mine")
    assert again.restore(1, "a")["n_restored"] == 3
    assert again.rows() == [{"id": 0, "is_processing": False}, {"id": 1, "is_processing": False}]
    assert again.take({"prompt": "one two three four"}, 0) == (3, 0.0)
    with pytest.raises(SlotProblem):
        again.restore(0, "b")


@pytest.mark.parametrize(
    ("document", "kept"),
    [
        (model("vllm", source="hf://a/b"), False),
        (model("vllm", source="hf://a/b", vllm={"sleepLevel": 2}), False),
        (model("vllm", source="hf://a/b", vllm={"kvConnector": {"name": "OffloadingConnector"}}), True),
        (model("mock"), True),
        (model("mock", args=["--sleep-clears-slots"]), False),
        (model("mock", lifecycle={"sleep": [{"path": "/x"}], "wake": [{"path": "/y"}]}), None),
        (llama(), None),
        (model("of-a-package-that-is-not-here"), None),
    ],
)
def test_what_is_known_of_the_cache_of_an_engine_that_slept(document: Model, kept: bool | None) -> None:
    assert keeps_prompts_asleep(document) is kept
