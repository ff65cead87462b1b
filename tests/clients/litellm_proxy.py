"""LiteLLM's proxy in front of hotseat, asked by OpenAI's client: `litellm_proxy.py URL`. It runs in the current folder."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import openai

KEY = "sk-of-litellm-0123456789abcdef0123456789abcdef"
upstream = sys.argv[1] + "/v1"
config = {
    "model_list": [{"model_name": "*", "litellm_params": {"model": "openai/*", "api_base": upstream, "api_key": "k"}}],
    "litellm_settings": {"num_retries": 0},
    "general_settings": {"master_key": KEY},
}
Path("litellm.yaml").write_text(json.dumps(config))
with socket.create_server(("127.0.0.1", 0)) as sock:
    port = sock.getsockname()[1]
program = Path(sys.executable).with_name("litellm")
proxy = subprocess.Popen([program, "--config", "litellm.yaml", "--host", "127.0.0.1", "--port", str(port)])
try:
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness"):
            break
        assert proxy.poll() is None, "the proxy has ended"
        time.sleep(0.2)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0)

    def ask(model: str, **more: object) -> object:
        return client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}], **more)

    assert ask("a").choices[0].message.content.startswith("a: ")
    pieces = list(ask("b", stream=True))  # the other model is loaded for it
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices).startswith("b: "), pieces
    refused = None
    try:
        ask("nobody")
    except openai.NotFoundError as error:
        refused = error.message
    assert refused is not None
    assert "nobody" in refused
finally:
    proxy.terminate()
    proxy.wait()
