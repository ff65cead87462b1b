"""The site of the documentation: it builds without a warning, its links lead somewhere, and it loads nothing from another host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


class Html(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and "canonical" not in values.get("rel", ""):
            self.loaded.append(values.get("href", ""))
        elif "src" in values:
            self.loaded.append(values["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Html]:
    return {path: Html(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}


def problem(link: str, page: Path, site: Path, pages: dict[Path, Html]) -> str:
    """What is wrong with a link. Empty: nothing. Of another host only the shape is looked at."""
    parts = urlsplit(link)
    if parts.scheme:
        return "" if parts.scheme == "https" and "." in parts.netloc else "is no https URL of a host"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path not in ("", ".") else page
    target = target / "index.html" if target.is_dir() else target
    if not target.is_relative_to(site) or not target.is_file():
        return "leads nowhere"
    if parts.fragment and target.suffix == ".html":
        return "" if unquote(parts.fragment) in pages[target].anchors else "has no such anchor"
    return ""


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Html]) -> None:
    assert len(pages) >= len(list(DOCS.rglob("*.md")))
    found = {
        f"{path.relative_to(site)}: {link}": problem(link, path, site.resolve(), pages)
        for path, page in pages.items()
        for link in page.links
    }
    assert len(found) > 1000
    assert {link: what for link, what in found.items() if what} == {}


def test_it_loads_nothing_from_another_host(site: Path, pages: dict[Path, Html]) -> None:
    for path, page in pages.items():
        for link in page.loaded:
            parts = urlsplit(link)
            assert not parts.netloc, (path, link)
            assert not parts.path or (path.parent / unquote(parts.path)).exists(), (path, link)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text(encoding="utf-8")), style


def test_every_page_is_in_the_navigation_once() -> None:
    named = re.findall(r"(?:: |- )(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")) == sorted(named)
