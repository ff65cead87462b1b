"""Changes of the parameters of a request: which of them are removed or set, as the filters of a Model say. Pure."""

import json
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import msgspec

_VALUES = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Changes(NamedTuple):
    """Parameters to remove, to set if they are missing, and to set in any case, in this order. A dot separates nested names."""

    strip: Sequence[str]
    default: Mapping[str, Any]
    set: Mapping[str, Any]


def change_body(raw: bytes, model: str, changes: Sequence[Changes]) -> bytes:
    """Return a JSON body with changed parameters and the name of the model. Values of the client that stay keep their bytes.

    Raise ValueError or RecursionError if the body is not JSON, or is what only Python accepts as JSON.
    """
    values = _VALUES.decode(raw)
    _change(values, changes, _load_raw, _dump_raw)
    values["model"] = _dump_raw(model)
    return msgspec.json.encode(values)


def change_text(text: str, model: str, changes: Sequence[Changes]) -> bytes:
    """Do the same with Python's parser."""
    values = json.loads(text)
    _change(values, changes, _same, deepcopy)
    values["model"] = model
    return json.dumps(values).encode()


def _load_raw(value: Any) -> Any:
    return json.loads(bytes(value))


def _dump_raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


def _same(value: Any) -> Any:
    return value


Values = MutableMapping[str, Any]
Convert = Callable[[Any], Any]


def _change(values: Values, changes: Sequence[Changes], load: Convert, dump: Convert) -> None:
    """Change an object. `load` and `dump` convert between its values and those of Python."""
    for each in changes:
        for name in each.strip:
            _strip(values, name, load, dump)
        for name, value in each.default.items():
            _put(values, name, value, load, dump, replace=False)
        for name, value in each.set.items():
            _put(values, name, value, load, dump, replace=True)


def _strip(values: Values, name: str, load: Convert, dump: Convert) -> None:
    outer, dot, inner = name.partition(".")
    if not dot:
        values.pop(outer, None)
    elif outer in values and isinstance(member := load(values[outer]), dict):
        _strip(member, inner, _same, _same)
        values[outer] = dump(member)


def _put(values: Values, name: str, value: Any, load: Convert, dump: Convert, *, replace: bool) -> None:
    """Set a member. With `replace`, whatever stands there, or in the place of an object around it, is replaced."""
    outer, dot, inner = name.partition(".")
    if not dot:
        if replace or outer not in values:
            values[outer] = dump(value)
        return
    member = load(values[outer]) if outer in values else {}
    if not isinstance(member, dict):
        if not replace:
            return
        member = {}
    _put(member, inner, value, _same, _same, replace=replace)
    values[outer] = dump(member)
