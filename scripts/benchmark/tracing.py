"""Part `traces`: what traces, and the history, cost the relay: CPU and requests a second of hotseats that differ in nothing else.

They take turns, run after run, so that what else the machine does meets them alike. CPU is that of the whole worker, with the thread
that exports.
"""

import contextlib
import http.server
import multiprocessing
import os
from pathlib import Path

from benchmark.client import HOST, Client
from benchmark.machine import Cores
from benchmark.relaying import CONNECTIONS, run_wrk
from benchmark.report import Row, median
from benchmark.servers import hotseat, model

MOST = 1.05  # times the cost without traces


class _Receiver(http.server.BaseHTTPRequestHandler):
    """Takes all spans, and forgets them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def measure_traces(folder: Path, cores: Cores, rounds: int, seconds: int) -> list[Row]:
    """Measure relays without traces and a history, without traces, and with traces of 1% of the requests, and of all."""
    with contextlib.ExitStack() as stack:
        server = http.server.ThreadingHTTPServer((HOST, 0), _Receiver)
        receiver = multiprocessing.get_context("fork").Process(target=_receive, args=(server, cores.load), daemon=True)
        receiver.start()
        stack.callback(receiver.terminate)
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{server.server_port}"}
        sampled = {**endpoint, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
        kinds = {"no history": {}, "off": {}, "1%": sampled, "all": endpoint}
        servers = {}
        for kind, env in kinds.items():
            own = folder / kind.strip("%").replace(" ", "-")
            own.mkdir()
            document = model("m", core=cores.load)
            options = ("--history", "off") if kind == "no history" else ()
            servers[kind] = stack.enter_context(hotseat(own, [document], cores.proxy, *options, env=env))
            with Client(servers[kind].port) as first:
                first.ask("m")
            run_wrk(servers[kind], cores, CONNECTIONS, 1)
        cpu: dict[str, list[float]] = {kind: [] for kind in kinds}  # µs a request
        rates: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in range(rounds):
            for kind in list(kinds)[:: 1 if number % 2 else -1]:
                before = servers[kind].cpu()
                figures = run_wrk(servers[kind], cores, CONNECTIONS, seconds)
                cpu[kind].append((servers[kind].cpu() - before) / figures["requests"] * 1e6)
                rates[kind].append(figures["requests"] / figures["duration"] * 1e6)
    rows = [Row("traces", f"CPU per request, {kind}", median(cpu[kind]), "µs") for kind in kinds]
    rows += [Row("traces", f"requests/s at {CONNECTIONS}, {kind}", median(rates[kind]), "/s") for kind in kinds]
    for kind, than in (("off", "no history"), ("1%", "off"), ("all", "off")):
        ratio = median(mine / base for mine, base in zip(cpu[kind], cpu[than], strict=True))
        most = None if kind == "all" else MOST
        rows.append(Row("traces", f"CPU per request, {kind} ÷ {than}", ratio, "times", at_most=most))
    return rows


def _receive(server: http.server.ThreadingHTTPServer, core: int) -> None:
    os.sched_setaffinity(0, {core})
    server.serve_forever()
