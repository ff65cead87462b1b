"""API keys. They are compared in constant time, not logged, and not sent to engines (the relay drops their headers)."""

import base64
import hmac
from collections.abc import Iterable, Mapping

from hotseat.core.errors import Unauthorized
from hotseat.gateway.http.request import Fields

# Browsers cannot set headers of a WebSocket's handshake. OpenAI's clients send the key as a subprotocol then.
SUBPROTOCOL_KEY = "openai-insecure-api-key."


class Keys:
    """A set of API keys. An empty set accepts every request."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys = [key.encode() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def check(self, headers: Mapping[str, str]) -> str:
        """Raise Unauthorized unless the headers, by lower-case name, have a valid key.

        It can be Bearer, Basic (as the password), x-api-key, or the subprotocol of a WebSocket that OpenAI's clients use.
        Return a name for the key that does not reveal it, such as `key-1` for the first key. Without keys,
        return an empty name.
        """
        if not self._keys:
            return ""
        given = _given(headers)
        if given is None:
            raise Unauthorized(
                "An API key is required. Send `Authorization: Bearer KEY` or `x-api-key: KEY`.", code="missing_api_key"
            )
        found = 0
        for number, key in enumerate(self._keys, start=1):  # compare all keys, so that the time reveals nothing
            found = max(found, number * hmac.compare_digest(key, given))
        if not found:
            raise Unauthorized("The API key is not valid.")
        return f"key-{found}"


def _given(headers: Mapping[str, str]) -> bytes | None:
    header = headers.get("authorization", "")
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return rest.strip().encode("latin-1")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except ValueError:  # binascii.Error among them
            return None
    key = headers.get("x-api-key")
    if not key:
        offered = (each.strip() for each in headers.get("sec-websocket-protocol", "").split(","))
        key = next((each.removeprefix(SUBPROTOCOL_KEY) for each in offered if each.startswith(SUBPROTOCOL_KEY)), None)
    return key.encode("latin-1") if key else None


def without_key(fields: Fields) -> Fields:
    """Drop the key that a browser has sent as a subprotocol of its WebSocket."""
    return tuple(field for each in fields for field in _kept(*each))


def _kept(name: bytes, value: bytes) -> Fields:
    if name.lower() != b"sec-websocket-protocol":
        return ((name, value),)
    offered = [each.strip() for each in value.split(b",")]
    kept = [each for each in offered if not each.startswith(SUBPROTOCOL_KEY.encode())]
    return ((name, b", ".join(kept)),) if kept else ()
