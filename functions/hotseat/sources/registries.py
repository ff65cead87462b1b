"""Weights in registries of OCI artifacts: ollama://name[:tag], and oci://host/repository[:tag or @sha256:…].

OLLAMA_REGISTRY is the base URL of Ollama's registry. Of a model of Ollama only the weights are fetched: its
templates and parameters are for Ollama alone. Of an artifact, as ORAS, ModelKit, ModelPack and `docker model` make
them, the files of weights and those with a name are fetched: one file is the result, or their folder.
REGISTRY_USERNAME and REGISTRY_PASSWORD (for REGISTRY_HOST alone, if that is set), or the file of `docker login`, have the password of a
private registry.
OCI_PLAIN_HTTP is a list of hosts that are asked without TLS.
"""

import base64
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from hotseat.sources.base import SourceError, split
from hotseat.sources.download import Progress, download, is_size
from hotseat.sources.http_client import RETRYABLE_STATUS, HttpFile, make_pool, parse_json, request

_DOCKER_HUB: Final = "registry-1.docker.io"
OLLAMA: Final = "https://registry.ollama.ai"
_MANIFESTS: Final = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
_WEIGHTS_OF_OLLAMA: Final = "application/vnd.ollama.image.model"
_TITLES: Final = ("org.opencontainers.image.title", "org.cncf.model.filepath", "org.cnai.model.filepath")
_GGUF: Final = re.compile(r"application/vnd\.docker\.ai\.gguf|\.gguf\b|format\.gguf")
_PACKED: Final = re.compile(r"[.+](tar|tar\+gzip|gzip|zstd)$")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_SPLIT_GGUF: Final = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')


def fetch_ollama(source: str, folder: Path, progress: Progress) -> Path:
    """Fetch the weights of a model of Ollama into `folder`, and return the file."""
    base = os.environ.get("OLLAMA_REGISTRY", OLLAMA).rstrip("/")
    name, _, tag = split(source)[1].strip("/").partition(":")
    registry = _Registry(base, name if "/" in name else f"library/{name}", source)
    weights = [layer for layer in registry.layers(tag or "latest") if layer.get("mediaType") == _WEIGHTS_OF_OLLAMA]
    if len(weights) != 1:
        raise SourceError(
            f"{source} has {len(weights)} files of weights, expected one; run it by Ollama itself (engine custom)"
        )
    target = f"{name.rpartition('/')[2]}-{tag or 'latest'}.gguf"
    return download(registry.file(weights[0]), folder, target, progress.file(target))


def fetch_oci(source: str, folder: Path, progress: Progress) -> Path:
    """Fetch the files of an artifact into `folder`; return the file, the first file of a split model, or the folder."""
    host, _, rest = split(source)[1].partition("/")
    repository, _, digest = rest.partition("@")
    if not digest:
        repository, _, tag = repository.partition(":")
    if not host or not repository or (digest and not _DIGEST.fullmatch(digest)):
        raise SourceError(f"source {source}: expected oci://host/repository[:tag or @sha256:…]")
    if host == "docker.io":
        host = _DOCKER_HUB
    plain = host in os.environ.get("OCI_PLAIN_HTTP", "").replace(",", " ").split()
    registry = _Registry(f"{'http' if plain else 'https'}://{host}", repository, source, digest)
    files = [(layer, name) for layer in registry.layers(digest or tag or "latest") if (name := _file_name(layer))]
    if not files:
        raise SourceError(f"{source} has no file of weights: no layer has a title or is a GGUF file")
    if packed := next((name for layer, name in files if _PACKED.search(str(layer.get("mediaType")))), None):
        raise SourceError(f"{source}: the layer {packed} is an archive; push its files as they are")
    remotes = [(registry.file(layer), name) for layer, name in files]
    progress.total = sum(remote.size or 0 for remote, _ in remotes)
    paths = [download(remote, folder, name, progress.file(name)) for remote, name in remotes]
    weights = sorted(path for path in paths if path.suffix == ".gguf")
    parts_of_one = len({_SPLIT_GGUF.sub("", path.name) for path in weights}) == 1
    return weights[0] if parts_of_one else paths[0] if len(paths) == 1 else folder


