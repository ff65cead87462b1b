"""The entry point of a Model's container in hotseat's own image. It replaces itself by the engine.

The Model is in the environment, the weights are in the cache. Exit code 2 means that a retry would
not help.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from hotseat.api.model import FetchBy, Model
from hotseat.engines.base import Engine, EngineError, Launch, Placement, is_remote, load_engine, prompt_saver
from hotseat.engines.placeholders import filled
from hotseat.kube.constants import (
    CACHE,
    CACHE_VARIABLE,
    MODEL_VARIABLE,
    PORT,
    PROMPTS,
    PROMPTS_VARIABLE,
    TERMINATION_LOG,
    WEIGHTS_VARIABLE,
)
from hotseat.private_files import make_directory
from hotseat.sources.base import SourceError, cached
from hotseat.sources.download import Progress
from hotseat.sources.fetch import FATAL, RETRYABLE, fetch


def launch_of(environment: Mapping[str, str]) -> Launch:
    """Return what to run, with its whole environment.

    Raise EngineError or SourceError if the engine cannot run, and ValidationError if the
    environment has no valid Model.
    """
    model = Model.model_validate_json(environment.get(MODEL_VARIABLE, ""))
    engine = load_engine(model.spec.engine)
    cache = Path(environment.get(CACHE_VARIABLE, CACHE))
    weights = environment.get(WEIGHTS_VARIABLE) or None
    if weights is None and model.spec.source and (engine.fetches(model) or not is_remote(model.spec.source)):
        weights = str(_weights(model, cache))
    prompts = _prompts(model, engine, cache, weights, environment.get(PROMPTS_VARIABLE, ""))
    placement = Placement("0.0.0.0", model.spec.port or PORT, weights, prompts)  # noqa: S104 - inside its pod
    model = filled(model, placement)
    launch = engine.launch(model, placement)
    own = {variable.name: variable.value for variable in model.spec.env}
    return Launch(launch.argv, {**environment, **launch.env, **own})


def _weights(model: Model, cache: Path) -> Path:
    """Return the path of the weights. Fetch them first if cache.fetchBy is Engine."""
    source = model.spec.source or ""
    path = cached(source, cache)
    if path is None and model.spec.cache.fetch_by == FetchBy.ENGINE:
        path = fetch(source, cache, Progress(sys.stdout))
    if path is None:
        raise SourceError(f"the weights {source} are not in {cache}", retryable=True)
    return path


def _prompts(model: Model, engine: Engine, cache: Path, weights: str | None, stated: str) -> str | None:
    """Return the directory for the saved prompt caches of a Model; None if none are kept. STATED is the value of HOTSEAT_PROMPTS.

    Its name is that of the engine and its weights (`prompt_identity`), so that the engine finds no file that another one
    saved. All others are deleted, as are files that were neither saved nor here at a start for some time.
    """
    root = cache / PROMPTS / model.name
    saver = prompt_saver(engine, model) if stated else None
    if saver is None:
        shutil.rmtree(root, ignore_errors=True)
        return None
    try:
        kept = json.loads(stated)
        identity = json.dumps([kept["model"], saver.prompt_identity(model, weights, in_pod=True)])
        folder = root / hashlib.sha256(identity.encode()).hexdigest()
        make_directory(root)
        make_directory(folder)
        for path in (root, folder):
            path.chmod(0o700)  # the kubelet gives what is on a volume to the group of its pods
        _delete_outdated(folder, time.time() - kept["keep"])
    except (OSError, EngineError) as problem:
        sys.stderr.write(f"hotseat: no prompt caches are kept: {problem}\n")
        return None
    return str(folder)


def _delete_outdated(folder: Path, oldest: float) -> None:
    """Delete the directories beside FOLDER, and its files from before OLDEST. The others are in use from now on.

    Another pod of the Model may do the same.
    """
    for path in folder.parent.iterdir():
        if path != folder:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()
            else:
                path.chmod(0o600)
                os.utime(path)


def main() -> None:
    """Replace this process by the engine."""
    if PROMPTS_VARIABLE in os.environ:
        os.umask(0o077)  # the files of prompt caches are for nobody else
    try:
        launch = launch_of(os.environ)
        os.execvpe(launch.argv[0], launch.argv, launch.env)  # noqa: S606 - no shell is needed
    except SourceError as problem:
        _fail(str(problem), RETRYABLE if problem.retryable else FATAL)
    except ValidationError as problem:
        _fail(f"{MODEL_VARIABLE} is not a valid Model: {problem.errors()[0]['msg']}", FATAL)
    except KeyError as problem:
        _fail(f"this image has no engine {problem}", FATAL)
    except (EngineError, OSError) as problem:
        _fail(str(problem), FATAL)


def _fail(message: str, code: int) -> None:
    """Exit with a message that the pod's status shows."""
    sys.stderr.write(f"hotseat: {message}\n")
    try:
        Path(TERMINATION_LOG).write_text(message)
    except OSError:
        sys.stderr.write(f"hotseat: {TERMINATION_LOG} cannot be written\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
