"""Where weights come from, and where they are kept once they are here.

Each remote source has one folder of its own in the cache: a lock, the files, and a note that is written last. Only the note
makes it complete, so that a fetch may be killed at any point.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

LOCK = "lock"
FILES = "files"
_NOTE = "done.json"
_FETCHED = ("hf", "https", "http", "ollama", "s3")


class SourceError(Exception):
    """The weights cannot be had; `retryable` says whether the same call may succeed later."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


def split(source: str) -> tuple[str, str]:
    """Scheme and the rest of a source; a plain path has the scheme `file`."""
    scheme, separator, rest = source.partition("://")
    return (scheme, rest) if separator else ("file", source)


def cached(source: str, cache_dir: Path) -> Path | None:
    """Local path of a source, or None if it must be fetched first. No network.

    SourceError: no fetch will ever bring it (a local path that does not exist or cannot be looked at, a scheme that one machine
    cannot serve).
    """
    scheme, rest = split(source)
    if scheme == "file":
        try:
            path = Path(rest).expanduser()
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise SourceError(f"source {source} does not exist") from None
        except (
            OSError,
            RuntimeError,
            ValueError,
        ) as error:  # a folder that may not be entered, a dead mount, no home folder
            reason = getattr(error, "strerror", None) or error
            raise SourceError(f"source {source} cannot be read: {reason}") from None
        return path.absolute()
    if scheme == "pvc":
        raise SourceError(f"source {source}: pvc:// needs a cluster; on one machine use a path")
    if scheme not in _FETCHED:
        raise SourceError(
            f"source {source}: {scheme}:// cannot be fetched; use {', '.join(s + '://' for s in _FETCHED)} or a path"
        )
    folder = entry(source, cache_dir)
    try:
        path = folder / json.loads((folder / _NOTE).read_bytes())["path"]
        return path if path.exists() else None
    except (OSError, ValueError, KeyError):
        return None


def entry(source: str, cache_dir: Path) -> Path:
    """Folder of a remote source in the cache: named so that a person recognises it, and unique."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.partition("#")[0].partition("?")[0]).strip("-.")
    return cache_dir.absolute() / f"{plain[-80:]}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def complete(source: str, cache_dir: Path, path: Path) -> None:
    """Note that a source is all there, at `path` inside its folder."""
    folder = entry(source, cache_dir)
    draft = folder / f"{_NOTE}.new"
    draft.write_text(json.dumps({"source": source, "path": str(path.relative_to(folder))}))
    draft.replace(folder / _NOTE)


def fetch_command(source: str, cache_dir: Path) -> tuple[str, ...]:
    """Command of a child that fetches a source: progress as JSON lines, may be killed, resumes when it runs again."""
    return (sys.executable, "-P", "-m", "hotseat.sources.fetch", source, "--cache", str(cache_dir))
