"""Which slots are saved and restored, what an engine is asked for that, and what becomes of its refusals."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hotseat.api.model import Model
from hotseat.api.types import EngineCall
from hotseat.core.messages import PromptsDropped, PromptsRestored, PromptsSaved, RestorePrompts, SavePrompts
from hotseat.engines.mock import Mock
from hotseat.runtimes.engine_http import EngineRefused
from hotseat.runtimes.local.instance_prompts import InstancePrompts, instance_prompts
from hotseat.runtimes.local.prompt_store import PromptSettings, PromptStore
from hotseat.runtimes.prompt_transfer import Moved, PromptTransfer, Steps

MODEL = Model.model_validate(
    {"metadata": {"name": "a"}, "spec": {"engine": "mock", "workspace": "w", "args": ["--slots", "4"]}}
)
MI = 2**20


class Desk:
    """A store, and an engine whose answers a test gives."""

    def __init__(self, folder: Path, limit: int = 100 * MI) -> None:
        (folder / "shm").mkdir()
        self.store = PromptStore(folder / "state", folder / "shm")
        self.store.configure({"w": PromptSettings(False, 1000.0, False)})
        self.store.keep_models({"a": "w"})
        self.store.set_limit("w", limit)
        self.epoch = 0
        self.prompts = self.start()
        self.rate: float | None = 100.0
        self.refuses: tuple[str, ...] = ()
        self.lost = 0  # bytes of each file that are not there

    def start(self) -> InstancePrompts:
        self.epoch += 1
        found = instance_prompts(self.store, MODEL, Mock(), None, self.epoch)
        assert found is not None
        self.prompts = found
        return found

    def save(self, *slots: dict[str, int], size: int = 1000, left: float = 100.0) -> Moved:
        """Save; `size` is that of each file."""
        moved = Moved()
        self._answer(self.prompts.save(moved, time.monotonic() + left), slots, size)
        return moved

    def restore(self) -> Moved:
        moved = Moved()
        self._answer(self.prompts.restore(moved), (), 0)
        return moved

    def _answer(self, steps: Steps, slots: tuple[dict[str, int], ...], size: int) -> None:
        """Answer the requests to the engine. Those of which it `refuses` the path are not carried out."""
        self.calls: list[str] = []
        try:
            call = next(steps)
            while True:
                self.calls.append(call.path)
                refused = call.path.startswith(self.refuses or "-")
                call = steps.throw(EngineRefused("no")) if refused else steps.send(self._answered(call, slots, size))
        except StopIteration:
            return

    def _answered(self, call: EngineCall, slots: tuple[dict[str, int], ...], size: int) -> bytes:
        if call.path == "/slots":
            return json.dumps(slots).encode()
        if call.path == "/metrics":
            return f"llamacpp:prompt_tokens_total {self.rate or 0}\nllamacpp:prompt_seconds_total 1\n".encode()
        if call.path.endswith("restore"):
            return b'{"n_restored": 50, "n_read": 1000}'
        name, tokens = json.loads(call.body)["filename"], slots[int(call.path.split("/")[2][0])]["n_prompt_tokens"]
        self.prompts.directory.joinpath(name).write_bytes(b"p" * size)
        return json.dumps({"n_saved": tokens, "n_written": size + self.lost}).encode()

    def file(self) -> Path:
        """The only one."""
        (file,) = self.prompts.directory.iterdir()
        return file


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.store.close()


def used(number: int, tokens: int = 50) -> dict[str, int]:
    return {"id": number, "id_task": 7, "n_prompt_tokens": tokens}


def test_slots_that_were_used_are_saved_the_longest_first(desk: Desk) -> None:
    moved = desk.save({"id": 0}, used(1, 40), used(2, 60), used(3, 0))
    assert desk.calls == ["/slots", "/metrics", "/slots/2?action=save", "/slots/1?action=save"]
    assert (moved.tokens, moved.size, moved.dropped) == (100, 2000, [])
    assert [each.slot for each in desk.store.of("a")] == [2, 1]
    assert desk.prompts.kept == 2000
    desk.prompts.sweep()
    assert desk.prompts.kept == 2000


def test_what_was_not_used_since_it_was_restored_is_not_saved_again(desk: Desk) -> None:
    desk.save(used(0), used(1))
    desk.start()
    assert desk.restore().tokens == 100
    moved = desk.save({"id": 0}, {"id": 1})
    assert desk.calls == ["/slots"]
    assert (moved.size, desk.prompts.kept) == (0, 2000)
    moved = desk.save({"id": 0}, used(1, 80))
    assert desk.calls == ["/slots", "/metrics", "/slots/1?action=save"]
    assert (moved.tokens, desk.prompts.kept) == (80, 2000)


def test_a_slot_that_is_empty_now_is_deleted(desk: Desk) -> None:
    desk.save(used(0), used(1))
    moved = desk.save(used(0, 0), used(1))
    assert [each.slot for each in desk.store.of("a")] == [1]
    assert moved.dropped == []


def test_a_prompt_that_is_quicker_to_process_again_is_not_saved(desk: Desk) -> None:
    desk.store.rates["a"] = rates = desk.prompts._rates()
    rates.per_token, rates.save = 100.0, 5000.0  # 50 tokens: 1 s to save, 1 s to restore
    desk.rate = 20.0
    assert desk.save(used(0)).size == 1000
    rates.per_token, rates.save = 100.0, 5000.0
    desk.rate = 30.0
    (dropped,) = desk.save(used(0)).dropped
    assert dropped == ("TooCostly", "saving and restoring take 2.00 s, processing the prompt again 1.67 s", 50, 0, "")
    assert desk.store.of("a") == []
    desk.rate = None
    assert desk.save(used(0)).size == 1000  # not known, so it is saved


def test_one_that_would_exceed_the_limit_is_not_even_written(desk: Desk) -> None:
    desk.save(used(0), size=1000)
    desk.store.set_limit("w", 1500)
    desk.prompts._rates().per_token = 20.0
    moved = desk.save({"id": 0}, used(1, 100))
    assert [row[0] for row in moved.dropped] == ["BudgetExceeded"]
    assert desk.calls == ["/slots", "/metrics"]
    moved = desk.save({"id": 0}, used(1, 70))
    assert moved.dropped == [("BudgetExceeded", "the least recently used prompts make room for others", 50, 1000, "a")]
    assert [each.slot for each in desk.store.of("a")] == [1]


@pytest.mark.parametrize(
    ("refuses", "reason"), [("/slots", "SaveFailed"), ("/slots/0", "SaveFailed"), ("/metrics", None)]
)
def test_a_refusal_drops_what_it_concerns(desk: Desk, refuses: str, reason: str | None) -> None:
    desk.refuses = (refuses,)
    moved = desk.save(used(0), used(1))
    assert [row[0] for row in moved.dropped] == ([reason] if reason else [])
    assert moved.size == {"/slots": 0, "/slots/0": 1000, "/metrics": 2000}[refuses]


def test_what_cannot_be_restored_is_deleted(desk: Desk) -> None:
    desk.save(used(0), used(1))
    desk.start()
    desk.refuses = ("/slots/0",)
    moved = desk.restore()
    assert moved.dropped == [("RestoreFailed", "no", 50, 1000, "a")]
    assert [each.slot for each in desk.store.of("a")] == [1]
    assert len(list(desk.prompts.directory.iterdir())) == 1
    desk.prompts.forget()
    assert desk.prompts.kept == 0


def test_what_another_engine_has_saved_is_deleted_and_reported(desk: Desk) -> None:
    desk.save(used(0))
    assert desk.prompts.report_unfit(1.0, "i") is None
    changed = MODEL.model_copy(update={"spec": MODEL.spec.model_copy(update={"args": ("--slots", "8")})})
    found = instance_prompts(desk.store, changed, Mock(), None, 9)
    assert found is not None
    assert found.kept == 0
    dropped = found.report_unfit(1.0, "i")
    assert dropped is not None
    assert (dropped.reason, dropped.tokens, dropped.size) == ("Mismatch", 50, 1000)


def test_an_engine_that_saves_none_has_no_directory(desk: Desk) -> None:
    none = MODEL.model_copy(update={"spec": MODEL.spec.model_copy(update={"args": ()})})
    desk.prompts.directory.rmdir()
    assert instance_prompts(desk.store, none, Mock(), None, 1) is None
    assert not desk.prompts.directory.exists()


def test_an_engine_that_saves_none_is_answered_for_at_once() -> None:
    transfer = PromptTransfer(SavePrompts("a", "i", 1, 2.0), None, ("127.0.0.1", 1), 0.0)
    assert transfer.due < 0.0
    assert transfer.step(0.0)
    assert transfer.observations(5.0) == [PromptsSaved(5.0, "i", 1)]
    transfer = PromptTransfer(RestorePrompts("a", "i", 1, 2.0), None, ("127.0.0.1", 1), 0.0)
    assert transfer.step(0.0)
    assert transfer.observations(5.0) == [PromptsRestored(5.0, "i", 1)]


@pytest.fixture
def transfer(desk: Desk) -> PromptTransfer:
    """A save, for which no engine listens."""
    return PromptTransfer(SavePrompts("a", "i", 1, 2.0), desk.prompts, ("127.0.0.1", 9), 10.0)


def test_it_is_given_up_before_the_bound(transfer: PromptTransfer) -> None:
    assert transfer.step(11.8)
    dropped, saved = transfer.observations(11.8)
    assert isinstance(dropped, PromptsDropped)
    assert dropped.message == "not done within 1.8 s (promptCache.timeout of the Workspace)"
    assert saved == PromptsSaved(11.8, "i", 1)
    assert transfer.cut_off


def test_an_engine_that_does_not_answer_saves_nothing(transfer: PromptTransfer) -> None:
    times = iter((10.1, 10.2, 10.3, 10.4, 10.5))
    while not transfer.step(next(times)):  # it may have ended, which its supervisor would say soon
        assert transfer.due <= 11.8
    dropped, _ = transfer.observations(10.1)
    assert isinstance(dropped, PromptsDropped)
    assert dropped.reason == "SaveFailed"
    assert not transfer.cut_off


def test_a_later_hotseat_does_not_write_to_a_file_of_an_earlier_one(desk: Desk) -> None:
    """Files may outlive it, and its epochs begin anew."""
    desk.save(used(0))
    first = desk.file()
    desk.epoch -= 1
    desk.start()
    desk.restore()
    desk.save(used(0, 80))
    assert not first.exists()
    assert [(each.tokens, Path(each.file)) for each in desk.store.of("a")] == [(80, desk.file())]


def test_what_is_deleted_at_once_was_not_saved(desk: Desk) -> None:
    desk.store.keep_models({})  # its document is gone
    moved = desk.save(used(0))
    assert (moved.tokens, moved.size, list(desk.prompts.directory.iterdir())) == (0, 0, [])


def test_only_its_own_are_restored(desk: Desk) -> None:
    """One with other weights may have saved since this one was started."""
    desk.save(used(0))
    desk.store.drop([old := desk.store.of("a")[0]])
    Path(old.file).write_bytes(b"p" * 1000)
    desk.store.add(replace(old, identity="another"))
    assert desk.prompts.kept == 0
    assert desk.restore().tokens == 0


def test_a_file_that_is_not_whole_is_not_kept(desk: Desk) -> None:
    """An engine need not notice that the disk is full."""
    desk.lost = 24
    moved = desk.save(used(0))
    assert moved.dropped == [("SaveFailed", "the engine reports 1024 bytes, but its file has 1000", 50, 0, "")]
    assert desk.prompts.kept == moved.size == 0
    desk.prompts.sweep()
    assert not list(desk.prompts.directory.iterdir())


class Writing(Desk):
    """An engine that is writing a file."""

    def begin(self, tokens: int | None = 50) -> Moved:
        moved = Moved()
        steps = self.prompts.save(moved)
        call, slots = next(steps), (used(1, tokens or 0),)
        while not call.path.endswith("save"):
            call = steps.send(self._answered(call, slots, 0))
        self.path, self.steps = self.prompts.directory / json.loads(call.body)["filename"], steps
        return moved


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Writing]:
    desk = Writing(tmp_path, limit=10 * MI)
    desk.rate = None  # nothing is too costly, however slow this machine writes
    yield desk
    desk.store.close()


def test_a_file_that_outgrows_the_limit_is_given_up(writing: Writing) -> None:
    """Nothing is known of the size of a token before the first save."""
    writing.save(used(0), size=4 * MI)
    writing.prompts._rates().per_token = 0.0
    moved = writing.begin()
    assert writing.prompts.check_size(moved) == ""
    writing.path.write_bytes(b"p" * 5 * MI)
    assert (writing.prompts.check_size(moved), moved.dropped) == ("", [])
    writing.path.write_bytes(b"p" * 7 * MI)
    assert writing.prompts.check_size(moved) == ""
    assert [(row[0], row[3]) for row in moved.dropped] == [("BudgetExceeded", 4 * MI)]  # others make room
    writing.path.write_bytes(b"p" * 11 * MI)
    why = writing.prompts.check_size(moved)
    assert why == "it takes more than 10 MiB"
    writing.prompts.cut_off(moved, "BudgetExceeded", why)
    assert moved.dropped[1:] == [("BudgetExceeded", "it takes more than 10 MiB", 50, 0, "")]
    writing.steps.close()
    assert not writing.prompts.writing
    again = writing.save({"id": 0}, used(1))
    assert writing.calls == ["/slots", "/metrics"]  # it is known now
    assert [row[:2] for row in again.dropped] == [("BudgetExceeded", "it would take 22 MiB of 10 MiB")]


def test_a_size_that_was_measured_of_a_short_prompt_is_not_held_against_a_long_one_for_good(desk: Desk) -> None:
    """With a sliding window, tokens of a short prompt take more."""
    desk.prompts._rates().per_token = 6 * MI
    for _ in range(3):
        assert [row[0] for row in desk.save(used(0)).dropped] == ["BudgetExceeded"]
    assert desk.save(used(0), size=MI).size == MI


def test_what_was_too_slow_once_is_not_tried_each_time(writing: Writing) -> None:
    moved = writing.begin()
    writing.path.write_bytes(b"p" * 4 * MI)
    writing.prompts.cut_off(moved, "SaveTimeout", "late")
    writing.steps.close()
    assert moved.dropped == [("SaveTimeout", "late", 50, 0, "")]
    writing.prompts._rates().save = 2 * MI  # bytes per second
    assert [row[0] for row in writing.save({"id": 0}, used(1), left=3.9).dropped] == ["TooCostly"]
    assert writing.calls == ["/slots", "/metrics"]
    assert writing.save({"id": 0}, used(1, 20), left=3.9).size == 1000  # a shorter one is
    assert writing.save({"id": 0}, used(1), left=3.9).size == 1000


def test_one_that_is_restored_too_late_is_not_tried_again(desk: Desk) -> None:
    desk.save(used(0, 50), used(1, 40))
    desk.start()
    moved = Moved()
    steps = desk.prompts.restore(moved)
    next(steps)
    desk.prompts.cut_off(moved, "RestoreTimeout", "late")
    steps.close()
    assert moved.dropped == [("RestoreTimeout", "late", 50, 1000, "a")]
    assert [each.slot for each in desk.store.of("a")] == [1]
