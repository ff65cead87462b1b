"""`hotseat up --dry-run`: what would run, on which GPUs, from which weights, and what is missing."""

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hotseat.cli import dry_run
from hotseat.cli.main import main
from hotseat.runtimes.local.gpus import Gpus

HEAD = "apiVersion: hotseat.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


def document(name: str, spec: str, kind: str = "Model") -> str:
    return HEAD.format(kind=kind, name=name, spec=spec)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two GPUs of 24 GiB, llama-server and docker on its PATH, and one file of weights."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("llama-server", "docker", "env", "serve"):
        (programs / name).write_text("")
        (programs / name).chmod(0o755)
    (programs / "text").write_text("")
    (tmp_path / "here.gguf").write_text("GGUF")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-mine")
    driver = SimpleNamespace(totals=lambda: {0: 24 * 2**30, 1: 24 * 2**30})
    monkeypatch.setattr(dry_run, "find_accelerators", lambda: driver)
    monkeypatch.setattr(dry_run, "find_gpus", lambda _: Gpus(names=("0", "1"), ids={"0": "GPU-a", "1": "GPU-b"}))
    return tmp_path


def run(machine: Path, documents: str, *options: str) -> Result:
    arguments = ["up", "-f", "-", "--dry-run", "--port", "0", "--cache-dir", str(machine / "cache"), *options]
    return CliRunner().invoke(main, arguments, input=documents.replace("HERE", str(machine)))


def plans(machine: Path, *documents: str) -> dict[str, dict[str, Any]]:
    done = run(machine, "".join(documents), "-o", "json")
    found = json.loads(done.stdout)
    assert done.exit_code == (0 if found["ok"] else 1)
    return {each["model"]: each for each in found["models"]}


def test_what_would_run_and_nothing_is_missing(machine: Path) -> None:
    done = run(machine, document("qwen", "{engine: llamacpp, source: HERE/here.gguf, args: [-c, '8192'], port: 40123}"))
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        "qwen (llamacpp)\n"
        f"  run:      {machine}/bin/llama-server --model {machine}/here.gguf --host 127.0.0.1 --port 40123 --alias qwen -c 8192\n"
        "  on:       GPU 0 (the Workspace default)\n"
        f"  weights:  {machine}/here.gguf: here ({machine}/here.gguf)\n"
        "\n"
        "1 model: everything is here\n"
    )
    assert not (machine / "cache").exists()


def test_weights_are_here_or_fetched_or_missing(machine: Path) -> None:
    found = plans(
        machine,
        document("a", "{engine: llamacpp, source: 'hf://o/r/x.gguf'}"),
        document("b", "{engine: llamacpp, source: HERE/absent.gguf}"),
        document("c", "{engine: vllm, source: 'hf://o/r', cache: {fetchBy: Engine}, command: [serve]}"),
        document("d", "{engine: llamacpp, source: 'https://me:pw@h/x.gguf?sig=1'}"),
    )
    assert {name: plan["weights"]["state"] for name, plan in found.items()} == {
        "a": "fetched", "b": "missing", "c": "engine", "d": "fetched",
    }  # fmt: skip
    assert found["a"]["argv"][:3] == [f"{machine}/bin/llama-server", "--model", "WEIGHTS"]
    assert "PORT" in found["a"]["argv"]
    assert found["a"]["missing"] == []
    assert found["b"]["missing"] == [f"source {machine}/absent.gguf does not exist"]
    assert found["b"]["argv"][2] == f"{machine}/absent.gguf"
    assert found["c"]["argv"][1] == "o/r"
    assert found["d"]["weights"]["source"] == "https://h/x.gguf"


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        ("{engine: custom, command: [absent, '{port}']}", "absent is not on the PATH"),
        ("{engine: custom, command: [/opt/absent, '{port}']}", "/opt/absent does not exist"),
        ("{engine: custom, command: [HERE/bin/text, '{port}']}", "HERE/bin/text is not executable"),
        ("{engine: custom, command: [env, A=b, absent, '{port}']}", "absent is not on the PATH"),
        ("{engine: custom, command: ['D:\\x\\serve.exe', '{port}']}", "D:\\x\\serve.exe is a program of Windows"),
        ("{engine: custom, command: [serve, '{port}', --mmproj, /no/mm.gguf]}", "/no/mm.gguf does not exist"),
        ("{engine: custom, command: [serve, '{port}', --template=/no/t.jinja]}", "/no/t.jinja does not exist"),
        (
            "{engine: custom, command: [serve, '{port}', '{env:NO_SUCH}']}",
            "m: the environment variable NO_SUCH is used in command, but not set",
        ),
        (
            "{engine: vllm, source: 'hf://o/r'}",
            "engine vllm needs vllm on the PATH: pip install vllm, or name the program in command",
        ),
        (
            "{engine: mock, resources: {gpus: 3}}",
            "it needs 3 GPUs, and the Workspace default has 2 here (0, 1), of 3 that it states",
        ),
        (
            "{engine: mock, resources: {gpus: 2, acceleratorMemory: 60Gi}}",
            "it needs 60Gi of GPU memory, and GPU 0, 1 has 48Gi",
        ),
        (
            "{engine: external, url: 'http://127.0.0.1:1'}",
            "http://127.0.0.1:1 accepts no connection: Connection refused",
        ),
    ],
)
def test_what_is_missing_is_told(machine: Path, spec: str, missing: str) -> None:
    gpus = 3 if "3 that it states" in missing else 2
    workspace = document("default", f"{{capacity: {{gpus: {gpus}}}}}", "Workspace")
    plan = plans(machine, workspace, document("m", spec))["m"]
    assert plan["missing"] == [missing.replace("HERE", str(machine))]


