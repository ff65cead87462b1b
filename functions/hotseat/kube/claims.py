"""Changes of a claim that exists already, when its Model changes. No I/O."""

from collections.abc import Iterator
from dataclasses import dataclass

from hotseat.api.types import Json
from hotseat.api.units import Unreadable, parse_quantity
from hotseat.kube.constants import GROUP, MODELS


@dataclass(frozen=True, slots=True)
class ClaimChange:
    """A merge patch of a claim, or (without a patch) a change that is impossible. `reason`: for the Model's condition."""

    reason: str
    message: str  # without a patch: why it is impossible; with a patch: what it does
    patch: Json | None = None


def claim_changes(wanted: Json, found: Json, *, sized: bool) -> Iterator[ClaimChange]:
    """Yield how a claim differs from the wanted one, each change on its own, as the API server may refuse one of them.

    `sized`: the Model states a size. Else the size of the claim is left as it is.
    """
    name = wanted["metadata"]["name"]
    yield from _owner(wanted, found)
    if sized:
        yield from _size(name, wanted["spec"], found["spec"])
    for key, field in (("accessModes", "cache.accessMode"), ("storageClassName", "cache.storageClass")):
        if key in wanted["spec"] and wanted["spec"][key] != found["spec"].get(key):
            message = (
                f"{field} is {_shown(wanted['spec'][key])}, but the claim {name} has {_shown(found['spec'].get(key))}, "
                "which cannot be changed: delete the claim, or set it back"
            )
            yield ClaimChange("ClaimFieldImmutable", message)


def _owner(wanted: Json, found: Json) -> Iterator[ClaimChange]:
    """Yield the change of the owner, by which the claim is deleted with its Model. Other owners stay."""
    before = found["metadata"].get("ownerReferences") or []
    ours = wanted["metadata"].get("ownerReferences") or []
    after = [each for each in before if not _is_model(each)] + ours
    if [each["uid"] for each in before] != [each["uid"] for each in after]:
        metadata = {"ownerReferences": after or None, "resourceVersion": found["metadata"]["resourceVersion"]}
        yield ClaimChange("OwnerNotChanged", "cache.onDelete", {"metadata": metadata})


def _is_model(owner: Json) -> bool:
    return bool(owner["kind"] == MODELS.kind and owner["apiVersion"].startswith(f"{GROUP}/"))


def _size(name: str, wanted: Json, found: Json) -> Iterator[ClaimChange]:
    new, old = (spec["resources"]["requests"]["storage"] for spec in (wanted, found))
    try:
        more = parse_quantity(new) - parse_quantity(old)
    except Unreadable:
        return
    if more > 0:
        yield ClaimChange("ExpansionRefused", "cache.size", {"spec": {"resources": {"requests": {"storage": new}}}})
    elif more < 0:
        message = f"cache.size is {new}, but the claim {name} has {old} already, and a claim cannot shrink"
        yield ClaimChange("ClaimCannotShrink", message)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
