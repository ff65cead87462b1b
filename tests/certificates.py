"""Certificates of tests: an authority, and what it signs."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


class Authority:
    """An authority. `file` has its certificate."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.file = folder, folder / "ca.crt"
        self._run("req", "-x509", *_CURVE, "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.crt")

    def server(self, *names: str) -> ssl.SSLContext:
        """Return the context of a server with these names, such as `DNS:localhost` and `IP:127.0.0.1`."""
        (self._folder / "names").write_text(f"subjectAltName={','.join(names)}\n")
        self._run("req", *_CURVE, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr")
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2"]
        self._run("x509", "-req", "-in", "server.csr", *signed, "-out", "server.crt")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "server.crt", self._folder / "server.key")
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self._folder)
