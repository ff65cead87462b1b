"""The web page: served without a key, from this host alone, and as its sources say."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from .test_admin_port import gateway

ROOT = Path(__file__).parents[3]
STATIC = ROOT / "functions/hotseat/ui/static"
PARTS = sorted(part.name for part in STATIC.iterdir())


def test_the_page_has_all_its_parts_and_they_are_of_this_host() -> None:
    client = gateway(None).test_client()
    page = client.get("/ui/")
    assert (page.status_code, page.mimetype) == (200, "text/html")
    named = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert {name.removeprefix("static/") for name in named} == {"app.js", "style.css", "icon.svg"}
    for name in PARTS:
        part = client.get(f"/ui/static/{name}")
        assert part.status_code == 200
        assert not re.search(r"""(?:src|href|url|import)\W{1,4}https?://""", part.text)


def test_nothing_but_its_own_files_may_run_or_be_loaded() -> None:
    page = gateway(None).test_client().get("/ui/")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]* src=)|<style|style=|onclick=", page.text)
    assert "Set-Cookie" not in page.headers
    assert page.headers["X-Content-Type-Options"] == "nosniff"


def test_it_is_small() -> None:
    assert sum(len(gzip.compress((STATIC / name).read_bytes())) for name in PARTS) <= 300_000


@pytest.mark.parametrize("name", ["absent.js", "..%2Findex.html", "index.html%00"])
def test_nothing_else_is_served(name: str) -> None:
    assert gateway(None).test_client().get(f"/ui/static/{name}").status_code == 404


def test_the_address_without_a_slash_leads_to_it_behind_any_prefix() -> None:
    answer = gateway(None).test_client().get("/ui")
    assert (answer.status_code, answer.headers["Location"]) == (308, "ui/")


def test_a_part_that_has_not_changed_is_not_sent_again() -> None:
    client = gateway(None).test_client()
    tag = client.get("/ui/static/app.js").headers["ETag"]
    again = client.get("/ui/static/app.js", headers={"If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")


def test_it_is_built_from_the_sources_that_are_here() -> None:
    """`scripts/ui` writes the digest of its sources. Where Node is, `scripts/ui --check` builds them again."""
    sources = sorted((*(ROOT / "ui/src").iterdir(), ROOT / "ui/build.mjs", ROOT / "ui/package-lock.json"))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    assert json.loads((ROOT / "functions/hotseat/ui/sources.json").read_text())["sha256"] == digest.hexdigest()
