"""https:// (and http://): one file. A fragment `#sha256=…` is checked."""

import posixpath
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hotseat.sources.base import SourceError
from hotseat.sources.download import Progress, RemoteFile, download, make_pool


def fetch(source: str, folder: Path, progress: Progress) -> Path:
    """Fetch the file into `folder` and return its path."""
    url, _, fragment = source.partition("#")
    sha256 = None
    if fragment:
        match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
        if match is None:
            raise SourceError(f"{url}: the part after # must be sha256= and 64 hexadecimal digits")
        sha256 = match[1]
    try:
        name = posixpath.basename(unquote(urlsplit(url).path)) or "download"
    except ValueError:
        raise SourceError(f"source {url} is not a valid URL") from None
    return download(make_pool(), RemoteFile(url, sha256=sha256), folder, name, progress.file(name))
