"""Prompt caches of pods: what an engine in a pod is asked for, and what is known of the files on its claim."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hotseat.api.model import Model
from hotseat.api.types import Json
from hotseat.core.messages import (
    InstanceReady,
    InstanceReleased,
    LimitPrompts,
    PromptsDropped,
    PromptsRestored,
    PromptsSaved,
    RestorePrompts,
    SavePrompts,
    Start,
    Stop,
)
from hotseat.engines.mock_slots import MockSlots, SlotProblem
from hotseat.kube.constants import FINGERPRINT, PODS, PROMPTS_VARIABLE
from hotseat.runtimes.deployment.runtime import DeploymentRuntime
from hotseat.runtimes.engine_http import EngineRefused
from hotseat.runtimes.kubernetes.pod_prompts import NOT_KNOWN, PodPrompts, PromptFiles, pod_prompts, restorable
from hotseat.runtimes.prompt_transfer import Moved
from tests.fake_kube import NS, FakeCluster, merged
from tests.fakes import Observations
from tests.knative_home import NoFetcher

MODEL = Model.model_validate({"metadata": {"name": "a"}, "spec": {"engine": "mock", "args": ["--slots", "3"]}})
KEEP = {"name": PROMPTS_VARIABLE, "value": '{"keep":100,"model":"1"}'}
TEN = " ".join("abcdefghij")


def pod(fingerprint: str = "1", *env: Json, uid: str = "u") -> Json:
    return {
        "metadata": {"name": "p", "uid": uid, "annotations": {FINGERPRINT: fingerprint}},
        "spec": {"containers": [{"name": "engine", "env": [*(env or (KEEP,))]}]},
    }


class Desk:
    """The files of a Model on a claim, and one engine of it after another. Each finds only those of its mark."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now, self.pods = folder, 1000.0, 0
        self.files = PromptFiles(lambda: self.now)
        self.files.set_limit("default", 10_000)
        self.start()

    def start(self, fingerprint: str = "1", mark: str = "m") -> PodPrompts:
        folder = self.folder / mark
        folder.mkdir(exist_ok=True)
        self.slots = MockSlots(3, str(folder), 100, mark)
        self.pods += 1
        self.pod = pod(fingerprint, uid=f"u{self.pods}")
        return self.prompts

    @property
    def prompts(self) -> PodPrompts:
        """What a transfer has of them."""
        prompts = pod_prompts(self.files, MODEL, self.pod)
        assert prompts is not None
        return prompts

    def save(self) -> Moved:
        moved = Moved()
        self._run(self.prompts.save(moved))
        return moved

    def restore(self) -> Moved:
        moved = Moved()
        self._run(self.prompts.restore(moved))
        return moved

    def _run(self, steps) -> None:
        self.calls: list[str] = []
        answer: bytes | None = None
        while True:
            try:
                call = steps.send(answer) if answer is not None or not self.calls else steps.throw(EngineRefused("no"))
            except StopIteration:
                return
            self.calls.append(call.path)
            answer = answer_of(self.slots, call.path, call.body)

    def known(self) -> dict[int, int]:
        return {number: each.size for number, each in self.files.of("a").slots.items()}


def answer_of(slots: MockSlots, path: str, body: str) -> bytes | None:
    if path == "/slots":
        return json.dumps(slots.rows()).encode()
    if path == "/metrics":
        return slots.metrics()
    number, _, action = path.removeprefix("/slots/").partition("?action=")
    try:
        move = slots.save if action == "save" else slots.restore
        return json.dumps(move(int(number), json.loads(body)["filename"])).encode()
    except SlotProblem:
        return None


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_slot_has_one_file_which_the_next_engine_restores(desk: Desk) -> None:
    assert desk.restore() == Moved()
    assert desk.calls == ["/slots", *(f"/slots/{number}?action=restore" for number in range(3))]
    assert restorable(desk.files, "a", pod()) == 0
    desk.slots.take({"prompt": TEN}, 0)
    assert desk.save().size == 1000
    assert restorable(desk.files, "a", pod()) == 1000
    desk.start()
    assert desk.restore().tokens == 10
    assert desk.calls == ["/slots/0?action=restore"]
    assert desk.slots.take({"prompt": f"{TEN} k"}, 0)[0] == 10
    moved = desk.save()
    assert (moved.tokens, moved.dropped) == (11, [])
    desk.start()
    desk.slots.take({"prompt": TEN}, 0)
    desk.slots.take({"prompt": TEN}, 0)
    assert desk.save().tokens == 10
    assert [path.name for path in (desk.folder / "m").iterdir()] == ["0"]
    assert desk.known() == {0: 1000}
    assert desk.files.sizes() == {"a": 1000}


