"""The web page in a real browser, against a real hotseat: each view, each action, keys, lost connections, a phone."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

from .conftest import Up
from .harness import PATIENCE, Hotseat, eventually, model, workspace

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"), pytest.mark.timeout(180)]

Page = playwright.Page
Open = Callable[..., Page]
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
        expected.extend((*expects, "/api/history/", "/api/gpus"))
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


def test_other_kinds_of_requests_are_sent_and_shown_as_curl(hotseat: Hotseat, open_page: Open) -> None:
    page = open_page(hotseat, "playground")
    page.get_by_label("Model").select_option("gemma")
    page.get_by_role("button", name="Embeddings").click()
    shows(page, "curl http://")
    page.get_by_role("button", name="Send").click()
    shows(page, '"embedding"')


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


def test_a_key_is_asked_for_once_and_kept_in_the_tab(up: Up, open_page: Open) -> None:
    hotseat = up(model("a"), options=("--api-key", "sk-secret"))
    page = open_page(hotseat, expects=("401",))
    page.get_by_label("Key", exact=True).fill("wrong")
    page.get_by_role("button", name="Use").click()
    shows(page, "This key is not valid")
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


def test_a_busy_box_says_who_waits_and_why(up: Up, open_page: Open) -> None:
    """Four models, two users, a failed load. With HOTSEAT_TEST_SCREENSHOTS=FOLDER, pictures of it are kept there."""
    hotseat = up(
        workspace(tenants={"header": "X-User"}),
        model("qwen3-8b", "--load-time", "1", "--tokens-per-second", "30", names=["qwen3:8b"]),
        model("gemma3-27b", "--load-time", "2", "--tokens-per-second", "20"),
        model("llama4-scout", "--load-time", "1", "--tokens-per-second", "40"),
        model("deepseek-r1", "--fault", "exit-loading"),
    )
    empty = open_page(hotseat)
    shows(empty, "Nothing is loaded")
    _keep_picture(empty, "empty")
    users = [{"X-User": name} for name in ("ada", "ben")]
    for number, name in enumerate(("qwen3-8b", "gemma3-27b", "deepseek-r1", "llama4-scout", "qwen3-8b")):
        hotseat.ask(name, max_tokens=20, headers=users[number % 2])
    calls = [hotseat.send("qwen3-8b", stream=True, max_tokens=100, headers=user) for user in users]
    for call in calls:
        call.begun()
    calls += [hotseat.send("gemma3-27b", stream=True, max_tokens=20, headers=user) for user in users]
    calls.append(hotseat.send("llama4-scout", max_tokens=20))
    eventually(lambda: hotseat.waiting() == 3)
    page = open_page(hotseat)
    shows(page, "the oldest for")
    shows(page, "the engine exited")
    playwright.expect(page.get_by_label("3 waiting")).to_be_visible()
    _keep_picture(page, "busy")
    page.emulate_media(color_scheme="dark")
    _keep_picture(page, "busy-dark")
    page.set_viewport_size({"width": 390, "height": 844})
    _keep_picture(page, "busy-phone")
    page.set_viewport_size({"width": 1280, "height": 860})
    page.goto(f"http://{hotseat.address}/ui/#/models/deepseek-r1")
    shows(page, "ExitedWhileLoading")
    _keep_picture(page, "failed-load")
    for call in calls:
        call.leave()


def _keep_picture(page: Page, name: str) -> None:
    if folder := os.environ.get("HOTSEAT_TEST_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")