def _file_name(layer: dict[str, Any]) -> str | None:
    """Return the name of the file that a layer is; None if it is none of the model."""
    annotations = layer.get("annotations")
    titles = annotations if isinstance(annotations, dict) else {}
    name = next((titles[title] for title in _TITLES if isinstance(titles.get(title), str)), None)
    if name is None and _GGUF.search(str(layer.get("mediaType"))):
        name = f"{str(layer.get('digest')).rpartition(':')[2][:12]}.gguf"
    return name


class _Registry:
    """One repository of a registry. Requests are authorized as the registry asks for."""

    def __init__(self, base: str, repository: str, source: str, digest: str = "") -> None:
        self._pool = make_pool()
        self._url = f"{base}/v2/{repository}"
        self._repository = repository
        self._source = source
        self._digest = digest
        self._headers: dict[str, str] = {}

    def layers(self, reference: str) -> list[dict[str, Any]]:
        """Return the layers of a tag or digest."""
        url = f"{self._url}/manifests/{reference}"
        response = request(self._pool, url, {"Accept": _MANIFESTS})
        if response.status == 401:  # noqa: PLR2004
            self._headers = self._authorize(response.headers.get("WWW-Authenticate", ""))
            response = request(self._pool, url, {"Accept": _MANIFESTS, **self._headers})
        if response.status == 404:  # noqa: PLR2004
            raise SourceError(f"{self._source}: no such model or tag ({url})")
        if response.status in (401, 403):
            raise SourceError(f"{self._source}: {url} answered {response.status}: a password with access is required")
        if response.status != 200:  # noqa: PLR2004
            raise SourceError(f"{url} answered {response.status}", retryable=response.status in RETRYABLE_STATUS)
        if self._digest and hashlib.sha256(response.data).hexdigest() != self._digest.removeprefix("sha256:"):
            raise SourceError(f"{url} answered with another manifest than that of the digest")
        manifest = parse_json(response, url)
        layers = manifest.get("layers") if isinstance(manifest, dict) else None
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            raise SourceError(f"{url} does not answer like an Ollama registry or one of OCI artifacts")
        return layers

    def file(self, layer: dict[str, Any]) -> HttpFile:
        """Return the file of a layer."""
        digest, size = layer.get("digest"), layer.get("size")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not is_size(size):
            raise SourceError(f"{self._source}: the weights have no valid digest and size")
        url = f"{self._url}/blobs/{digest}"
        return HttpFile(self._pool, url, self._headers, size, digest.removeprefix("sha256:"))

    def _authorize(self, challenge: str) -> dict[str, str]:
        """Return the headers that answer a challenge: a password, or a token that the registry's server gives for it."""
        scheme, fields = challenge.partition(" ")[0].lower(), dict(_CHALLENGE.findall(challenge))
        password = _password(urlsplit(self._url).netloc)
        basic = {"Authorization": f"Basic {password}"} if password else {}
        if scheme != "bearer" or "realm" not in fields:
            return basic
        scope = fields.get("scope") or f"repository:{self._repository}:pull"
        query = urlencode({"scope": scope, **({"service": fields["service"]} if "service" in fields else {})})
        realm = fields["realm"]
        if not realm.startswith("https://") and not self._url.startswith("http://"):
            raise SourceError(f"{self._source}: the registry wants the password without TLS ({realm})")
        answer = parse_json(request(self._pool, f"{realm}?{query}", basic), realm)
        token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
        return {"Authorization": f"Bearer {token}"} if isinstance(token, str) else basic


def _password(host: str) -> str | None:
    """Return user and password of a registry in base64; None if there are none."""
    user, password = os.environ.get("REGISTRY_USERNAME"), os.environ.get("REGISTRY_PASSWORD")
    if user and password and os.environ.get("REGISTRY_HOST", host) == host:
        return base64.b64encode(f"{user}:{password}".encode()).decode()
    try:
        config = json.loads(
            (Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser() / "config.json").read_bytes()
        )
        auths = config["auths"]
        auth = (auths.get(host) or auths["https://index.docker.io/v1/" if host == _DOCKER_HUB else host])["auth"]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return auth if isinstance(auth, str) and auth else None