def test_another_switcher_tries_each_slot(desk: Desk) -> None:
    for said in (TEN, "x y z"):
        desk.slots.take({"prompt": said}, 0)
    desk.save()
    desk.files = PromptFiles(lambda: desk.now)
    desk.files.set_limit("default", 10_000)
    desk.start()
    assert restorable(desk.files, "a", pod()) == NOT_KNOWN
    moved = desk.restore()
    assert (moved.tokens, moved.dropped) == (13, []), "an empty slot is no failure"
    assert desk.known() == {0: 1000, 1: 300}


def test_a_switcher_that_adopted_an_engine_saves_and_does_not_forget_what_it_did_not_see(desk: Desk) -> None:
    for said in (TEN, "x y z"):
        desk.slots.take({"prompt": said}, 0)
    desk.save()
    slots, desk.files = desk.slots, PromptFiles(lambda: desk.now)
    desk.files.set_limit("default", 10_000)
    desk.start()
    desk.slots = slots
    desk.slots._rows[0] = {"id": 0}  # not used again
    desk.save()
    assert desk.known() == {1: 300}
    desk.start()
    assert desk.restore().tokens == 13


def test_an_engine_of_other_weights_finds_no_file(desk: Desk) -> None:
    desk.restore()
    desk.slots.take({"prompt": TEN}, 0)
    desk.save()
    desk.start("2", mark="other")
    ((reason, message, tokens, size, _),) = desk.restore().dropped
    assert (reason, tokens, size) == ("Mismatch", 10, 1000)
    assert "another version of the engine" in message
    assert desk.known() == {}


def test_a_file_that_cannot_be_restored_is_dropped_and_reported(desk: Desk) -> None:
    desk.slots.take({"prompt": TEN}, 0)
    desk.save()
    (desk.folder / "m" / "0").write_text("not a slot")
    desk.start()
    assert [each[0] for each in desk.restore().dropped] == ["RestoreFailed"]
    assert desk.restore().dropped == []


def test_what_is_too_old_is_not_asked_for(desk: Desk) -> None:
    desk.restore()
    desk.slots.take({"prompt": TEN}, 0)
    desk.save()
    desk.now += 90
    desk.start()
    assert desk.restore().tokens == 10, "and used again"
    desk.now += 90
    assert restorable(desk.files, "a", pod()) == 1000
    desk.now += 11
    assert restorable(desk.files, "a", pod()) == 0
    desk.start()
    assert desk.restore() == Moved()
    assert desk.calls == []


def test_a_slot_for_which_there_is_no_room_is_not_written_and_its_earlier_state_is_kept(desk: Desk) -> None:
    for said in (TEN, "x y z"):
        desk.slots.take({"prompt": said}, 0)
    desk.save()
    desk.files.set_limit("default", 1350)
    desk.slots.take({"prompt": f"{TEN} k"}, 0)
    assert [each[0] for each in desk.save().dropped] == ["BudgetExceeded"]
    assert desk.known() == {0: 1000, 1: 300}


