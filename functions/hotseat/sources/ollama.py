"""ollama://name[:tag]: the weights (a GGUF file) of a model in an Ollama registry.

OLLAMA_REGISTRY is the registry's base URL. Templates and parameters of the model, which only Ollama
uses, are not fetched.
"""

import os
import re
from pathlib import Path
from typing import Any

import urllib3

from hotseat.sources.base import SourceError, split
from hotseat.sources.download import (
    RETRYABLE_STATUS,
    Progress,
    RemoteFile,
    download,
    is_size,
    make_pool,
    parse_json,
    request,
)

REGISTRY = "https://registry.ollama.ai"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_WEIGHTS = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def fetch(source: str, folder: Path, progress: Progress) -> Path:
    """Fetch the weights into `folder` and return the file."""
    registry = os.environ.get("OLLAMA_REGISTRY", REGISTRY).rstrip("/")
    name, _, tag = split(source)[1].strip("/").partition(":")
    repository = name if "/" in name else f"library/{name}"
    pool = make_pool()
    url = f"{registry}/v2/{repository}/manifests/{tag or 'latest'}"
    weights = [layer for layer in _layers(pool, url, source) if layer.get("mediaType") == _WEIGHTS]
    if len(weights) != 1:
        raise SourceError(
            f"{source} has {len(weights)} files of weights, expected one; run it by Ollama itself (engine custom)"
        )
    digest, size = weights[0].get("digest"), weights[0].get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not is_size(size):
        raise SourceError(f"{url}: the weights have no valid digest and size")
    remote = RemoteFile(f"{registry}/v2/{repository}/blobs/{digest}", size=size, sha256=digest.removeprefix("sha256:"))
    target = f"{name.rpartition('/')[2]}-{tag or 'latest'}.gguf"
    return download(pool, remote, folder, target, progress.file(target))


def _layers(pool: urllib3.PoolManager, url: str, source: str) -> list[dict[str, Any]]:
    response = request(pool, url, {"Accept": _MANIFEST})
    if response.status == 404:  # noqa: PLR2004
        raise SourceError(f"{source}: no such model or tag ({url})")
    if response.status != 200:  # noqa: PLR2004
        raise SourceError(f"{url} answered {response.status}", retryable=response.status in RETRYABLE_STATUS)
    manifest = parse_json(response, url)
    layers = manifest.get("layers") if isinstance(manifest, dict) else None
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise SourceError(f"{url} does not answer like an Ollama registry")
    return layers
