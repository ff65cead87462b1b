"""The web page in a real browser, from the router's port for admin routes: what the switcher does is seen there, in all Workspaces."""

import shutil
from collections.abc import Iterator

import pytest

from .harness import ADMIN_PORT, Hotseat, model, workspace

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.timeout(300),
]
SECONDS = 90


@pytest.fixture(scope="module", autouse=True)
def models(hotseat: Hotseat) -> None:
    hotseat.apply(workspace("second"), model("alpha"), model("beta"), model("gamma", workspace="second"))
    for name in ("alpha", "beta", "gamma"):
        hotseat.await_model(name)


@pytest.fixture
def page(hotseat: Hotseat) -> Iterator[playwright.Page]:
    """The page. Errors in its console fail the test."""
    errors: list[str] = []
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(1000 * SECONDS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                errors.append(f"{message.text} {message.location['url']}") if message.type == "error" else 0
            ),
        )
        page.goto(f"http://{hotseat.component('router')['status']['podIP']}:{ADMIN_PORT}/ui/#/models")
        yield page
        browser.close()
    assert errors == []


def state_of(page: playwright.Page, name: str) -> playwright.Locator:
    return page.locator("tr", has=page.get_by_role("link", name=name, exact=True)).locator(".state")


def test_models_of_all_workspaces_and_a_switch_are_seen(hotseat: Hotseat, page: playwright.Page) -> None:
    playwright.expect(page.locator("tbody .name")).to_have_text(["alpha", "beta", "gamma"])
    playwright.expect(page.locator("tbody tr", has_text="gamma")).to_contain_text("second")
    for name in ("alpha", "beta"):
        assert hotseat.served(name).status == 200
        playwright.expect(state_of(page, name)).to_have_text("ready", timeout=1000 * SECONDS)
    playwright.expect(state_of(page, "alpha")).to_have_text("unloaded", timeout=1000 * SECONDS)
    page.goto(page.url.replace("models", "switches"))
    playwright.expect(page.locator(".switch").first).to_contain_text("beta")


def test_each_view_works_without_an_error(hotseat: Hotseat, page: playwright.Page) -> None:
    assert hotseat.served("alpha").status == 200
    texts = {
        "": "Time line",
        "models/alpha": "Workspace",
        "requests": "alpha",
        "switches": "alpha",
        "logs": "Log",
        "events": "model.ready",
        "playground": "Chat",
        "settings": "Workspace second",
    }
    for view, text in texts.items():
        page.goto(page.url.partition("#")[0] + f"#/{view}")
        playwright.expect(page.locator("main")).to_contain_text(text, timeout=1000 * SECONDS)


def test_a_model_is_loaded_by_a_click(hotseat: Hotseat, page: playwright.Page) -> None:
    page.get_by_role("button", name="Load gamma", exact=True).click()
    playwright.expect(state_of(page, "gamma")).to_have_text("ready", timeout=1000 * SECONDS)
    assert hotseat.residents("second") == {"gamma": "ready"}
