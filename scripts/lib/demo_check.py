"""`scripts/demo --check`: do what the README tells a reader to do, over HTTP, and say what happened."""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import urllib3

ROOT_STATE = ".cache/demo-check"
START = 30.0
STOP = 30.0
http = urllib3.PoolManager(timeout=120, retries=False)


@contextlib.contextmanager
def hotseat(port: int) -> Iterator[str]:
    command = ["hotseat", "up", "-f", "examples/demo.yaml", "--port", str(port), "--state-dir", ROOT_STATE, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    kill = threading.Timer(START, process.kill)
    kill.start()
    assert process.stdout is not None
    banner = process.stdout.readline()
    kill.cancel()
    if not banner:
        sys.exit("hotseat did not start")
    threading.Thread(target=lambda: [None for _ in process.stdout], daemon=True).start()
    try:
        yield json.loads(banner)["url"]
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(STOP)
    if code:
        sys.exit(f"hotseat ended with {code}")


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    response = http.request("POST", url, json=body)
    if response.status != 200:
        sys.exit(f"{url} answered {response.status}: {response.data.decode()}")
    return response.json()


def stream(url: str, body: dict[str, Any]) -> str:
    response = http.request("POST", url, json=body | {"stream": True}, preload_content=False)
    if response.status != 200:
        sys.exit(f"{url} answered {response.status}: {response.data.decode()}")
    text, done = "", False
    for line in b"".join(response.stream()).decode().splitlines():
        done = done or line == "data: [DONE]"
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            if "error" in event:
                sys.exit(f"the stream broke: {event}")
            text += "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
    if not done:
        sys.exit("the stream has no end")
    return text


def chat(model: str, question: str) -> dict[str, Any]:
    return {
        "model": model,
        "max_tokens": 24,
        "temperature": 0,
        "stop": ["\n"],
        "messages": [{"role": "user", "content": question}],
    }


def shown(text: str) -> str:
    return " ".join(text.split())[:90]


def check(url: str) -> None:
    steps: list[tuple[str, Callable[[], str]]] = [
        ("gemma", lambda: said(ask(f"{url}/v1/chat/completions", chat("gemma", "What is the capital of France?")))),
        ("gemma-embed", lambda: vector(ask(f"{url}/v1/embeddings", {"model": "gemma-embed", "input": "Paris"}))),
        ("gemma-long, streamed", lambda: stream(f"{url}/v1/chat/completions", chat("gemma-long", "What is the capital of Italy?"))),
        ("gpt-4o-mini (another name of gemma), streamed",
         lambda: stream(f"{url}/v1/chat/completions", chat("gpt-4o-mini", "What is the opposite of hot?"))),
        ("text-embedding-3-small (another name of gemma-embed)",
         lambda: vector(ask(f"{url}/v1/embeddings", {"model": "text-embedding-3-small", "input": ["Paris", "Rome"]}))),
        ("gemma-long, completion", lambda: ask(f"{url}/v1/completions", {"model": "gemma-long", "prompt": "One, two,", "max_tokens": 12})
         ["choices"][0]["text"]),
    ]  # fmt: skip
    for name, step in steps:
        started = time.monotonic()
        answer = step()
        if not answer.strip():
            sys.exit(f"{name} answered nothing")
        print(f"{time.monotonic() - started:6.2f} s  {name}: {shown(answer)}", flush=True)
    switches = http.request("GET", f"{url}/api/switches").json()["switches"]
    table(switches)
    arrived = [switch["to"] for switch in switches if switch["outcome"] == "completed"]
    if arrived != ["gemma", "gemma-embed", "gemma-long", "gemma", "gemma-embed", "gemma-long"]:
        sys.exit(f"the switches are not those that were to be expected: {arrived}")


def said(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def vector(answer: dict[str, Any]) -> str:
    vectors = [row["embedding"] for row in answer["data"]]
    if not all(any(vector) for vector in vectors):
        sys.exit("an embedding is empty")
    return f"{len(vectors)} of {len(vectors[0])} numbers: {', '.join(f'{x:.4f}' for x in vectors[0][:4])} …"


def table(switches: list[dict[str, Any]]) -> None:
    phases = ("wait", "drain", "release", "load", "total")
    print(f"\n{'FROM':<14}{'TO':<14}{'OUTCOME':<12}" + "".join(f"{phase.upper():>9}" for phase in phases))
    for switch in switches:
        times = "".join(f"{switch['phases'].get(phase, 0):>8.3f}s" for phase in phases)
        print(f"{', '.join(switch['from']) or '-':<14}{switch['to']:<14}{switch['outcome']:<12}{times}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("--check", action="store_true", help="(this is what it does)")
    parser.add_argument("--port", type=int, default=8000)
    with hotseat(parser.parse_args().port) as url:
        check(url)
    print("\nEverything was answered, and everything has been stopped.")


main()
