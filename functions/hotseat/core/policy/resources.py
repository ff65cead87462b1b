"""The assignment of GPUs to claims, by name. Pure; api.py has claims and capacities.

All GPUs of a Workspace have the same capacity: their part of the accelerator memory, or, where
memory is not counted, 1. A claim takes the same share of each of its GPUs: the whole, or memory,
which leaves the rest to others.
"""

from collections.abc import Iterable, Mapping, Sequence

Shares = tuple[tuple[str, int], ...]  # what is taken: name of the GPU, and how much of it


def free_on(devices: Sequence[str], each: int, taken: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return what is left of each GPU. What is taken of other GPUs is ignored."""
    free = dict.fromkeys(devices, each)
    for device, share in taken:
        if device in free:
            free[device] -= share
    return free


def choose(count: int, share: int, free: Mapping[str, int]) -> tuple[str, ...] | None:
    """Return `count` GPUs with a share left of each (best fit), None where too few have it.

    The fullest that fit are chosen, so that large gaps stay for large claims; among equals, the
    first ones.
    """
    order = list(free)
    able = sorted((device for device in order if free[device] >= share), key=lambda device: free[device])
    return tuple(sorted(able[:count], key=order.index)) if len(able) >= count else None


def still_hold(own: Shares, free: Mapping[str, int]) -> bool:
    """Whether a placed claim still fits where it is. A GPU that is not of the Workspace any more holds nothing."""
    return all(free.get(device, -1) >= share for device, share in own)


def without(all_: Shares, gone: Shares) -> Shares:
    """Return shares without others, each as often as it is named. Raise ValueError if one is missing."""
    rest = list(all_)
    for each in gone:
        rest.remove(each)
    return tuple(rest)
