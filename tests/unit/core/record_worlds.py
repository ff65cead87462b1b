"""Record what the two machines say in random worlds, and compare it: shows that a change of the code changes no behaviour.

    python tests/unit/core/record_worlds.py record before.txt     # at the code as it was
    python tests/unit/core/record_worlds.py compare before.txt    # at the code as it is
    python tests/unit/core/record_worlds.py compare ../other      # with another checkout, recorded on the spot
    python tests/unit/core/record_worlds.py show 17 | diff …      # all that was said in one world

A recording has one line a world: its seed, the number of steps, a digest, and how it ended. The digest is of each step's
commands, and of the statuses, the epoch and the wake time of the switching machine after it. Dataclasses are written as
`Name(value, …)` without the names of their fields, so a field may be renamed. Where classes or words are renamed,
`--rename NEW=OLD …` writes the new one as the old one. Fields that are new are left out by `--without Class.field …`.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

WORLDS = 2000
STEPS = 300  # at most, of a world
HERE = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
ROOT = Path(os.environ.get("WORLDS_OF", HERE))  # the checkout whose machines and world are recorded
WORLD, OLD_WORLD = "tests.unit.core.world", "tests.unit.core_world"  # where it is, and where it was at first

Say = Callable[[str], None]


def plain(value: Any, without: frozenset[str]) -> str:
    """Write a value so that two runs, and two checkouts, write equal ones alike."""
    if is_dataclass(value):
        name = type(value).__name__
        kept = [f.name for f in fields(value) if f"{name}.{f.name}" not in without]
        return f"{name}({', '.join(plain(getattr(value, each), without) for each in kept)})"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{plain(k, without)}: {plain(v, without)}' for k, v in value.items())}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(plain(each, without) for each in value))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(plain(each, without) for each in value)}]"
    return repr(value)


def listen(worlds: Any, say: Say, without: frozenset[str]) -> Callable[[], None]:
    """Have the machines of a world say what they answer; returns how to end that."""
    world = worlds.World()
    world.join(lambda _: 0)
    machines = type(world.switching), type(next(iter(world.routers.values())).machine)

    def heard(machine: Any, stimulus: Any, step: Callable[[Any, Any], list[Any]]) -> list[Any]:
        said = step(machine, stimulus)
        say(f"{type(stimulus).__name__} at {stimulus.now!r}: {plain(said, without)}")
        if isinstance(machine, machines[0]):
            say(f"  {machine.epoch} {machine.wake_at!r} {plain(machine.status(), without)}")
        return said

    before = [machine.step for machine in machines]
    for machine, step in zip(machines, before, strict=True):
        machine.step = lambda self, stimulus, step=step: heard(self, stimulus, step)

    def end() -> None:
        for machine, step in zip(machines, before, strict=True):
            machine.step = step

    return end


def live(worlds: Any, seed: int) -> None:
    """Drive one world: in turn of the usual kind, with crowds and much room, with engines that all sleep, and with trouble."""
    chance = random.Random(seed)
    kind, pick = seed % 4, chance.randrange
    weights = dict(worlds.ACTIONS)
    world = worlds.begin(pick)
    if kind == 1:
        weights |= {"crowd": 15, "measure": 16}
        world.apply(world.terms, world.limits, worlds.CAPACITIES[-1 - seed // 4 % 2], cache_first=False)
    elif kind == 2:
        weights |= {"arrive": 20, "turn": 20}
        terms = {
            name: each if each.external else replace(each, park=True, host_memory=chance.choice(worlds.MEMORIES))
            for name, each in world.terms.items()
        }
        world.apply(terms, world.limits, chance.choice(worlds.CAPACITIES), cache_first=False)
    elif kind == 3:
        weights |= {"fail": 6, "release": 12, "turn": 12, "order_unload": 3, "order_load": 3, "restart_switcher": 3}
    habits = [weight * chance.choice((0.3, 1, 1, 3)) for weight in weights.values()]
    for _ in range(20 + pick(STEPS - 20)):
        getattr(world, chance.choices(list(weights), habits)[0])(pick)
        world.check()
    if pick(4) == 0:
        world.shut_down(pick)
    world.all_ends_well()


def hear(seed: int, say: Say, without: frozenset[str]) -> str:
    """Hear one world from its beginning to its end; returns how it ended."""
    worlds = import_module(WORLD if Path(ROOT, *WORLD.split(".")).with_suffix(".py").exists() else OLD_WORLD)
    end = listen(worlds, say, without)
    try:
        live(worlds, seed)
    except AssertionError as error:  # the world has found a fault: the same fault is the same behaviour
        return f"failed: {str(error).splitlines()[0] if str(error) else 'assertion'}"
    finally:
        end()
    return "well"


def digest(seed: int, renamed: Mapping[str, str], without: frozenset[str]) -> str:
    """Give the line of one world."""
    count, mark = 0, sha256()
    words = re.compile("|".join(rf"(?<![\w.]){re.escape(word)}(?![\w.])" for word in renamed)) if renamed else None

    def say(line: str) -> None:
        nonlocal count
        count += 1
        mark.update((words.sub(lambda found: renamed[found[0]], line) if words else line).encode() + b"\n")

    how = hear(seed, say, without)
    return f"{seed} {count} {mark.hexdigest()[:24]} {how}"


def recording(options: argparse.Namespace) -> list[str]:
    """Record this checkout."""
    renamed = dict(each.split("=", 1) for each in options.rename)
    one = partial(digest, renamed=renamed, without=frozenset(options.without))
    with ProcessPoolExecutor(options.processes) as pool:
        return list(pool.map(one, range(options.worlds), chunksize=10))


def recorded(before: Path, options: argparse.Namespace) -> list[str]:
    """Read a recording, or record another checkout with this script."""
    if not before.is_dir():
        return before.read_text().splitlines()
    with tempfile.NamedTemporaryFile("r") as file:
        numbers = [f"--worlds={options.worlds}", f"--processes={options.processes}"]
        environment = {**os.environ, "WORLDS_OF": str(before.resolve())}
        subprocess.run([sys.executable, __file__, "record", file.name, *numbers], env=environment, check=True)
        return file.read().splitlines()


def main() -> int:
    """Record, compare or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "compare", "show"))
    parser.add_argument("what", help="the recording; to compare, also a checkout; to show, a seed")
    parser.add_argument("--worlds", type=int, default=WORLDS, help="how many worlds (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rename", nargs="*", default=[], metavar="NEW=OLD", help="words that have changed")
    parser.add_argument("--without", nargs="*", default=[], metavar="CLASS.FIELD", help="fields that are left out")
    options = parser.parse_args()
    if options.action == "show":
        print(hear(int(options.what), print, frozenset(options.without)))  # noqa: T201
        return 0
    if options.action == "record":
        Path(options.what).write_text("\n".join(recording(options)) + "\n")
        return 0
    before = recorded(Path(options.what), options)[: options.worlds]
    options.worlds = len(before)
    pairs = list(zip(before, recording(options), strict=True))
    differ = [(was, now) for was, now in pairs if was != now]
    for was, now in differ[:10]:
        print(f"- {was}\n+ {now}")  # noqa: T201
    failed = sum(" failed" in now for _, now in pairs)
    print(f"{len(differ)} of {len(pairs)} worlds differ; {failed} have found a fault")  # noqa: T201
    return 1 if differ else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets are walked through in the same order, then
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.path[:0] = [str(ROOT / "functions"), str(ROOT)]
    sys.exit(main())
