"""Which GPUs of one machine a claim gets, by their names. Pure arithmetic; api.py says what claims and capacities are.

Every GPU of a Workspace has the same amount to give: its part of the accelerator memory, or, where memory is not counted,
itself. A claim takes the same share of each of its GPUs: the whole of them, or memory, which leaves the rest to others.
"""

from collections.abc import Iterable, Mapping, Sequence

Shares = tuple[tuple[str, int], ...]  # what is taken: name of the GPU, and how much of it


def free_on(devices: Sequence[str], each: int, taken: Iterable[tuple[str, int]]) -> dict[str, int]:
    """How much of each GPU is left; what is taken of others is no matter."""
    free = dict.fromkeys(devices, each)
    for device, share in taken:
        if device in free:
            free[device] -= share
    return free


def choose(count: int, share: int, free: Mapping[str, int]) -> tuple[str, ...] | None:
    """Choose so many GPUs for a share of each, None where too few have room.

    The fullest that do go first, so that large holes stay for those who need them; among equals, in their order.
    """
    order = list(free)
    able = sorted((device for device in order if free[device] >= share), key=lambda device: free[device])
    return tuple(sorted(able[:count], key=order.index)) if len(able) >= count else None


def still_hold(own: Shares, free: Mapping[str, int]) -> bool:
    """Whether what is placed already can stay where it is; a GPU that does not belong to the Workspace any more holds nothing."""
    return all(free.get(device, -1) >= share for device, share in own)


def without(all_: Shares, gone: Shares) -> Shares:
    """Take shares out, each as often as it is named. ValueError: it is not among them."""
    rest = list(all_)
    for each in gone:
        rest.remove(each)
    return tuple(rest)
