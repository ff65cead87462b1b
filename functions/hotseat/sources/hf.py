"""hf://org/repo[/file, folder or glob][@revision]: files of a repository on a Hugging Face hub.

Speaks the hub's two plain HTTP calls itself, because the hub's client library starts a broken download of a file all over again.
Honours HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH and HF_HOME as that library does.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3
from urllib3.exceptions import HTTPError

from hotseat.sources.base import SourceError, split
from hotseat.sources.download import Remote, download, make_pool
from hotseat.sources.progress import Progress

ENDPOINT = "https://huggingface.co"
_SPLIT_GGUF = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Some files of one revision of a repository; an empty pattern means all."""

    repo: str
    pattern: str
    revision: str

    def matches(self, name: str) -> bool:
        """Whether a file is one of them: by its name, by a folder above it, or by a glob."""
        if not self.pattern:
            return True
        return name == self.pattern or name.startswith(f"{self.pattern}/") or fnmatchcase(name, self.pattern)


def parse(source: str) -> Wanted:
    """Take the source apart; SourceError if it names no repository."""
    where, _, revision = split(source)[1].partition("@")
    parts = where.strip("/").split("/")
    if len(parts) < 2 or not all(parts) or ".." in parts:  # noqa: PLR2004
        raise SourceError(f"source {source}: expected hf://org/repo[/file][@revision]")
    return Wanted("/".join(parts[:2]), "/".join(parts[2:]), revision or "main")


def fetch(source: str, folder: Path, progress: Progress) -> Path:
    """Bring the wanted files into `folder`; return the one file, the first of a split one, or the folder."""
    wanted = parse(source)
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
    headers = _headers(os.environ)
    pool = make_pool()
    listing = _listing(pool, endpoint, wanted, headers)
    files = [file for file in listing["siblings"] if wanted.matches(file["rfilename"])]
    if not files:
        raise SourceError(f"{wanted.repo}@{wanted.revision} has no file {wanted.pattern}{_choice(listing)}")
    sizes = [file.get("size") for file in files]
    progress.total = None if None in sizes else sum(sizes)
    # The commit is part of the path: a revision that moves on never mixes with what was fetched before.
    here = folder / listing["sha"]
    for file in files:
        name = file["rfilename"]
        url = f"{endpoint}/{wanted.repo}/resolve/{listing['sha']}/{quote(name)}"
        remote = Remote(url, headers, file.get("size"), (file.get("lfs") or {}).get("sha256"))
        download(pool, remote, _inside(here, name), progress.file(name))
    return _entry_point(here, wanted, sorted(file["rfilename"] for file in files))


def _entry_point(here: Path, wanted: Wanted, names: list[str]) -> Path:
    if not wanted.pattern or (here / wanted.pattern).is_dir():
        return here / wanted.pattern
    parts_of_one = _SPLIT_GGUF.search(names[0]) and len({_SPLIT_GGUF.sub("", name) for name in names}) == 1
    return here / names[0] if len(names) == 1 or parts_of_one else here


def _listing(pool: urllib3.PoolManager, endpoint: str, wanted: Wanted, headers: Mapping[str, str]) -> dict[str, Any]:
    url = f"{endpoint}/api/models/{wanted.repo}/revision/{quote(wanted.revision, safe='')}?blobs=true"
    try:
        response = pool.request("GET", url, headers=dict(headers))
    except HTTPError as error:
        raise SourceError(f"{endpoint} cannot be reached: {error}", retryable=True) from error
    if response.status in (401, 403, 404):
        known = (
            "does not exist, or HF_TOKEN has no access to it"
            if headers
            else "does not exist, or is private or gated (set HF_TOKEN)"
        )
        raise SourceError(f"{wanted.repo}@{wanted.revision} {known} ({endpoint} answered {response.status})")
    if response.status != 200:  # noqa: PLR2004
        raise SourceError(f"{endpoint} answered {response.status}", retryable=True)
    try:
        listing: dict[str, Any] = json.loads(response.data)
        if isinstance(listing["siblings"], list) and isinstance(listing["sha"], str):
            return listing
    except (ValueError, KeyError, TypeError):
        pass
    raise SourceError(f"{endpoint} does not answer like a Hugging Face hub")


def _headers(env: Mapping[str, str]) -> dict[str, str]:
    token = env.get("HF_TOKEN", "").strip()
    if not token:
        home = Path(env.get("HF_HOME", "~/.cache/huggingface")).expanduser()
        try:
            token = Path(env.get("HF_TOKEN_PATH", home / "token")).expanduser().read_text().strip()
        except OSError:
            token = ""
    return {"Authorization": f"Bearer {token}"} if token else {}


def _inside(folder: Path, name: str) -> Path:
    """Path of a listed file; a hub must not write elsewhere."""
    if name.startswith("/") or ".." in name.split("/"):
        raise SourceError(f"the hub lists a file {name!r}, which lies outside the repository")
    return folder / name


def _choice(listing: dict[str, Any]) -> str:
    names = sorted(file["rfilename"] for file in listing["siblings"])
    shown = [name for name in names if name.endswith(".gguf")] or names
    return f"; it has {', '.join(shown[:10])}" + (" …" if len(shown) > 10 else "")  # noqa: PLR2004
