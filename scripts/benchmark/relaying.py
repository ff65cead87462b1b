"""Parts `relay` and `chunks`: what the way through a proxy costs, hotseat's beside nginx's.

The proxy has one core, engine and load have the other. All proxies are measured in turn, round after round, so that what
the machine does meanwhile meets them alike; figures are medians over the rounds, each against the same round's baseline.
"""

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.client import Unexpected
from benchmark.machine import HERE, Cores, compile_helper, find_tool
from benchmark.report import Row, median
from benchmark.servers import Server, contestants

CONNECTIONS = 64
STREAMS = 100
PERIOD_MS = 20  # between the chunks of a stream
STAGGERED = 100_000  # see mock.c


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: int  # of each run of wrk
    chunks: int  # of each stream


def measure_relay(folder: Path, cores: Cores, plan: Plan, litellm: str | None) -> list[Row]:
    """Measure the added latency of one client at a time, and requests per second of many."""
    latency: dict[str, list[tuple[float, float]]] = {}  # ms, p50 and p99
    rates: dict[str, list[float]] = {}
    with contestants(folder, cores, litellm) as servers:
        for server in servers:
            run_wrk(server, cores, 1, 1)  # pools filled, code paths warm
            run_wrk(server, cores, CONNECTIONS, 1)
        for _ in range(plan.rounds):
            for server in servers:
                one = run_wrk(server, cores, 1, plan.seconds)
                many = run_wrk(server, cores, CONNECTIONS, plan.seconds)
                latency.setdefault(server.name, []).append((one["p50"] / 1000, one["p99"] / 1000))
                rates.setdefault(server.name, []).append(many["requests"] / many["duration"] * 1e6)
    return _relay_rows(latency, rates)


def _relay_rows(latency: dict[str, list[tuple[float, float]]], rates: dict[str, list[float]]) -> list[Row]:
    direct, *proxies = latency
    added = {
        name: [
            median(mine[i] - base[i] for mine, base in zip(latency[name], latency[direct], strict=True)) for i in (0, 1)
        ]
        for name in proxies
    }
    rows = [
        Row("relay", f"added latency p{p}, {name}", added[name][i], "ms")
        for i, p in ((0, 50), (1, 99))
        for name in proxies
    ]
    for i, p, most in ((0, 50, 1.8), (1, 99, 3)):
        ratio = added["hotseat"][i] / added["nginx"][i]
        rows.append(Row("relay", f"added latency p{p}, hotseat ÷ nginx", ratio, "times", at_most=most))
    rows += [Row("relay", f"requests/s at {CONNECTIONS}, {name}", median(rates[name]), "/s") for name in latency]
    share = 100 * median(rates["hotseat"]) / median(rates["nginx"])
    rows.append(Row("relay", f"requests/s at {CONNECTIONS}, hotseat ÷ nginx", share, "%", at_least=40))
    return rows


def measure_chunks(folder: Path, cores: Cores, plan: Plan, litellm: str | None) -> list[Row]:
    """Measure the CPU of the proxy's worker per chunk of many streams: ticking together, and each in its own phase."""
    costs: dict[tuple[str, str], list[float]] = {}  # µs
    with contestants(folder, cores, litellm) as servers:
        proxies = servers[1:]
        for server in proxies:
            _streams(server, cores, PERIOD_MS, 20)
        for _ in range(plan.rounds):
            for phase, seed in (("in step", PERIOD_MS), ("staggered", STAGGERED + PERIOD_MS)):
                for server in proxies:
                    before = server.cpu()
                    events = _streams(server, cores, seed, plan.chunks)
                    costs.setdefault((phase, server.name), []).append((server.cpu() - before) / events * 1e6)
    medians = {which: median(values) for which, values in costs.items()}
    rows = [
        Row("chunks", f"CPU per chunk, {STREAMS} streams {phase}, {name}", value, "µs")
        for (phase, name), value in medians.items()
    ]
    for phase in ("in step", "staggered"):
        ratio = medians[phase, "hotseat"] / medians[phase, "nginx"]
        rows.append(Row("chunks", f"CPU per chunk {phase}, hotseat ÷ nginx", ratio, "times", at_most=1.4))
    return rows


def run_wrk(server: Server, cores: Cores, connections: int, seconds: int) -> dict[str, float]:
    """Run wrk on the load's core; its figures (see post.lua), in microseconds and counts."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    output = _on_load_core(cores, [find_tool("wrk"), *options, "-s", str(HERE / "post.lua"), url])
    match = re.search(r"^FIGURES (.*)$", output, re.MULTILINE)
    if match is None:
        raise Unexpected(f"wrk says no figures: {output}")
    figures: dict[str, float] = json.loads(match[1])
    if figures["errors"] or not figures["requests"]:
        raise Unexpected(f"wrk against {server.name}: {figures}")
    return figures


def _streams(server: Server, cores: Cores, seed: int, chunks: int) -> int:
    """Relay many streams to their ends, and count their events."""
    limit = 30 + chunks * PERIOD_MS / 1000 * 20  # LiteLLM takes its time
    command = [str(compile_helper("streams")), str(server.port), str(STREAMS), str(seed), str(chunks), f"{limit:.0f}"]
    events = int(_on_load_core(cores, command).split()[1])
    if events < STREAMS * chunks:
        raise Unexpected(f"{server.name} relayed {events} events of {STREAMS} streams with {chunks} chunks each")
    return events


def _on_load_core(cores: Cores, command: Sequence[str]) -> str:
    pinned = [find_tool("taskset"), "-c", str(cores.load), *command]
    done = subprocess.run(pinned, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unexpected(f"{command[0]} failed: {done.stdout[-300:]} {done.stderr[-300:]}")
    return done.stdout
