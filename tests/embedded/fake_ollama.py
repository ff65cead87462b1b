"""A stand-in for the program `ollama`: serve, ls, show, pull, run and cp, with a store of manifests.

As ollama/ollama has it: commands in cmd/cmd.go (`run` joins the standard input and the arguments to the prompt, and an empty prompt only
loads the model), routes in server/routes.go, variables in envconfig/config.go.
"""

import contextlib
import http.client
import http.server
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

STORE = Path(os.environ["OLLAMA_MODELS"], "manifests", "registry.ollama.ai", "library")
HOST, _, PORT = os.environ["OLLAMA_HOST"].rpartition(":")
LIBRARY = {"qwen3:8b", "nomic"}  # what can be pulled
loaded: set[str] = set()


def manifest(name: str) -> Path:
    base, _, tag = name.partition(":")
    return STORE / base / (tag or "latest")


def log(**row: object) -> None:
    with Path(os.environ["STAND_IN_LOG"]).open("a") as target:
        target.write(json.dumps({**row, "time": time.time()}) + "\n")


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        # A client may have gone. A traceback would push out of the last lines what a test looks for.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        name = self.path.removeprefix("/v1/models/")
        self.reply(200 if self.path == "/" or manifest(name).exists() else 404, {"id": name})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["model"]
        if not manifest(name).exists():
            return self.reply(404, {"error": f"model '{name}' not found"})
        if name not in loaded:
            time.sleep(0.1)
            loaded.add(name)
            log(event="load", model=name, path=self.path, prompt=body.get("prompt"))
        said = {"role": "assistant", "content": f"{name}: {len(loaded)} loaded"}
        if self.path == "/v1/chat/completions":
            return self.reply(200, {"model": name, "choices": [{"index": 0, "message": said, "finish_reason": "stop"}]})
        return self.reply(200, {"model": name, "message": said, "done": True, "done_reason": "stop"})

    def reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def ask(method: str, path: str, body: object = None) -> int:
    try:
        connection = http.client.HTTPConnection(HOST, int(PORT))
        connection.request(method, path, json.dumps(body))
        response = connection.getresponse()
        response.read()
        return response.status
    except OSError:
        sys.exit("Error: could not connect to ollama server, run 'ollama serve' to start it")


def main(command: str, *args: str) -> None:
    if command == "serve":
        with http.server.ThreadingHTTPServer((HOST, int(PORT)), Server) as server:
            log(event="serve", variables={k: v for k, v in os.environ.items() if k.startswith("OLLAMA_")})
            server.serve_forever()
    ask("GET", "/")
    if command == "show" and not manifest(args[0]).exists():
        sys.exit(f"Error: model '{args[0]}' not found")
    if command == "pull":
        if args[0] not in LIBRARY:
            sys.exit("Error: pull model manifest: file does not exist")
        manifest(args[0]).parent.mkdir(parents=True)
        manifest(args[0]).write_text("{}")
        log(event="pull", model=args[0])
    if command == "cp":
        manifest(args[1]).parent.mkdir(parents=True)
        manifest(args[1]).write_text(manifest(args[0]).read_text())
    if command == "run":
        prompt = " ".join([sys.stdin.read(), *args[1:]])
        if ask("POST", "/api/generate", {"model": args[0], "prompt": prompt}) != http.HTTPStatus.OK:
            sys.exit("Error: it cannot be loaded")


if __name__ == "__main__":
    main(*sys.argv[1:])
