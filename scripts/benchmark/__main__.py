"""Command line of the benchmark: which parts, how long, and what becomes of the figures."""

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmark.client import Unexpected
from benchmark.holding import measure_held
from benchmark.loop import measure_bodies, measure_idle, measure_stalled
from benchmark.machine import Cores, Missing, check_tools, compile_helper, describe, find_cores
from benchmark.many import measure_many
from benchmark.prompts import measure_prompts
from benchmark.relaying import Plan, measure_chunks, measure_relay
from benchmark.report import Row, table, write_json
from benchmark.scheduling import measure_scheduling
from benchmark.switching import measure_burst, measure_starvation, measure_switch
from benchmark.tracing import measure_traces

BUSY_LOAD = 0.5  # load average above which the machine is not quiet
FILES = 32_768  # descriptors that hotseat needs for ten thousand held requests


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure hotseat on this machine. What each row means: docs/benchmark.md.",
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"parts to measure: {', '.join(PARTS)}; all by default"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter runs: about four minutes for everything"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--litellm", metavar="PROGRAM", default=shutil.which("litellm"),
                        help="LiteLLM's program, to measure it as well (default: the one on the PATH, if any)")  # fmt: skip
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return options


# Each part: how it is measured in this folder, on these cores, with these options.
PARTS: dict[str, Callable[[Path, Cores, argparse.Namespace], list[Row]]] = {
    "relay": lambda folder, cores, o: measure_relay(folder, cores, _plan(o.quick), o.litellm),
    "chunks": lambda folder, cores, o: measure_chunks(folder, cores, _plan(o.quick), o.litellm),
    "switch": lambda folder, _, o: measure_switch(folder, 3 if o.quick else 20),
    "burst": lambda folder, _, o: measure_burst(folder, 2 if o.quick else 5),
    "starvation": lambda folder, _, o: measure_starvation(folder, *((6, 2, 0.3) if o.quick else (18, 5, 1.0))),
    "scheduling": lambda folder, _, o: measure_scheduling(folder, 300 if o.quick else 1500),
    "held": lambda folder, _, o: measure_held(folder, _files(), *([1000] if o.quick else [])),
    "idle": lambda folder, _, o: measure_idle(folder, 10 if o.quick else 60),
    "stalled": lambda folder, _, o: measure_stalled(folder, _files(), *((1, 2.0) if o.quick else (5, 4.0))),
    "bodies": lambda folder, _, o: measure_bodies(folder, 1 if o.quick else 3),
    "prompts": lambda folder, _, o: measure_prompts(folder, *(((500,), 1) if o.quick else ((2000, 6000), 1))),
    "traces": lambda folder, cores, o: measure_traces(folder, cores, *((6, 1) if o.quick else (15, 2))),
    "many": lambda folder, _, o: measure_many(folder, 2 if o.quick else 5),
}


def _files() -> int:
    return min(FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _plan(quick: bool) -> Plan:
    return Plan(2, 1, 200) if quick else Plan(5, 3, 200)


def _notes(cores: Cores, options: argparse.Namespace) -> list[str]:
    notes = []
    if cores.shared:
        notes.append("one core only: proxy, engine and load share it; relay and chunks say little, not even as ratios")
    if options.litellm is None:
        notes.append("LiteLLM is not installed: left out")
    if (files := _files()) < FILES:
        notes.append(
            f"the limit on open files is {files:,}, so fewer than 10,000 requests are held (ulimit -n {FILES})"
        )
    load = os.getloadavg()[0]
    if load > BUSY_LOAD:
        notes.append(f"the machine was not quiet at the start: load average {load:.2f}")
    return notes


def _measure(options: argparse.Namespace, cores: Cores) -> tuple[list[Row], bool]:
    """Rows of all parts, and whether each of them could be measured."""
    rows, complete = [], True
    for part in options.parts or PARTS:
        print(f"{part} …", end="", file=sys.stderr, flush=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="hotseat-bench-") as folder:
            Path(folder).chmod(0o755)  # nginx's worker is another user where we are root
            try:
                rows += PARTS[part](Path(folder), cores, options)
                print(f" {time.monotonic() - began:.0f} s", file=sys.stderr)
            except (Unexpected, OSError) as problem:
                print(f" could not be measured: {problem}", file=sys.stderr)
                complete = False
    return rows, complete


def main() -> int:
    options = _parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: every context ends what it started
    try:
        check_tools()
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(FILES, hard)), hard))
    compile_helper("mock"), compile_helper("streams")
    cores = find_cores()
    notes, machine = _notes(cores, options), describe()
    try:
        rows, complete = _measure(options, cores)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    print(f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; {', '.join(machine['versions'])}")
    for note in notes:
        print(f"note: {note}")
    print(table(rows))
    if options.json:
        write_json(options.json, machine, rows, notes)
    missed = sum(row.missed for row in rows)
    if missed:
        print(f"{missed} of {sum(bool(row.verdict) for row in rows)} targets missed")
    return 1 if not complete or (options.strict and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
