"""The code blocks of the documentation, and a walk through a page: what it has one type is typed, and what it shows is seen.

A page is walked in a folder of its own, from top to bottom:

- A block whose first line is `# NAME.EXTENSION` is a file, and is written there.
- Each command of a `sh` or `console` block is run. What a `console` block shows below a command is in its output, line by line, but for
  numbers and spaces; `…` stands for anything. A Python block without a name is run.
- `hotseat up` runs until the next one, or the end of the page. It gets a port of its own in place of those of PORTS.
- Unless the page is about a real engine, each Model gets the engine `mock`, because the weights are elsewhere.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PORTS = re.compile(r"\b(8000|8080|11434)\b")
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
FILE = re.compile(r"(?:#|//) (?P<name>[\w./-]+\.\w+)$")
PATIENCE = 150.0  # seconds
# Pages that are walked with mocks, and how the commands of them begin that are not run, each with the reason.
WALKED: dict[str, dict[str, str]] = {
    "extending.md": {"scripts/test": "these are the tests"},
    "from-llama-swap.md": {},
    "guides/agents.md": {},
    "guides/claude-code.md": {"claude": "a program of its own; the client of its API is run in its place"},
    "guides/from-ollama.md": {"systemctl": "changes the machine"},
    "guides/home-server.md": {},
    "guides/phases.md": {},
    "simulate.md": {},
    "keys.md": {
        "hotseat up": "its documents are the reader's, and tests/embedded/test_api_keys.py does it",
        "hotseat --url": "another machine",
        "kubectl": "needs a cluster",
    },
    "guides/team-cluster.md": {**dict.fromkeys(("kubectl", "helm", "hotseat -n", "curl"), "needs a cluster")},
    "guides/open-webui.md": {"docker": "a container of another project"},
}
AS_THEY_ARE = {"extending.md", "from-llama-swap.md"}  # of these pages, which start no engine that needs weights
# Programs that are not here. A stand-in prints what the page shows.
STAND_INS = {"ollama"}
# Commands that install something, and what is run in their place: the tests' environment has it already.
IN_PLACE = {
    "scripts/demo": f"{sys.executable} scripts/lib/weights.py .cache/models && hotseat up -f examples/demo.yaml",
    "pip install -e .": ":",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """Name of the file that it is, if it is one."""
        match = FILE.fullmatch(self.text.partition("\n")[0])
        return match and match["name"]

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command of a block for a shell, with what the page shows of its output."""
        shown: list[str] = []
        command = ""
        for line in self.text.splitlines():
            if self.language == "console" and not line.startswith("$ ") and not command.endswith("\\"):
                shown.append(line)
                continue
            if command and is_whole(command):
                yield command, shown
                command, shown = "", []
            command += ("\n" if command else "") + (line.removeprefix("$ ") if self.language == "console" else line)
        if command:
            yield command, shown


