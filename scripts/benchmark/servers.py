"""What is measured, and what stands behind it: each a process that runs as long as its context."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil

from benchmark import client
from benchmark.machine import HERE, Cores, compile_helper, find_tool

START_TIME = 90.0  # seconds; LiteLLM needs many
STOP_TIME = 15.0  # seconds for an orderly end; then it is killed


@dataclass(frozen=True, slots=True)
class Server:
    """A server that takes requests. `worker` is the process that does its work."""

    name: str
    port: int
    worker: int

    def cpu(self) -> float:
        """Seconds of CPU that the worker has used, all its threads, to the nanosecond."""
        return time.clock_gettime((~self.worker << 3) | 2)  # what clock_getcpuclockid(3) gives

    def cpu_of_all(self) -> float:
        """Seconds of CPU that all processes of it have used: those that supervise the worker, and its children."""
        top = psutil.Process(self.worker).parent() or psutil.Process(self.worker)
        return sum(time.clock_gettime((~each.pid << 3) | 2) for each in (top, *top.children(recursive=True)))

    def memory(self) -> int:
        """Bytes of the worker's resident memory."""
        return int(psutil.Process(self.worker).memory_info().rss)


def model(name: str, env: Mapping[str, str] | None = None, *, core: int | None = None, **spec: Any) -> dict[str, Any]:
    """Document of a Model whose engine is the mock in C."""
    pin = [] if core is None else [find_tool("taskset"), "-c", str(core)]
    variables = [{"name": key, "value": value} for key, value in (env or {}).items()]
    command = [*pin, str(compile_helper("mock")), "{port}"]
    spec = {"engine": "custom", "command": command, "env": variables, **spec}
    return {"apiVersion": "hotseat.dev/v1alpha1", "kind": "Model", "metadata": {"name": name}, "spec": spec}


@contextlib.contextmanager
def hotseat(
    folder: Path,
    documents: Sequence[Mapping[str, Any]],
    core: int | None = None,
    *options: str,
    watch: bool = False,
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run `hotseat up` with these documents."""
    manifest = folder / "models.yaml"
    manifest.write_text("\n---\n".join(json.dumps(document) for document in documents))
    port = client.free_port()
    own = ["--port", str(port), "--state-dir", folder / "state", "--cache-dir", folder / "cache"]
    own += [] if watch else ["--no-watch"]
    command = [Path(sys.executable).with_name("hotseat"), "up", "-f", manifest, *own, *options]
    with _process("hotseat", command, folder, core, (port, "/ready"), env=env) as pid:
        yield Server("hotseat", port, _worker(pid))


@contextlib.contextmanager
def mock(folder: Path, core: int | None = None) -> Iterator[Server]:
    """Run the engine itself, for what is measured without hotseat."""
    port = client.free_port()
    with _process("mock", [compile_helper("mock"), str(port)], folder, core, (port, "/")) as pid:
        yield Server("direct", port, pid)


@contextlib.contextmanager
def external(folder: Path) -> Iterator[Server]:
    """Run the engine of external.py, which hotseat does not start."""
    port = client.free_port()
    with _process("external", [sys.executable, HERE / "external.py", str(port)], folder, None, (port, "/")) as pid:
        yield Server("external", port, pid)


@contextlib.contextmanager
def nginx(folder: Path, upstream: int, core: int) -> Iterator[Server]:
    """Run nginx as a reverse proxy: one worker, kept-alive connections upstream, nothing buffered."""
    port = client.free_port()
    temporary = "".join(
        f"  {what}_temp_path {folder}/{what};\n" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log off;
{temporary}
  upstream engine {{ server {client.HOST}:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen {client.HOST}:{port} backlog=4096;
    keepalive_requests 1000000000;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
""")
    command = [find_tool("nginx"), "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"]
    with _process("nginx", command, folder, core, (port, "/")) as pid:
        yield Server("nginx", port, _worker(pid))


@contextlib.contextmanager
def litellm(folder: Path, upstream: int, core: int, program: str) -> Iterator[Server]:
    """Run LiteLLM's proxy with one worker."""
    port = client.free_port()
    parameters = {"model": "openai/m", "api_base": f"http://{client.HOST}:{upstream}/v1", "api_key": "none"}
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": [{"model_name": "m", "litellm_params": parameters}]}))
    command = [program, "--config", config, "--host", client.HOST, "--port", str(port), "--num_workers", "1"]
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it fetches one from the network otherwise
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no proxy here checks keys, all are on loopback
    }
    with _process("litellm", command, folder, core, (port, "/health/liveliness"), env=env) as pid:
        yield Server("LiteLLM", port, pid)


@contextlib.contextmanager
def contestants(folder: Path, cores: Cores, litellm_program: str | None) -> Iterator[list[Server]]:
    """Run the engine itself, first, and all proxies in front of engines like it."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(mock(folder, cores.load))
        servers = [engine, stack.enter_context(nginx(folder, engine.port, cores.proxy))]
        servers.append(stack.enter_context(hotseat(folder, [model("m", core=cores.load)], cores.proxy)))
        if litellm_program is not None:
            servers.append(stack.enter_context(litellm(folder, engine.port, cores.proxy, litellm_program)))
        for server in servers[1:]:  # hotseat loads its model now
            with client.Client(server.port) as first:
                first.ask("m")
        yield servers


def _worker(parent: int) -> int:
    """Process that serves: the only child of the one that was started."""
    (child,) = psutil.Process(parent).children()
    return int(child.pid)


@contextlib.contextmanager
def _process(
    name: str,
    command: Sequence[object],
    folder: Path,
    core: int | None,
    probe: tuple[int, str],
    *,
    env: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run a program that answers at this port and path; its last output is shown if anything goes wrong.

    It gets a session of its own, so that Ctrl-C is ours alone.
    """
    pin = [] if core is None else [find_tool("taskset"), "-c", str(core)]
    output = folder / f"{name}.out"
    with output.open("ab") as file:
        process = subprocess.Popen(
            [*pin, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ | (env or {}),
            start_new_session=True,
        )
    try:
        _wait_until_up(name, process, *probe)
        yield process.pid
    except Exception:
        _show_end(name, output)
        raise
    finally:
        _end(process)


def _wait_until_up(name: str, process: subprocess.Popen[bytes], port: int, path: str) -> None:
    """Return once GET is answered 2xx."""
    end = time.monotonic() + START_TIME
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError, HTTPException, client.Unexpected):
            client.call(port, "GET", path)
            return
        time.sleep(0.02)
    raise client.Unexpected(f"{name} did not start")


def _show_end(name: str, output: Path) -> None:
    for line in output.read_text(errors="replace").splitlines()[-5:]:
        print(f"\n  {name}: {line[:200]}", end="", file=sys.stderr)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask, wait, kill its whole session; hotseat's engines are the business of its supervisors, which outlive nothing."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIME)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
