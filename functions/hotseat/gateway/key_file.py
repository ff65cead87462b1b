"""The file with API keys: a list of keys with their rights, as YAML or JSON, or one key a line. It may be a mounted Secret.

No message has any part of a key.
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from hotseat.api.types import Document
from hotseat.gateway.auth import ANY, ApiKey, Keys, Operation, digest_of, plain
from hotseat.gateway.watched_files import watch

log = logging.getLogger(__name__)

HASH = "sha256:"
_YAML = re.compile(r"-(\s|$|--)|[\[{%&!]")  # the beginning of a list of keys
NAME_PATTERN = "^[A-Za-z0-9]([A-Za-z0-9._@-]{0,98}[A-Za-z0-9])?$"
HASH_PATTERN = f"^{HASH}[0-9a-f]{{64}}$"


class KeyFileError(RuntimeError):
    """The file cannot be used. The message says why."""


class KeyEntry(Document):
    """One key of a file."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    hash: Annotated[str, Field(pattern=HASH_PATTERN)] | None = None
    key: Annotated[str, Field(min_length=1)] | None = None
    models: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = (ANY,)
    operations: Annotated[tuple[Operation, ...], Field(min_length=1)] = tuple(Operation)
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None
    weight: Annotated[int, Field(ge=1, le=1000, strict=True)] = 1

    @model_validator(mode="after")
    def _has_one(self) -> "KeyEntry":
        if (self.hash is None) == (self.key is None):
            raise ValueError("exactly one of hash and key must be set")
        return self

    @property
    def api_key(self) -> ApiKey:
        """Return the key as the gateway uses it."""
        digest = bytes.fromhex((self.hash or hash_of(self.key or "")).removeprefix(HASH))
        return ApiKey(
            self.name,
            digest,
            self.models,
            frozenset(self.operations),
            self.requests_per_minute,
            self.concurrency,
            self.weight,
        )


_ENTRIES = TypeAdapter(tuple[KeyEntry, ...])


def hash_of(key: str) -> str:
    """Return what a file has of a key."""
    return HASH + digest_of(key.encode()).hex()


def is_plain(text: str) -> bool:
    """Whether a file has one key a line, or nothing."""
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return not _YAML.match(first)


def parse_entries(text: str) -> tuple[KeyEntry, ...]:
    """Return the keys of a list. Raise KeyFileError if it is not valid."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" in line {mark.line + 1}"
        raise KeyFileError(f"is not valid YAML{line}") from None
    try:
        entries = _ENTRIES.validate_python(() if found is None else found)
    except ValidationError as error:
        raise KeyFileError("; ".join(_told(found, each) for each in error.errors(include_input=False))) from None
    if twice := _doubled(each.name for each in entries):
        raise KeyFileError(f"has the name {twice} twice")
    if _doubled(each.api_key.digest.hex() for each in entries):
        raise KeyFileError("has one key twice, with different names")
    return entries


def _told(found: Any, error: Any) -> str:
    """Return what is wrong with an entry, without its values."""
    where, *fields = error["loc"] or ("",)
    if not isinstance(found, list):
        return "is neither a list of keys nor one key a line"
    field = f".{'.'.join(map(str, fields))}" if fields else ""
    return f"[{where}]{field}: {error['msg'].removeprefix('Value error, ')}"


def parse(text: str, first: int = 1) -> tuple[list[ApiKey], list[str]]:
    """Return the keys of a file, and the names of those in a list that are not hashed. Raise KeyFileError if it is not valid.

    Keys of a file with one key a line are named by numbers from `first`.
    """
    if is_plain(text):
        lines = [line.strip() for line in text.splitlines()]
        keys = [line for line in lines if line and not line.startswith("#")]
        if any(
            key != "".join(key.split()) or key.endswith(":") for key in keys
        ):  # else a misread list would be keys that fit all
            raise KeyFileError(
                "is neither a list of keys nor one key a line: a key has no blanks and no colon at its end"
            )
        return [plain(key, number) for number, key in enumerate(keys, start=first)], []
    entries = parse_entries(text)
    if not entries:
        raise KeyFileError("contains no key")
    return [each.api_key for each in entries], [each.name for each in entries if each.key is not None]


class KeySource:
    """Where keys come from: `given` ones, and a file, which is read again when it changes. `optional`: the file may be missing at first.

    `report` gets messages.
    """

    def __init__(self, given: Sequence[str] = (), path: Path | None = None, *, optional: bool = False) -> None:
        self._given, self._path, self._optional = tuple(given), path, optional
        self.keys = Keys()
        self.report: Callable[[str], None] = log.warning
        self._changed: Callable[[], None] = _nothing

    def read(self) -> None:
        """Read the keys. Raise KeyFileError, and keep the present keys, if the file cannot be used."""
        found, unhashed = [plain(key, number) for number, key in enumerate(self._given, start=1)], list[str]()
        if self._path is not None:
            try:
                more, unhashed = self._read_file(self._path, len(found) + 1)
            except UnicodeDecodeError:
                raise KeyFileError(f"{self._path} is not UTF-8 text") from None
            except OSError as error:
                raise KeyFileError(f"{self._path} cannot be read: {error.strerror or error}") from None
            except KeyFileError as error:
                raise KeyFileError(f"{self._path} {error}") from None
            found += more
        if twice := _doubled(each.name for each in found):
            raise KeyFileError(f"{self._path} has a key of the name {twice}, which another key has")
        rights: dict[bytes, ApiKey] = {}
        for each in found:
            if replace(rights.setdefault(each.digest, each), name=each.name) != each:
                raise KeyFileError(
                    f"{self._path} has the key {each.name}, which --api-key or HOTSEAT_API_KEY allows everything: give it in one place"
                )
        if found != list(self.keys.table.entries):
            self.keys.replace(found)
            self._changed()
            for name in unhashed:
                log.warning(
                    "API key %s is stored as it is, not as a hash: replace it by one of `hotseat key new`", name
                )

    def _read_file(self, path: Path, first: int) -> tuple[list[ApiKey], list[str]]:
        may_be_empty = self._optional and not self.keys
        if may_be_empty and not path.exists():
            return [], []
        found = parse(path.read_text("utf-8-sig"), first)
        if not found[0] and not may_be_empty:
            raise KeyFileError("contains no key")
        return found

    def reload(self) -> None:
        """Read the keys again. If that is not possible, report why: the present keys stay valid."""
        before = self.keys.table
        try:
            self.read()
        except KeyFileError as error:
            self.report(f"API keys not reloaded; the previous keys stay valid: {error}")
            return
        if self.keys.table is not before:
            self.report(f"API keys reloaded: {len(self.keys.table.entries)} keys, {len(before.entries)} before")

    def watch(self, changed: Callable[[], None], *, poll: bool = True) -> None:
        """Call `changed` now, and when the keys have changed. With `poll`, read the file when it changes, from now on."""
        self._changed = changed
        changed()
        if self._path is not None and poll:
            watch([self._path], self.reload, "api-keys")


def _nothing() -> None:
    """No-op default."""


def _doubled(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for each in names:
        if each in seen:
            return each
        seen.add(each)
    return None
