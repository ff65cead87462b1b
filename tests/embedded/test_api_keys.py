"""API keys of a file: nothing of one is seen anywhere, and a change of the file holds at once. And https, with keys."""

import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3

from .conftest import Up
from .harness import CHAT, Call, Hotseat, chat, eventually, model
from .receiver import Receiver
from .test_admin_port import free_port

PROGRAM = str(Path(sys.executable).with_name("hotseat"))
WORD = "hs-Geheim"  # what all keys of the test begin with
SPELLINGS: dict[str, Callable[[str], dict[str, str]]] = {
    "bearer": lambda key: {"Authorization": f"Bearer {key}"},
    "basic": lambda key: {"Authorization": "Basic " + base64.b64encode(f"who:{key}".encode()).decode()},
    "x-api-key": lambda key: {"X-Api-Key": key},
    "api-key": lambda key: {"api-key": key},
    "subprotocol": lambda key: {"Sec-WebSocket-Protocol": f"openai-insecure-api-key.{key}, realtime"},
    "both": lambda key: {"Authorization": "Bearer dummy", "X-Api-Key": key},
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def write(path: Path, *entries: dict[str, Any]) -> None:
    path.write_text(json.dumps(entries))


def key(name: str, **rights: Any) -> dict[str, Any]:
    return {"name": name, "key": f"{WORD}-{name}", **rights}


def traces(hotseat: Hotseat, receiver: Receiver) -> Iterator[tuple[str, str]]:
    """All that others than hotseat can see of it: where, and the text."""
    yield "log", hotseat.log()
    with hotseat._news:
        yield "events and messages", json.dumps(hotseat.lines)
    for path in [*hotseat.state.rglob("*"), *hotseat.folder.glob("*.log")]:
        if path.is_file():
            yield str(path), path.read_bytes().decode("latin-1")
    for process in psutil.process_iter():
        try:
            yield f"process list, pid {process.pid}", " ".join(process.cmdline())
        except psutil.Error:
            continue
    for pid in hotseat.engines():
        yield f"environment of engine {pid}", Path(f"/proc/{pid}/environ").read_bytes().decode("latin-1")
    for path, headers, body in receiver.requests:
        yield "upstream request", f"{path} {dict(headers)} {body!r}"


def test_nothing_of_a_key_is_seen_anywhere(up: Up, receiver: Receiver, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    made = subprocess.run(
        [PROGRAM, "key", "new", "made", "--file", str(keys)], capture_output=True, text=True, check=True
    ).stdout.strip()
    entries = [key("limited", models=["ext"], requestsPerMinute=20), key("reader", operations=["read"])]
    write(keys, *json.loads(json.dumps(_entries(keys))), *entries)
    hotseat = up(
        model("a", env=[{"name": "SEEN", "value": "1"}]),
        model("ext", engine="external", url=receiver.url, args=[]),
        options=(
            "--api-key-file",
            str(keys),
            "--log-level",
            "debug",
            "--capture",
            "full",
            "--request-log",
            str(tmp_path / "log.jsonl"),
        ),
        env={"HOTSEAT_API_KEY": f"{WORD}-environment"},
    )
    hotseat.expected_errors += ["is stored as it is"]
    secrets = [made, *(f"{WORD}-{name}" for name in ("environment", "limited", "reader"))]
    answers = [hotseat.call("POST", CHAT, chat("a"), **SPELLINGS["bearer"](secret)).answer() for secret in secrets]
    for secret in secrets:
        for spelled in SPELLINGS.values():
            headers = spelled(secret)
            answers += [
                hotseat.call("POST", CHAT, chat("ext"), **headers).answer(),
                hotseat.call("POST", f"{CHAT}?api_key={secret}", chat("ext"), **headers).answer(),
                hotseat.call("GET", f"/v1/models?key={secret}").answer(),
                hotseat.call("POST", "/upstream/ext/x?y=1", chat("ext"), **headers).answer(),
                hotseat.call("POST", CHAT, b"{broken", **headers).answer(),
                hotseat.call("POST", CHAT, chat(f"unknown-{secret[:4]}"), **headers).answer(),
                hotseat.call("GET", "/running", **headers).answer(),
                hotseat.call("POST", "/api/models/a/load", **headers).answer(),
            ]
    assert {answer.status for answer in answers} >= {200, 400, 401, 403, 404}
    every = {"Authorization": f"Bearer {made}"}
    for path in (
        "/running",
        "/api/requests",
        "/api/queue",
        "/metrics",
        "/logs",
        "/api/events?follow=false",
        "/api/history/events",
        "/api/history/requests",
        "/openapi.json",
    ):
        answers.append(hotseat.get(path, **every))
    for row in hotseat.get("/api/requests", **every).json()["requests"]:
        answers.append(hotseat.get(f"/api/captures/{row['id']}", **every))
    assert len(receiver.requests) >= 2 * 2 * len(SPELLINGS)
    seen = [*traces(hotseat, receiver), ("request log", (tmp_path / "log.jsonl").read_text())]
    seen += [(f"answer {number}", f"{dict(each.headers)} {each.body!r}") for number, each in enumerate(answers)]
    for secret in secrets:
        spellings = [
            secret,
            base64.b64encode(f"who:{secret}".encode()).decode().rstrip("="),
            f"openai-insecure-api-key.{secret}",
        ]
        assert [where for where, text in seen if any(each in text for each in spellings)] == []
    assert "openai-insecure-api-key" not in "".join(text for where, text in seen if where == "upstream request")


def _entries(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text())


def test_a_changed_file_holds_for_the_next_request_and_a_broken_one_changes_nothing(up: Up, tmp_path: Path) -> None:
    """The file is mounted as Kubernetes does it: a link to a link to a folder that is replaced."""

    def mount(version: str, text: str) -> None:
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys").write_text(text)
        (tmp_path / "draft").symlink_to(version)
        (tmp_path / "draft").rename(tmp_path / "..data")

    mount("1", json.dumps([key("one"), key("two", operations=["read"])]))
    (tmp_path / "keys").symlink_to("..data/keys")
    hotseat = up(model("a"), options=("--api-key-file", str(tmp_path / "keys")))
    hotseat.expected_errors += ["is stored as it is"]

    def status(name: str) -> int:
        return hotseat.call("POST", CHAT, chat("a"), **SPELLINGS["bearer"](f"{WORD}-{name}")).answer().status

    def told(word: str) -> bool:
        return any(word in message for message in hotseat.said())

    assert [status("one"), status("two"), status("three")] == [200, 403, 401]
    mount("2", json.dumps([key("two"), key("three")]))
    hotseat.wait_for(lambda: told("API keys reloaded"))
    assert [status("one"), status("two"), status("three")] == [401, 200, 200]
    mount("3", '[{"name": "one", "models": "a"}]')
    hotseat.wait_for(lambda: told("the previous keys stay valid"))
    assert [status("one"), status("two"), status("three")] == [401, 200, 200]


def test_https_with_an_own_certificate(up: Up, tmp_path: Path) -> None:
    port = free_port()
    hotseat = up(
        model("a"),
        options=("--tls-self-signed", "--admin-bind", f"127.0.0.1:{port}", "--api-key", f"{WORD}-tls"),
    )
    assert hotseat.url.startswith("https://")
    certificate = hotseat.state / "tls" / "certificate.pem"
    hotseat.wait_for(lambda: any(f"certificate {certificate}, SHA-256 " in message for message in hotseat.said()))
    headers = SPELLINGS["bearer"](f"{WORD}-tls")
    with urllib3.PoolManager(ca_certs=str(certificate), retries=False) as http:
        answer = http.request("POST", hotseat.url + CHAT, json=chat("a"), headers=headers)
        assert (answer.status, answer.json()["model"]) == (200, "a")
        lines = http.request("POST", hotseat.url + CHAT, json=chat("a", stream=True), headers=headers).data
        assert lines.endswith(b"data: [DONE]\n\n")
        assert http.request("GET", f"{hotseat.url}/running", headers=headers).status == 404
        assert http.request("GET", f"https://127.0.0.1:{port}/running").status == 401, "a key is required there too"
        assert http.request("GET", f"https://127.0.0.1:{port}/running", headers=headers).status == 200
        assert http.request("GET", f"https://127.0.0.1:{port}/ready").status == 200

    def cli(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        own = {name: value for name, value in os.environ.items() if not name.startswith("HOTSEAT_")}
        command = [PROGRAM, "--url", f"https://127.0.0.1:{port}", *arguments]
        return subprocess.run(command, env=own | env, capture_output=True, text=True, check=False)

    shown = cli("ps", HOTSEAT_API_KEY=f"{WORD}-tls", HOTSEAT_CA_FILE=str(certificate))
    assert (shown.returncode, " a " in shown.stdout) == (0, True), shown.stderr
    refused = cli("ps", HOTSEAT_API_KEY=f"{WORD}-tls")
    assert (refused.returncode, "use --ca-file" in refused.stderr) == (1, True)
    missing = cli("--ca-file", str(tmp_path / "none"), "ps")
    assert (missing.returncode, "--ca-file" in missing.stderr, "Traceback" in missing.stderr) == (1, True, False)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--admin-bind", "0.0.0.0:{port}"), "--admin-bind 0.0.0.0 is not loopback"),
        (("--admin-bind", "{port}"), "ADDRESS:PORT"),
        (("--admin-bind", "127.0.0.1:{port}", "--admin-port", "{port}"), "not both"),
        (("--tls-cert", "x"), "give both"),
        (("--tls-cert", "x", "--tls-key", "x"), "x does not exist"),
        (("--host", "0.0.0.0"), "--host 0.0.0.0 is not loopback"),
        (("--api-key-file", "{broken}"), "[0]: exactly one of hash and key must be set"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_starts(
    tmp_path: Path, options: tuple[str, ...], problem: str
) -> None:
    (tmp_path / "models.json").write_text(json.dumps(model("a")))
    write(tmp_path / "broken", {"name": "a"})
    filled = [each.format(port=free_port(), broken=tmp_path / "broken") for each in options]
    command = [
        PROGRAM,
        "up",
        "-f",
        str(tmp_path / "models.json"),
        "--port",
        "0",
        "--state-dir",
        str(tmp_path / "s"),
        *filled,
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode in {1, 2}
    assert problem in told.stderr
    assert "Traceback" not in told.stderr


def test_admin_routes_on_an_address_of_their_own(up: Up) -> None:
    port = free_port()
    hotseat = up(model("a"), options=("--admin-bind", f"[::1]:{port}")) if socket.has_ipv6 else None
    if hotseat is not None:
        assert Call(f"[::1]:{port}", "GET", "/running").answer().status == 200
        assert hotseat.get("/running").status == 404
        eventually(lambda: hotseat.get("/ready").status == 200)
