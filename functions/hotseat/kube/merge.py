"""Strategic merge of a pod template, as `kubectl patch` does it: maps field by field, named lists element by element.

Only fields of a pod template are supported. A list without a merge key (args, command, tolerations)
is replaced as a whole, `null` removes a field, `$patch: delete` removes a map or an element, and
`$patch: replace` replaces it.
"""

from collections.abc import Mapping
from typing import Any, Final

# Lists whose elements are merged, and the field by which. All other lists are atomic, as in
# Kubernetes' own types.
MERGE_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
_DIRECTIVE: Final = "$patch"


class MergeError(ValueError):
    """The patch cannot be merged; the message begins with the path of the invalid field."""


def merge(base: Mapping[str, Any], patch: Mapping[str, Any], where: str = "podTemplate") -> dict[str, Any]:
    """Return `patch` merged over `base`; neither is changed. Raise MergeError with a path that begins with `where`."""
    directive = _directive(patch, where)
    if directive == "delete":
        return {}
    result = {} if directive == "replace" else dict(base)
    for key, value in patch.items():
        path = f"{where}.{key}"
        if key == _DIRECTIVE:
            continue
        if value is None or (isinstance(value, Mapping) and _directive(value, path) == "delete"):
            result.pop(key, None)
        else:
            result[key] = _merged(key, result.get(key), value, path)
    return result


def _merged(key: str, old: Any, new: Any, where: str) -> Any:
    if isinstance(new, Mapping):
        return merge(old if isinstance(old, Mapping) else {}, new, where)
    if isinstance(new, list) and key in MERGE_KEYS:
        return _merged_list(key, old if isinstance(old, list) else [], new, where)
    return new


def _merged_list(key: str, old: list[Any], new: list[Any], where: str) -> list[Any]:
    """Return the elements merged by their key; new elements come last."""
    by = MERGE_KEYS[key]
    if any(isinstance(item, Mapping) and item == {_DIRECTIVE: "replace"} for item in new):
        old, new = [], [item for item in new if item != {_DIRECTIVE: "replace"}]
    result = list(old)
    for index, item in enumerate(new):
        path = f"{where}[{index}]"
        if not isinstance(item, Mapping) or item.get(by) is None:
            raise MergeError(f"{path} has no {by}, which is the key for merging")
        place = next((i for i, each in enumerate(result) if each.get(by) == item[by]), None)
        if _directive(item, path) == "delete":
            if place is not None:
                del result[place]
            continue
        if place is None:
            result.append(merge({}, item, path))
            continue
        # A volume has one source: a source of another kind under the same name replaces it.
        kept = {name: part for name, part in result[place].items() if key != "volumes" or name in item}
        result[place] = merge(kept, item, path)
    return result


def _directive(patch: Mapping[str, Any], where: str) -> str | None:
    directive = patch.get(_DIRECTIVE)
    if directive not in (None, "delete", "replace", "merge"):
        raise MergeError(f"{where}.{_DIRECTIVE} is {directive!r}; allowed: delete, replace, merge")
    return None if directive is None else str(directive)
