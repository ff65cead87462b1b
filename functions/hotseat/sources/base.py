"""Sources of weights, and their cache.

Each remote source has its own directory in the cache: a lock, the files, and a marker that is
written last. Without the marker the source is incomplete, so a fetch may be killed at any time.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

LOCK = "lock"
FILES = "files"
MARKER = "done.json"
_FETCHED = ("hf", "ollama", "https", "http", "s3", "gs", "az", "oci")


_USER = re.compile(r"(?<=://)[^/\s]*@")
_QUERY = re.compile(r"(https?://[^\s?#]*)[?#]\S*?(?=[:;,)]*(?:\s|$))")


def redacted(text: str) -> str:
    """Return a source, or a text with URLs, without user information, queries and fragments, which may have keys."""
    return _QUERY.sub(r"\1", _USER.sub("", text))


class SourceError(Exception):
    """The weights cannot be fetched or read. `retryable`: the same call may succeed later.

    The message is for clients, events and logs, so it is `redacted`.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(redacted(message))
        self.retryable = retryable


def split(source: str) -> tuple[str, str]:
    """Return the scheme and the rest of a source; a plain path has the scheme `file`."""
    scheme, separator, rest = source.partition("://")
    return (scheme, rest) if separator else ("file", source)


def split_checksum(source: str) -> tuple[str, str | None]:
    """Return a source without its last part `#sha256=…`, and the digest. Raise SourceError if that part is none."""
    rest, separator, digest = source.rpartition("#sha256=")
    if not separator:
        if source.startswith("http") and "#" in source:
            raise SourceError(f"{source.partition('#')[0]}: the part after # must be sha256= and 64 hexadecimal digits")
        return source, None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise SourceError(f"{rest}: the part after # must be sha256= and 64 hexadecimal digits")
    return rest, digest.lower()


def cached(source: str, cache_dir: Path) -> Path | None:
    """Return the local path of a source; None if it must be fetched first. No network is used.

    Raise SourceError if a fetch would not help: a local path that does not exist or cannot be read,
    or an unsupported scheme.
    """
    scheme, rest = split(source)
    if scheme == "file":
        try:
            path = Path(rest).expanduser()
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise SourceError(f"source {source} does not exist") from None
        except (OSError, RuntimeError, ValueError) as error:  # no permission, a dead mount, no home directory
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
        path = folder / json.loads((folder / MARKER).read_bytes())["path"]
        return path if path.exists() else None
    except (OSError, ValueError, KeyError):
        return None


def entry(source: str, cache_dir: Path) -> Path:
    """Return the directory of a remote source in the cache. Its name is readable and unique."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.partition("#")[0].partition("?")[0]).strip("-.")
    return cache_dir.absolute() / f"{plain[-80:]}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def complete(source: str, cache_dir: Path, path: Path) -> None:
    """Mark a source as complete, at `path` inside its directory."""
    folder = entry(source, cache_dir)
    draft = folder / f"{MARKER}.new"
    draft.write_text(json.dumps({"source": source, "path": str(path.relative_to(folder))}))
    draft.replace(folder / MARKER)


def fetch_command(source: str, cache_dir: Path) -> tuple[str, ...]:
    """Return the command of a child process that fetches a source. It may be killed, and resumes when it runs again."""
    return (sys.executable, "-P", "-m", "hotseat.sources.fetch", source, "--cache", str(cache_dir))