def is_whole(command: str) -> bool:
    """Whether a command does not go on with the next line."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return not command.endswith("\\")


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start()) + 1,
            match["language"],
            match["text"].replace(f"\n{match['indent']}", "\n"),
        )
        for match in FENCE.finditer(text)
    ]


def normal(line: str) -> str:
    """A line without what differs from run to run."""
    plain = re.sub(r"\b(\d+(\.\d+)?(ms|[smhd]))+\b", "0s", " ".join(line.split()))
    return re.sub(r"\b[0-9a-f]{6}\b|\d+(\.\d+)?", "0", plain)


def differs(shown: list[str], output: str) -> str:
    """The first shown line that the output does not have, in its place. Empty: it has all."""
    lines = iter([normal(line) for line in output.splitlines()])
    for line in shown:
        pattern = ".*".join(re.escape(piece) for piece in normal(line).split("…"))
        if line.strip() and not any(re.fullmatch(pattern, each) for each in lines):
            return line
    return ""


def with_mocks(text: str) -> str:
    """Documents whose Models have the engine `mock`, which loads in 0.2 s."""
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        if document.get("kind") == "Model":
            spec = document["spec"]
            for field in (
                "source",
                "args",
                "env",
                "command",
                "vllm",
                "loras",
                "url",
                "upstreams",
                "engineModelName",
                "cache",
                "image",
            ):
                spec.pop(field, None)
            spec |= {"engine": "mock", "args": ["--load-time", "0.2"]}
            spec.get("lifecycle", {}).pop("startTimeout", None)
    return yaml.safe_dump_all(documents, sort_keys=False)


class Walk:
    """A walk through one page. Leave it, and what it has started ends."""

    def __init__(
        self,
        folder: Path,
        *,
        mocks: bool = True,
        not_run: Collection[str] = (),
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.mocks = mocks
        self.not_run = not_run
        self.renamed = renamed or {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        scripts = Path(sys.executable).parent
        # An address of a key or a server in the environment of the tests is not one of the page.
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("HOTSEAT_", "K_", "OTEL_"))
        }
        self.env |= {
            "PATH": f"{folder / 'bin'}{os.pathsep}{scripts}{os.pathsep}{self.env['PATH']}",
            "HOME": str(folder),
            "HOTSEAT_URL": f"http://127.0.0.1:{self.port}",
            "HOTSEAT_STATE_DIR": str(folder / "state"),
            "HOTSEAT_CACHE_DIR": str(folder / "cache"),
            "PYTHONPATH": str(folder),
            "COLUMNS": "200",
        }
        self._beside: list[subprocess.Popen[bytes]] = []  # commands that end with &
        self._up: subprocess.Popen[bytes] | None = None
        self._shown: list[str] = []
        self.transcript: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._beside, *([self._up] if self._up is not None else [])):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def take(self, block: Block) -> None:
        """Do what a block says. Raise AssertionError where the page is wrong."""
        where = f"{block.page.relative_to(ROOT)}:{block.line}"
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            reloads = self._reloads()
            documents = self.mocks and block.language == "yaml" and "apiVersion: hotseat.dev" in block.text
            text = with_mocks(block.text) if documents else block.text
            path.write_text(text if block.language == "python" else self._ported(text), encoding="utf-8")
            if self._up is not None and block.file in str(self._up.args):  # what it serves: it reads it again
                self._await_reload(reloads)
            if path.name == "pyproject.toml":
                self._install(path)
        elif block.language in ("sh", "console"):
            for command, shown in block.commands():
                self._run(command, shown, where)
        elif block.language == "python":
            self._finish([sys.executable, "-c", self._ported(block.text)], [], where)

    def _ported(self, text: str) -> str:
        for typed, there in self.renamed.items():
            text = text.replace(typed, there)
        return PORTS.sub(str(self.port), text)

    def _install(self, path: Path) -> None:
        """What `pip install -e .` does, as far as entry points go."""
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        info = self.folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        groups = [
            f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in entries.items())
            for group, entries in project["entry-points"].items()
        ]
        (info / "entry_points.txt").write_text("\n".join(groups) + "\n")

    def _run(self, command: str, shown: list[str], where: str) -> None:
        words = shlex.split(command.replace("\\\n", " "), comments=True)
        if not words:
            return
        if any(f"{shlex.join(words)} ".startswith(f"{each} ") for each in self.not_run):
            return
        if words[0] in STAND_INS and "|" not in words:
            self._stand_in(words[0], shown)
        plain = shlex.join(words)
        command = next((there for typed, there in IN_PLACE.items() if plain == shlex.join(shlex.split(typed))), command)
        if "hotseat up" in command and "--dry-run" not in words:
            self._begin(command.partition("  #")[0], shown)
        elif words[-1] == "&":
            self._start_beside(command.rstrip(" &"))
        else:
            self._finish(["bash", "-euo", "pipefail", "-c", self._ported(command)], shown, f"{where}: {command}")

    def _start_beside(self, command: str) -> None:
        """Start what listens on this machine, and wait until it does."""
        argv = ["bash", "-c", f"exec {self._ported(command)}"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(
            argv, cwd=self.folder, env=self.env, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        self._beside.append(process)
        limit = time.monotonic() + PATIENCE
        while not self._answers():
            assert process.poll() is None, f"{command} ended"
            assert time.monotonic() < limit, f"nothing answers behind {command}"
            time.sleep(0.1)

    def _stand_in(self, program: str, shown: list[str]) -> None:
        (self.folder / "bin").mkdir(exist_ok=True)
        path = self.folder / "bin" / program
        path.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(shown) + "\nEND\n")
        path.chmod(0o755)

    def _finish(self, argv: list[str], shown: list[str], where: str) -> None:
        """Run a command to its end. What a cluster shows of its objects comes a little later: such a command is repeated."""
        limit = time.monotonic() + 20
        while True:
            done = subprocess.run(
                argv,
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            output = done.stdout + done.stderr
            assert done.returncode == 0, f"{where}: exit code {done.returncode}\n{output}"
            missing = differs(shown, output)
            if not missing or "kubectl get" not in argv[-1] or time.monotonic() > limit:
                break
            time.sleep(0.5)
        self.transcript.append((where, output))
        assert not missing, f"{where}: the page shows\n{missing}\nbut the output is\n{output}"

    def _begin(self, command: str, shown: list[str]) -> None:
        """Start a hotseat in place of the one that runs, and wait until it serves."""
        self.end()
        command = self._ported(command) + " --no-json" + ("" if "--port" in command else f" --port {self.port}")
        self._shown = shown
        with (self.folder / "up.log").open("w") as log:
            self._up = subprocess.Popen(
                ["bash", "-c", command.replace("hotseat up", "exec hotseat up")],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        limit = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._up.poll() is None, f"{command} ended:\n{self._output()}"
            assert time.monotonic() < limit, f"{command} does not answer:\n{self._output()}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return answer.status == 200
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def _reloads(self) -> int:
        return self._output().count(" reloaded: ") if self._up is not None else 0

    def _await_reload(self, before: int) -> None:
        limit = time.monotonic() + PATIENCE
        while self._reloads() == before:
            assert time.monotonic() < limit, f"it does not reload:\n{self._output()}"
            time.sleep(0.05)

    def _output(self) -> str:
        return (self.folder / "up.log").read_text(encoding="utf-8")

    def end(self) -> None:
        """Stop the hotseat that runs, by the Ctrl-C that a page names, and look at what it has printed."""
        if self._up is None:
            return
        self._up.send_signal(signal.SIGTERM)
        self._up.wait(PATIENCE)
        self.transcript.append((f"{self._up.args}", self._output()))
        missing = differs(self._shown, self._output())
        assert not missing, f"the page shows\n{missing}\nbut hotseat up has printed\n{self._output()}"
        assert "Traceback" not in self._output()
        self._up = None


def walk(page: Path, folder: Path, *, mocks: bool = True) -> list[tuple[str, str]]:
    """Walk through a page. Return each command and its output."""
    name = str(page.relative_to(DOCS))
    with Walk(folder, mocks=mocks and name not in AS_THEY_ARE, not_run=WALKED.get(name, ())) as walker:
        for block in blocks(page):
            walker.take(block)
        walker.end()
        return walker.transcript


def documents(block: Block) -> list[dict[str, Any]]:
    """The documents of hotseat in a block."""
    return [
        each
        for each in yaml.safe_load_all(block.text)
        if isinstance(each, dict) and "hotseat.dev/" in str(each.get("apiVersion"))
    ]
