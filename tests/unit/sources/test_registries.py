"""OCI artifacts: which of their layers are weights, and how a registry is told who asks."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotseat.sources import registries
from hotseat.sources.base import SourceError
from hotseat.sources.download import Progress
from tests.origins import Origins, digest, serve

TITLE = "org.opencontainers.image.title"
GGUF = "application/vnd.docker.ai.gguf.v3"
MANIFEST = "/v2/ai/m/manifests/q4"


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Origins]:
    for name in ("REGISTRY_USERNAME", "REGISTRY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with serve() as origin:
        monkeypatch.setenv("OCI_PLAIN_HTTP", f"registry.example.com, {host(origin)}")
        yield origin


def host(origin: Origins) -> str:
    return origin.url.removeprefix("http://")


def put(origin: Origins, *layers: tuple[str, str | None, bytes]) -> bytes:
    """Put an artifact of layers into the registry: media type, title and content of each."""
    described: list[dict[str, Any]] = []
    for media_type, title, content in layers:
        layer: dict[str, Any] = {"mediaType": media_type, "digest": f"sha256:{digest(content)}", "size": len(content)}
        described.append(layer | ({"annotations": {TITLE: title}} if title else {}))
        origin.files[f"/v2/ai/m/blobs/sha256:{digest(content)}"] = content
    origin.files[MANIFEST] = json.dumps({"layers": described}).encode()
    return origin.files[MANIFEST]


def fetch(origin: Origins, folder: Path, reference: str = ":q4") -> Path:
    return registries.fetch_oci(f"oci://{host(origin)}/ai/m{reference}", folder / "files", Progress(io.StringIO()))


def test_the_only_file_of_weights_is_the_result_and_a_licence_of_no_name_is_left_out(
    origin: Origins, tmp_path: Path
) -> None:
    put(origin, ("application/vnd.docker.ai.license", None, b"free"), (GGUF, None, b"weights"))
    path = fetch(origin, tmp_path)
    assert (path.suffix, path.read_bytes()) == (".gguf", b"weights")


def test_titles_are_names_and_a_split_model_is_its_first_file(origin: Origins, tmp_path: Path) -> None:
    parts = [(GGUF, f"m-0000{number}-of-00002.gguf", f"part {number}".encode()) for number in (2, 1)]
    put(origin, *parts, ("text/plain", "docs/README.md", b"read"))
    path = fetch(origin, tmp_path)
    assert path.name == "m-00001-of-00002.gguf"
    assert {str(file.relative_to(path.parent)) for file in path.parent.rglob("*") if file.is_file()} == {
        "m-00001-of-00002.gguf",
        "m-00002-of-00002.gguf",
        "docs/README.md",
    }


def test_files_that_are_no_gguf_are_a_folder(origin: Origins, tmp_path: Path) -> None:
    raw = "application/vnd.cncf.model.weight.v1.raw"
    put(origin, (raw, "model.safetensors", b"weights"), ("application/json", "config.json", b"{}"))
    assert fetch(origin, tmp_path) == tmp_path / "files"


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([], "no file of weights"),
        ([("application/vnd.docker.ai.license", None, b"free")], "no file of weights"),
        ([("application/vnd.cncf.model.weight.v1.tar", "m", b"tar")], "the layer m is an archive"),
        ([("application/vnd.oci.image.layer.v1.tar+gzip", "m", b"tar")], "the layer m is an archive"),
    ],
)
def test_what_has_no_files_of_weights_is_refused(
    origin: Origins, tmp_path: Path, layers: list[Any], reason: str
) -> None:
    put(origin, *layers)
    with pytest.raises(SourceError, match=reason):
        fetch(origin, tmp_path)


def test_a_digest_names_one_manifest(origin: Origins, tmp_path: Path) -> None:
    manifest = put(origin, (GGUF, "a.gguf", b"weights"))
    reference = f"@sha256:{digest(manifest)}"
    origin.files[f"/v2/ai/m/manifests/sha256:{digest(manifest)}"] = manifest
    assert fetch(origin, tmp_path, reference).read_bytes() == b"weights"
    origin.files[f"/v2/ai/m/manifests/sha256:{digest(manifest)}"] = manifest + b" "
    with pytest.raises(SourceError, match="another manifest"):
        fetch(origin, tmp_path, reference)


@pytest.mark.parametrize(
    "source", ["oci://host", "oci://host/", "oci:///m", "oci://host/m@sha256:1", "oci://host/m@md5:1"]
)
def test_what_is_no_source_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected oci://host/repository"):
        registries.fetch_oci(source, tmp_path, Progress(io.StringIO()))


BASIC = "Basic " + base64.b64encode(b"ada:hush").decode()


@pytest.mark.parametrize("by", ["environment", "docker login"])
def test_a_password_goes_to_the_registry(
    origin: Origins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    put(origin, (GGUF, "a.gguf", b"weights"))
    origin.passwords = dict.fromkeys(origin.files, BASIC)
    with pytest.raises(SourceError, match="a password with access is required"):
        fetch(origin, tmp_path)
    if by == "environment":
        monkeypatch.setenv("REGISTRY_USERNAME", "ada")
        monkeypatch.setenv("REGISTRY_PASSWORD", "hush")
    else:
        (tmp_path / "docker").mkdir()
        auths = {host(origin): {"auth": BASIC.removeprefix("Basic ")}, "other.example.com": {"auth": "b3RoZXI="}}
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": auths}))
    assert fetch(origin, tmp_path).read_bytes() == b"weights"


def test_a_token_of_the_registrys_server_is_asked_for_and_sent(
    origin: Origins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(origin, (GGUF, "a.gguf", b"weights"))
    origin.passwords = dict.fromkeys(origin.files, "Bearer short-lived")
    origin.challenge = f'Bearer realm="{origin.url}/token",service="registry",scope="repository:ai/m:pull"'
    origin.files["/token"] = b'{"token": "short-lived"}'
    assert fetch(origin, tmp_path).read_bytes() == b"weights"
    monkeypatch.setenv("REGISTRY_USERNAME", "ada")
    monkeypatch.setenv("REGISTRY_PASSWORD", "hush")
    origin.passwords["/token"] = BASIC
    assert fetch(origin, tmp_path / "again").read_bytes() == b"weights"


def test_a_password_is_not_sent_without_tls_if_the_registry_has_it(
    origin: Origins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_USERNAME", "ada")
    monkeypatch.setenv("REGISTRY_PASSWORD", "hush")
    registry = registries._Registry("https://registry.example.com", "ai/m", "oci://registry.example.com/ai/m")
    with pytest.raises(SourceError, match="without TLS"):
        registry._authorize(f'Bearer realm="{origin.url}/token"')
    assert origin.asked == []


def test_docker_hub_has_a_registry_and_a_login_of_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": "YQ=="}}}))
    assert registries._password("registry-1.docker.io") == "YQ=="
    assert registries._password("ghcr.io") is None
    asked: list[str] = []
    monkeypatch.setattr(
        registries._Registry, "layers", lambda self, reference: asked.append(f"{self._url} {reference}") or []
    )
    with pytest.raises(SourceError, match="no file of weights"):
        registries.fetch_oci("oci://docker.io/ai/smollm2:latest", tmp_path, Progress(io.StringIO()))
    assert asked == ["https://registry-1.docker.io/v2/ai/smollm2 latest"]
