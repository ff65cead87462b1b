"""The entry point of a Model's container in hotseat's own image. It replaces itself by the engine.

The Model is in the environment, the weights are in the cache. Exit code 2 means that a retry would
not help.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from hotseat.api.model import FetchBy, Model
from hotseat.engines.base import EngineError, Launch, Placement, is_remote, load_engine
from hotseat.kube.constants import CACHE, CACHE_VARIABLE, MODEL_VARIABLE, PORT, TERMINATION_LOG, WEIGHTS_VARIABLE
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
    launch = engine.launch(model, Placement("0.0.0.0", model.spec.port or PORT, weights))  # noqa: S104 - inside its pod
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


def main() -> None:
    """Replace this process by the engine."""
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
