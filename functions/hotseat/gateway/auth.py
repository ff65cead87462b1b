"""API keys: who sends a request, and what that key may do.

Keys are compared in constant time, by their hashes. They are not logged, and not sent to engines (the relay drops their headers).
"""

import base64
import hmac
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl

from hotseat.core.errors import Forbidden, Unauthorized, shortened
from hotseat.gateway.http.request import Fields
from hotseat.gateway.key_limits import KeyLimits

# Browsers cannot set headers of a WebSocket's handshake. OpenAI's clients send the key as a subprotocol then.
SUBPROTOCOL_KEY = "openai-insecure-api-key."
HEADERS = (
    "x-api-key",
    "api-key",
)  # Anthropic's and llama.cpp's clients send the first, those of Azure's API the second
ANY = "*"
MOST_PARAMETERS = 100  # of a query in which a key is looked for


class Operation(StrEnum):
    """What a key can be allowed to do."""

    INFER = "infer"  # send requests to models, and list models
    READ = "read"  # read the state: what runs and waits, switches, metrics, events; list models
    OPERATE = "operate"  # change the state, and read what has prompts: logs, captured bodies, pages of engines


INFER, READ, OPERATE = Operation
EVERYTHING = frozenset(Operation)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key: its name, its SHA-256, and what it may do. `models` are shell patterns of names of Models.

    A slow hash would protect a password that can be guessed. A key of 256 random bits cannot be.
    """

    name: str
    digest: bytes = b""
    models: tuple[str, ...] = (ANY,)
    operations: frozenset[Operation] = EVERYTHING
    requests_per_minute: int | None = None
    concurrency: int | None = None
    weight: int = 1

    @property
    def has_all_models(self) -> bool:
        """Whether it may use each Model."""
        return ANY in self.models

    def may(self, operations: Collection[Operation]) -> bool:
        """Whether it may do one of these."""
        return not self.operations.isdisjoint(operations)

    def check(self, operations: Collection[Operation], path: str) -> None:
        """Raise Forbidden unless it may do one of these. `path` is that of the request."""
        if not self.may(operations):
            needed = " or ".join(operations)
            raise Forbidden(
                f"The API key {self.name} may not use {shortened(path)}, which needs the operation {needed}. Add it to `operations` of "
                "the key, or use another key.",
                code="operation_not_allowed",
            )

    def allows(self, names: Iterable[str]) -> bool:
        """Whether it may use a Model that has these names."""
        return self.has_all_models or any(fnmatchcase(name, pattern) for name in names for pattern in self.models)

    def check_model(self, name: str | None, names: Iterable[str] = ()) -> None:
        """Raise Forbidden unless it may use the Model that a client calls `name`, and that has `names`.

        Whether the Model exists does not matter, so that nothing is told of others. `name` None: the client names none.
        """
        if not self.allows(names if name is None else (name, *names)):
            model = "the Model for requests without `model`" if name is None else f"the model `{shortened(name)}`"
            raise Forbidden(
                f"The API key {self.name} may not use {model}. GET /v1/models lists the models that it may use.",
                code="model_not_allowed",
                param="model",
            )


ANYBODY: Final = ApiKey("")  # where no key is required


@dataclass(frozen=True, slots=True)
class KeyTable:
    """Keys that are valid at one time, and their limits by name."""

    entries: tuple[ApiKey, ...] = ()
    limits: Mapping[str, KeyLimits] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: the key, its limits (None: there are none), and the table in which it was found."""

    key: ApiKey
    limits: KeyLimits | None
    table: KeyTable


class Keys:
    """A set of API keys. An empty set accepts every request. Plain texts are keys that may do everything: `key-1`, `key-2`, ….

    `table` is replaced as a whole. Requests that are served keep the key with which they came.
    """

    def __init__(self, keys: Iterable[str | ApiKey] = ()) -> None:
        self.table = KeyTable()
        self.replace(plain(key, number) if isinstance(key, str) else key for number, key in enumerate(keys, start=1))

    def __bool__(self) -> bool:
        return bool(self.table.entries)

    def replace(self, entries: Iterable[ApiKey]) -> None:
        """Replace all keys. What a key of the same name has used of the same limits stays used."""
        entries, limits = tuple(entries), dict[str, KeyLimits]()
        for each in entries:
            if each.requests_per_minute is None and each.concurrency is None:
                continue
            wanted = each.requests_per_minute, each.concurrency
            known = self.table.limits.get(each.name)
            limits[each.name] = known if known is not None and known.limits == wanted else KeyLimits(each.name, *wanted)
        self.table = KeyTable(entries, limits)

    @property
    def weights(self) -> Mapping[str, int]:
        """Return the weights of keys in the fair share, by name."""
        return {each.name: each.weight for each in self.table.entries if each.weight != 1}

    def check(self, headers: Mapping[str, str], query: str = "") -> Caller:
        """Return who sends a request. Raise Unauthorized unless its headers, by lower-case name, have a valid one.

        It can be Bearer, Basic (as the password), x-api-key, api-key, or the subprotocol of a WebSocket that OpenAI's clients use. If
        there are several, the first valid one counts. Without keys, it is ANYBODY. A key in the query is refused in any case.
        """
        table = self.table
        if not table.entries:
            return Caller(ANYBODY, None, table)
        if query.count("&") < MOST_PARAMETERS and any(
            _find(table, value.encode("utf-8", "replace")) for _, value in parse_qsl(query)
        ):
            raise Unauthorized(
                "An API key must not be part of the URL, which programs log. Send it in a header, and replace the key.",
                code="api_key_in_url",
            )
        given = list(_given(headers))
        if not given:
            raise Unauthorized(
                "An API key is required. Send `Authorization: Bearer KEY` or `x-api-key: KEY`.", code="missing_api_key"
            )
        found = [key for each in given if (key := _find(table, each)) is not None]
        if not found:
            raise Unauthorized("The API key is not valid.")
        return Caller(found[0], table.limits.get(found[0].name), table)


def _find(table: KeyTable, key: bytes) -> ApiKey | None:
    digest, found = digest_of(key), None
    for each in table.entries:  # compare all keys, so that the time reveals nothing
        if hmac.compare_digest(each.digest, digest) and found is None:
            found = each
    return found


def digest_of(key: bytes) -> bytes:
    """Return the hash by which a key is known."""
    return sha256(key).digest()


def plain(key: str, number: int) -> ApiKey:
    """Return a key that may do everything. It is named by its number."""
    return ApiKey(f"key-{number}", digest_of(key.encode()))


def _given(headers: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the keys in the headers of a request."""
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        yield rest.strip().encode("latin-1")
    elif scheme.lower() == "basic":
        with suppress(ValueError):  # binascii.Error among them
            yield base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
    for name in HEADERS:
        if key := headers.get(name):
            yield key.encode("latin-1")
    offered = (each.strip() for each in headers.get("sec-websocket-protocol", "").split(","))
    for each in offered:
        if each.startswith(SUBPROTOCOL_KEY) and each != SUBPROTOCOL_KEY:
            yield each.removeprefix(SUBPROTOCOL_KEY).encode("latin-1")


def without_key(fields: Fields) -> Fields:
    """Drop the key that a browser has sent as a subprotocol of its WebSocket."""
    return tuple(field for each in fields for field in _kept(*each))


def _kept(name: bytes, value: bytes) -> Fields:
    if name.lower() != b"sec-websocket-protocol":
        return ((name, value),)
    offered = [each.strip() for each in value.split(b",")]
    kept = [each for each in offered if not each.startswith(SUBPROTOCOL_KEY.encode())]
    return ((name, b", ".join(kept)),) if kept else ()
