"""Stores of objects: s3://bucket/key, gs://bucket/key, az://container/key; with a final slash all objects below it.

The client is obstore. Its settings are the environment variables of the stores' own tools: AWS_…, GOOGLE_… and
AZURE_…. AWS_ENDPOINT_URL is the URL of another store (MinIO, Ceph …).
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from hotseat.sources.base import SourceError, split, split_checksum
from hotseat.sources.download import CHUNK, Content, FileChanged, Interrupted, Progress, download
from hotseat.sources.http_client import RETRYABLE_STATUS

# A download may take any time, but not between two blocks. A repetition is the concern of `download`.
_CLIENT: Final = {"connect_timeout": "10s", "read_timeout": "30s", "timeout": "1000h"}
_RETRIES: Final = {"max_retries": 0}
# Without one of these, requests are unsigned, as for a public bucket. …_SKIP_SIGNATURE=false: use the identity of the machine.
_CREDENTIALS: Final[Mapping[str, tuple[str, ...]]] = {
    "AWS": (
        "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ),
    "GOOGLE": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY"),
    "AZURE": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_TOKEN", "AZURE_CLIENT_ID"),
}  # fmt: skip
_STATUS: Final = re.compile(r"status code: (\d{3})")


def fetch(source: str, folder: Path, progress: Progress) -> Path:
    """Fetch the objects into `folder`; return the file or the folder."""
    address, sha256 = split_checksum(source)
    scheme, rest = split(address)
    bucket, _, key = rest.partition("/")
    if not bucket or not key:
        raise SourceError(f"source {source}: expected {scheme}://bucket/key, or {scheme}://bucket/folder/")
    is_folder = key.endswith("/")
    if is_folder and sha256:
        raise SourceError(f"source {address}: a folder has no sha256")
    store = _store(scheme, bucket, source)
    objects = list(_list(store, key, source)) if is_folder else [(key, None)]
    if not objects:
        raise SourceError(f"{source} holds no objects")
    if is_folder:
        progress.total = sum(size for _, size in objects if size)
    for name, size in objects:
        if size == 0 and _is_folder_marker(store, name):
            continue
        # Objects of a folder keep their relative paths; a single object keeps its base name only.
        inside = name.removeprefix(key) if is_folder else name.rpartition("/")[2]
        remote = StoredObject(store, name, f"{scheme}://{bucket}/{name}", size, sha256)
        target = download(remote, folder, inside, progress.file(inside.rpartition("/")[2]))
    return folder if is_folder else target


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a store. `size` is None if it was not listed."""

    store: ObjectStore
    key: str
    name: str
    size: int | None = None
    sha256: str | None = None

    @contextmanager
    def open(self, offset: int, validator: str | None) -> Iterator[Content]:
        """Request the bytes from `offset` on."""
        options: Any = {"range": {"offset": offset}} if offset else {}
        if offset and validator:
            options["if_match"] = validator
        with _explained(self.name):
            content = self._complete_at(offset, validator) if offset and validator else None
            if content is None:
                found = obstore.get(self.store, self.key, options=options)
                total, tag = found.meta["size"], found.meta.get("e_tag")
                content = Content(found.range[0], self._blocks(found), total=total, validator=tag)
        yield content

    def _complete_at(self, offset: int, validator: str) -> Content | None:
        """Return content without bytes if all of the object is here: a store refuses to send what is after the end."""
        meta = obstore.head(self.store, self.key)
        is_all = (meta["size"], meta.get("e_tag")) == (offset, validator)
        return Content(offset, (), total=offset, validator=validator) if is_all else None

    def _blocks(self, found: Any) -> Iterator[bytes]:
        with _explained(self.name):
            yield from found.stream(min_chunk_size=CHUNK)


def _store(scheme: str, bucket: str, source: str) -> ObjectStore:
    """Return the client for a bucket. The library reads the environment too."""
    env = os.environ
    try:
        if scheme == "gs":
            return GCSStore(
                bucket, **_settings("GOOGLE", env.get("GOOGLE_BASE_URL")), **_given(base_url=env.get("GOOGLE_BASE_URL"))
            )
        if scheme == "az":
            return AzureStore(bucket, **_settings("AZURE", env.get("AZURE_STORAGE_ENDPOINT")))
        endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
        region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
        return S3Store(bucket, **_settings("AWS", endpoint), **_given(endpoint=endpoint, region=region))
    except (BaseError, ValueError) as error:
        raise SourceError(f"source {source}: the settings of the store are not valid: {_first_line(error)}") from None


def _settings(prefix: str, endpoint: str | None) -> dict[str, Any]:
    plain = (endpoint or "").startswith("http://")
    settings: dict[str, Any] = {"client_options": {**_CLIENT, "allow_http": plain}, "retry_config": _RETRIES}
    signed = any(os.environ.get(name) for name in _CREDENTIALS[prefix])
    if not signed and f"{prefix}_SKIP_SIGNATURE" not in os.environ:
        settings["skip_signature"] = True
    return settings


def _given(**settings: str | None) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value}


def _list(store: ObjectStore, prefix: str, source: str) -> Iterator[tuple[str, int]]:
    """Yield keys and sizes below a prefix."""
    try:
        with _explained(source):
            for page in obstore.list(store, prefix):
                yield from ((each["path"], each["size"]) for each in page)
    except Interrupted as error:
        raise SourceError(f"{source}: {error}", retryable=True) from None


def _is_folder_marker(store: ObjectStore, name: str) -> bool:
    """Whether an empty object is one that some tools create for a folder. The library lists it without its last slash."""
    try:
        obstore.head(store, name)
    except FileNotFoundError:
        return True
    except BaseError:
        pass  # the download tells the problem
    return False


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Raise errors of the library as ours. Its own messages have the answer of the store, which may have keys."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{name} answered 404: no such object") from None
    except PreconditionError:
        raise FileChanged("the partial file does not match the object") from None
    except (PermissionDeniedError, UnauthenticatedError):
        raise SourceError(f"{name}: the store allows no access; credentials with access are required") from None
    except ValueError as error:
        raise SourceError(f"{name}: {_first_line(error)}") from None
    except InvalidPathError:
        raise SourceError(
            f"{name}: an object's name has no valid path, so that it would be outside of its folder"
        ) from None
    except BaseError as error:
        found = _STATUS.search(str(error))
        status = int(found[1]) if found else None
        if status == 416:  # noqa: PLR2004
            raise FileChanged("the partial file is longer than the object") from None
        if status in RETRYABLE_STATUS or "HTTP error" in str(error):
            raise Interrupted(
                f"answered {status}" if status else "the store cannot be reached, or has ended its answer"
            ) from None
        raise SourceError(
            f"{name} answered {status}" if status else f"{name}: the store's answer cannot be read"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
