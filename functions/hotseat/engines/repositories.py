"""What engines share that serve models in the format of Hugging Face repositories: their checks, and what they load."""

import re
from collections.abc import Iterable

from hotseat.api.model import FetchBy, Model
from hotseat.engines.base import EngineError, Placement, is_remote

_HUB = "hf://"


def taken(model: Model, flags: Iterable[str]) -> list[str]:
    """Return the problems of args that hotseat sets itself. `--a_b` is `--a-b`."""
    stated = {arg.partition("=")[0].replace("_", "-") for arg in model.spec.args if arg.startswith("-")}
    return [f"args has {flag}, which hotseat sets itself" for flag in sorted(stated & set(flags))]


def check(model: Model, flags: Iterable[str]) -> list[str]:
    """Return a missing source, one that such an engine cannot read, and args that hotseat sets itself."""
    spec = model.spec
    problems = (
        [] if spec.source else [f"engine {spec.engine} needs source: hf://org/repo, or a folder with such a model"]
    )
    if (spec.source or "").startswith("ollama://"):
        problems.append(f"source is ollama://…, which engine {spec.engine} cannot read; use hf://org/repo")
    if spec.cache.fetch_by is FetchBy.ENGINE and is_remote(spec.source) and not is_repository(spec.source):
        scheme = str(spec.source).partition(":")[0]
        problems.append(
            f"cache.fetchBy is Engine, but {spec.engine} fetches whole repositories only (hf://org/repo[@revision]), not {scheme}://"
        )
    return problems + taken(model, flags)


def fetches(model: Model) -> bool:
    """Whether hotseat must fetch the weights: the source is remote, and cache.fetchBy is not Engine.

    The engine could fetch a repository itself, but only while it holds the GPU and within the start timeout.
    """
    return is_remote(model.spec.source) and model.spec.cache.fetch_by is FetchBy.JOB


def weights(model: Model, placement: Placement) -> tuple[str, str | None]:
    """Return what the engine loads: a path, or a repository that it fetches itself and its revision."""
    source = model.spec.source
    if placement.weights is not None:
        return placement.weights, None
    if source is None:
        raise EngineError(f"{model.name}: engine {model.spec.engine} needs weights, but it has no source")
    if not source.startswith(_HUB):
        return source.removeprefix("file://"), None
    repository, _, revision = source.removeprefix(_HUB).partition("@")
    return repository.rstrip("/"), revision or None


def is_repository(source: str | None) -> bool:
    """Whether a source is a whole repository of the hub."""
    return re.fullmatch(r"hf://[^/@]+/[^/@]+/?(@[^/]+)?", source or "") is not None
