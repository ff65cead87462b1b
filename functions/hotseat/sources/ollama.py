"""ollama://name[:tag]: the weights (a GGUF file) of a model in an Ollama registry.

OLLAMA_REGISTRY is the registry's base URL. Templates and parameters of the model, which only Ollama
uses, are not fetched.
"""

import json
import os
from pathlib import Path
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from hotseat.sources.base import SourceError, split
from hotseat.sources.download import Progress, RemoteFile, download, make_pool

REGISTRY = "https://registry.ollama.ai"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_WEIGHTS = "application/vnd.ollama.image.model"


def fetch(source: str, folder: Path, progress: Progress) -> Path:
    """Fetch the weights into `folder` and return the file."""
    registry = os.environ.get("OLLAMA_REGISTRY", REGISTRY).rstrip("/")
    name, _, tag = split(source)[1].strip("/").partition(":")
    repository = name if "/" in name else f"library/{name}"
    pool = make_pool()
    layers = _manifest(pool, f"{registry}/v2/{repository}/manifests/{tag or 'latest'}", source).get("layers", [])
    weights = [layer for layer in layers if layer.get("mediaType") == _WEIGHTS]
    if len(weights) != 1:
        raise SourceError(
            f"{source} has {len(weights)} files of weights, expected one; run it by Ollama itself (engine custom)"
        )
    digest, size = weights[0]["digest"], weights[0]["size"]
    target = folder / f"{name.rpartition('/')[2]}-{tag or 'latest'}.gguf"
    remote = RemoteFile(f"{registry}/v2/{repository}/blobs/{digest}", size=size, sha256=digest.removeprefix("sha256:"))
    download(pool, remote, target, progress.file(target.name))
    return target


def _manifest(pool: urllib3.PoolManager, url: str, source: str) -> dict[str, Any]:
    try:
        response = pool.request("GET", url, headers={"Accept": _MANIFEST})
    except HTTPError as error:
        raise SourceError(f"{url} cannot be reached: {error}", retryable=True) from error
    if response.status == 404:  # noqa: PLR2004
        raise SourceError(f"{source}: no such model or tag ({url})")
    if response.status != 200:  # noqa: PLR2004
        raise SourceError(f"{url} answered {response.status}", retryable=True)
    manifest: dict[str, Any] = json.loads(response.data)
    return manifest
