"""Files that a Hugging Face hub stores by Xet: deduplicated chunks, which arrive over several connections at once.

HF_HUB_DISABLE_XET turns this off, as for the hub's client library.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hotseat.sources.download import Content, Interrupted

_HASH = re.compile(r"[0-9a-fA-F]{64}")
# Twice the largest block: the default is 1.5 GB, more than the memory of a small machine or a fetch Job.
_SETTINGS = {
    "telemetry.enabled": False,
    "client.connect_timeout": "10s",
    "client.read_timeout": "20s",
    "client.retry_max_attempts": 1,
    "reconstruction.download_buffer_size": "128mb",
    "reconstruction.download_buffer_limit": "128mb",
    "reconstruction.download_buffer_perfile_size": "64mb",
    "reconstruction.min_prefetch_buffer": "64mb",
    "reconstruction.min_reconstruction_fetch_size": "64mb",
}


def _allowed() -> bool:
    return os.environ.get("HF_HUB_DISABLE_XET", "").strip().upper() not in {"1", "ON", "YES", "TRUE"}


@dataclass(slots=True)
class XetStorage:
    """The storage of a hub. `token_url`: where the hub gives tokens for it, by the `headers`.

    `enabled`: files may come from it. It is turned off for all files of a fetch when it does not answer.
    """

    token_url: str
    headers: Mapping[str, str]
    enabled: bool = field(default_factory=_allowed)

    def open(self, digest: str, size: int, offset: int) -> Content:
        """Return the bytes of a file from `offset` on, by its hash. Raise Interrupted if the storage cannot be reached."""
        try:
            session, file_info = _session()
            group = session.new_download_stream_group(
                token_refresh_url=self.token_url, token_refresh_headers=dict(self.headers)
            )
            stream = group.download_stream(file_info(digest, size), start=offset)
        except Exception as error:  # the library has no class for its errors
            raise _interrupted(error) from None
        return Content(offset, _blocks(stream), total=size)


def file_hash(headers: Mapping[str, str]) -> str | None:
    """Return the hash that a hub states in the headers of a file; None if it is not stored by Xet."""
    stated = headers.get("X-Xet-Hash", "")
    return stated if _HASH.fullmatch(stated) else None


def _blocks(stream: Any) -> Iterator[bytes]:
    try:
        yield from stream
    except Exception as error:
        raise _interrupted(error) from None


def _interrupted(error: Exception) -> Interrupted:
    # The library's messages may have URLs that are signed.
    return Interrupted(f"Xet: {type(error).__name__}")


@cache
def _session() -> tuple[Any, Any]:
    # Otherwise it writes a log to the home directory, which is outside of the cache.
    os.environ.setdefault("HF_XET_LOG_DEST", os.devnull)
    import hf_xet  # noqa: PLC0415 - it reads the variable when it is imported

    config = hf_xet.XetConfig().with_config({**_SETTINGS, "log.dest": os.environ["HF_XET_LOG_DEST"]})
    return hf_xet.XetSession(config), hf_xet.XetFileInfo
