"""`python -m tests.soak MINUTES`: random load on a real hotseat, and looks at everything that must hold meanwhile and after it.

A seed that is printed gives the same documents, requests, edits, orders and faults again; how they meet is left to the machine.
Exit status: 0 all held; 1 something did not, which is printed with the seed, the last actions and the place of the logs.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .rounds import Soak
from .world import Violation, World

NAMESPACE = "HOTSEAT_SOAK_NAMESPACE"
DISK = 24 * 1024  # KiB; the state directory's, with a history of 16 MiB at most
LAST_SECONDS = 12


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/test --soak", description="Random load, faults and edits, and checks."
    )
    parser.add_argument("minutes", type=float, nargs="?", default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="as an earlier run printed it")
    parser.add_argument("--round", type=int, default=None, help="this round only, again and again")
    parser.add_argument("--keep-going", action="store_true", help="begin anew after something did not hold")
    return parser.parse_args()


def _with_disk() -> Path | None:
    """A small file system of our own for the state, in a mount namespace that ends with us; None where that cannot be had."""
    if NAMESPACE not in os.environ:
        for options in (["--mount"], ["--user", "--map-root-user", "--mount"]):
            command = ["unshare", *options, "--propagation", "private"]
            with contextlib.suppress(OSError):
                if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
                    os.environ[NAMESPACE] = "1"
                    os.execvp(command[0], [*command, sys.executable, "-m", "tests.soak", *sys.argv[1:]])
        print("full disks are skipped: no mount namespace can be had (unshare --mount)", flush=True)
        return None
    del os.environ[NAMESPACE]
    return Path(tempfile.mkdtemp(prefix="hotseat-soak-state-"))


def _mount(folder: Path) -> Path | None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}k", "hotseat-soak", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return folder
    print(f"full disks are skipped: no tmpfs can be mounted: {done.stderr.strip()}", flush=True)
    return None


@dataclass
class Run:
    """A whole soak: one hotseat after another, where it goes on after something did not hold."""

    options: argparse.Namespace
    seed: int
    folder: Path
    disk: Path | None
    end: float  # by time.monotonic()
    number: int = 0  # of the next round
    failed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    def has_time(self) -> bool:
        """Whether another round is worth it."""
        return time.monotonic() < self.end - LAST_SECONDS

    def one(self) -> None:
        """Soak from a fresh start until the time is over, or something does not hold."""
        here = self.folder / f"hotseat-{self.failed}"
        here.mkdir()
        state = (self.disk or here) / f"state-{self.failed}"
        world = World(here, state)
        soak, this = Soak(world, self.seed, self.disk, minutes=self.options.minutes), 0
        try:
            soak.begin()
            while self.has_time() and not world.violations:
                this = self.number if self.options.round is None else self.options.round
                self.number += 1
                soak.round(this)
            if not world.violations:
                soak.end()
        except Violation:
            pass
        except KeyboardInterrupt:
            self.end = 0.0
        except Exception:
            world.violate(traceback.format_exc())
        finally:
            world.pause.set()
            if world.hotseat is not None:
                world.hotseat._kill()
        world.gather()
        self.counts += world.counts
        self.events += world.events
        self.served += world.served
        if world.violations:
            self.failed += 1
            _report(world, f"scripts/test --soak {self.options.minutes:g} --seed {self.seed} --round {this}")
        if self.disk is not None:
            shutil.copytree(state, here / state.name, dirs_exist_ok=True)
            shutil.rmtree(state)


def main() -> int:
    """Soak."""
    options = _arguments()
    state = _with_disk()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    folder = Path(tempfile.mkdtemp(prefix="hotseat-soak-"))
    print(f"soak of {options.minutes:g} min, seed {seed}, in {folder}", flush=True)
    disk = _mount(state) if state is not None else None
    run = Run(options, seed, folder, disk, time.monotonic() + options.minutes * 60)
    while run.has_time() and (not run.failed or options.keep_going):
        run.one()
    print(f"answers by model: {_listed(run.served)}")
    print(f"requests: {_listed(run.counts)}")
    print(f"events: {_listed(run.events)}")
    print(f"{'FAILED' if run.failed else 'all held'}: {run.number} rounds, seed {seed}", flush=True)
    if state is not None:
        subprocess.run(["umount", str(state)], capture_output=True, check=False)
        with contextlib.suppress(OSError):
            state.rmdir()
    if not run.failed:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if run.failed else 0


def _report(world: World, again: str) -> None:
    print("\nVIOLATED:")
    for violation in world.violations[:10]:
        print(f"  * {violation}")
    print(f"the last actions (all of them: {world.folder}/actions):")
    for action in list(world.actions)[-40:]:
        print(f"    {action[:300]}")
    print(f"logs: {world.folder} (stderr: hotseat's own; state-*/logs: the engines')")
    print(f"this round again, until it fails or the time is over: {again}\n", flush=True)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{what} {count}" for what, count in counts.most_common())


if __name__ == "__main__":
    sys.exit(main())
