"""One server on loopback that plays all origins of weights: a plain one, a hub, registries, and stores of objects."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
SECRET = "hush-hush"
DATE = "Mon, 30 Nov 2026 10:00:00 GMT"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    origin: "Origins"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):  # the client was killed
            super().handle()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        origin = self.origin
        path = unquote(urlsplit(self.path).path)
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        origin.asked.append(Asked(self.command, path, self.headers.get("Range"), dict(self.headers.items())))
        if path in origin.passwords and self.headers.get("Authorization") != origin.passwords[path]:
            self._answer(401, b"", **{"WWW-Authenticate": origin.challenge})
        elif "prefix" in query:  # a listing, of any of the stores
            self._answer(200, origin.listing(query))
        elif path not in origin.files:
            self._answer(404, b"")
        elif origin.faults_of_weights and path in origin.weights:
            self._answer(origin.faults_of_weights.pop(0), b"")
        elif origin.failures:
            self._answer(origin.failures.pop(0), f"<Error>{SECRET}</Error>".encode())
        elif origin.redirect_to and path in origin.weights:
            self._answer(302, b"", Location=f"{origin.redirect_to}{quote(path)}")
        else:
            self._content(path, origin)

    def _content(self, path: str, origin: "Origins") -> None:
        whole, tag = origin.files[path], origin.etag
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if self.headers.get("If-Match") not in (None, tag):
            self._answer(412, b"")
            return
        if self.headers.get("If-Range") not in (None, tag):
            first = 0
        if first and first >= len(whole):
            self._answer(416, b"", **{"Content-Range": f"bytes */{len(whole)}"})
            return
        headers = {"ETag": tag, "Last-Modified": DATE, **origin.headers}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(whole) - 1}/{len(whole)}"
        data = whole[first:]
        self._answer(206 if first else 200, data, origin.stall_after if path in origin.weights else 0, **headers)

    def _answer(self, status: int, body: bytes, stall_after: int = 0, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            if stall_after:
                self.wfile.write(body[:stall_after])
                self.origin.stalled.set()
                self.origin.go_on.wait(30)
                body = body[stall_after:]
            self.wfile.write(body)
            self.origin.sent += len(body)
        except OSError:
            self.close_connection = True


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    range: str | None
    headers: dict[str, str]


@dataclass
class Origins:
    """`files` by path. `weights`: paths of large files, to which the faults apply."""

    files: dict[str, bytes] = field(default_factory=dict)
    weights: set[str] = field(default_factory=set)
    asked: list[Asked] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)  # statuses of the next answers
    faults_of_weights: list[int] = field(default_factory=list)  # the same, for `weights` alone
    passwords: dict[str, str] = field(default_factory=dict)  # by path: the header Authorization that it needs
    challenge: str = "Basic"
    etag: str = '"one"'
    redirect_to: str = ""
    stall_after: int = 0
    sent: int = 0
    names_of_objects: Callable[[str], str] = str
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def listing(self, query: dict[str, str]) -> bytes:
        """Answer like S3, Google's store, and Azure's, two objects a page."""
        prefix, azure = query["prefix"], "comp" in query
        keys = sorted(path.removeprefix("/bucket/") for path in self.files if path.startswith(f"/bucket/{prefix}"))
        first = int(query.get("marker") or query.get("continuation-token") or 0)
        rest = str(first + 2) if first + 2 < len(keys) else ""
        page = [(self.names_of_objects(key), self.files[f"/bucket/{key}"]) for key in keys[first : first + 2]]
        if azure:
            rows = "".join(
                f"<Blob><Name>{key}</Name><Properties><Last-Modified>{DATE}</Last-Modified><Content-Length>{len(data)}"
                f"</Content-Length><Content-Type>x</Content-Type><Etag>e</Etag></Properties></Blob>"
                for key, data in page
            )
            return f"<EnumerationResults><Blobs>{rows}</Blobs><NextMarker>{rest}</NextMarker></EnumerationResults>".encode()
        rows = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(data)}</Size><ETag>{self.etag}</ETag>"
            f"<LastModified>2026-11-30T10:00:00.000Z</LastModified></Contents>"
            for key, data in page
        )
        more = f"<NextContinuationToken>{rest}</NextContinuationToken>" if rest else ""
        return f"<ListBucketResult>{rows}{more}</ListBucketResult>".encode()


@contextmanager
def serve() -> Iterator[Origins]:
    """Serve origins on loopback."""
    origin = Origins()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"origin": origin}))
    server.daemon_threads = True
    origin.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield origin
    finally:
        origin.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Kind:
    """A kind of source: how it is written, and what an origin must serve for it."""

    source: str  # `{url}`, `{host}` and `{sha256}` are replaced
    put: Callable[[Origins, bytes, str], None]  # content, and the digest that the origin states of it
    env: dict[str, str] = field(default_factory=dict)
    has_secret: bool = True  # the requests carry one
    counts: bool = True  # the server counts the bytes


def put_plain(path: str) -> Callable[[Origins, bytes, str], None]:
    def put(origin: Origins, content: bytes, _: str) -> None:
        origin.files[path] = content
        origin.weights.add(path)

    return put


def put_hub(origin: Origins, content: bytes, sha256: str, name: str = "a.gguf") -> None:
    lfs = {"lfs": {"sha256": sha256}}
    listing = {"sha": COMMIT, "siblings": [{"rfilename": name, "size": len(content), **lfs}]}
    origin.files["/api/models/org/repo/revision/main"] = json.dumps(listing).encode()
    put_plain(f"/org/repo/resolve/{COMMIT}/{name}")(origin, content, sha256)


def put_manifest(path: str, media_type: str, title: str | None = None) -> Callable[[Origins, bytes, str], None]:
    def put(origin: Origins, content: bytes, sha256: str) -> None:
        annotations = {"annotations": {"org.opencontainers.image.title": title}} if title else {}
        layer: dict[str, Any] = {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": len(content)}
        origin.files[path] = json.dumps({"layers": [{**layer, **annotations}]}).encode()
        put_plain(path.partition("/manifests/")[0] + f"/blobs/sha256:{sha256}")(origin, content, sha256)

    return put


_S3 = {
    "AWS_ENDPOINT_URL": "{url}",
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": SECRET,
}
_GS = {"GOOGLE_BASE_URL": "{url}"}
_AZ = {
    "AZURE_STORAGE_ENDPOINT": "{url}",
    "AZURE_STORAGE_ACCOUNT_NAME": "account",
    "AZURE_STORAGE_ACCOUNT_KEY": "aHVzaC1odXNo",
}
_GGUF = "application/vnd.docker.ai.gguf.v3"
_OLLAMA = "application/vnd.ollama.image.model"

KINDS = {
    "https": Kind("{url}/a.gguf#sha256={sha256}", put_plain("/a.gguf"), has_secret=False),
    "hf": Kind("hf://org/repo/a.gguf", put_hub, {"HF_ENDPOINT": "{url}", "HF_TOKEN": SECRET}),
    "xet": Kind("hf://org/repo/a.gguf", put_hub, {"HF_ENDPOINT": "{url}", "HF_TOKEN": SECRET}, counts=False),
    "ollama": Kind(
        "ollama://m", put_manifest("/v2/library/m/manifests/latest", _OLLAMA), {"OLLAMA_REGISTRY": "{url}"}, has_secret=False
    ),
    "oci": Kind("oci://{host}/ai/m:q4", put_manifest("/v2/ai/m/manifests/q4", _GGUF, "a.gguf"), {"OCI_PLAIN_HTTP": "{host}"}, has_secret=False),
    "s3": Kind("s3://bucket/a.gguf#sha256={sha256}", put_plain("/bucket/a.gguf"), _S3),
    "gs": Kind("gs://bucket/a.gguf#sha256={sha256}", put_plain("/bucket/a.gguf"), _GS, has_secret=False),
    "az": Kind("az://bucket/a.gguf#sha256={sha256}", put_plain("/bucket/a.gguf"), _AZ),
}  # fmt: skip


_PUT_INTO_XET = """
import sys, hf_xet
config = hf_xet.XetConfig().with_config({"telemetry.enabled": False})
with hf_xet.XetSession(config).new_upload_commit(endpoint=f"local://{sys.argv[1]}") as commit:
    handle = commit.start_upload_bytes(sys.stdin.buffer.read())
print(handle.result().xet_info.hash)
"""


def store_by_xet(origin: Origins, content: bytes, folder: Path) -> None:
    """Put content into a storage of Xet in `folder`, which the library itself offers for tests, and name it in answers."""
    folder.mkdir(parents=True, exist_ok=True)
    put = subprocess.run(  # another process, as what the library logs is decided once
        [sys.executable, "-c", _PUT_INTO_XET, str(folder)],
        input=content,
        env={**os.environ, "HF_XET_LOG_DEST": os.devnull},
        capture_output=True,
        check=True,
    )
    origin.headers["X-Xet-Hash"] = put.stdout.decode().strip()
    token = {"accessToken": "short-lived", "exp": 4102444800, "casUrl": f"local://{folder}"}
    origin.files[f"/api/models/org/repo/xet-read-token/{COMMIT}"] = json.dumps(token).encode()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