def test_paths_in_a_container_are_not_looked_for(machine: Path) -> None:
    spec = "{engine: custom, command: [docker, run, -p, '{port}:80', image, --model, /models/x.gguf]}"
    assert plans(machine, document("m", spec))["m"]["missing"] == []


def test_a_port_that_is_taken_is_missing(machine: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = document("m", f"{{engine: mock, port: {port}}}")
        assert plans(machine, text)["m"]["missing"] == [f"port {port} is in use by another program"]
        done = run(machine, document("m", "{engine: mock}"), "--port", str(port))
    assert done.exit_code == 1
    assert f"MISSING: hotseat cannot listen on 127.0.0.1:{port}" in done.stdout


def test_gpus_of_each_model(machine: Path) -> None:
    workspace = "{capacity: {gpus: 2, acceleratorMemory: 48Gi}}"
    found = plans(
        machine,
        document("default", workspace, "Workspace"),
        document("half", "{engine: mock, resources: {acceleratorMemory: 10Gi}}"),
        document("both", "{engine: mock, resources: {gpus: 2, acceleratorMemory: 40Gi}}"),
        document("none", "{engine: mock, resources: {gpus: 0}}"),
        document("own", "{engine: mock, env: [{name: CUDA_VISIBLE_DEVICES, value: '1'}]}"),
    )
    assert {name: plan["devices"] for name, plan in found.items()} == {
        "half": ["0"],
        "both": ["0", "1"],
        "none": [],
        "own": ["1"],
    }
    assert found["own"]["devices_from"] == "CUDA_VISIBLE_DEVICES of the Model"


def test_a_machine_whose_gpus_nobody_reports(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "find_accelerators", lambda: None)
    monkeypatch.setattr(dry_run, "find_gpus", lambda _: Gpus())
    done = run(machine, document("m", "{engine: mock}"))
    assert done.exit_code == 0
    assert "GPU 0 (no driver reports the GPUs of this machine)" in done.stdout


def test_no_secret_is_printed(machine: Path) -> None:
    spec = """{engine: custom, command: [serve, '{port}', --api-key, sk-one, --hf-token=hf_two, '{env:OPENAI_API_KEY}', -e, MY_SECRET=three,
        --header, 'Authorization: Bearer four', 'http://u:five@h/', --max-tokens, '6', 'exec s --api-key acht8', --env=HF_TOKEN=nine,
        --api_key, ten10, '--config={{"api_key": "eleven"}}', --header, 'X-Api-Key: twelve', --api-keys, thirteen],
        env: [{name: X_TOKEN, value: seven}, {name: HTTPS_PROXY, value: 'http://u:fourteen@proxy:1'}, {name: PGPASS, value: fifteen}]}"""
    for options in ((), ("-o", "json")):
        printed = run(machine, document("m", spec), *options).stdout
        assert not [
            each
            for each in (
                "sk-one",
                "hf_two",
                "sk-of-mine",
                "three",
                "four",
                "five",
                "seven",
                "acht8",
                "nine",
                "ten10",
                "eleven",
                "twelve",
                "thirteen",
                "fourteen",
                "fifteen",
            )
            if each in printed
        ]
        assert "--max-tokens" in printed
        assert "X_TOKEN" in printed


def test_secret_values_of_documents(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NO_SUCH", raising=False)
    spec = {
        "engineKey": {"env": "NO_SUCH", "header": "X-Key"},
        "headers": [
            {"name": "A", "file": str(tmp_path / "absent")},
            {"name": "B", "secret": {"name": "s", "key": "k"}},
        ],
        "env": [{"name": "A", "value": "b"}],
        "metadata": {"env": "NO_SUCH"},
    }
    model = SimpleNamespace(spec=SimpleNamespace(model_dump=lambda **_: spec))
    assert list(dry_run._missing_keys(model)) == [
        "spec.engineKey: the environment variable NO_SUCH is not set",
        f"spec.headers[0]: the file {tmp_path}/absent does not exist",
        "spec.headers[1]: the Secret s is of a cluster; use env or file on one machine",
    ]


def test_documents_with_a_problem_are_refused_as_without_it(machine: Path) -> None:
    done = run(machine, document("m", "{engine: nope}"))
    assert done.exit_code == 2


def test_an_import_goes_straight_into_it(machine: Path) -> None:
    config = f"models: {{a: {{cmd: 'llama-server --port ${{PORT}} -m {machine}/here.gguf'}}}}"
    made = CliRunner().invoke(main, ["import", "-"], input=config)
    assert made.exit_code == 0
    assert run(machine, made.stdout).exit_code == 0