def test_a_write_that_failed_leaves_nothing_to_restore(desk: Desk) -> None:
    desk.restore()
    desk.slots.take({"prompt": TEN}, 0)
    desk.save()
    desk.slots.save = lambda number, file: {"n_saved": 10, "n_written": 0}  # as llama-server on a full volume
    ((reason, message, *_),) = desk.save().dropped
    assert (reason, message) == ("SaveFailed", "the engine wrote nothing to the file of slot 0; the volume may be full")
    assert desk.known() == {}
    assert restorable(desk.files, "a", pod()) == 0


def test_a_pod_says_whether_it_keeps_prompts(desk: Desk) -> None:
    other = pod("1", {"name": "A", "value": "b"})
    assert restorable(desk.files, "a", other) == 0
    assert pod_prompts(desk.files, MODEL, other) is None
    assert pod_prompts(desk.files, None, pod()) is None
    unknown = MODEL.model_copy(update={"spec": MODEL.spec.model_copy(update={"engine": "unheard-of"})})
    assert pod_prompts(desk.files, unknown, pod()) is None
    desk.slots.take({"prompt": TEN}, 0)
    desk.save()
    desk.files.keep_models({"b"})
    assert desk.known() == {}


# Through the runtime --------------------------------------------------------------------------------------------------

A, B = "default/a@1", "default/a@2"


