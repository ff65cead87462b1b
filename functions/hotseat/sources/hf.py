"""hf://org/repo[/file, folder or glob][@revision]: files of a repository on a Hugging Face hub.

The hub's client library begins the download of a file anew if it is killed, so this makes the two HTTP requests
itself, or reads the file by Xet (`xet`). It uses HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH and HF_HOME as the library does.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3
from urllib3.exceptions import HTTPError

from hotseat.sources import xet
from hotseat.sources.base import SourceError, split
from hotseat.sources.download import Content, Interrupted, Progress, download, is_size
from hotseat.sources.http_client import RETRYABLE_STATUS, HttpFile, make_pool, parse_json, request

ENDPOINT = "https://huggingface.co"
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_SPLIT_GGUF = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class FileSelection:
    """Some files of one revision of a repository; an empty pattern: all."""

    repo: str
    pattern: str
    revision: str

    def matches(self, name: str) -> bool:
        """Whether a file is selected by its name, by a folder above it, or by a glob."""
        if not self.pattern:
            return True
        return name == self.pattern or name.startswith(f"{self.pattern}/") or fnmatchcase(name, self.pattern)


def parse(source: str) -> FileSelection:
    """Return the files that a source selects. Raise SourceError if it names no repository."""
    where, _, revision = split(source)[1].partition("@")
    parts = where.strip("/").split("/")
    if len(parts) < 2 or not all(parts) or ".." in parts:  # noqa: PLR2004
        raise SourceError(f"source {source}: expected hf://org/repo[/file][@revision]")
    return FileSelection("/".join(parts[:2]), "/".join(parts[2:]), revision or "main")


def fetch(source: str, folder: Path, progress: Progress) -> Path:
    """Fetch the files into `folder`; return the only file, the first file of a split model, or the folder."""
    selection = parse(source)
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
    headers = _headers(os.environ)
    pool = make_pool()
    listing = _listing(pool, endpoint, selection, headers)
    files = [file for file in listing["siblings"] if selection.matches(file["rfilename"])]
    if not files:
        raise SourceError(f"{selection.repo}@{selection.revision} has no file {selection.pattern}{_available(listing)}")
    sizes = [file.get("size") for file in files]
    progress.total = None if None in sizes else sum(sizes)
    # The commit is part of the path, so that files of different commits of a branch are never
    # mixed.
    sha = listing["sha"]
    storage = xet.XetStorage(f"{endpoint}/api/models/{selection.repo}/xet-read-token/{sha}", headers)
    for file in files:
        name = file["rfilename"]
        url = f"{endpoint}/{selection.repo}/resolve/{sha}/{quote(name, errors='replace')}"
        plain = HttpFile(pool, url, headers, file.get("size"), (file.get("lfs") or {}).get("sha256"))
        download(HubFile(plain, storage), folder, f"{sha}/{name}", progress.file(name))
    return _entry_point(folder / sha, selection, sorted(file["rfilename"] for file in files))


class HubFile:
    """A file of a hub. It comes by Xet if the hub has stored it so; if that fails, the rest comes by plain HTTP."""

    def __init__(self, plain: HttpFile, storage: xet.XetStorage) -> None:
        self.name, self.size, self.sha256 = plain.url, plain.size, plain.sha256
        self._plain = plain
        self._storage = storage

    @contextmanager
    def open(self, offset: int, validator: str | None) -> Iterator[Content]:
        """Request the bytes from `offset` on."""
        digest = self._xet_hash()
        if digest is None or self.size is None:
            with self._plain.open(offset, validator) as content:
                yield content
            return
        arrived = False

        def blocks(content: Content) -> Iterator[bytes]:
            nonlocal arrived
            for block in content.blocks:
                arrived = True
                yield block

        try:
            content = self._storage.open(digest, self.size, offset)
            yield replace(content, blocks=blocks(content))
        except Interrupted:
            self._storage.enabled = arrived
            raise

    def _xet_hash(self) -> str | None:
        """Return the hash of the file in Xet; None if it is not there. The hub tells it before it redirects."""
        if not self._storage.enabled or self.size is None or self.sha256 is None:
            return None
        try:
            response = self._plain.pool.request("HEAD", self.name, headers=dict(self._plain.headers), redirect=False)
        except (HTTPError, ValueError):
            return None  # the download tells the problem
        return xet.file_hash(response.headers)


def _entry_point(commit_dir: Path, selection: FileSelection, names: list[str]) -> Path:
    if not selection.pattern or (commit_dir / selection.pattern).is_dir():
        return commit_dir / selection.pattern
    parts_of_one = _SPLIT_GGUF.search(names[0]) and len({_SPLIT_GGUF.sub("", name) for name in names}) == 1
    return commit_dir / names[0] if len(names) == 1 or parts_of_one else commit_dir


def _listing(
    pool: urllib3.PoolManager, endpoint: str, selection: FileSelection, headers: Mapping[str, str]
) -> dict[str, Any]:
    url = f"{endpoint}/api/models/{selection.repo}/revision/{quote(selection.revision, safe='')}?blobs=true"
    response = request(pool, url, headers)
    if response.status in (401, 403, 404):
        known = (
            "does not exist, or HF_TOKEN has no access to it"
            if headers
            else "does not exist, or is private or gated (set HF_TOKEN)"
        )
        raise SourceError(f"{selection.repo}@{selection.revision} {known} ({endpoint} answered {response.status})")
    if response.status != 200:  # noqa: PLR2004
        raise SourceError(f"{endpoint} answered {response.status}", retryable=response.status in RETRYABLE_STATUS)
    listing = parse_json(response, url)
    if not _is_listing(listing):
        raise SourceError(f"{url} does not answer like a Hugging Face hub")
    return dict(listing)


def _is_listing(answer: Any) -> bool:
    """Whether an answer has a commit and files as a hub lists them. The commit is a part of paths and URLs."""
    if not isinstance(answer, dict) or not _COMMIT.fullmatch(str(answer.get("sha"))):
        return False
    files = answer.get("siblings")
    return isinstance(files, list) and all(isinstance(file, dict) and _is_file(file) for file in files)


def _is_file(file: dict[str, Any]) -> bool:
    size, lfs = file.get("size"), file.get("lfs") or {}
    return (
        isinstance(file.get("rfilename"), str)
        and (size is None or is_size(size))
        and isinstance(lfs, dict)
        and isinstance(lfs.get("sha256") or "", str)
    )


def _headers(env: Mapping[str, str]) -> dict[str, str]:
    token = env.get("HF_TOKEN", "").strip()
    if not token:
        home = Path(env.get("HF_HOME", "~/.cache/huggingface")).expanduser()
        try:
            token = Path(env.get("HF_TOKEN_PATH", home / "token")).expanduser().read_text().strip()
        except OSError:
            token = ""
    return {"Authorization": f"Bearer {token}"} if token else {}


def _available(listing: dict[str, Any]) -> str:
    names = sorted(file["rfilename"] for file in listing["siblings"])
    shown = [name for name in names if name.endswith(".gguf")] or names
    return f"; it has {', '.join(shown[:10])}" + (" …" if len(shown) > 10 else "")  # noqa: PLR2004
