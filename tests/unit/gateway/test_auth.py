"""Keys: every form in which one may come, and none that opens by accident."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotseat.core.errors import Unauthorized
from hotseat.gateway.auth import Keys
from hotseat.gateway.errors import api_kind

KEYS = Keys(["sk-one", "sk-zwö"])


def bearer(key: bytes) -> dict[str, str]:
    return {"authorization": "Bearer " + key.decode("latin-1")}


def test_without_keys_everybody_comes_in() -> None:
    assert Keys().check({}).key.name == "", "and nobody has a name"
    assert not Keys()
    assert KEYS


@pytest.mark.parametrize("key", ["sk-one", "sk-zwö"])
def test_each_key_in_each_form(key: str) -> None:
    raw = key.encode()
    name = {"sk-one": "key-1", "sk-zwö": "key-2"}[key]
    assert KEYS.check(bearer(raw)).key.name == name
    assert KEYS.check({"x-api-key": raw.decode("latin-1")}).key.name == name
    assert KEYS.check({"authorization": "basic " + base64.b64encode(b"who:" + raw).decode()}).key.name == name


@given(st.binary(max_size=20), st.sampled_from(["Bearer ", "Basic ", "Digest ", ""]))
def test_nothing_else_opens(given_: bytes, scheme: str) -> None:
    header = given_.decode("latin-1").replace("\n", "").replace("\r", "")
    for headers in ({"authorization": scheme + header}, {"x-api-key": header}, {}):
        with pytest.raises(Unauthorized):
            KEYS.check(headers)


def test_a_missing_key_is_told_from_a_wrong_one() -> None:
    with pytest.raises(Unauthorized) as missing:
        KEYS.check({"authorization": "Bearer"})
    with pytest.raises(Unauthorized) as wrong:
        KEYS.check(bearer(b"sk-on"))
    assert (api_kind(missing.value).code, api_kind(wrong.value).code) == ("missing_api_key", "invalid_api_key")
    assert "sk-on" not in wrong.value.message