class Engine:
    """The HTTP server of an engine in a pod."""

    def __init__(self, folder: Path) -> None:
        engine = self
        self.slots = MockSlots(3, str(folder), 100, "m")
        self.paths: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def _reply(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                engine.paths.append(self.path)
                answer = answer_of(engine.slots, self.path, body)
                self.send_response(200 if answer is not None else 400)
                self.send_header("Content-Length", str(len(answer or b"")))
                self.end_headers()
                self.wfile.write(answer or b"")

            do_GET = do_POST = _reply  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Home:
    """A Deployment, and a runtime."""

    def __init__(self, folder: Path) -> None:
        self.engine, self.folder = Engine(folder), folder
        self.kube, self.told = FakeCluster(), Observations()
        self.kube.add_deployment("a")
        self.runtime = DeploymentRuntime(
            self.kube, NS, NoFetcher(), identity="it", fingerprint={"a": "1"}.get, probe=self.kube.ask
        )
        self.runtime.begin([MODEL], self.told)
        self.runtime.handle_prompts(LimitPrompts("default", 10_000))

    def load(self, instance: str) -> InstanceReady:
        self.runtime.start(Start("a", instance, int(instance[-1])))
        with self.kube.changed:
            while not (found := [each for each in self.kube.pods("a") if "deletionTimestamp" not in each["metadata"]]):
                assert self.kube.changed.wait(30)
        path = PODS.path(NS, found[-1]["metadata"]["name"])
        port = {"containerPort": self.engine.server.server_port}
        container = {**found[-1]["spec"]["containers"][0], "ports": [port], "env": [KEEP]}
        change = {"metadata": {"annotations": {FINGERPRINT: "1"}}, "spec": {"containers": [container]}}
        self.kube.put(path, merged(self.kube.objects[path], change))
        self.pod = self.kube.say(self.kube.run(found[-1]), podIP="127.0.0.1")
        self.kube.serving.add("127.0.0.1")
        self.kube.say(self.pod, conditions=[{"type": "Ready", "status": "True"}])
        return self.told.await_one(InstanceReady, instance)

    def release(self, instance: str) -> None:
        self.runtime.stop(Stop("a", instance, int(instance[-1]), 1.0))
        path = PODS.path(NS, self.pod["metadata"]["name"])
        with self.kube.changed:
            while ("delete", path) not in self.kube.calls:
                self.kube.changed.wait(1.0)
        self.kube.end(self.pod)
        self.told.await_one(InstanceReleased, instance)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.runtime.close()
    home.kube.close()
    home.engine.close()


def test_slots_are_saved_and_restored_through_the_pods_address(home: Home) -> None:
    assert home.load(A).prompts == NOT_KNOWN
    home.runtime.handle_prompts(RestorePrompts("a", A, 1, 30.0))
    assert home.told.await_one(PromptsRestored, A).size == 0
    home.engine.slots.take({"prompt": TEN}, 0)
    home.runtime.handle_prompts(SavePrompts("a", A, 1, 30.0))
    saved = home.told.await_one(PromptsSaved, A)
    assert (saved.tokens, saved.size, saved.epoch) == (10, 1000, 1)
    home.release(A)
    home.engine.slots = MockSlots(3, str(home.folder), 100, "m")
    assert home.load(B).prompts == 1000
    home.runtime.handle_prompts(RestorePrompts("a", B, 2, 30.0))
    assert home.told.await_one(PromptsRestored, B).tokens == 10
    assert home.engine.slots.take({"prompt": TEN}, 0)[0] == 10
    assert not [each for each in home.told.seen if isinstance(each, PromptsDropped)]
    home.runtime.handle_prompts(SavePrompts("a", "default/a@9", 9, 30.0))
    home.told.await_one(InstanceReleased, "default/a@9")


def test_an_engine_that_is_not_reached_while_it_restores_is_not_ready_before_the_bound(home: Home) -> None:
    """The status of its pod says some seconds later that it has ended, which must not count as a crash of a ready engine."""
    home.load(A)
    home.engine.close()
    home.runtime.handle_prompts(RestorePrompts("a", A, 1, 0.5))
    home.told.await_one(PromptsRestored, A)
    assert home.told.await_one(PromptsDropped, A).reason == "RestoreTimeout"
    assert home.runtime._prompts.of("a").complete, "no file is tried again"
    home.runtime.handle_prompts(SavePrompts("a", A, 1, 30.0))
    assert home.told.await_one(PromptsDropped, A, reason="SaveFailed")


def test_what_comes_of_it_after_a_stop_is_not_told(home: Home) -> None:
    home.load(A)
    home.engine.close()
    home.runtime.handle_prompts(RestorePrompts("a", A, 1, 0.5))
    begun = threading.Event()
    home.runtime._jobs.put(begun.set)
    assert begun.wait(30)
    (transfer,) = [each for each in threading.enumerate() if each.name == f"prompts-{A}"]
    home.release(A)
    transfer.join(30)
    assert home.told.of_instance(A) == ["InstanceReady", "InstanceReleased"]


def test_an_engine_that_is_busy_with_a_late_save_has_little_time_to_end(home: Home) -> None:
    graces: list[int | None] = []
    end_of, home.kube.end_of = home.kube.end_of, lambda path, grace: (graces.append(grace), end_of(path, grace))[1]
    home.load(A)
    go_on = threading.Event()
    home.engine.slots.rows = lambda: (go_on.wait(30), [])[1]
    home.runtime.handle_prompts(SavePrompts("a", A, 1, 0.5))
    assert home.told.await_one(PromptsDropped, A).reason == "SaveTimeout"
    home.told.await_one(PromptsSaved, A)
    home.release(A)
    assert graces[-1] == 1
    go_on.set()
    del home.engine.slots.rows
    home.load(B)
    home.runtime.handle_prompts(SavePrompts("a", B, 2, 30.0))
    home.told.await_one(PromptsSaved, B)
    home.release(B)
    assert graces[-1] is None, "that of the pod"


def test_what_was_too_slow_once_is_not_tried_each_time(desk: Desk) -> None:
    desk.slots.take({"prompt": TEN}, 0)
    desk.prompts._rates().per_token = 2.0**20
    desk.files.set_limit("default", 2**30)
    moved = Moved()
    prompts = desk.prompts
    steps = prompts.save(moved)
    call = next(steps)
    while not call.path.endswith("save"):
        call = steps.send(answer_of(desk.slots, call.path, call.body) or b"")
    assert not prompts.writing, "nothing can be looked at"
    assert prompts.check_size(moved) == ""
    prompts.cut_off(moved, "SaveTimeout", "late")
    steps.close()
    assert [row[0] for row in moved.dropped] == ["SaveTimeout"]
    assert prompts._rates().save > 0.0
    assert desk.known() == {}, "its file is not whole"
