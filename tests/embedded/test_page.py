"""The web page in a real browser, against a real hotseat: each view, each action, keys, lost connections, a phone."""

import base64
import gzip
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from .conftest import Up
from .harness import PATIENCE, Hotseat, eventually, model, quickest, workspace
from .test_gpus_of_others import Gpu

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"), pytest.mark.timeout(180)]

Page = playwright.Page
Open = Callable[..., Page]
DOT = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
VIEWS = ("", "models", "models/qwen3%3A8b", "requests", "switches", "logs", "events", "playground", "settings")


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: playwright.Browser) -> Iterator[Open]:
    """Open the page of a hotseat. Errors in its console fail the test, but those that are expected."""
    contexts, errors, expected = [], [], []

    def open_(hotseat: Hotseat, view: str = "", *, expects: tuple[str, ...] = (), **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        contexts.append(context)
        expected.extend((*expects, "ERR_NETWORK_CHANGED"))  # interfaces of the machine come and go
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on(
            "console",
            lambda message: (
                errors.append(f"{message.text} {message.location['url']}")
                if message.type in ("error", "warning")
                else None
            ),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda request: (
                errors.append(request.url)
                if hotseat.address not in request.url and request.url.startswith("http")
                else None
            ),
        )
        page.goto(f"http://{hotseat.address}/ui/#/{view}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [error for error in errors if not any(text in error for text in expected)] == []


@pytest.fixture(scope="module")
def hotseat(shared_up: Up) -> Hotseat:
    hotseat = shared_up(
        workspace(),
        workspace("second"),
        model("qwen3-8b", names=["qwen3:8b"], workspace="default"),
        model("gemma", workspace="default"),
        model("whisper", "--tokens-per-second", "20", workspace="second", capabilities=["transcription", "chat"]),
        model("broken", "--fault", "exit-loading", workspace="default"),
        seats=2,
    )
    hotseat.expected_errors.append("broken")
    for name in ("qwen3-8b", "gemma", "broken", "qwen3-8b"):
        hotseat.ask(name)
    return hotseat


def shows(page: Page, text: str) -> None:
    playwright.expect(page.locator("main")).to_contain_text(text, timeout=1000 * PATIENCE)


def state_of(page: Page, name: str) -> playwright.Locator:
    return page.locator("tr", has=page.get_by_role("link", name=name, exact=True)).locator(".state")


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_shows_what_it_is_for(hotseat: Hotseat, open_page: Open, view: str) -> None:
    page = open_page(hotseat, view)
    texts = {
        "": ("On the accelerator", "qwen3:8b", "Last switches"),
        "models": ("gemma", "whisper", "failed", "second"),
        "models/qwen3%3A8b": ("qwen3-8b", "default", "Log", "listens on"),
        "requests": ("qwen3:8b", "chat", "503"),
        "switches": ("qwen3:8b", "gemma", "failed"),
        "logs": ("Log",),
        "events": ("switch.completed", "model.ready"),
        "playground": ("Chat", "Embeddings", "Transcription"),
        "settings": ("policy.maxWait", "not set", "In force"),
    }[view]
    for text in texts:
        shows(page, text)


def test_a_switch_is_seen_as_it_happens(hotseat: Hotseat, open_page: Open) -> None:
    hotseat.ask("qwen3-8b")
    page = open_page(hotseat, "models")
    playwright.expect(state_of(page, "qwen3:8b")).to_have_text("ready")
    hotseat.ask("gemma")
    playwright.expect(state_of(page, "gemma")).to_have_text("ready")
    playwright.expect(state_of(page, "qwen3:8b")).to_have_text("unloaded")


def test_models_are_loaded_pinned_and_unloaded(hotseat: Hotseat, open_page: Open) -> None:
    hotseat.ask("gemma")
    page = open_page(hotseat, "models")
    page.get_by_role("button", name="Load qwen3:8b", exact=True).click()
    playwright.expect(state_of(page, "qwen3:8b")).to_have_text("ready")
    page.get_by_role("button", name="Pin qwen3:8b", exact=True).click()
    shows(page, "pinned")
    page.get_by_role("button", name="Unpin qwen3:8b", exact=True).click()
    page.get_by_role("button", name="Unload qwen3:8b", exact=True).click()
    eventually(lambda: "qwen3-8b" not in hotseat.running())
    playwright.expect(state_of(page, "qwen3:8b")).to_have_text("unloaded")


def test_a_request_in_flight_is_shown_and_cancelled(hotseat: Hotseat, open_page: Open) -> None:
    hotseat.ask("whisper", max_tokens=1)
    call = hotseat.send("whisper", stream=True, max_tokens=100_000)
    page = open_page(hotseat, "requests")
    page.get_by_role("button", name="Cancel").first.click()
    eventually(call.has_answer)
    playwright.expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


def test_a_chat_streams_and_a_failure_is_told(hotseat: Hotseat, open_page: Open) -> None:
    page = open_page(hotseat, "playground", expects=("503",))
    page.get_by_label("Model").select_option("gemma")
    page.get_by_label("Message").fill("hello there")
    page.get_by_role("button", name="Send").click()
    shows(page, "first token after")
    shows(page, "gemma: hello there")
    page.get_by_label("Model").select_option("broken")
    page.get_by_label("Message").fill("and you?")
    page.get_by_role("button", name="Send").click()
    shows(page, "failed")


def test_a_chat_has_an_image(hotseat: Hotseat, open_page: Open) -> None:
    page = open_page(hotseat, "playground")
    page.get_by_label("Model").select_option("gemma")
    page.get_by_label("Image…").set_input_files({"name": "dot.gif", "mimeType": "image/gif", "buffer": DOT})
    page.get_by_label("Message").fill("what is this?")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_role("button", name="Send").click()
    (asked,) = json.loads(sent.value.post_data or "")["messages"]
    assert [part["type"] for part in asked["content"]] == ["text", "image_url"]
    assert asked["content"][1]["image_url"]["url"] == f"data:image/gif;base64,{base64.b64encode(DOT).decode()}"
    shows(page, "first token after")
    playwright.expect(page.get_by_role("img", name="sent with the message")).to_be_visible()


@pytest.mark.parametrize(
    ("kind", "path", "result"),
    [
        ("Embeddings", "/v1/embeddings", "pre"),
        ("Transcription", "/v1/audio/transcriptions", "pre"),
        ("Speech", "/v1/audio/speech", "audio"),
        ("Images", "/v1/images/generations", "img"),
        ("Rerank", "/v1/rerank", "pre"),
        ("Raw request", "/v1/completions", "pre"),
    ],
)
def test_other_kinds_of_requests_are_sent_and_shown_as_curl(
    hotseat: Hotseat, open_page: Open, kind: str, path: str, result: str
) -> None:
    page = open_page(hotseat, "playground")
    page.get_by_label("Model").select_option("gemma")
    page.get_by_role("button", name=kind, exact=True).click()
    shows(page, f"curl http://{hotseat.address}{path}")
    if kind == "Transcription":
        page.get_by_label("Model").select_option("gemma")
        page.get_by_label("File").set_input_files({"name": "a.wav", "mimeType": "audio/wav", "buffer": b"RIFF"})
    with page.expect_response(f"**{path}") as answered:
        page.get_by_role("button", name="Send").click()
    assert answered.value.status == 200
    shown = page.locator(f".result {result}")
    playwright.expect(shown).to_be_visible()
    if result != "pre":  # the browser can play or show it
        ready = "element => element.readyState >= 1" if result == "audio" else "element => element.naturalWidth > 0"
        eventually(lambda: shown.evaluate(ready))


def test_it_comes_back_by_itself_after_a_restart(up: Up, open_page: Open) -> None:
    hotseat = up(model("a"), model("b"))
    hotseat.expected_errors.append("was sent SIGKILL")
    hotseat.ask("a")
    page = open_page(hotseat, "models", expects=("ERR_", "Failed to fetch", "503"))
    playwright.expect(page.get_by_role("status").filter(has_text="live")).to_be_visible()
    os.kill(hotseat.worker(), signal.SIGKILL)
    playwright.expect(page.get_by_role("status").filter(has_text="connecting")).to_be_visible()
    hotseat.wait_for(lambda: sum("url" in line for line in hotseat.lines) == 2)
    playwright.expect(page.get_by_role("status").filter(has_text="live")).to_be_visible()
    hotseat.ask("b")
    playwright.expect(state_of(page, "b")).to_have_text("ready")


def test_switches_of_before_a_restart_are_listed_too(up: Up, open_page: Open) -> None:
    hotseat = up(model("a"), model("b"))
    hotseat.expected_errors.append("was sent SIGKILL")
    for name in "aba":
        hotseat.ask(name)
    for kind in ("switches", "requests"):
        eventually(lambda kind=kind: len(hotseat.get(f"/api/history/{kind}").json()[kind]) == 3)
    os.kill(hotseat.worker(), signal.SIGKILL)
    hotseat.wait_for(lambda: sum("url" in line for line in hotseat.lines) == 2)
    hotseat.ask("b")  # the first switch of the new run has the id that the first one of the other had
    page = open_page(hotseat, "switches")
    playwright.expect(page.locator(".switch .name")).to_have_text(["b", "b", "a", "a", "b", "a"])
    page.goto(page.url.replace("switches", "requests"))
    playwright.expect(page.locator("tbody .name")).to_have_text(["b", "a", "b", "a"])


def test_a_key_is_asked_for_once_and_kept_in_the_tab(up: Up, open_page: Open) -> None:
    hotseat = up(model("a"), options=("--api-key", "sk-secret"))
    page = open_page(hotseat, expects=("401",))
    page.get_by_label("Key", exact=True).fill("wrong")
    page.get_by_role("button", name="Use").click()
    shows(page, "hotseat does not accept this key")
    page.get_by_label("Key", exact=True).fill("sk-secret")
    page.get_by_role("button", name="Use").click()
    shows(page, "Nothing is loaded")
    page.reload()
    shows(page, "Nothing is loaded")
    assert page.context.cookies() == []
    assert "sk-secret" not in page.evaluate("JSON.stringify(localStorage)")
    other = page.context.new_page()
    other.goto(page.url)
    shows(other, "API key")


def test_on_a_phone_nothing_is_cut_off(hotseat: Hotseat, open_page: Open) -> None:
    page = open_page(hotseat, viewport={"width": 390, "height": 800})
    for view in VIEWS:
        page.goto(f"http://{hotseat.address}/ui/#/{view}")
        page.locator("main :is(h1, h2)").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, view
        if view in ("models", "requests", "switches", "logs", "events"):  # they scroll inside
            assert page.evaluate("document.documentElement.scrollHeight - innerHeight") <= 0, view


def test_each_view_is_reached_by_the_keyboard(hotseat: Hotseat, open_page: Open) -> None:
    page = open_page(hotseat)
    shows(page, "On the accelerator")
    for _ in range(4):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    playwright.expect(page.get_by_role("heading", name="Models")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(hotseat: Hotseat, open_page: Open, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(hotseat, color_scheme=scheme, bypass_csp=True)
    for view in VIEWS:
        page.goto(f"http://{hotseat.address}/ui/#/{view}")
        page.locator("main :is(h1, h2)").first.wait_for()
        found = axe.run(page).response["violations"]
        serious = [
            (each["id"], [node["html"][:120] for node in each["nodes"]][:3])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == [], view


def test_a_busy_machine_says_who_waits_why_and_until_when(
    up: Up, open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four models, two users, a failed load, a restart. With HOTSEAT_TEST_SCREENSHOTS=FOLDER, pictures of it are kept there."""
    for variable in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    gpu = Gpu(tmp_path)
    hotseat = up(
        workspace(tenants={"header": "X-User"}),
        model("qwen3-8b", "--load-time", "1", "--tokens-per-second", "60", names=["qwen3:8b"]),
        model("gemma3-27b", "--load-time", "2", "--stop-time", "0.4", "--tokens-per-second", "40"),
        model("llama4-scout", "--load-time", "1.5", "--tokens-per-second", "50"),
        model("deepseek-r1", "--load-time", "0.8", "--fault", "exit-loading"),
        env=gpu.env,
    )
    hotseat.expected_errors.append("was sent SIGKILL")
    gpu.used(1)
    empty = open_page(hotseat)
    shows(empty, "Nothing is loaded")
    _keep_picture(empty, "empty")
    empty.close()
    users = [{"X-User": name} for name in ("ada", "ben")]
    for number, name in enumerate(("qwen3-8b", "gemma3-27b", "deepseek-r1")):
        hotseat.ask(name, max_tokens=30, headers=users[number % 2])
    os.kill(hotseat.worker(), signal.SIGKILL)
    hotseat.wait_for(lambda: sum("url" in line for line in hotseat.lines) == 2)
    rounds = 3 if os.environ.get("HOTSEAT_TEST_SCREENSHOTS") else 1
    for number, name in enumerate(("llama4-scout", "qwen3-8b", "gemma3-27b", "qwen3-8b") * rounds):
        gpu.used(8 * len(name))
        for _ in range(rounds):
            hotseat.ask(name, max_tokens=60, headers=users[number % 2])
    hotseat.ask("deepseek-r1")
    calls = [hotseat.send("qwen3-8b", stream=True, max_tokens=2000, headers=user) for user in users]
    for call in calls:
        call.begun()
    calls += [hotseat.send("gemma3-27b", stream=True, max_tokens=20, headers=user) for user in users]
    calls.append(hotseat.send("llama4-scout", max_tokens=20, headers=users[0]))
    eventually(lambda: hotseat.waiting() == 3)
    page = open_page(hotseat)
    shows(page, "the oldest for")
    shows(page, "qwen3:8b is resident and serves")  # the policy's own message
    shows(page, "the engine exited")
    shows(page, "NVIDIA H200")
    playwright.expect(page.get_by_label("3 waiting")).to_be_visible()
    page.get_by_role("button", name="1 min", exact=True).click()
    _keep_picture(page, "busy")
    page.emulate_media(color_scheme="dark")
    _keep_picture(page, "busy-dark")
    page.set_viewport_size({"width": 390, "height": 844})
    _keep_picture(page, "busy-phone")
    page.set_viewport_size({"width": 1280, "height": 860})
    page.goto(f"http://{hotseat.address}/ui/#/models/deepseek-r1")
    shows(page, "ExitedWhileLoading")
    _keep_picture(page, "failed-load")
    page.emulate_media(color_scheme="light")
    for view in ("models", "requests", "switches", "events", "playground", "settings"):
        page.goto(f"http://{hotseat.address}/ui/#/{view}")
        page.locator("main :is(h1, h2)").first.wait_for()
        _keep_picture(page, view)
    for call in calls:
        call.leave()


def test_the_keyboard_reaches_the_time_line_and_the_help(hotseat: Hotseat, open_page: Open) -> None:
    hotseat.ask("gemma")
    page = open_page(hotseat)
    shows(page, "On the accelerator")
    page.keyboard.press("?")
    playwright.expect(page.get_by_role("dialog")).to_contain_text("go from span to span")
    page.keyboard.press("Escape")
    playwright.expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="24 h").click()
    page.get_by_role("application").focus()
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator(".timeline [aria-live]")).to_contain_text("broken:")
    page.keyboard.press("ArrowDown")
    playwright.expect(page.locator(".timeline [aria-live]")).to_contain_text("gemma:")
    page.keyboard.press("ArrowLeft")
    playwright.expect(page.locator(".tip")).to_contain_text("switch")
    page.keyboard.press("Enter")
    playwright.expect(page.get_by_role("heading", name="gemma")).to_be_visible()
    page.keyboard.press("4")
    playwright.expect(page.get_by_role("heading", name="Switches")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("broken")
    playwright.expect(page.locator(".switch").first).to_contain_text("broken")


def test_a_request_shows_where_its_time_went(hotseat: Hotseat, open_page: Open) -> None:
    hotseat.ask("gemma")
    hotseat.ask("qwen3-8b")
    page = open_page(hotseat, "requests")
    page.get_by_role("button", name="Details of").first.click()
    playwright.expect(page.locator(".detail")).to_contain_text("switch")
    page.get_by_role("button", name="Failed").click()
    playwright.expect(page.locator("tbody .good")).to_have_count(0)


def test_a_request_that_waits_has_no_answer_yet_and_is_cancelled_beside_a_long_name(
    hotseat: Hotseat, open_page: Open
) -> None:
    name = "a-model-with-the-long-name-of-its-file-in-q4_k_m"

    def waiting(route: playwright.Route) -> None:
        answer = route.fetch().json()
        ended = next(each for each in answer["requests"] if each["state"] == "ended")
        first = {**ended, "id": "x-1", "model": name, "state": "waiting", "status": None, "waited": None, "ttft": None}
        route.fulfill(json={"requests": [{**first, "seconds": 7.0, "switch_seconds": 2.0}, *answer["requests"]]})

    hotseat.ask("gemma")
    page = open_page(hotseat)
    page.route("**/api/requests?*", waiting)
    page.goto(page.url + "requests")
    page.get_by_role("button", name="Details of x-1").click()
    playwright.expect(page.locator(".detail .legend")).to_have_text("queue 5.0 sswitch 2.0 s")
    cancel, rows = page.get_by_role("button", name="Cancel x-1").bounding_box(), page.locator(".rows").bounding_box()
    assert cancel["x"] + cancel["width"] <= rows["x"] + rows["width"], "it is in sight"


def test_models_that_wait_stand_in_the_order_of_their_turns(hotseat: Hotseat, open_page: Open) -> None:
    def queue(route: playwright.Route) -> None:
        rows = route.fetch().json()["queue"]
        for row, name, behind, expected in (
            (rows[0], "third", ["first", "second"], None),
            (rows[1], "second", ["first"], "2030-01-01T00:00:20Z"),
            (rows[2], "first", [], None),
        ):
            row.update(model=name, waiting=1, reason="Turn", behind=behind, expected_at=expected)
        route.fulfill(json={"queue": rows[:3]})

    page = open_page(hotseat)
    page.route("**/api/queue", queue)
    playwright.expect(page.locator(".next .name")).to_have_text(["first", "second", "third"])


def test_an_address_without_a_view_is_told(hotseat: Hotseat, open_page: Open) -> None:
    page = open_page(hotseat, "reqests")
    shows(page, "There is no view reqests")
    page.get_by_role("link", name="Show what happens now").click()
    shows(page, "On the accelerator")


def test_a_switch_is_seen_within_100_ms_of_its_event(hotseat: Hotseat, open_page: Open) -> None:
    """Milliseconds from `model.ready` until the page shows the state. What else the machine does can only add to them."""
    hotseat.ask("qwen3-8b")
    page = open_page(hotseat, "models")
    playwright.expect(state_of(page, "qwen3:8b")).to_have_text("ready")
    page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => {
                const names = [...document.querySelectorAll("tbody tr")].filter((row) => row.querySelector(".s-ready")).map((row) => row.querySelector(".name").textContent);
                if (window.seen.at(-1)?.names !== names.join()) window.seen.push({ names: names.join(), at: Date.now() });
            }).observe(document.querySelector("main"), { subtree: true, childList: true, characterData: true, attributes: true });
        }"""
    )
    taken: list[float] = []

    def seconds() -> float:
        name, shown = (("gemma", "gemma"), ("qwen3-8b", "qwen3:8b"))[len(taken) % 2]
        hotseat.ask(name)
        playwright.expect(state_of(page, shown)).to_have_text("ready")
        event = [each for each in hotseat.catch_up() if each["type"].endswith("model.ready.v1")][-1]
        began = datetime.fromisoformat(event["time"]).timestamp()
        seen = next(each["at"] for each in reversed(page.evaluate("window.seen")) if shown in each["names"].split(","))
        taken.append(seen / 1000 - began)
        return taken[-1]

    quickest(seconds, 0.1)


def test_all_of_it_is_small(hotseat: Hotseat) -> None:
    names = ("index.html", "app.js", "style.css", "icon.svg")
    bodies = [hotseat.get("/ui/" if name == "index.html" else f"/ui/static/{name}").body for name in names]
    assert sum(len(gzip.compress(body)) for body in bodies) < 300 * 1024


def test_a_key_sees_the_models_of_both_workspaces_that_it_may_use(up: Up, open_page: Open, tmp_path: Path) -> None:
    def hashed(key: str) -> str:
        return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"

    file = tmp_path / "keys.yaml"
    keys = [
        {"name": "team", "hash": hashed("sk-team")},
        {"name": "alice", "hash": hashed("sk-alice"), "models": ["alpha*"]},
        {"name": "client", "hash": hashed("sk-client"), "operations": ["infer"]},
    ]
    file.write_text(json.dumps(keys))
    hotseat = up(
        workspace(),
        workspace("second"),
        model("alpha", workspace="default"),
        model("alpha-2", workspace="second"),
        model("beta", workspace="second"),
        options=("--api-key-file", str(file)),
    )
    sees = {"sk-team": ("alpha", "alpha-2", "beta"), "sk-alice": ("alpha", "alpha-2")}
    for key, names in sees.items():
        page = open_page(hotseat, "models", expects=("401", "403"))
        page.get_by_label("Key", exact=True).fill(key)
        page.get_by_role("button", name="Use").click()
        shows(page, "second")
        playwright.expect(page.locator("tbody .name")).to_have_text(list(names))
    page.get_by_role("button", name="Forget key").click()
    page.get_by_label("Key", exact=True).fill("sk-client")
    page.get_by_role("button", name="Use").click()
    shows(page, "client")  # the refusal names the key


FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
# Of the lines between the lanes of the time line, most of what is left of it: 0 is black, 255 white.
BRIGHTNESS = """() => {
    const canvas = document.querySelector("canvas"), all = canvas.getContext("2d").getImageData(0, 30, 90, canvas.height - 30).data;
    const opaque = [];
    for (let at = 0; at < all.length; at += 4) if (all[at + 3] > 200) opaque.push(all[at]);
    return opaque.sort((a, b) => a - b)[opaque.length >> 1];
}"""


def test_the_time_line_is_drawn_anew_when_the_colours_change(hotseat: Hotseat, open_page: Open) -> None:
    """Not only at its next turn, which is up to a second away."""
    page = open_page(hotseat, color_scheme="light", expects=("willReadFrequently",))
    page.get_by_role("button", name="24 h", exact=True).click()
    page.evaluate(FRAMES)
    assert page.evaluate(BRIGHTNESS) > 128
    page.emulate_media(color_scheme="dark")
    page.evaluate(FRAMES)
    assert page.evaluate(BRIGHTNESS) < 128
    page.get_by_role("button", name="Colours: auto").click()
    page.evaluate(FRAMES)
    assert page.evaluate(BRIGHTNESS) > 128, "light"


def _keep_picture(page: Page, name: str) -> None:
    if folder := os.environ.get("HOTSEAT_TEST_SCREENSHOTS"):
        page.evaluate(FRAMES)
        page.screenshot(path=f"{folder}/{name}.png")
