"""https://host/path and http://: one file."""

import posixpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hotseat.sources.base import SourceError, split_checksum
from hotseat.sources.download import Progress, download
from hotseat.sources.http_client import HttpFile, make_pool


def fetch(source: str, folder: Path, progress: Progress) -> Path:
    """Fetch the file into `folder` and return its path."""
    url, sha256 = split_checksum(source)
    try:
        name = posixpath.basename(unquote(urlsplit(url).path)) or "download"
    except ValueError:
        raise SourceError(f"source {url} is not a valid URL") from None
    return download(HttpFile(make_pool(), url, sha256=sha256), folder, name, progress.file(name))
