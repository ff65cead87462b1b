"""The installed models of Ollama as documents: what `ollama list` prints, or GET /api/tags of a server answers."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3

from hotseat.api.model import Capability
from hotseat.api.types import Json
from hotseat.importing.models import labels
from hotseat.importing.writer import Draft, Imported, Note, documents, model_draft
from hotseat.manifests.problems import ManifestErrors, Problem

DEFAULT_URL = "http://127.0.0.1:11434"
_HEADER = re.compile(r"^NAME\s+ID\s+SIZE\s+MODIFIED", re.MULTILINE)
_WEIGHTS = "application/vnd.ollama.image.model"
_EMBEDDING_FAMILIES = ("bert", "nomic-bert", "xlm-roberta")
_FOLDERS = ("~/.ollama/models", "/usr/share/ollama/.ollama/models", "/var/lib/ollama/.ollama/models")
MAX_ANSWER = 2**20  # bytes of a list of models


def recognise(content: str) -> bool:
    """Whether a text is what `ollama list` prints, or the answer of /api/tags."""
    return _HEADER.match(content.lstrip()) is not None or _tags(content) is not None


def read_server(url: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the list of a running server, and its address. Without URL: the one of OLLAMA_HOST, else Ollama's default."""
    address = url or environ.get("OLLAMA_HOST") or DEFAULT_URL
    address = (address if "://" in address else f"http://{address}").replace("//0.0.0.0", "//127.0.0.1").rstrip("/")
    if re.fullmatch(r"http://[^/:]+", address):
        address += ":11434"
    try:
        answer = urllib3.request("GET", f"{address}/api/tags", timeout=10.0, retries=False, preload_content=False)
        content = answer.read(MAX_ANSWER).decode("utf-8", "replace")
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ManifestErrors([Problem(address, f"the list of Ollama's models cannot be read: {error}")]) from None
    if answer.status != 200 or _tags(content) is None:  # noqa: PLR2004
        raise ManifestErrors([Problem(address, f"GET /api/tags answered {answer.status}, and no list of models")])
    return content, address


def convert(content: str, file: str, environ: Mapping[str, str]) -> Imported:
    """Return the documents for a list of Ollama's models."""
    models = _tags(content)
    rows = _rows(content) if models is None else models
    notes: list[Note] = []
    names = labels([str(row["name"]).removesuffix(":latest") for row in rows])
    drafts: list[Draft] = []
    for row in rows:
        if row["remote"]:
            notes.append(Note("no equivalent", row["name"], "it runs at Ollama's own servers, not here"))
        else:
            drafts.append(_draft(row, names[row["name"].removesuffix(":latest")], environ))
    if not drafts:
        notes.append(Note("assumed", "models", "the list is empty"))
    notes.append(
        Note(
            "assumed",
            "capacity",
            "one GPU, so that one model is loaded at a time; set capacity, and acceleratorMemory, for several",
        )
    )
    notes.append(Note("changed", "OLLAMA_KEEP_ALIVE", "lifecycle.idleTimeout is 5m for each Model, Ollama's default"))
    return documents(file, drafts, {"capacity": {"gpus": 1}}, notes)


def _draft(row: Json, name: str, environ: Mapping[str, str]) -> Draft:
    stated = str(row["name"])
    names = [stated.removesuffix(":latest"), stated]
    notes = [
        Note(
            "changed",
            "model",
            "llama-server runs it; the template, the parameters and the adapter of its Modelfile are not taken over: see args",
        )
    ]
    blob = blob_of(stated, environ)
    if blob is None:
        notes.append(
            Note(
                "assumed",
                "source",
                "hotseat fetches the weights itself, once, as Ollama's own files are not readable here",
            )
        )
    hub = re.fullmatch(r"(?:hf\.co|huggingface\.co)/([^/]+/[^:]+)(?::(.+))?", stated)
    source = (
        f"ollama://{stated}"
        if hub is None
        else f"hf://{hub[1]}{f'/*{hub[2]}*.gguf' if hub[2] and hub[2] != 'latest' else ''}"
    )
    embedding = row["family"] in _EMBEDDING_FAMILIES or "embed" in stated
    spec: Json = {
        "engine": "llamacpp",
        "source": str(blob) if blob is not None else source,
        "names": [each for each in dict.fromkeys(names) if each != name] and list(dict.fromkeys(names)),
        "capabilities": [Capability.EMBEDDING.value] if embedding else [],
        "lifecycle": {"idleTimeout": "5m"},
        "description": " ".join(filter(None, (row["parameters"], row["quantization"]))),
    }
    return model_draft(name, spec, f"{stated} of Ollama ({row['size']})", notes)


def _tags(content: str) -> list[Json] | None:
    """Return the models of an answer of /api/tags. None: it is not one."""
    try:
        data = json.loads(content)
    except ValueError:
        return None
    models = data.get("models") if isinstance(data, dict) else None
    if not isinstance(models, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in models
    ):
        return None
    return [_row(each) for each in models]


def _row(model: Json) -> Json:
    given = model.get("details")
    details: Json = given if isinstance(given, dict) else {}
    size = model.get("size")
    return {
        "name": model["name"],
        "size": f"{size / 1e9:.1f} GB" if isinstance(size, int) else "",
        "family": _text(details.get("family")),
        "parameters": _text(details.get("parameter_size")),
        "quantization": _text(details.get("quantization_level")),
        "remote": bool(model.get("remote_host")) or _is_remote(model["name"]),
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _rows(content: str) -> list[Json]:
    """Return the models of the table that `ollama list` prints."""
    lines = [re.split(r"\s{2,}|\t+", line.strip()) for line in content.strip().splitlines()[1:] if line.strip()]
    plain = {"family": "", "parameters": "", "quantization": ""}
    return [
        {"name": cells[0], "size": cells[2] if len(cells) > 2 else "", "remote": _is_remote(cells[0]), **plain}  # noqa: PLR2004
        for cells in lines
    ]


def _is_remote(name: str) -> bool:
    return name.partition(":")[2].endswith("cloud")


def blob_of(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the file in which an Ollama of this machine keeps the weights of a model. None: there is none that can be read."""
    model, _, tag = name.partition(":")
    parts = model.split("/")
    repository = {1: ["registry.ollama.ai", "library", *parts], 2: ["registry.ollama.ai", *parts]}.get(
        len(parts), parts
    )
    if any(part in ("", "..", ".") for part in (*repository, tag or "latest")):
        return None
    stated = environ.get("OLLAMA_MODELS")
    for folder in [stated] if stated else _FOLDERS:
        root = Path(os.path.expanduser(folder))  # noqa: PTH111 - without a home it stays as it is
        try:
            manifest = json.loads(root.joinpath("manifests", *repository, tag or "latest").read_bytes())
            layers = [each for each in manifest["layers"] if each["mediaType"] == _WEIGHTS]
            blob = root / "blobs" / str(layers[0]["digest"]).replace(":", "-")
            if len(layers) == 1 and blob.is_file() and os.access(blob, os.R_OK):
                return blob.absolute()
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return None
